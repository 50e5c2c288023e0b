//! Nothing queued is lost, one bad path holds nobody up, what is queued stays in the store.

use anyhow::Result;
use larder_tests::nix::{narinfo_key, samples, versions};
use larder_tests::process::eventually;
use larder_tests::servers::Kind;
use rustix::process::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use super::world::{Target, World, assert_said};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(90);

#[test]
fn a_collection_between_hook_and_upload_does_not_take_a_queued_path() -> Result<()> {
    for version in versions() {
        let Some(mut world) = on(version)? else { return Ok(()) };
        world.larder.install_hook(&mut world.nix)?;
        let built = world.nix.build(&samples::app(&format!("gc {version}")))?;
        let before = world.nix.closure(&built)?.len();
        world.nix.gc()?;
        assert!(world.nix.is_valid(&built[0]), "{version}: the queued path was collected");
        assert_eq!(world.nix.closure(&built)?.len(), before);
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
        world.nix.gc()?;
        assert!(!world.nix.is_valid(&built[0]), "{version}: something still holds the path");
        let auto = std::fs::read_dir(world.nix.state_dir().join("gcroots/auto"))?;
        let ours =
            auto.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("larder-")).count();
        assert_eq!(ours, 0, "{version}: links are left in gcroots/auto");
    }
    Ok(())
}

fn on(version: larder_tests::nix::NixVersion) -> Result<Option<World>> {
    World::new(version, Target::Directory(larder_tests::servers::Directory::start()?)).map(Some)
}

