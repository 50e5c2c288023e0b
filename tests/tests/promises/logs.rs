//! Build logs: `nix log` shows what a build said, on machines that did not build it.

use anyhow::{Context, Result, ensure};
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::process::{Output, eventually};
use larder_tests::servers::{Directory, Kind};
use std::fs;
use std::time::{Duration, SystemTime};

use super::world::{Target, World, assert_said, field};

fn directory(version: NixVersion) -> Result<World> {
    World::new(version, Target::Directory(Directory::start()?))
}

/// The same, with the hook, and with a queue: what failed before there was one is never looked at.
fn hooked(version: NixVersion) -> Result<World> {
    let mut world = directory(version)?;
    world.larder.install_hook(&mut world.nix)?;
    world.larder.run(&["queue", "create"])?;
    Ok(world)
}

/// A world of the newest Nix, with this value of `build-logs`.
fn newest(logs: &str) -> Result<Option<World>> {
    let Some(version) = versions().into_iter().last() else { return Ok(None) };
    let mut world = hooked(version)?;
    world.larder.set_string("build-logs", logs)?;
    Ok(Some(world))
}

/// The keys of the logs in the bucket.
fn logs(world: &World) -> Result<Vec<String>> {
    Ok(world.target.list()?.into_keys().filter(|key| key.starts_with("log/")).collect())
}

