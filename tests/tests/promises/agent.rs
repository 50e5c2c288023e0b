//! Nothing that is queued is lost, a bad path does not hold up the others, and queued paths stay in the store.

use anyhow::Result;
use larder_tests::nix::{narinfo_key, samples, versions};
use larder_tests::process::{Child, eventually};
use larder_tests::servers::Kind;
use rustix::process::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::order::behind_proxy;
use super::world::{Target, World, assert_said};

const SOON: Duration = Duration::from_secs(120);

#[test]
fn a_garbage_collection_between_hook_and_upload_keeps_queued_paths() -> Result<()> {
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
        assert!(!world.nix.is_valid(&built[0]), "{version}: the path was not collected");
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
fn a_corrupt_path_is_parked_and_not_published_and_the_rest_is_pushed() -> Result<()> {
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
    // The NARs of `data`, of the other build, and of `app`, which is sound itself.
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

    // When the path is repaired (the same byte is changed back), it is pushed, and so are the paths that it blocked.
    world.nix.corrupt(&lib)?;
    world.larder.run(&["retry", &lib])?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&[app])?;
    assert_eq!(world.status()?["parked"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn a_killed_agent_is_continued_by_the_next_and_nothing_is_missing() -> Result<()> {
    let Some((mut world, proxy)) = behind_proxy()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let mut built = world.nix.build(&samples::chain("killed", 30))?;
    for part in 0..4 {
        built.extend(world.nix.build(&samples::big(&format!("killed {part}"), 12))?);
    }
    // Killed at once, after its first requests, and so on until well into the uploads.
    for requests in [0, 1, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50] {
        let before = proxy.count(|_| true);
        let mut agent = world.larder.agent(&[])?;
        eventually("the requests of the agent", SOON, || {
            proxy.count(|_| true) >= before + requests || world.is_queue_empty()
        })?;
        agent.signal(Signal::KILL)?;
        agent.wait(SOON)?;
        assert_visible_is_complete(&world)?;
    }
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    let status = world.status()?;
    assert_eq!((&status["queued"]["jobs"], &status["roots"]["paths"]), (&0.into(), &0.into()), "{status:#}");
    for place in ["tmp", "incoming", "work", "roots"] {
        let left = std::fs::read_dir(world.larder.state_dir().join(place))?.count();
        assert_eq!(left, 0, "{place}/ is not empty");
    }
    Ok(())
}

/// Each narinfo in the bucket has its NAR and the narinfos of its references.
fn assert_visible_is_complete(world: &World) -> Result<()> {
    for (key, _) in world.target.list()?.iter().filter(|(key, _)| key.ends_with(".narinfo")) {
        let narinfo = world.target.get(key)?.unwrap_or_default();
        let narinfo = String::from_utf8_lossy(&narinfo).into_owned();
        let url = super::world::field(&narinfo, "URL").unwrap_or_default();
        assert!(world.target.get(url)?.is_some(), "{key} names {url}, which is missing");
        let references = super::world::field(&narinfo, "References").unwrap_or_default();
        for reference in references.split_whitespace() {
            let reference = narinfo_key(reference);
            assert!(world.target.get(&reference)?.is_some(), "{key} refers to {reference}, which is missing");
        }
    }
    Ok(())
}

#[test]
fn an_agent_without_work_lingers_and_ends() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.set("linger", "2")?;
    let built = world.nix.build(&samples::single("idle"))?;
    let begun = Instant::now();
    let mut agent = world.larder.agent(&["--exit-when-idle"])?;
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    assert!(begun.elapsed() >= Duration::from_secs(2), "the agent did not linger");
    world.assert_complete(&built)
}

#[test]
fn an_agent_that_is_asked_to_stop_finishes_what_it_sends() -> Result<()> {
    let Some((mut world, proxy)) = behind_proxy()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::big("stopped", 1))?;
    let gate = proxy.hold(|record| record.method == "PUT" && record.path.contains("/nar/"));
    // It may take as long as the test needs.
    let mut agent = world.larder.agent(&["--drain", "600"])?;
    gate.wait_for(1, SOON)?;
    agent.signal(Signal::TERM)?;
    std::thread::sleep(Duration::from_millis(200));
    assert!(agent.try_wait()?.is_none(), "the agent did not wait: {}", agent.log());
    gate.open();
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    world.assert_complete(&built)?;
    assert_eq!(world.status()?["queued"]["jobs"], 0);
    let writers = world.target.list()?.keys().filter(|key| key.starts_with("larder/writers/")).count();
    assert_eq!(writers, 0, "the agent left its lease");
    Ok(())
}

/// Waits until the agent has pushed the closure of paths.
fn wait_for_push(world: &World, agent: &Child, paths: &[String]) -> Result<()> {
    let pushed = eventually("the push", SOON, || world.assert_complete(paths).is_ok());
    pushed.map_err(|error| error.context(agent.log()))
}

#[test]
fn a_queue_has_one_agent_and_flush_waits_for_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.run(&["queue", "create"])?;
    let _agent = world.agent_of_the_queue(&[])?;
    assert_said(&world.larder.try_run(&["agent"])?, 1, &["has an agent already", "hint:"]);
    let built = world.nix.build(&samples::app("two agents"))?;
    world.larder.run(&["flush", "--wait", "--timeout", "120"])?;
    world.assert_complete(&built)
}

