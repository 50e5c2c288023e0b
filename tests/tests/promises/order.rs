//! A reader never sees a broken closure: a NAR arrives before its narinfo, and references before their referrers.

use anyhow::Result;
use larder_tests::bigstore::BigStore;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixVersion, narinfo_key, samples};
use larder_tests::order::check;
use larder_tests::process::Child;
use larder_tests::proxy::{Fault, Proxy, Record};
use larder_tests::servers::Kind;
use rustix::process::Signal;
use std::collections::HashSet;
use std::time::Duration;

use super::world::{BUCKET, Target, World};

const SOON: Duration = Duration::from_secs(120);
const BASE: &str = "/cache";

/// A world with a recording proxy between larder and the bucket.
pub(crate) fn behind_proxy() -> Result<Option<(World, Proxy)>> {
    let Some(mut world) = World::minio()? else { return Ok(None) };
    let Target::Server(server) = &world.target else { return Ok(None) };
    let proxy = Proxy::start(&server.endpoint())?;
    world.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
    Ok(Some((world, proxy)))
}

fn checked(proxy: &Proxy) -> larder_tests::order::Checked {
    check(&proxy.log(), BASE, &HashSet::new(), &HashSet::new())
}

#[test]
fn references_are_published_first_under_latency() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let chain = world.nix.build(&samples::chain("ordered", 25))?;
    let mut paths = world.nix.build(&samples::assorted("ordered"))?;
    paths.extend(chain);
    proxy.set_latency(Duration::from_millis(15));
    let mut args = vec!["push"];
    args.extend(paths.iter().map(String::as_str));
    world.larder.run(&args)?;
    let checked = checked(&proxy);
    checked.assert_ordered();
    assert!(checked.narinfos >= 35, "{}", checked.narinfos);
    Ok(())
}

#[test]
fn the_checker_finds_violations_in_a_reversed_log() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let paths = world.nix.build(&samples::chain("bites", 5))?;
    world.larder.run(&["push", &paths[0]])?;
    checked(&proxy).assert_ordered();
    let log = proxy.log();
    let last = log.iter().map(|record| record.end.unwrap_or(record.start)).max().unwrap_or_default() + 1;
    let reversed: Vec<Record> = log
        .iter()
        .map(|record| Record {
            start: last - record.end.unwrap_or(last),
            end: Some(last - record.start),
            ..record.clone()
        })
        .collect();
    let backwards = check(&reversed, BASE, &HashSet::new(), &HashSet::new());
    assert!(!backwards.violations.is_empty(), "a log read backwards passes");
    Ok(())
}

#[test]
fn order_holds_when_answers_get_lost_and_requests_fail() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let paths = world.nix.build(&samples::chain("faulty", 12))?;
    for (round, fault) in
        [Fault::Status(503), Fault::Status(500), Fault::Drop, Fault::LoseResponse].into_iter().enumerate()
    {
        let mut count = 0;
        proxy.set_fault(move |record| {
            count += 1;
            (record.method == "PUT" && count % (5 + round) == 0).then_some(fault)
        });
        let output = world.larder.try_run(&["push", &paths[0]])?;
        assert!([0, 3, 7].contains(&output.code()), "{}", output.stderr);
        checked(&proxy).assert_ordered();
    }
    proxy.clear_fault();
    world.larder.run(&["push", &paths[0]])?;
    checked(&proxy).assert_ordered();
    world.assert_complete(&paths)
}

#[test]
fn order_holds_over_a_large_push_that_is_killed_again_and_again() -> Result<()> {
    let Some(big) = BigStore::get(NixVersion::V2_8)? else { return Ok(()) };
    if !Kind::MinIo.is_here() {
        return Ok(());
    }
    let server = Kind::MinIo.start_with_bucket(BUCKET)?;
    let proxy = Proxy::start(&server.endpoint())?;
    let mut larder = LarderHome::new(&big.nix)?;
    let home = larder_tests::nix::NixHome::new(NixVersion::V2_8)?;
    let key = home.key_pair("test-1")?;
    larder.use_keys(&[&key])?;
    larder.use_server_at(&*server, &proxy.endpoint(), BUCKET)?;
    larder.set("compression-level", "1")?;
    larder.run(&["init"])?;
    let mut args = vec!["push"];
    args.extend(big.large.iter().map(String::as_str));
    let log = larder.dir().join("push.log");
    // Killed after its first NARs, again and again.
    for nars in [1, 4, 8, 12] {
        let count = || proxy.count(|record| record.method == "PUT" && record.path.contains("/nar/"));
        let before = count();
        let mut child = Child::spawn(&larder.command(&args)?, &log)?;
        child.wait_until(SOON, || count() >= before + nars)?;
        child.signal(Signal::KILL)?;
        child.wait(SOON)?;
    }
    larder.run(&args)?;
    checked(&proxy).assert_ordered();
    let keys: HashSet<_> = server.client().list(BUCKET, "")?.into_iter().map(|(key, _)| key).collect();
    for path in &big.large {
        assert!(keys.contains(&narinfo_key(path)), "{path} is missing");
    }
    Ok(())
}

#[test]
fn a_referrer_waits_for_references_that_are_missing_below_a_present_path() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let chain = world.nix.build(&samples::chain("gap", 3))?;
    world.larder.run(&["push", &chain[0]])?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    // Another machine has pushed the middle path without its references.
    let (first, last) = (world.member(&chain[0], "link-0")?, world.member(&chain[0], "link-2")?);
    for path in [&first, &last] {
        server.client().delete(BUCKET, &narinfo_key(path))?;
    }
    proxy.clear_log();
    // The narinfo of the lowest path is refused: the highest path must wait for it.
    let lowest = narinfo_key(&first);
    proxy.set_fault(move |record| {
        (record.method == "PUT" && record.path.ends_with(&lowest)).then_some(Fault::Status(403))
    });
    assert_eq!(world.larder.try_run(&["push", &chain[0]])?.code(), 3);
    assert!(world.narinfo(&last)?.is_none(), "published above a gap");
    proxy.clear_fault();
    world.larder.run(&["push", &chain[0]])?;
    world.assert_complete(&chain)
}