/// The key of the log of a store path that the bucket has.
fn log_key(world: &World, path: &str) -> Result<String> {
    let narinfo = world.narinfo(path)?.with_context(|| format!("no narinfo of {path}"))?;
    Ok(format!("log/{}", field(&narinfo, "Deriver").context("no deriver")?))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// `nix log --store BUCKET`, in a store that knows nothing of the path.
fn log_from(world: &World, client: &NixHome, path: &str) -> Result<Output> {
    let base = world.target.public_base().context("a bucket that clients can read")?;
    client.nix(&["log", "--store", &base, path])
}

/// `nix log`, with the bucket as a substituter.
fn log_by_substituter(world: &World, client: &NixHome, path: &str) -> Result<Output> {
    let base = world.target.public_base().context("a bucket that clients can read")?;
    client.nix(&["log", "--option", "substituters", &base, path])
}

/// What [`samples::talking`] says.
fn said(tag: &str) -> String {
    let lines = (1..=400).map(|number| format!("line {number} of the log\n"));
    format!("building {tag}\n{}", lines.collect::<String>())
}

/// Clients of every version read the log of a path in both ways.
fn assert_read_by_all(world: &World, path: &str, text: &str) -> Result<()> {
    for version in versions() {
        let client = world.nix.twin_of(version)?;
        for output in [log_from(world, &client, path)?, log_by_substituter(world, &client, path)?] {
            let output = output.ok().with_context(|| format!("Nix {version}"))?;
            ensure!(output.stdout == text, "Nix {version}: {:?} {}", output.stdout, output.stderr);
        }
    }
    Ok(())
}

#[test]
fn every_version_reads_the_log_of_what_any_version_has_built() -> Result<()> {
    for version in versions() {
        let world = hooked(version)?;
        let tag = format!("built by {version}");
        let built = world.nix.build(&samples::talking(&tag, "talks"))?.remove(0);
        world.larder.run(&["flush", "--wait"])?;
        ensure!(logs(&world)? == [log_key(&world, &built)?], "{:?}", logs(&world)?);
        assert_read_by_all(&world, &built, &said(&tag))?;
        // The test can fail: without the object, nobody has the log.
        world.target.delete(&log_key(&world, &built)?)?;
        let client = world.nix.twin()?;
        ensure!(!log_from(&world, &client, &built)?.status.success());
        ensure!(!log_by_substituter(&world, &client, &built)?.status.success());
    }
    Ok(())
}

#[test]
fn logs_are_read_from_servers() -> Result<()> {
    for kind in [Kind::MinIo, Kind::SeaweedFs].into_iter().filter(|kind| kind.is_here()) {
        let Some(version) = versions().into_iter().last() else { return Ok(()) };
        let world = World::new(version, Target::server(kind)?)?;
        let built = world.nix.build(&samples::talking("by hand", "talks-1.0+git"))?.remove(0);
        world.larder.run(&["push", &built])?;
        assert_read_by_all(&world, &built, &said("by hand")).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[test]
fn a_log_that_is_not_compressed_in_the_store_is_published_too() -> Result<()> {
    let Some(version) = versions().into_iter().last() else { return Ok(()) };
    let mut world = directory(version)?;
    world.nix.set_conf("compress-build-log", "false")?;
    let built = world.nix.build(&samples::talking("plain", "talks"))?.remove(0);
    world.larder.run(&["push", &built])?;
    let text = world.target.get(&log_key(&world, &built)?)?.context("no log")?;
    ensure!(text == said("plain").into_bytes());
    Ok(())
}

#[test]
fn several_outputs_of_a_build_share_a_log() -> Result<()> {
    let Some(world) = newest("successful")? else { return Ok(()) };
    let expression =
        samples::multi("shared").replace("mkdir $out $dev", "echo three outputs; mkdir $out $dev");
    let built = world.nix.build(&expression)?;
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)?.len() == 1, "{:?}", logs(&world)?);
    for path in &built {
        let output = log_from(&world, &world.nix.twin()?, path)?.ok()?;
        ensure!(output.stdout == "three outputs\n", "{path}: {}", output.stdout);
    }
    Ok(())
}

#[test]
fn what_is_kept_out_has_no_log_and_a_missing_log_is_no_error() -> Result<()> {
    let Some(mut world) = newest("none")? else { return Ok(()) };
    let flush = |world: &World| -> Result<usize> {
        let output = world.larder.run(&["flush", "--wait"])?;
        ensure!(!output.stderr.contains("cannot"), "{}", output.stderr);
        Ok(logs(world)?.len())
    };
    let built = world.nix.build(&samples::talking("none", "talks"))?.remove(0);
    ensure!(flush(&world)? == 0, "build-logs = none");
    world.larder.set_string("build-logs", "failed")?;
    world.nix.build(&samples::talking("failed", "talks"))?;
    ensure!(flush(&world)? == 0, "build-logs = failed");

    world.larder.set_string("build-logs", "successful")?;
    world.larder.set("exclude", r#"["secret-*"]"#)?;
    world.nix.build(&samples::talking("excluded", "secret-talks"))?;
    ensure!(flush(&world)? == 0, "exclude");
    // A log without text tells nobody anything.
    world.nix.build(&samples::single("silent"))?;
    ensure!(flush(&world)? == 0, "an empty log");
    world.larder.set_string("max-log-size", "1 KiB")?;
    let large = world.nix.build(&samples::talking("large", "talks"))?.remove(0);
    let output = world.larder.run(&["flush", "--wait"])?;
    ensure!(output.stderr.contains("max-log-size") && logs(&world)?.is_empty(), "{}", output.stderr);
    world.larder.unset("max-log-size")?;
    fs::remove_dir_all(world.nix.log_dir())?;
    let output = world.larder.run(&["push", &large, &built])?;
    ensure!(logs(&world)?.is_empty() && !output.stderr.contains("cannot"), "{}", output.stderr);
    Ok(())
}

#[test]
fn the_log_of_a_path_that_was_there_before_comes_with_the_next_push_of_it() -> Result<()> {
    let Some(mut world) = newest("none")? else { return Ok(()) };
    let built = world.nix.build(&samples::talking("later", "talks"))?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)?.is_empty());
    world.larder.set_string("build-logs", "successful")?;
    world.larder.run(&["push", &built])?;
    assert_read_by_all(&world, &built, &said("later"))?;
    // The log that is there stays.
    world.target.put(&log_key(&world, &built)?, b"of another machine")?;
    world.larder.run(&["push", &built])?;
    ensure!(world.target.get(&log_key(&world, &built)?)?.as_deref() == Some(&b"of another machine"[..]));
    Ok(())
}