#[test]
fn a_path_that_is_gone_is_recorded_and_the_others_are_pushed() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let lost = world.nix.build(&samples::single("lost"))?.remove(0);
    let kept = world.nix.build(&samples::single("kept"))?;
    // An administrator removes the root, and then the path.
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
fn job_files_that_a_power_loss_emptied_are_restored_from_their_roots() -> Result<()> {
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
fn catch_up_queues_paths_that_the_hook_did_not_see() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let early = world.nix.build(&samples::single("before larder"))?.remove(0);
    // Nix notes the time of a registration in whole seconds.
    next_second();
    world.larder.run(&["queue", "create"])?;
    next_second();
    let built = world.nix.build(&samples::app("no hook"))?;
    let shown = world.larder.run(&["catch-up", "--dry-run"])?;
    assert_eq!(shown.lines().len(), 3, "{}", shown.stdout);
    world.larder.run(&["catch-up"])?;
    world.nix.gc()?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    assert!(world.narinfo(&early)?.is_none(), "built before the queue was made");
    Ok(())
}

/// Waits until the clock shows another second.
pub(crate) fn next_second() {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = second();
    while second() <= now {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn flush_with_a_bucket_that_is_away_ends_at_its_timeout_and_loses_nothing() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::single("no bucket"))?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    let mut proxy = larder_tests::proxy::Proxy::start(&server.endpoint())?;
    proxy.switch_off();
    world.larder.use_server_at(&**server, &proxy.endpoint(), super::world::BUCKET)?;
    assert_said(&world.larder.try_run(&["flush", "--wait", "--timeout", "1"])?, 1, &["stay queued"]);
    assert_eq!(world.status()?["queued"]["jobs"], 1);
    proxy.switch_on()?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    assert_eq!(server.kind(), Kind::MinIo);
    Ok(())
}

#[test]
fn a_store_whose_files_cannot_be_seen_leaves_its_jobs_queued() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("unmounted"))?;
    let elsewhere = world.larder.dir().join("elsewhere/store").display().to_string();
    std::fs::create_dir_all(&elsewhere)?;
    world.larder.set_string("real-store-dir", &elsewhere)?;
    // The hook has queued its jobs by now. The agent cannot see the files.
    let mut agent = world.larder.agent(&[])?;
    eventually("the agent naming `real-store-dir`", SOON, || agent.log().contains("real-store-dir"))?;
    assert_said(&world.larder.try_run(&["flush", "--wait", "--timeout", "1"])?, 1, &["stay queued"]);
    agent.kill();
    let status = world.status()?;
    assert_eq!(status["queued"]["jobs"], 3, "{status:#}");
    assert_eq!(status["summary"]["gone"].as_array().map(Vec::len), Some(0));
    world.larder.unset("real-store-dir")?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn a_job_with_unknown_outputs_stays_queued_and_the_others_are_pushed() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.run(&["queue", "create"])?;
    // As on a remote builder with Nix 2.8.0: the job names no output, and the store lacks the derivation.
    let absent = format!("{}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent.drv", world.nix.store_dir().display());
    let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nDeriver: {absent}\nEnd: \n");
    std::fs::write(world.larder.state_dir().join("incoming/0000000001-000000000-00000000"), job)?;
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("beside it"))?;
    let agent = world.larder.agent(&[])?;
    wait_for_push(&world, &agent, &built)?;
    let waits = || world.status().is_ok_and(|status| status["waitingForRetry"][0]["path"] == absent.as_str());
    eventually("the job waiting for its next attempt", SOON, waits)?;
    eventually("the other jobs leaving the queue", SOON, || {
        world.status().is_ok_and(|status| status["queued"]["jobs"] == 1)
    })
}

#[test]
fn blocked_paths_stay_in_the_store_when_the_agent_restarts() -> Result<()> {
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
        world.larder.try_run(&["--set", "store-dir=/gnu/store", "flush", "--wait", "--timeout", "120"])?;
    assert_eq!(other.code(), 0, "{}", other.stderr);
    let info = format!("StoreDir: {}\nWantMassQuery: 1\nPriority: 5\n", world.nix.store_dir().display());
    world.target.put("nix-cache-info", info.as_bytes())?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn a_malformed_narinfo_in_the_bucket_does_not_hold_up_other_paths() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let bad = world.nix.build(&samples::single("malformed"))?.remove(0);
    // Somebody has signed it, so that larder does not replace it.
    let signature = format!("malformed\nSig: somebody-1:{}==\n", "A".repeat(86));
    world.target.put(&narinfo_key(&bad), signature.as_bytes())?;
    let agent = world.larder.agent(&[])?;
    let told = || world.status().is_ok_and(|status| status.to_string().contains("malformed"));
    eventually("the status naming the malformed narinfo", SOON, told)?;
    let good = world.nix.build(&samples::single("well-formed"))?;
    wait_for_push(&world, &agent, &good)?;
    assert!(told(), "{:#}", world.status()?);
    Ok(())
}

#[test]
fn an_agent_of_another_user_pushes_what_the_hook_of_root_queues() -> Result<()> {
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
        // A look by root must not lock the agent out.
        world.status()?;
        world.larder.set("linger", "1")?;
        let agent = world.larder.command(&["agent", "--exit-when-idle"])?;
        let mut command = larder_tests::process::clean_command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]);
        command.arg(agent.get_program()).args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = larder_tests::process::run(&mut command, SOON)?.ok()?;
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
        // The hook of root does not follow links that this user plants.
        let incoming = std::fs::metadata(world.larder.state_dir().join("incoming"))?;
        assert_eq!((incoming.uid(), incoming.mode() & 0o777), (0, 0o770));
    }
    Ok(())
}
