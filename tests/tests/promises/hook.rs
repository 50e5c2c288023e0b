//! A build never waits for the network and never fails because of larder.

use anyhow::Result;
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, samples, versions};
use larder_tests::process::{clean_command, eventually, run};
use larder_tests::proxy::Proxy;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::world::{BUCKET, Target, World};

const SOON: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(180);

/// The hook with an empty environment, and the configuration of a larder.
fn hook(larder: &LarderHome) -> Result<Command> {
    let mut command = clean_command(binary("larder-hook")?);
    command.env("LARDER_CONFIG", larder.config_file());
    Ok(command)
}

#[test]
fn a_build_does_not_wait_for_an_unreachable_bucket_and_its_outputs_arrive_later() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let Target::Server(server) = &world.target else { return Ok(()) };
    let mut proxy = Proxy::start(&server.endpoint())?;
    world.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
    world.larder.install_hook(&mut world.nix)?;
    proxy.switch_off();
    let mut agent = world.larder.agent(&[])?;
    let built = world.nix.build(&samples::app("away"))?;
    assert_eq!(world.status()?["queued"]["jobs"], 3);
    assert!(proxy.log().is_empty(), "something reached the bucket");
    // The agent has tried to reach the bucket, and goes on.
    eventually("the agent noticing", SOON, || agent.log().contains("trying again"))?;
    assert!(agent.try_wait()?.is_none(), "{}", agent.log());
    proxy.switch_on()?;
    eventually("the queue draining", LONG, || {
        world.status().is_ok_and(|status| status["queued"]["jobs"] == 0)
    })?;
    world.assert_complete(&built)
}

#[test]
fn the_hook_prints_nothing_and_writes_only_the_queue() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let larder = LarderHome::new(&nix)?;
        larder.install_hook(&mut nix)?;
        let output = nix.try_build(&samples::single("silent"))?.ok()?;
        assert!(!output.stderr.contains("larder:"), "{}", output.stderr);
        let incoming = std::fs::read_dir(larder.state_dir().join("incoming"))?.count();
        assert_eq!(incoming, 1, "{version}");
    }
    Ok(())
}

#[test]
fn rubbish_in_the_environment_fails_no_build_and_loses_no_path() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let good = world.nix.build(&samples::single("good"))?.remove(0);
    let long = "x".repeat(100_000);
    for rubbish in ["", "   ", "/etc/passwd", "../../x", "\u{1b}[31m", "$(touch /tmp/x)", &long] {
        let output = run(hook(&world.larder)?.env("OUT_PATHS", rubbish), SOON)?.ok()?;
        assert!(
            output.stderr.starts_with("larder: ") && output.stderr.lines().count() == 1,
            "{:?}",
            output.stderr
        );
        assert!(output.stderr.len() < 1000 && !output.stderr.contains('\u{1b}'));
    }
    let mixed = format!("rubbish {good} /etc/passwd");
    let output = run(hook(&world.larder)?.env("OUT_PATHS", mixed), SOON)?.ok()?;
    assert!(output.stderr.contains("queued in part"), "{}", output.stderr);
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&[good])
}

#[test]
fn an_unwritable_queue_prints_one_line_and_fails_builds_only_when_strict() -> Result<()> {
    let Some(version) = versions().into_iter().next() else { return Ok(()) };
    let mut nix = NixHome::new(version)?;
    let mut larder = LarderHome::new(&nix)?;
    // A file in the place of the directory: root may ignore permissions.
    std::fs::remove_dir(larder.state_dir())?;
    std::fs::write(larder.state_dir(), "")?;
    larder.install_hook(&mut nix)?;
    let output = nix.try_build(&samples::single("unwritable"))?.ok()?;
    let told: Vec<_> = output.stderr.lines().filter(|line| line.contains("larder: not queued")).collect();
    assert_eq!(told.len(), 1, "{}", output.stderr);
    assert!(told[0].contains("catch-up"), "the way out is missing: {told:?}");
    larder.set("hook-strict", "true")?;
    assert!(!nix.try_build(&samples::single("unwritable strict"))?.status.success());
    Ok(())
}