#[test]
fn many_logs_that_are_missing_are_found_by_a_listing() -> Result<()> {
    let Some(mut world) = newest("none")? else { return Ok(()) };
    let built = world.nix.build(
        &samples::tiny("logs", 70)
            .replace("\"echo ${toString i}", "\"echo says ${toString i}; echo ${toString i}"),
    )?;
    world.larder.run(&["flush", "--wait"])?;
    world.larder.set_string("build-logs", "successful")?;
    let present = log_key(&world, &built[0])?;
    world.target.put(&present, b"of another machine")?;
    let paths: Vec<_> = built.iter().map(String::as_str).collect();
    world.larder.run(&[&["push"], &paths[..]].concat())?;
    ensure!(logs(&world)?.len() == built.len(), "{:?}", logs(&world)?);
    ensure!(world.target.get(&present)?.as_deref() == Some(&b"of another machine"[..]));
    for (number, path) in built.iter().enumerate().skip(1) {
        let text = world.target.get(&log_key(&world, path)?)?.context("no log")?;
        ensure!(text == format!("says {number}\n").into_bytes(), "{path}: {text:?}");
    }
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_makes_no_push_fail_and_comes_later() -> Result<()> {
    let Some(version) = versions().into_iter().last() else { return Ok(()) };
    let world = directory(version)?;
    let built = world.nix.build(&samples::talking("in the way", "talks"))?.remove(0);
    // No object can be below this file.
    world.target.put("log", b"in the way")?;
    assert_said(&world.larder.run(&["push", &built])?, 0, &["cannot publish the build log of"]);
    world.assert_complete(std::slice::from_ref(&built))?;
    world.target.delete("log")?;
    world.larder.run(&["push", &built])?;
    assert_read_by_all(&world, &built, &said("in the way"))
}

/// Builds what fails, and returns the name of its derivation.
fn fail(world: &World, expression: &str) -> Result<String> {
    let derivation = world.nix.instantiate(expression)?.remove(0);
    ensure!(!world.nix.try_build(expression)?.status.success(), "the build did not fail");
    Ok(derivation)
}

#[test]
fn the_log_of_a_failed_build_shows_a_colleague_why() -> Result<()> {
    for version in versions() {
        let mut world = hooked(version)?;
        world.larder.set_string("build-logs", "failed")?;
        let expression = samples::failing(&format!("on {version}"));
        let derivation = fail(&world, &expression)?;
        // Nothing is queued: no hook has run.
        world.larder.run(&["flush", "--wait"])?;
        let key = format!("log/{}", base_name(&derivation));
        ensure!(logs(&world)? == [key], "{version}: {:?}", logs(&world)?);
        let text = format!("no on {version}\n");
        for reader in versions() {
            let client = world.nix.twin_of(reader)?;
            // 2.8 asks only for the log of a derivation that its store has: it has, when somebody has evaluated it.
            if reader == NixVersion::V2_8 {
                client.import_unsigned(&world.nix, std::slice::from_ref(&derivation))?;
            } else {
                let output =
                    log_from(&world, &client, &derivation)?.ok().with_context(|| reader.to_string())?;
                ensure!(output.stdout == text, "{reader}: {:?}", output.stdout);
            }
            let output = log_by_substituter(&world, &client, &derivation)?.ok()?;
            ensure!(output.stdout == text, "{reader}: {:?}", output.stdout);
        }
    }
    Ok(())
}

#[test]
fn logs_of_failed_builds_are_published_only_where_asked_for() -> Result<()> {
    let Some(mut world) = newest("successful")? else { return Ok(()) };
    fail(&world, &samples::failing("unasked"))?;
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)?.is_empty());
    world.larder.set_string("build-logs", "all")?;
    world.larder.set("exclude", r#"["failing"]"#)?;
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)?.is_empty(), "exclude: {:?}", logs(&world)?);
    // What a look has found is not found again: the rules of then decided.
    world.larder.unset("exclude")?;
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)?.is_empty(), "{:?}", logs(&world)?);

    // A second attempt that fails says something else. The newest log is there.
    let script = |word: &str| samples::failing("again").replace("echo no $tag >&2", &format!("cat {word}"));
    let file = world.nix.dir().join("home/reason");
    fs::write(&file, "first\n")?;
    let expression = script(&file.display().to_string());
    let derivation = fail(&world, &expression)?;
    let key = format!("log/{}", base_name(&derivation));
    for reason in ["first\n", "second\n"] {
        fs::write(&file, reason)?;
        fail(&world, &expression)?;
        world.larder.run(&["flush", "--wait"])?;
        ensure!(world.target.get(&key)?.as_deref() == Some(reason.as_bytes()), "{reason}");
    }
    Ok(())
}