#[test]
fn a_corrupt_path_is_parked_nothing_of_it_shows_and_the_rest_is_pushed() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let app = world.nix.build(&samples::app("corrupt"))?.remove(0);
    let lib = world.member(&app, "lib")?;
    let data = world.member(&app, "data")?;
    let other = world.nix.build(&samples::single("sound"))?;
    world.nix.corrupt(&lib)?;

    let flushed = world.larder.try_run(&["flush", "--wait"])?;
    assert_said(&flushed, 3, &["parked", "corrupt"]);
    world.assert_complete(&other)?;
    world.assert_complete(std::slice::from_ref(&data))?;
    let keys = world.target.list()?;
    for path in [&lib, &app] {
        assert!(!keys.contains_key(&narinfo_key(path)), "{path} is visible");
    }
    let nars = keys.keys().filter(|key| key.starts_with("nar/")).count();
    // Those of `data`, of the other build, and of `app`, whose NAR is sound.
    assert!(nars <= 3, "{keys:?}");
    let status = world.status()?;
    let parked = status["parked"].as_array().cloned().unwrap_or_default();
    let reason = |path: &str| parked.iter().find(|one| one["path"] == path).cloned().unwrap_or_default();
    assert!(reason(&lib)["reason"].as_str().unwrap_or_default().contains("corrupt"), "{status:#}");
    assert_eq!(reason(&app)["blockedBy"], lib.as_str(), "{status:#}");
    assert!(world.larder.run(&["status"])?.stdout.contains(&lib));
    // Parked paths stay in the store.
    world.nix.gc()?;
    assert!(world.nix.is_valid(&app) && world.nix.is_valid(&lib));

    // Mended (the same byte is changed back), it goes through, and with it what it blocked.
    world.nix.corrupt(&lib)?;
    world.larder.run(&["retry", &lib])?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&[app])?;
    assert_eq!(world.status()?["parked"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn a_killed_agent_goes_on_where_it_was_and_nothing_is_missing() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let mut built = world.nix.build(&samples::chain("killed", 30))?;
    for part in 0..4 {
        built.extend(world.nix.build(&samples::big(&format!("killed {part}"), 12))?);
    }
    // From at once to well into the uploads.
    let mut kills = 0;
    for delay in [0, 5, 20, 40, 60, 80, 100, 130, 160, 200, 250, 300, 400, 500] {
        let mut agent = world.larder.agent(&[])?;
        std::thread::sleep(Duration::from_millis(delay));
        agent.signal(Signal::KILL)?;
        agent.wait(SOON)?;
        kills += 1;
        // Whatever is visible is complete, at every instant.
        for (key, _) in world.target.list()?.iter().filter(|(key, _)| key.ends_with(".narinfo")) {
            let narinfo = world.target.get(key)?.unwrap_or_default();
            let narinfo = String::from_utf8_lossy(&narinfo).into_owned();
            let url = super::world::field(&narinfo, "URL").unwrap_or_default();
            assert!(world.target.get(url)?.is_some(), "{key} names {url}, which is not there");
            let references = super::world::field(&narinfo, "References").unwrap_or_default();
            for reference in references.split_whitespace() {
                assert!(world.target.get(&narinfo_key(reference))?.is_some(), "{key} refers to {reference}");
            }
        }
    }
    assert_eq!(kills, 14);
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    let status = world.status()?;
    assert_eq!((&status["queued"]["jobs"], &status["roots"]["paths"]), (&0.into(), &0.into()), "{status:#}");
    for place in ["tmp", "incoming", "work", "roots"] {
        let left = std::fs::read_dir(world.larder.state_dir().join(place))?.count();
        assert_eq!(left, 0, "something is left in {place}/");
    }
    Ok(())
}

#[test]
fn an_agent_exits_when_idle_and_one_that_is_asked_to_stop_finishes_what_it_sends() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.set("linger", "2")?;
    let built = world.nix.build(&samples::single("idle"))?;
    let begun = Instant::now();
    let mut agent = world.larder.agent(&["--exit-when-idle"])?;
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    assert!(begun.elapsed() >= Duration::from_secs(2), "it did not linger");
    world.assert_complete(&built)?;

    let mut agent = world.larder.agent(&[])?;
    let built = world.nix.build(&samples::big("stopped", 64))?;
    eventually("the push beginning", SOON, || {
        world.status().is_ok_and(|status| status["agentRunning"] == true)
            && std::fs::read_dir(world.larder.state_dir().join("work")).is_ok_and(|work| work.count() > 0)
    })?;
    agent.signal(Signal::TERM)?;
    assert!(agent.wait(LONG)?.success(), "{}", agent.log());
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    let writers = world.target.list()?.keys().filter(|key| key.starts_with("larder/writers/")).count();
    assert_eq!(writers, 0, "a lease is left behind");
    Ok(())
}

#[test]
fn there_is_one_agent_to_a_queue_and_flush_waits_for_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.run(&["queue", "create"])?;
    let _agent = world.larder.agent(&[])?;
    eventually("the agent running", SOON, || {
        world.status().is_ok_and(|status| status["agentRunning"] == true)
    })?;
    assert_said(&world.larder.try_run(&["agent"])?, 1, &["has an agent already", "hint:"]);
    let built = world.nix.build(&samples::app("two agents"))?;
    world.larder.run(&["flush", "--wait", "--timeout", "60"])?;
    world.assert_complete(&built)
}

#[test]
fn a_path_that_is_gone_is_recorded_and_holds_nobody_up() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let lost = world.nix.build(&samples::single("lost"))?.remove(0);
    let kept = world.nix.build(&samples::single("kept"))?;
    // Somebody insists: the roots are taken away, then the path.
    for entry in std::fs::read_dir(world.larder.state_dir().join("roots"))? {
        let link = entry?.path();
        if std::fs::read_link(&link)?.as_os_str() == lost.as_str() {
            std::fs::remove_file(link)?;
        }
    }
    world.nix.gc()?;
    assert!(!world.nix.is_valid(&lost));
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&kept)?;
    let status = world.status()?;
    assert_eq!(status["summary"]["gone"][0]["path"], lost.as_str(), "{status:#}");
    assert_eq!(status["queued"]["jobs"], 0);
    Ok(())
}

