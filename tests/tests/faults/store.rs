//! A store that changes while it is read, and a queue with a full disk, planted files or a wrong clock.

use anyhow::{Context, Result, ensure};
use larder_tests::gate::Gate;
use larder_tests::larder::{LarderHome, binary};
use larder_tests::need::skip;
use larder_tests::nix::{narinfo_key, samples};
use larder_tests::process::{Child, clean_command, run};
use larder_tests::servers::Kind;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::common::{Ground, Site};

const SOON: Duration = Duration::from_secs(120);

/// Queues paths by the hook.
fn queue(ground: &Ground, larder: &LarderHome, paths: &[String]) -> Result<String> {
    let mut hook = clean_command(binary("larder-hook")?);
    hook.envs(ground.nix.client_env()).env("LARDER_CONFIG", larder.config_file());
    Ok(run(hook.env("OUT_PATHS", paths.join(" ")), SOON)?.ok()?.stderr)
}

fn status(larder: &LarderHome) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&larder.run(&["status", "--json"])?.stdout)?)
}

/// The first file with contents below a store path, made writable.
fn a_file(ground: &Ground, path: &str) -> Result<PathBuf> {
    let files = walkdir::WalkDir::new(ground.nix.real(path)).into_iter().flatten();
    let mut files = files.filter(|entry| entry.metadata().is_ok_and(|data| data.is_file() && data.len() > 0));
    let file = files.next().context("no file with contents")?.into_path();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    Ok(file)
}

/// An agent that sends the first parts of a large path, which the gate holds. The agent has not read all of the path,
/// because it has a limited number of parts on their way. Another path is queued as well.
struct Midway {
    site: Site,
    agent: Child,
    gate: Gate,
    large: String,
    other: String,
}

fn midway(ground: &Ground, name: &str) -> Result<Midway> {
    let large = ground.nix.build(&samples::big(name, 80))?.remove(0);
    let other = ground.nix.build(&samples::single(name))?.remove(0);
    let mut site = ground.site(name)?;
    site.larder.set("compression-level", "1")?;
    queue(ground, &site.larder, std::slice::from_ref(&large))?;
    queue(ground, &site.larder, std::slice::from_ref(&other))?;
    let gate = site.proxy.hold(|record| record.query.contains("partNumber"));
    let agent = site.larder.agent(&["--exit-when-idle"])?;
    gate.wait_for(1, SOON)?;
    Ok(Midway { site, agent, gate, large, other })
}

impl Midway {
    /// Lets the upload go on. Nothing of the large path is published, nothing of it stays, and the other path arrives.
    fn assert_kept_out(&mut self, ground: &Ground) -> Result<()> {
        self.gate.open();
        self.agent.wait(SOON)?;
        let keys = ground.objects(&self.site.bucket)?;
        ensure!(!keys.contains_key(&narinfo_key(&self.large)), "the large path is visible");
        ensure!(keys.contains_key(&narinfo_key(&self.other)), "the other path has not arrived");
        ensure!(keys.keys().filter(|key| key.starts_with("nar/")).count() == 1, "{keys:?}");
        let left = ground.unfinished(&self.site.bucket)?;
        ensure!(left.is_empty(), "uploads are left unfinished: {left:?}");
        Ok(())
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_never_published() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let mut midway = midway(&ground, "changes")?;
    let file = a_file(&ground, &midway.large)?;
    let length = fs::metadata(&file)?.len();
    let file = fs::File::options().write(true).open(file)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"something else", length - 100)?;
    midway.assert_kept_out(&ground)?;
    let status = status(&midway.site.larder)?;
    ensure!(status["parked"][0]["path"] == midway.large.as_str(), "{status:#}");
    ensure!(
        status["parked"][0]["reason"].as_str().is_some_and(|reason| reason.contains("corrupt")),
        "{status:#}"
    );
    Ok(())
}

