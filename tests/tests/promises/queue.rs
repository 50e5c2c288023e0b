//! The queue belongs to its agent: no other user and no strange entry stops it, a crash leaves it whole, and an outage does
//! not fill the store.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::need::{Requirement, need, skip};
use larder_tests::nix::samples;
use larder_tests::process::{Output, clean_command, eventually, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::world::{World, assert_said};

const SOON: Duration = Duration::from_secs(120);
/// The user of the agent, and another user.
const AGENT: u32 = 65534;
const STRANGER: u32 = 54321;

/// Makes a command run as another user.
fn as_user(user: u32, command: &Command) -> Command {
    let mut other = clean_command("setpriv");
    other.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]);
    other.arg(command.get_program()).args(command.get_args());
    other.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    other
}

/// Makes a command run in a shell after a line of the shell.
fn after(line: &str, command: &Command) -> Command {
    let mut shell = clean_command("/bin/sh");
    shell.args(["-c", &format!("{line}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// A world whose store, files and key the user of the agent can read. `None`, noted as skipped, without root.
fn with_an_agent() -> Result<Option<World>> {
    if need(Requirement::Root).is_none() {
        return Ok(None);
    }
    let Some(world) = World::plain()? else { return Ok(None) };
    for dir in [world.nix.dir(), world.larder.dir(), &world.nix.dir().join("home")] {
        set_mode(dir, 0o755)?;
    }
    std::os::unix::fs::chown(&world.key.secret_file, Some(AGENT), None)?;
    Ok(Some(world))
}

#[test]
fn no_other_user_can_take_the_lock_of_the_agent() -> Result<()> {
    let Some(mut world) = with_an_agent()? else { return Ok(()) };
    world.larder.set("linger", "0")?;
    let state = world.larder.state_dir().join("state");
    let owner = format!("{AGENT}:{AGENT}");
    world.larder.run(&["queue", "create", "--owner", &owner])?;
    let lock = |user| -> Result<Output> {
        let mut command = clean_command("flock");
        command.args(["--nonblock", "--shared"]).arg(&state).arg("true");
        run(&mut as_user(user, &command), SOON)
    };
    let agent = || run(&mut as_user(AGENT, &world.larder.command(&["agent", "--exit-when-idle"])?), SOON);
    ensure!(lock(AGENT)?.status.success(), "the agent's user cannot lock");
    // As earlier versions made it: the boot corrects it, and so does the agent.
    for correct in [true, false] {
        set_mode(&state, 0o755)?;
        ensure!(lock(STRANGER)?.status.success(), "the test cannot lock");
        if correct {
            world.larder.run(&["queue", "create", "--owner", &owner])?;
        } else {
            agent()?.ok()?;
        }
        let locked = lock(STRANGER)?;
        ensure!(!locked.status.success() && locked.stderr.contains("denied"), "{}", locked.stderr);
        agent()?.ok()?;
    }
    // Another user is told whom to ask.
    let status = run(&mut as_user(STRANGER, &world.larder.command(&["status"])?), SOON)?;
    assert_said(&status, 1, &["hint: run as root or as the agent's user"]);
    ensure!(world.status()?["agentRunning"] == false);
    Ok(())
}

#[test]
fn a_queue_that_root_makes_with_a_closed_umask_is_open_to_the_agent() -> Result<()> {
    let Some(mut world) = with_an_agent()? else { return Ok(()) };
    let state = world.larder.dir().join("made/by root");
    world.larder.set_string("state-dir", &state.display().to_string())?;
    world.larder.set("linger", "0")?;
    let owner = format!("{AGENT}:{AGENT}");
    let create = world.larder.command(&["queue", "create", "--owner", &owner])?;
    run(&mut after("umask 077", &create), SOON)?.ok()?;
    for (name, expected) in [
        ("", 0o755),
        ("tmp", 0o700),
        ("incoming", 0o770),
        ("work", 0o755),
        ("roots", 0o755),
        ("state", 0o700),
    ] {
        ensure!(mode(&state.join(name))? == expected, "`{name}` has mode {:o}", mode(&state.join(name))?);
    }
    run(&mut as_user(AGENT, &world.larder.command(&["agent", "--exit-when-idle"])?), SOON)?.ok()?;
    Ok(())
}

/// A single-user Nix: one user, who is not root, has the store, runs the hook, and is the agent.
#[test]
fn a_user_has_a_queue_of_their_own() -> Result<()> {
    if need(Requirement::Root).is_none() {
        return Ok(());
    }
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.set("linger", "0")?;
    let built = world.nix.build(&samples::single("of a user"))?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    let super::world::Target::Directory(directory) = &world.target else { return Ok(()) };
    let directories = [world.nix.dir(), world.larder.dir(), directory.path()];
    for entry in directories.iter().flat_map(walkdir::WalkDir::new) {
        std::os::unix::fs::lchown(entry?.path(), Some(AGENT), Some(AGENT))?;
    }
    // A queue of an earlier version, which everybody could lock.
    set_mode(&world.larder.state_dir().join("state"), 0o755)?;
    let mut hook = clean_command(binary("larder-hook")?);
    hook.env("LARDER_CONFIG", world.larder.config_file()).env("OUT_PATHS", &built);
    run(&mut as_user(AGENT, &hook), SOON)?.ok()?;
    let user = |args: &[&str]| run(&mut as_user(AGENT, &world.larder.command(args)?), SOON);
    let status: serde_json::Value = serde_json::from_str(&user(&["status", "--json"])?.ok()?.stdout)?;
    ensure!(status["queued"]["jobs"] == 1, "{status:#}");
    user(&["flush", "--wait"])?.ok()?;
    ensure!(mode(&world.larder.state_dir().join("state"))? == 0o700);
    user(&["queue", "create"])?.ok()?;
    run(&mut as_user(AGENT, &hook), SOON)?.ok()?;
    user(&["agent", "--exit-when-idle"])?.ok()?;
    ensure!(world.is_queue_empty());
    world.assert_complete(&[built])
}

#[test]
fn an_entry_that_cannot_be_moved_or_removed_delays_no_other() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.run(&["queue", "create"])?;
    let state = world.larder.state_dir();
    // A directory with a file, in the place of a job and in each place that the agent would move it to.
    for place in ["incoming/0stuck", "work/0stuck", "state/unusable-0stuck", "incoming/.nudge"] {
        fs::create_dir(state.join(place))?;
        fs::write(state.join(place).join("file"), "")?;
    }
    fs::create_dir_all(state.join("roots/parked-stuck.0/x"))?;
    let long = "0".repeat(250);
    fs::write(state.join("incoming").join(&long), "no job")?;
    fs::write(state.join("incoming/0\n\u{1b}[31m"), "no job")?;
    let built = world.nix.build(&samples::single("beside stuck entries"))?;
    // Twice: the first agent, and an agent that finds what the first has left.
    for round in 0..2 {
        let mut agent = world.larder.agent(&[])?;
        eventually("the push", SOON, || world.assert_complete(&built).is_ok())
            .with_context(|| agent.log())?;
        // Another job shows that the agent has looked at the entries again.
        let later = world.nix.build(&samples::single(&format!("later {round}")))?;
        eventually("the second push", SOON, || world.assert_complete(&later).is_ok())
            .with_context(|| agent.log())?;
        agent.kill();
        // Both agents write into one log.
        let told = |entry: &str| agent.log().lines().filter(|line| line.contains(entry)).count();
        for entry in ["incoming/0stuck`", "work/0stuck`", "incoming/.nudge`", "parked-stuck.0`"] {
            ensure!(told(entry) == round + 1, "{entry}: {}", agent.log());
        }
    }
    ensure!(state.join("incoming/0stuck/file").exists());
    ensure!(!state.join("incoming").join(&long).exists() && !state.join("work").join(&long).exists());
    let built = world.nix.build(&samples::single("flushed beside stuck entries"))?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

/// A process that may write no byte into a file: it is killed, or it is told so, as by a full disk.
const NO_BYTES: [&str; 2] = ["ulimit -f 0", "trap '' XFSZ; ulimit -f 0"];

#[test]
fn a_queue_whose_creation_was_cut_off_does_not_make_larder_push_what_was_built_before() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let early = world.nix.build(&samples::app("before larder"))?.remove(0);
    super::agent::next_second();
    for line in NO_BYTES {
        let cut = run(&mut after(line, &world.larder.command(&["queue", "create"])?), SOON)?;
        ensure!(!cut.status.success(), "the test does not cut it off");
        ensure!(!world.larder.state_dir().join("state/since").exists(), "half a file is there");
    }
    // The next process makes the queue whole, here the hook.
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::single("with the hook"))?;
    let found = world.larder.run(&["catch-up", "--dry-run"])?;
    ensure!(found.lines() == built, "{}{}", found.stdout, found.stderr);
    // A queue that has lost the time since looks no further back, and larder says so.
    let since = world.larder.state_dir().join("state/since");
    for damage in ["", "\0\0\0\0", "99999999999\n"] {
        fs::write(&since, damage)?;
        super::agent::next_second();
        let found = world.larder.run(&["catch-up", "--dry-run"])?;
        ensure!(found.lines().is_empty(), "with {damage:?}: {}", found.stdout);
        assert_said(&found, 0, &["`state/since`", "--all"]);
    }
    fs::remove_file(&since)?;
    assert_said(&world.larder.run(&["catch-up"])?, 0, &["`state/since`"]);
    let said = world.larder.run(&["catch-up"])?.stderr;
    ensure!(!said.contains("state/since"), "said twice: {said}");
    world.larder.run(&["flush", "--wait"])?;
    ensure!(world.narinfo(&early)?.is_none(), "a path from before larder was pushed");
    world.assert_complete(&built)
}

#[test]
fn a_key_file_is_written_whole_or_not_at_all() -> Result<()> {
    let larder = larder_tests::larder::LarderHome::bare()?;
    let key = larder.dir().join("key.sec");
    let file = key.display().to_string();
    let generate = larder.command(&["key", "generate", "whole-1", "--output", &file])?;
    for line in NO_BYTES {
        ensure!(!run(&mut after(line, &generate), SOON)?.status.success(), "the test does not cut it off");
        ensure!(!key.exists(), "half a key is there");
    }
    larder.run(&["key", "generate", "whole-1", "--output", &file])?;
    ensure!(mode(&key)? == 0o600);
    larder.run(&["key", "public", &file])?;
    assert_said(&larder.try_run(&["key", "generate", "whole-1", "--output", &file])?, 1, &["exists already"]);
    fs::remove_file(&key)?;
    let left: Vec<_> = fs::read_dir(larder.dir())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().contains("key.sec")), "left: {left:?}");
    Ok(())
}