#[test]
fn emptied_job_files_are_mended_from_their_roots() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("power loss"))?;
    for entry in std::fs::read_dir(world.larder.state_dir().join("incoming"))? {
        std::fs::write(entry?.path(), "")?;
    }
    world.larder.run(&["flush", "--wait"])?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn catch_up_finds_what_the_hook_never_saw() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let early = world.nix.build(&samples::single("before larder"))?.remove(0);
    std::thread::sleep(Duration::from_millis(1100));
    world.larder.run(&["queue", "create"])?;
    std::thread::sleep(Duration::from_millis(1100));
    let built = world.nix.build(&samples::app("no hook"))?;
    let shown = world.larder.run(&["catch-up", "--dry-run"])?;
    assert_eq!(shown.lines().len(), 3, "{}", shown.stdout);
    world.larder.run(&["catch-up"])?;
    world.nix.gc()?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    assert!(world.narinfo(&early)?.is_none(), "built before the queue was made");
    let _ = &mut world;
    Ok(())
}

#[test]
fn flush_with_a_bucket_that_is_away_ends_in_time_and_loses_nothing() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::single("no bucket"))?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    let mut proxy = larder_tests::proxy::Proxy::start(&server.endpoint())?;
    proxy.switch_off();
    world.larder.use_server_at(&**server, &proxy.endpoint(), super::world::BUCKET)?;
    assert_said(&world.larder.try_run(&["flush", "--wait", "--timeout", "3"])?, 1, &["stay queued"]);
    assert_eq!(world.status()?["queued"]["jobs"], 1);
    proxy.switch_on()?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    assert_eq!(server.kind(), Kind::MinIo);
    Ok(())
}

#[test]
fn a_store_whose_files_cannot_be_seen_makes_nothing_gone() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("unmounted"))?;
    let elsewhere = world.larder.dir().join("elsewhere/store").display().to_string();
    world.larder.set_string("real-store-dir", &elsewhere)?;
    // The hook has queued by then; what cannot see the files is the agent.
    let flushed = world.larder.try_run(&["flush", "--wait", "--timeout", "3"])?;
    assert_said(&flushed, 1, &["real-store-dir", "stay queued"]);
    let status = world.status()?;
    assert_eq!(status["queued"]["jobs"], 3, "{status:#}");
    assert_eq!(status["summary"]["gone"].as_array().map(Vec::len), Some(0));
    world.larder.unset("real-store-dir")?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn a_job_whose_outputs_nobody_knows_holds_nobody_up() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.run(&["queue", "create"])?;
    // As on a remote builder with Nix 2.8.0: no output is named, and the derivation is not in the store.
    let absent = format!("{}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent.drv", world.nix.store_dir().display());
    let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nDeriver: {absent}\nEnd: \n");
    std::fs::write(world.larder.state_dir().join("incoming/0000000001-000000000-00000000"), job)?;
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("beside it"))?;
    world.larder.try_run(&["flush", "--wait", "--timeout", "8"])?;
    world.assert_complete(&built)?;
    let status = world.status()?;
    assert_eq!(status["queued"]["jobs"], 1, "{status:#}");
    assert_eq!(status["waitingForRetry"][0]["path"], absent.as_str(), "{status:#}");
    Ok(())
}

#[test]
fn what_is_blocked_stays_in_the_store_over_restarts() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let app = world.nix.build(&samples::app("blocked"))?.remove(0);
    let lib = world.member(&app, "lib")?;
    world.nix.corrupt(&lib)?;
    assert_eq!(world.larder.try_run(&["flush", "--wait"])?.code(), 3);
    for _ in 0..2 {
        world.larder.set("linger", "0")?;
        world.larder.run(&["agent", "--exit-when-idle"])?;
        world.nix.gc()?;
        assert!(world.nix.is_valid(&app) && world.nix.is_valid(&lib));
    }
    world.larder.run(&["retry", "--all"])?;
    world.nix.gc()?;
    assert!(world.nix.is_valid(&app), "queued again, and collected");
    world.nix.corrupt(&lib)?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&[app])
}