#[test]
fn a_path_that_is_deleted_while_it_is_read_is_gone_and_the_others_are_pushed() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let mut midway = midway(&ground, "deleted")?;
    // The file is cut short under the reader, and then the path is deleted from the database, too.
    fs::File::options().write(true).open(a_file(&ground, &midway.large)?)?.set_len(1 << 20)?;
    for entry in fs::read_dir(midway.site.larder.state_dir().join("roots"))? {
        let link = entry?.path();
        if fs::read_link(&link)?.as_os_str() == midway.large.as_str() {
            fs::remove_file(link)?;
        }
    }
    // Not through the daemon, which refuses this.
    let mut delete = ground.nix.command("nix-store", &["--delete", "--ignore-liveness", &midway.large]);
    run(delete.env("NIX_REMOTE", ground.nix.store_uri()), SOON)?.ok()?;
    midway.assert_kept_out(&ground)?;
    let status = status(&midway.site.larder)?;
    let gone = status["summary"]["gone"][0]["path"] == midway.large.as_str();
    let parked = status["parked"][0]["path"] == midway.large.as_str();
    ensure!(gone || parked, "{status:#}");
    Ok(())
}

/// What a loss of power leaves: the path is valid in the database, and a file of it is empty.
#[test]
fn paths_with_emptied_files_are_parked_and_pushed_after_repair() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let top = ground.nix.build(&samples::app("emptied"))?.remove(0);
    let closure: Vec<_> =
        ground.nix.closure(std::slice::from_ref(&top))?.into_iter().map(|info| info.path).collect();
    let lib = closure.iter().find(|path| path.ends_with("-lib")).context("no lib")?;
    let site = ground.site("emptied")?;
    let file = a_file(&ground, lib)?;
    let bytes = fs::read(&file)?;
    fs::write(&file, "")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
    queue(&ground, &site.larder, &closure)?;
    ensure!(site.larder.try_run(&["flush", "--wait"])?.code() == 3);
    let keys = ground.objects("emptied")?;
    ensure!(!keys.contains_key(&narinfo_key(lib)) && !keys.contains_key(&narinfo_key(&top)), "{keys:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    fs::write(&file, bytes)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
    site.larder.run(&["retry", "--all"])?;
    site.larder.run(&["flush", "--wait"])?;
    let keys = ground.objects("emptied")?;
    ensure!(closure.iter().all(|path| keys.contains_key(&narinfo_key(path))), "{keys:?}");
    Ok(())
}

#[test]
fn links_that_are_planted_in_the_queue_are_not_followed() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let built = ground.nix.build(&samples::app("planted"))?;
    let site = ground.site("planted")?;
    site.larder.run(&["queue", "create"])?;
    let state = site.larder.state_dir();
    let victim = site.larder.dir().join("victim");
    let victims = site.larder.dir().join("victims");
    fs::create_dir(&victims)?;
    let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nPath: {}\nEnd: \n", built[0]);
    fs::write(&victim, &job)?;
    fs::write(victims.join("inside"), "inside")?;
    let planted = [
        ("incoming/0000000001-000000000-00000001", &victim),
        ("work/0000000001-000000000-00000002", &victim),
        ("work/0000000001-000000000-00000003", &victims),
        ("parked/0c5b8vw40dy178xlpddw65q9gf1h2186-planted", &victim),
        ("state/summary.json", &victim),
        ("state/session", &victim),
        ("state/.new-summary.json", &victim),
        ("incoming/.nudge", &victim),
    ];
    for (name, target) in planted {
        symlink(target, state.join(name))?;
    }
    queue(&ground, &site.larder, &built)?;
    site.larder.run(&["agent", "--exit-when-idle"])?;
    ensure!(ground.objects("planted")?.contains_key(&narinfo_key(&built[0])));
    ensure!(fs::read_to_string(&victim)? == job, "the file behind the links was changed");
    ensure!(fs::read_dir(&victims)?.count() == 1);
    ensure!(status(&site.larder)?["queued"]["jobs"] == 0, "{:#}", status(&site.larder)?);
    Ok(())
}