/// By the system calls of a hook: the links of a job are on disk before the job has its name.
#[test]
fn the_roots_of_a_job_are_on_disk_before_the_job() -> Result<()> {
    if !Path::new("/usr/bin/strace").exists() {
        skip("no strace here");
        return Ok(());
    }
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("synced"))?.remove(0);
    let log = world.larder.dir().join("calls");
    let mut command = clean_command("/usr/bin/strace");
    command.args(["-f", "-y", "-e", "trace=symlinkat,symlink,renameat,renameat2,rename,fsync,syncfs", "-o"]);
    command.arg(&log).arg(binary("larder-hook")?);
    command.env("LARDER_CONFIG", world.larder.config_file()).env("OUT_PATHS", &path);
    // The first hook also makes the queue.
    for _ in 0..2 {
        run(&mut command, SOON)?.ok()?;
    }
    let calls = fs::read_to_string(&log)?;
    let at = |words: &[&str]| {
        let is_meant = |line: &str| words.iter().all(|word| line.contains(word));
        calls.lines().position(is_meant).with_context(|| format!("no {words:?} in\n{calls}"))
    };
    let linked = at(&["symlink", "gcroots/auto/larder-"])?.max(at(&["symlink", "roots>"])?);
    let queued = at(&["rename", "incoming>"])?;
    for directory in ["/roots>", "/gcroots/auto>"] {
        let synced = at(&["fsync(", directory])?;
        ensure!(linked < synced && synced < queued, "{calls}");
    }
    // No more syncs than one for each of the two directories, the job, and its directory.
    ensure!(
        calls.lines().filter(|line| line.contains("sync(") || line.contains("syncfs(")).count() == 4,
        "{calls}"
    );
    Ok(())
}