#[test]
fn a_path_that_meets_a_full_disk_is_found_by_catch_up() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let disk = world.larder.dir().join("disk");
    std::fs::create_dir(&disk)?;
    let mount = run(
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs"]).arg(&disk),
        SOON,
    )?;
    if !mount.status.success() {
        larder_tests::need::skip("a small file system cannot be mounted here");
        return Ok(());
    }
    let result = full_disk(&mut world, &disk);
    run(Command::new("umount").arg(&disk), SOON)?.ok()?;
    result
}

fn full_disk(world: &mut World, disk: &std::path::Path) -> Result<()> {
    world.larder.set_string("state-dir", &disk.join("state").display().to_string())?;
    world.larder.run(&["queue", "create"])?;
    world.larder.install_hook(&mut world.nix)?;
    let _ = std::fs::write(disk.join("filler"), vec![0; 1 << 20]);
    let output = world.nix.try_build(&samples::single("full disk"))?.ok()?;
    assert!(output.stderr.contains("not queued"), "{}", output.stderr);
    let built = output.lines();
    std::fs::remove_file(disk.join("filler"))?;
    assert_eq!(world.status()?["queued"]["jobs"], 0, "nothing half-written is left");
    world.larder.run(&["catch-up"])?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn a_hundred_hooks_at_once_all_queue_their_paths() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("many"))?.remove(0);
    let mut children = Vec::new();
    for _ in 0..100 {
        let mut command = hook(&world.larder)?;
        children.push(command.env("OUT_PATHS", &path).stderr(std::process::Stdio::piped()).spawn()?);
    }
    for child in children {
        let output = child.wait_with_output()?;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(world.status()?["queued"]["jobs"], 100);
    assert_eq!(std::fs::read_dir(world.larder.state_dir().join("roots"))?.count(), 100);
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&[path])
}

#[test]
fn only_public_keys_of_nix_config_reach_the_disk_or_the_terminal() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("secret"))?.remove(0);
    let key = "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let config = format!(
        "access-tokens = github.com=ghp_PLANTED\ntrusted-public-keys = {key}\nnetrc-file = /PLANTED\n"
    );
    let mut command = hook(&world.larder)?;
    let output =
        run(command.env("OUT_PATHS", format!("{path} rubbish")).env("NIX_CONFIG", config), SOON)?.ok()?;
    world.larder.run(&["status"])?;
    let flushed = world.larder.try_run(&["flush", "--wait"])?;
    assert!(!format!("{}{}{}", output.stderr, flushed.stdout, flushed.stderr).contains("PLANTED"));
    let mut jobs = 0;
    for entry in walkdir::WalkDir::new(world.larder.state_dir()) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let text = std::fs::read_to_string(entry.path())?;
            assert!(!text.contains("PLANTED"), "{}", entry.path().display());
            jobs += usize::from(text.contains(key));
        }
    }
    assert_eq!(jobs, 0, "the job is done and gone");
    Ok(())
}

#[test]
fn a_panic_or_a_closed_stderr_does_not_fail_a_build() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let mut command = clean_command("/bin/sh");
    command.env("LARDER_CONFIG", world.larder.config_file()).env("OUT_PATHS", "rubbish");
    command.args(["-c", &format!("exec {} 2>&- >&- <&-", binary("larder-hook")?.display())]);
    run(&mut command, SOON)?.ok()?;
    Ok(())
}

