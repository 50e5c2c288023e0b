//! Several writers push into one bucket: a NAR that one of them sends, the others do not send.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use larder::format::public_key::public_keys;
use larder::format::signature::verified;
use larder_tests::larder::LarderHome;
use larder_tests::nix::samples;
use larder_tests::process::eventually;
use larder_tests::proxy::{Fault, Proxy, Record};

use super::order::behind_proxy;
use super::world::{BUCKET, Target, World, field};

const SOON: Duration = Duration::from_secs(120);
const RESERVATIONS: &str = "larder/reservations/";
/// The id of a writer that no longer runs.
const KILLED: &str = "0123456789abcdfghijklmnp";

pub(crate) fn keys(world: &World, prefix: &str) -> Result<Vec<String>> {
    Ok(world.target.list()?.into_keys().filter(|key| key.starts_with(prefix)).collect())
}

/// Another larder over the same store, with the same bucket behind the same proxy.
pub(crate) fn another(world: &World, proxy: &Proxy) -> Result<LarderHome> {
    let mut larder = LarderHome::new(&world.nix)?;
    larder.use_keys(&[&world.key])?;
    if let Target::Server(server) = &world.target {
        larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
    }
    Ok(larder)
}

#[test]
fn hosts_that_push_the_same_at_the_same_time_send_a_large_nar_once() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let mut paths = Vec::new();
    for tag in ["one", "two", "three"] {
        paths.extend(world.nix.build(&samples::big(tag, 24))?);
    }
    let others = [another(&world, &proxy)?, another(&world, &proxy)?];
    // The NARs arrive only after a writer has found the reservation of another.
    let gate =
        proxy.hold(|record| record.path.contains("/nar/") && matches!(&*record.method, "PUT" | "POST"));
    let refused = || proxy.count(|one| one.path.contains(RESERVATIONS) && one.status == 412);
    thread::scope(|scope| -> Result<()> {
        let pushes: Vec<_> = [&world.larder, &others[0], &others[1]]
            .map(|larder| {
                let args: Vec<_> = ["push"].into_iter().chain(paths.iter().map(String::as_str)).collect();
                scope.spawn(move || larder.run(&args))
            })
            .into_iter()
            .collect();
        let met = eventually("a refused reservation", SOON, || refused() > 0);
        gate.open();
        met?;
        pushes.into_iter().try_for_each(|push| push.join().expect("a push panicked").map(drop))
    })?;
    assert_eq!(keys(&world, "nar/")?.len(), 3, "each NAR once");
    assert_eq!(keys(&world, RESERVATIONS)?, [""; 0], "a reservation is left");
    for path in &paths {
        let narinfo = world.narinfo(path)?.unwrap_or_default();
        assert!(field(&narinfo, "URL").is_some(), "{narinfo}");
    }
    Ok(())
}

#[test]
fn the_lease_of_a_push_is_signed_by_each_of_its_keys() -> Result<()> {
    let Some((mut world, proxy)) = behind_proxy()? else { return Ok(()) };
    let other = world.nix.key_pair("other-1")?;
    world.larder.use_keys(&[&world.key, &other])?;
    let path = world.nix.build(&samples::single("signed"))?;
    world.larder.run(&["push", &path[0]])?;
    let written = |record: &Record| record.method == "PUT" && record.path.contains("larder/writers/");
    let lease = proxy.log().into_iter().find(written).context("no lease was written")?;
    let id = lease.path.rsplit('/').next().and_then(|name| name.strip_suffix(".json")).context("no id")?;
    let contents: serde_json::Value = serde_json::from_slice(&lease.body)?;
    let signatures: Vec<String> = serde_json::from_value(contents["signatures"].clone())?;
    let signed = format!("larder-lease;1;{id};{}", contents["since"]);
    for key in [&world.key, &other] {
        let keys = public_keys([key.public.as_str()])?;
        assert!(verified(&signed, &signatures, &keys), "{contents:#}");
        assert!(!verified(&format!("{signed}0"), &signatures, &keys));
    }
    Ok(())
}

#[test]
fn the_reservation_of_a_killed_writer_is_taken_over() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let lease = format!("{{\"since\":{now},\"renewed\":{now},\"version\":\"0\"}}");
    world.target.put(&format!("larder/writers/{KILLED}.json"), lease.as_bytes())?;
    let paths = world.nix.build(&samples::big("reserved", 24))?;
    let hash = world.nix.nix_store(&["-q", "--hash", &paths[0]])?.ok()?.stdout;
    let key = format!("{RESERVATIONS}{}", hash.trim().trim_start_matches("sha256:"));
    world.target.put(&key, format!("{{\"writer\":\"{KILLED}\"}}").as_bytes())?;
    let begun = Instant::now();
    world.larder.run(&["push", &paths[0]])?;
    assert!(begun.elapsed() > Duration::from_secs(3), "the reservation was ignored");
    assert!(world.narinfo(&paths[0])?.is_some());
    assert_eq!(keys(&world, "nar/")?.len(), 1);
    assert_eq!(keys(&world, RESERVATIONS)?, [""; 0], "the reservation is left");
    Ok(())
}

#[test]
fn reservations_of_writers_without_a_lease_are_taken_away() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let key = format!("{RESERVATIONS}{}", "0".repeat(52));
    world.target.put(&key, format!("{{\"writer\":\"{KILLED}\"}}").as_bytes())?;
    let paths = world.nix.build(&samples::single("another"))?;
    world.larder.run(&["push", &paths[0]])?;
    assert_eq!(keys(&world, RESERVATIONS)?, [""; 0]);
    Ok(())
}

#[test]
fn who_may_not_write_reservations_pushes_without() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    proxy.set_fault(|record| record.path.contains(RESERVATIONS).then_some(Fault::Status(403)));
    let [one, other] = ["denied", "denied too"].map(|tag| world.nix.build(&samples::big(tag, 12)));
    world.larder.run(&["push", &one?[0], &other?[0]])?;
    assert_eq!(keys(&world, "nar/")?.len(), 2);
    Ok(())
}