#[test]
fn a_success_replaces_the_log_of_a_failure_and_not_the_other_way_round() -> Result<()> {
    let Some(world) = newest("all")? else { return Ok(()) };
    let switch = world.nix.dir().join("home/switch");
    let expression = samples::failing("sometimes").replace(
        "echo no $tag >&2; exit 1",
        &format!("cat {}; test -e {}.ok; echo > $out", switch.display(), switch.display()),
    );
    fs::write(&switch, "fails\n")?;
    let key = format!("log/{}", base_name(&fail(&world, &expression)?));
    world.larder.run(&["flush", "--wait"])?;
    let log = || world.target.get(&key);
    ensure!(log()?.as_deref() == Some(&b"fails\n"[..]), "{:?}", log()?);
    fs::write(&switch, "works\n")?;
    fs::write(switch.with_extension("ok"), "")?;
    let built = world.nix.build(&expression)?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    ensure!(log()?.as_deref() == Some(&b"works\n"[..]), "{:?}", log()?);
    // Another store, where the build fails.
    fs::remove_file(switch.with_extension("ok"))?;
    fs::write(&switch, "fails again\n")?;
    world.nix.nix_store(&["--delete", "--ignore-liveness", &built])?.ok()?;
    fail(&world, &expression)?;
    world.larder.run(&["flush", "--wait"])?;
    ensure!(log()?.as_deref() == Some(&b"works\n"[..]), "{:?}", log()?);
    Ok(())
}

#[test]
fn a_running_agent_publishes_the_logs_of_failed_builds() -> Result<()> {
    let Some(world) = newest("all")? else { return Ok(()) };
    let agent = world.agent_of_the_queue(&[])?;
    let derivation = fail(&world, &samples::failing("beside an agent"))?;
    assert_said(&world.larder.run(&["flush"])?, 0, &["nothing is queued; asked the agent"]);
    let key = format!("log/{}", base_name(&derivation));
    // A look passes over a log that has just been written.
    eventually("the log", Duration::from_secs(60), || {
        world.larder.run(&["flush"]).is_ok() && world.target.get(&key).is_ok_and(|log| log.is_some())
    })
    .with_context(|| agent.log())
}

#[test]
fn a_collection_takes_the_logs_of_paths_that_went_and_removal_takes_them_for_good() -> Result<()> {
    const DIVISOR: u32 = 600;
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(world) = newest("all")? else { return Ok(()) };
    let kept = world.nix.build(&samples::talking("kept", "kept"))?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    world.larder.run(&["pin", "kept", &kept])?;
    let gone = world.nix.build(&samples::talking("gone", "gone"))?.remove(0);
    let failed = fail(&world, &samples::failing("collected"))?;
    world.larder.run(&["flush", "--wait"])?;
    let (of_kept, of_gone) = (log_key(&world, &kept)?, log_key(&world, &gone)?);
    let of_failed = format!("log/{}", base_name(&failed));
    ensure!(logs(&world)?.len() == 3, "{:?}", logs(&world)?);
    world.larder.run(&["verify"])?;
    let collect = |grace: &str| {
        let args = ["collect", "--yes", "--grace", "0s", "--nar-grace", grace];
        world.larder.quick(&args, DIVISOR)
    };
    collect("30d")?;
    ensure!(!world.target.list()?.contains_key(&narinfo_key(&gone)));
    // As NARs do, logs stay for the grace, and those of failed builds with them.
    let left = logs(&world)?;
    ensure!(left.contains(&of_gone) && left.contains(&of_failed), "{left:?}");
    collect("0s")?;
    ensure!(logs(&world)? == [of_kept.clone()], "{:?}", logs(&world)?);
    world.larder.run(&["verify"])?;

    world.larder.quick(&["remove", "--purge", "--yes", "--unpin", &kept], DIVISOR)?;
    ensure!(logs(&world)?.is_empty(), "{:?}", logs(&world)?);
    // Nobody publishes the path again, nor its log: also not as that of a failed build. What a collection took may come back.
    world.larder.run(&["push", &kept])?;
    ensure!(logs(&world)?.is_empty(), "{:?}", logs(&world)?);
    for (path, key) in [(&kept, &of_kept), (&gone, &of_gone)] {
        world.nix.nix_store(&["--delete", "--ignore-liveness", path])?.ok()?;
        let (start, rest) = key["log/".len()..].split_at(2);
        let log = world.nix.log_dir().join("drvs").join(start).join(format!("{rest}.bz2"));
        fs::File::options().append(true).open(&log)?.set_modified(SystemTime::now())?;
    }
    world.larder.run(&["flush", "--wait"])?;
    ensure!(logs(&world)? == [of_gone], "{:?}", logs(&world)?);
    Ok(())
}