#[test]
fn the_hook_of_root_does_not_follow_links_of_the_agents_user() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("planted"))?.remove(0);
    let (state, victim) = (world.larder.state_dir(), world.larder.dir().join("victim"));
    world.larder.run(&["queue", "create"])?;
    std::fs::create_dir(&victim)?;
    std::fs::remove_dir(state.join("roots"))?;
    std::os::unix::fs::symlink(&victim, state.join("roots"))?;
    run(hook(&world.larder)?.env("OUT_PATHS", &path), SOON)?.ok()?;
    assert_eq!(std::fs::read_dir(&victim)?.count(), 0, "written through a planted link");
    let mode = std::fs::metadata(state.join("tmp"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    Ok(())
}

/// Another program as post-build-hook, which notes its arguments and environment and exits with `code`.
fn other_hook(dir: &std::path::Path, code: i32) -> Result<std::path::PathBuf> {
    let file = dir.join("other-hook");
    let notes = dir.join("notes");
    std::fs::write(
        &file,
        format!(
            "#!/bin/sh\necho \"$# $OUT_PATHS|$DRV_PATH|$ODD\" >> {}\necho from the other hook\nexit {code}\n",
            notes.display()
        ),
    )?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

#[test]
fn an_earlier_hook_runs_after_larders_and_decides_the_exit_code() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("chained"))?.remove(0);
    let dir = world.larder.dir().to_owned();
    let run_then = |program: &str, out_paths: &str| -> Result<_> {
        let mut command = hook(&world.larder)?;
        command.args(["--then", program]).env("OUT_PATHS", out_paths).env("ODD", "a b=c");
        run(&mut command, SOON)
    };
    for code in [0, 3] {
        let other = other_hook(&dir, code)?;
        let output = run_then(&other.display().to_string(), &path)?;
        assert_eq!((output.code(), output.stdout.as_str()), (code, "from the other hook\n"));
    }
    assert_eq!(world.status()?["queued"]["jobs"], 2, "queued first, whatever the other says");
    let notes = std::fs::read_to_string(dir.join("notes"))?;
    assert_eq!(notes.lines().next(), Some(format!("0 {path}||a b=c").as_str()), "the same environment");
    // The other hook runs although nothing could be queued.
    let output = run_then(&other_hook(&dir, 0)?.display().to_string(), "rubbish")?.ok()?;
    assert!(output.stderr.contains("larder: ") && output.stdout.contains("from the other hook"));
    // A death by signal fails the build, and so does a missing hook, as when Nix runs the hook itself.
    std::fs::write(dir.join("other-hook"), "#!/bin/sh\nkill -TERM $$\n")?;
    assert!(!run_then(&dir.join("other-hook").display().to_string(), &path)?.status.success());
    let output = run_then("/nowhere/other-hook", &path)?;
    assert_ne!(output.code(), 0);
    assert!(output.stderr.contains("/nowhere/other-hook") && output.stderr.contains("--then"));
    assert_eq!(world.status()?["queued"]["jobs"], 4);
    Ok(())
}

#[test]
fn a_strict_hook_fails_with_another_hook_after_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.set("hook-strict", "true")?;
    let dir = world.larder.dir().to_owned();
    for (code, expected) in [(0, 1), (3, 3)] {
        let other = other_hook(&dir, code)?;
        let mut command = hook(&world.larder)?;
        command.args(["--then", &other.display().to_string()]).env("OUT_PATHS", "rubbish");
        let output = run(&mut command, SOON)?;
        assert_eq!(output.code(), expected, "the other ended with {code}");
        assert!(output.stdout.contains("from the other hook"));
    }
    Ok(())
}

#[test]
fn nix_runs_both_hooks_through_a_one_line_script() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let larder = LarderHome::new(&nix)?;
        larder.install_hook(&mut nix)?;
        let dir = larder.dir().to_owned();
        let script = dir.join("hook");
        let write = |code: i32| -> Result<()> {
            let other = other_hook(&dir, code)?;
            let line =
                format!("#!/bin/sh\nexec {} --then {}\n", binary("larder-hook")?.display(), other.display());
            std::fs::write(&script, line)?;
            Ok(std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?)
        };
        write(0)?;
        nix.set_conf("post-build-hook", &script.display().to_string())?;
        let output = nix.try_build(&samples::single("both"))?.ok()?;
        assert!(output.stderr.contains("from the other hook"), "{version}: {}", output.stderr);
        write(1)?;
        assert!(!nix.try_build(&samples::single("the other fails"))?.status.success(), "{version}");
        let incoming = std::fs::read_dir(larder.state_dir().join("incoming"))?.count();
        assert_eq!(incoming, 2, "{version}");
    }
    Ok(())
}
