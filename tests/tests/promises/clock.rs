//! Clocks that are wrong by days: of the host that pushes, and of the other writers of its bucket.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{samples, versions};
use larder_tests::process::{Child, eventually};
use larder_tests::proxy::Proxy;
use larder_tests::s3::tag;
use larder_tests::servers::{Directory, Kind};

use super::order::behind_proxy;
use super::world::{BUCKET, Target, World};
use super::writers::{another, keys};

const SOON: Duration = Duration::from_secs(60);
const TWO_DAYS: Duration = Duration::from_secs(2 * 24 * 3600);
const WRITERS: &str = "larder/writers/";
/// The key of the lease of a writer that no longer runs.
/// In buckets of later formats, only a collector removes leases.
const FORMAT_1: &[u8] = br#"{"version": 1, "written_by": "larder", "conditional_writes": true}"#;
const LEASE: &str = "larder/writers/0123456789abcdfghijklmnp.json";

/// A world behind a proxy, and the library that makes a clock wrong.
fn wrong_clocks() -> Result<Option<(World, Proxy, PathBuf)>> {
    let Some(library) = need(Requirement::FakeTime) else { return Ok(None) };
    Ok(behind_proxy()?.map(|(world, proxy)| (world, proxy, library)))
}

/// The keys of the unfinished multipart uploads in the bucket.
fn unfinished(world: &World) -> Result<Vec<String>> {
    let Target::Server(server) = &world.target else { return Ok(Vec::new()) };
    let listing = server.client().send("GET", &format!("/{BUCKET}"), &[("uploads", "")], &[], b"")?.ok()?;
    let uploads = listing.text();
    Ok(uploads.split("<Upload>").skip(1).filter_map(|upload| tag(upload, "Key")).map(str::to_owned).collect())
}

/// A larder with a clock that is wrong by so many days.
fn shifted(world: &World, proxy: &Proxy, library: &std::path::Path, days: i32) -> Result<LarderHome> {
    let mut larder = another(world, proxy)?;
    if days != 0 {
        larder.shift_clock(library, days);
    }
    Ok(larder)
}

#[test]
fn a_push_from_a_host_whose_clock_is_days_off_works() -> Result<()> {
    let Some((world, proxy, library)) = wrong_clocks()? else { return Ok(()) };
    for days in [3, -3] {
        let larder = shifted(&world, &proxy, &library, days)?;
        let mut paths = world.nix.build(&samples::layered(&format!("clock {days}"), 11))?;
        paths.extend(world.nix.build(&samples::assorted(&format!("clock {days}")))?);
        proxy.clear_log();
        let mut args = vec!["push"];
        args.extend(paths.iter().map(String::as_str));
        larder.run(&args)?;
        world.assert_complete(&paths)?;
        let refused = proxy.count(|record| record.status == 403);
        // The first two requests are sent at the same time, and one asks whether the server takes old signatures.
        ensure!((1..=3).contains(&refused), "{days} days: {refused} requests were refused");
        ensure!(keys(&world, WRITERS)?.is_empty(), "{days} days: a lease is left");
    }
    Ok(())
}

#[test]
fn wrong_clocks_of_two_writers_end_no_living_upload() -> Result<()> {
    let Some((world, proxy, library)) = wrong_clocks()? else { return Ok(()) };
    for (number, (living, other)) in [(3, 0), (-3, 0), (0, 3), (0, -3)].into_iter().enumerate() {
        let large = world.nix.build(&samples::big(&format!("large {number}"), 24))?;
        let small = world.nix.build(&samples::single(&format!("small {number}")))?;
        let gate = proxy.hold(|record| record.method == "POST" && record.query.contains("uploadId="));
        let one = shifted(&world, &proxy, &library, living)?;
        let mut push = Child::spawn(&one.command(&["push", &large[0]])?, &one.dir().join("push.log"))?;
        eventually("an upload that is about to end", SOON, || {
            proxy.count(|record| record.method == "POST" && record.query.contains("uploadId=")) > number
        })?;
        let before = unfinished(&world)?;
        ensure!(before.len() == 1, "{before:?}");
        let (listed, ended) = (leases_listed(&proxy), aborted(&proxy));
        shifted(&world, &proxy, &library, other)?.run(&["push", &small[0]])?;
        ensure!(leases_listed(&proxy) > listed, "the other writer did not look for dead writers");
        ensure!(aborted(&proxy) == ended, "clocks {living} and {other}: a living upload was aborted");
        ensure!(unfinished(&world)? == before, "clocks {living} and {other}");
        ensure!(keys(&world, WRITERS)?.len() == 1, "clocks {living} and {other}: the lease is gone");
        gate.open();
        ensure!(push.wait(SOON)?.success(), "clocks {living} and {other}: {}", push.log_tail());
        world.assert_complete(&large)?;
    }
    Ok(())
}