/// The clock was years ahead when a hook was killed half-way and a job failed, and is right again.
#[test]
fn a_clock_that_was_ahead_delays_nothing() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let one = ground.nix.build(&samples::single("ahead"))?.remove(0);
    let other = ground.nix.build(&samples::single("ahead, too"))?.remove(0);
    let site = ground.site("ahead")?;
    site.larder.run(&["queue", "create"])?;
    let state = site.larder.state_dir();
    symlink(&one, state.join("roots/4000000000-000000000-00000001.0"))?;
    let job = format!(
        "Larder-Job: 1\nOrigin: hook\nCreated: 4000000000\nPath: {other}\nAttempts: 7 4000003600 {other} no bucket\nEnd: \n"
    );
    fs::write(state.join("work/4000000000-000000000-00000002"), job)?;
    symlink(&other, state.join("roots/4000000000-000000000-00000002.0"))?;
    fs::write(state.join("state/.new-4000000000-000000000-00000002"), "half")?;
    let ahead = std::time::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    fs::File::options()
        .write(true)
        .open(state.join("state/.new-4000000000-000000000-00000002"))?
        .set_modified(ahead)?;
    site.larder.run(&["agent", "--exit-when-idle"])?;
    let keys = ground.objects("ahead")?;
    ensure!(keys.contains_key(&narinfo_key(&one)) && keys.contains_key(&narinfo_key(&other)), "{keys:?}");
    ensure!(fs::read_dir(state.join("roots"))?.count() == 0, "roots are left");
    ensure!(!state.join("state/.new-4000000000-000000000-00000002").exists(), "a draft is left");
    Ok(())
}

/// Runs a test on a small file system of its own, where one can be mounted.
fn on_a_small_disk(larder: &LarderHome, test: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let disk = larder.dir().join("disk");
    fs::create_dir(&disk)?;
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&disk).output()?;
    if !mount.status.success() {
        skip("a small file system cannot be mounted here");
        return Ok(());
    }
    let result = test(&disk);
    run(Command::new("umount").arg("-l").arg(&disk), SOON)?.ok()?;
    result
}

#[test]
fn an_agent_whose_disk_is_full_or_read_only_loses_nothing() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let mut site = ground.site("full")?;
    let disk = site.larder.dir().join("disk");
    site.larder.set_string("state-dir", &disk.join("state").display().to_string())?;
    on_a_small_disk(&site.larder, |disk| {
        site.larder.run(&["queue", "create"])?;
        let built = ground.nix.build(&samples::app("full"))?;
        let corrupt = ground.nix.build(&samples::single("full"))?.remove(0);
        ground.nix.corrupt(&corrupt)?;
        queue(&ground, &site.larder, &[built[0].clone(), corrupt.clone()])?;
        // No room for the record of what is parked.
        let _ = fs::write(disk.join("filler"), vec![0; 1 << 20]);
        site.larder.try_run(&["flush", "--wait", "--timeout", "4"])?;
        ensure!(status(&site.larder)?["queued"]["jobs"] == 1, "the job is gone, and nothing of it is parked");
        fs::remove_file(disk.join("filler"))?;
        remount(disk, "ro")?;
        let told = queue(&ground, &site.larder, &built)?;
        ensure!(told.contains("not queued") && told.lines().count() == 1, "{told}");
        let flushed = site.larder.try_run(&["flush", "--wait", "--timeout", "4"])?;
        ensure!(flushed.code() != 0, "{}", flushed.stderr);
        remount(disk, "rw")?;
        ensure!(site.larder.try_run(&["flush", "--wait", "--timeout", "60"])?.code() == 3);
        let status = status(&site.larder)?;
        ensure!(
            status["queued"]["jobs"] == 0 && status["parked"][0]["path"] == corrupt.as_str(),
            "{status:#}"
        );
        ensure!(ground.objects("full")?.contains_key(&narinfo_key(&built[0])));
        Ok(())
    })
}

fn remount(disk: &Path, mode: &str) -> Result<()> {
    run(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(disk), SOON)?.ok().map(drop)
}