#[test]
fn an_outage_pins_no_more_than_the_limit_and_the_builds_stay_queued() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.set_string("max-pinned", "3 MiB")?;
    world.larder.set("linger", "0")?;
    let super::world::Target::Directory(directory) = &world.target else { return Ok(()) };
    let (here, away) = (directory.path().to_owned(), world.larder.dir().join("away"));
    let old = world.nix.build(&samples::big("old", 2))?;
    let new = world.nix.build(&samples::big("new", 2))?;
    fs::rename(&here, &away)?;
    let mut agent = world.larder.agent(&[])?;
    eventually("the oldest path being let go", SOON, || {
        world.status().is_ok_and(|status| status["summary"]["released"] == 1)
    })
    .with_context(|| agent.log())?;
    agent.kill();
    ensure!(agent.log().contains("`max-pinned`"), "{}", agent.log());
    ensure!(world.larder.run(&["status"])?.stdout.contains("because of `max-pinned`"));
    let status = world.status()?;
    assert_eq!((&status["queued"]["jobs"], &status["roots"]["paths"]), (&2.into(), &1.into()), "{status:#}");
    world.nix.gc()?;
    ensure!(!world.nix.is_valid(&old[0]) && world.nix.is_valid(&new[0]), "the wrong path was let go");
    fs::rename(&away, &here)?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&new)?;
    let status = world.status()?;
    assert_eq!(status["summary"]["gone"][0]["path"], old[0].as_str(), "{status:#}");
    assert_eq!(status["queued"]["jobs"], 0);
    Ok(())
}