/// The number of listings of leases that the proxy has seen.
fn leases_listed(proxy: &Proxy) -> usize {
    proxy.count(|record| record.query.contains("writers") && record.status == 200)
}

/// The number of uploads that somebody has aborted.
fn aborted(proxy: &Proxy) -> usize {
    proxy.count(|record| record.method == "DELETE" && record.query.contains("uploadId="))
}

#[test]
fn in_format_1_leases_of_dead_writers_are_gone_after_a_day_by_the_clock_of_the_server() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    for kind in [Kind::MinIo, Kind::SeaweedFs, Kind::S3sFs] {
        if !kind.is_here() {
            continue;
        }
        let mut world = World::new(version, Target::server(kind)?)?;
        let Target::Server(server) = &world.target else { continue };
        let proxy = Proxy::start(&server.endpoint())?;
        world.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
        world.target.put("larder/format.json", FORMAT_1)?;
        // Its writer had a wrong clock.
        world.target.put(LEASE, br#"{"since": 1, "renewed": 1, "version": "0"}"#)?;
        let path = world.nix.build(&samples::single("lease"))?;
        world.larder.run(&["push", &path[0]])?;
        ensure!(keys(&world, WRITERS)? == [LEASE], "{kind:?}: the lease of a writer that may live is gone");
        proxy.set_server_ahead(TWO_DAYS);
        world.larder.run(&["push", &path[0]])?;
        ensure!(keys(&world, WRITERS)?.is_empty(), "{kind:?}: a lease is left after a day");
    }
    Ok(())
}

#[test]
fn in_format_1_leases_of_dead_writers_in_a_directory_are_gone_after_a_day() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let directory = Directory::start()?;
    let lease = directory.path().join(LEASE);
    let world = World::new(version, Target::Directory(directory))?;
    let path = world.nix.build(&samples::single("lease"))?;
    world.larder.run(&["push", &path[0]])?;
    world.target.put(LEASE, br#"{"since": 1, "renewed": 1, "version": "0"}"#)?;
    world.larder.run(&["push", &path[0]])?;
    ensure!(keys(&world, WRITERS)? == [LEASE], "the lease of a writer that may live is gone");
    world.target.put("larder/format.json", FORMAT_1)?;
    std::fs::File::options().write(true).open(&lease)?.set_modified(SystemTime::now() - TWO_DAYS)?;
    world.larder.run(&["push", &path[0]])?;
    ensure!(keys(&world, WRITERS)?.is_empty(), "a lease is left after a day");
    Ok(())
}

#[test]
fn a_host_whose_clock_is_ahead_keeps_unfinished_files_of_others_in_a_directory() -> Result<()> {
    let (Some(mut world), Some(library)) = (World::plain()?, need(Requirement::FakeTime)) else {
        return Ok(());
    };
    let Target::Directory(directory) = &world.target else { return Ok(()) };
    let [young, old] = ["young", "old"].map(|name| directory.path().join(".larder-tmp").join(name));
    for file in [&young, &old] {
        std::fs::write(file, "half a NAR")?;
    }
    std::fs::File::options().write(true).open(&old)?.set_modified(SystemTime::now() - 4 * TWO_DAYS)?;
    world.larder.shift_clock(&library, 30);
    let path = world.nix.build(&samples::single("ahead"))?;
    world.larder.run(&["push", &path[0]])?;
    ensure!(young.exists(), "the clock of the host counts");
    ensure!(!old.exists(), "an old unfinished file is left");
    Ok(())
}