#[test]
fn jobs_of_another_store_directory_are_left_alone() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("elsewhere"))?;
    world.target.put("nix-cache-info", b"StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 5\n")?;
    let other =
        world.larder.try_run(&["--set", "store-dir=/gnu/store", "flush", "--wait", "--timeout", "3"])?;
    assert_eq!(other.code(), 0, "{}", other.stderr);
    let info = format!("StoreDir: {}\nWantMassQuery: 1\nPriority: 5\n", world.nix.store_dir().display());
    world.target.put("nix-cache-info", info.as_bytes())?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn a_malformed_narinfo_in_the_bucket_concerns_its_path_alone() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let bad = world.nix.build(&samples::single("malformed"))?.remove(0);
    world.target.put(&narinfo_key(&bad), b"")?;
    world.larder.try_run(&["flush", "--wait", "--timeout", "4"])?;
    let good = world.nix.build(&samples::single("well-formed"))?;
    world.larder.try_run(&["flush", "--wait", "--timeout", "10"])?;
    world.assert_complete(&good)?;
    let status = world.status()?;
    assert!(status.to_string().contains("malformed"), "{status:#}");
    Ok(())
}

#[test]
fn an_agent_of_another_user_works_off_what_roots_hook_queues() -> Result<()> {
    if larder_tests::need::need(larder_tests::need::Requirement::Root).is_none() {
        return Ok(());
    }
    const NOBODY: u32 = 65534;
    for version in versions() {
        let Some(mut world) = on(version)? else { return Ok(()) };
        let Target::Directory(directory) = &world.target else { return Ok(()) };
        for dir in [world.nix.dir(), world.larder.dir(), directory.path()] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        }
        for entry in walkdir::WalkDir::new(directory.path()) {
            std::os::unix::fs::chown(entry?.path(), Some(NOBODY), Some(NOBODY))?;
        }
        std::os::unix::fs::chown(&world.key.secret_file, Some(NOBODY), None)?;
        std::fs::set_permissions(world.nix.dir().join("home"), std::fs::Permissions::from_mode(0o755))?;
        world.larder.run(&["queue", "create", "--owner", &format!("{NOBODY}:{NOBODY}")])?;
        world.larder.install_hook(&mut world.nix)?;
        world.nix.set_conf("allowed-users", "*")?;
        world.nix.start_daemon()?;
        world.larder.follow(&world.nix)?;
        let built = world.nix.build(&samples::app(&format!("another user {version}")))?;
        let corrupt = world.nix.build(&samples::single(&format!("corrupt {version}")))?.remove(0);
        world.nix.corrupt(&corrupt)?;
        // Root looks first: that must not lock the agent out.
        world.status()?;
        world.larder.set("linger", "1")?;
        let agent = world.larder.command(&["agent", "--exit-when-idle"])?;
        let mut command = larder_tests::process::clean_command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]);
        command.arg(agent.get_program()).args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = larder_tests::process::run(&mut command, LONG)?.ok()?;
        assert!(output.stderr.contains("parked"), "{version}: {}", output.stderr);
        world.assert_complete(&built)?;
        let status = world.status()?;
        assert_eq!(
            (&status["queued"]["jobs"], &status["roots"]["paths"]),
            (&0.into(), &1.into()),
            "{status:#}"
        );
        // The parked path's root was made through the daemon.
        world.nix.gc()?;
        assert!(world.nix.is_valid(&corrupt) && !world.nix.is_valid(&built[0]));
        // A link that this user plants leads root's hook nowhere.
        let incoming = std::fs::metadata(world.larder.state_dir().join("incoming"))?;
        assert_eq!((incoming.uid(), incoming.mode() & 0o777), (0, 0o770));
    }
    Ok(())
}
