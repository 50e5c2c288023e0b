//! A daemon that closes connections, stalls or sends rubbish, that is restarted, or replaced by another version.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::Chance;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixHome, narinfo_key, samples, versions};
use larder_tests::process::eventually;
use larder_tests::servers::{Directory, Kind};
use larder_tests::socket::{SocketFault, SocketProxy};
use std::collections::HashSet;
use std::time::Duration;

use super::common::{Cases, Ground, assert_ordered, attempt};
use super::compare::Contents;

const SOON: Duration = Duration::from_secs(120);

#[test]
fn whatever_the_daemon_does_the_next_push_finishes() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let top = ground.closure("daemon")?.remove(0);
    let site = ground.site("undisturbed")?;
    site.larder.run(&["push", &top])?;
    let wanted = Contents::read(&ground, "undisturbed")?;
    let mut cases = Cases::new("daemon", 32, 200, None);
    let mut failed = 0;
    while let Some((case, mut chance)) = cases.next() {
        let fault = draw(&mut chance);
        let which = chance.below(2);
        let replay = cases.replay(case);
        attempt(&replay, &format!("case {case}: {fault:?} on connection {which}"), || {
            let bucket = format!("case-{case}");
            let mut site = ground.site(&bucket)?;
            let daemon = ground.nix.daemon().context("no daemon")?.socket().to_owned();
            let socket = site.larder.dir().join("sock");
            let proxy = SocketProxy::start(&socket, &daemon)?;
            site.larder.set_string("daemon-socket", &socket.display().to_string())?;
            proxy.set_fault(move |number| (number == which).then_some(fault));
            // After a garbled answer, larder and the daemon may wait for each other: larder does so for ten minutes.
            let is_garbled = matches!(fault, SocketFault::Garble(_));
            site.larder.set_timeout(Duration::from_secs(if is_garbled { 10 } else { 180 }));
            let first = site.larder.try_run(&["push", &top])?;
            if is_garbled && first.code() == -1 {
                return Ok(());
            }
            ensure!([0, 2, 3, 6].contains(&first.code()), "{}: {}", first.code(), first.stderr);
            ensure!(!first.stderr.contains("panicked"), "{}", first.stderr);
            failed += usize::from(first.code() != 0);
            assert_ordered(&site.proxy.log(), &bucket, &ground.given(), &HashSet::new());
            // larder cannot know that an answer was garbled.
            if is_garbled {
                return Ok(());
            }
            proxy.clear_fault();
            site.larder.run(&["push", &top])?;
            let contents = Contents::read(&ground, &bucket)?;
            ensure!(contents == wanted, "the bucket differs:\n{contents:#?}");
            Ok(())
        })?;
    }
    cases.report(&format!("{failed} pushes failed"));
    Ok(())
}

fn draw(chance: &mut Chance) -> SocketFault {
    let at = chance.below([100, 1000, 4000][chance.clone().below(3)]) as u64;
    match chance.below(7) {
        0..=2 => SocketFault::CutAfter(at),
        3..=4 => SocketFault::Garble(at),
        5 => SocketFault::StallAfter(at, Duration::from_millis(500)),
        _ => SocketFault::Refuse,
    }
}

#[test]
fn an_agent_outlives_its_daemon_and_an_upgrade_of_nix() -> Result<()> {
    let versions = versions();
    let (Some(first), Some(last)) = (versions.first(), versions.last()) else { return Ok(()) };
    let dir = tempfile::Builder::new().prefix("larder-").tempdir()?;
    let mut nix = NixHome::at(*first, dir.path())?;
    nix.start_daemon()?;
    let mut larder = LarderHome::new(&nix)?;
    let (target, key) = (Directory::start()?, nix.key_pair("test-1")?);
    larder.use_keys(&[&key])?;
    larder.use_directory(target.path())?;
    larder.set_string("public-url", &target.public_base())?;
    larder.run(&["init"])?;
    larder.install_hook(&mut nix)?;
    nix.start_daemon()?;
    larder.follow(&nix)?;
    let mut agent = larder.agent(&[])?;
    let mut built = nix.build(&samples::app("before the restart"))?;
    nix.stop_daemon();
    nix.start_daemon()?;
    built.extend(nix.build(&samples::app("after the restart"))?);
    // The same store with a newer Nix.
    nix.stop_daemon();
    drop(nix);
    let mut nix = NixHome::at(*last, dir.path())?;
    larder.install_hook(&mut nix)?;
    nix.start_daemon()?;
    built.extend(nix.build(&samples::app("after the upgrade"))?);
    let has = |path: &String| target.path().join(narinfo_key(path)).exists();
    eventually("everything in the bucket", SOON, || built.iter().all(has))?;
    ensure!(agent.try_wait()?.is_none(), "the agent has ended:\n{}", agent.log());
    let status: serde_json::Value = serde_json::from_str(&larder.run(&["status", "--json"])?.stdout)?;
    ensure!(status["parked"].as_array().is_some_and(Vec::is_empty), "{status:#}");
    for path in &built {
        larder.run(&["client", "--check", path])?;
    }
    Ok(())
}
