//! `larder repair` mends each damage of a bucket, from the local store and from other caches, and makes nothing worse.

use anyhow::{Context, Result, ensure};
use larder_tests::damage::{Damage, Victim, nar_of};
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{NixVersion, narinfo_key, samples, versions};
use larder_tests::process::run;
use larder_tests::servers::{Directory, Kind};
use larder_tests::world::{BUCKET, Target};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::verify::{Ground, lines, targets, verify};

/// The damages that a repair mends.
fn mendable() -> impl Iterator<Item = (usize, Damage)> {
    Damage::ALL.into_iter().enumerate().filter(|(_, damage)| damage.is_of_path())
}

/// Plants every damage that a repair mends. Returns how many there are.
fn damage(ground: &Ground) -> Result<usize> {
    let mut count = 0;
    for (number, damage) in mendable() {
        count += usize::from(damage.plant(&ground.world.target, ground.victim(number))?.is_some());
    }
    Ok(count)
}

/// Runs `larder repair --json` with these words, and checks the exit code. Returns the results by the kind of fault.
fn repair(larder: &LarderHome, words: &[&str], code: i32) -> Result<Vec<(String, String, String)>> {
    let words = [&["repair", "--json", "--data"], words].concat();
    let output = larder.try_run(&words)?;
    ensure!(output.code() == code, "{words:?}: {}\n{}{}", output.code(), output.stdout, output.stderr);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let results = lines(&output, "repair")?;
    let result = |line: &serde_json::Value| {
        (text(&line["kind"]), text(&line["result"]), text(&line["how"]) + &text(&line["reason"]))
    };
    Ok(results.iter().map(result).collect())
}

/// All objects but the leases of writers, with their bytes.
fn objects(target: &Target) -> Result<BTreeMap<String, Vec<u8>>> {
    let keys = target.list()?.into_keys().filter(|key| !key.starts_with("larder/writers/"));
    keys.map(|key| Ok((key.clone(), target.get(&key)?.context("no object")?))).collect()
}

/// Checks that a verification finds nothing wrong, and that a real client takes everything, with its signatures.
fn assert_whole(ground: &Ground, name: &str) -> Result<()> {
    let found = verify(&ground.world.larder, &["--data"], 0)?;
    let wrong: Vec<_> =
        found.iter().filter(|(kind, _)| kind != "orphan-nar" && kind != "file-hash").collect();
    ensure!(wrong.is_empty(), "{name}: {wrong:#?}");
    ensure!(!found.iter().any(|(kind, _)| kind == "file-hash"), "{name}: {found:#?}");
    let client = ground.world.nix.twin()?;
    let base = ground.world.target.public_base().context("no public URL")?;
    let last = ground.links.last().context("no links")?.clone();
    client.substitute(&[last], &base, &ground.world.key.public)
}

/// A larder on a machine without a store, with the key and the bucket of another.
fn without_store(ground: &Ground) -> Result<LarderHome> {
    let mut larder = LarderHome::bare()?;
    match &ground.world.target {
        Target::Directory(directory) => larder.use_directory(directory.path())?,
        Target::Server(server) => larder.use_server(&**server, BUCKET)?,
    }
    larder.set_string("store-dir", &ground.world.nix.store_dir().display().to_string())?;
    larder.set_string("daemon-socket", "/nonexistent/socket")?;
    larder.use_keys(&[&ground.world.key])?;
    Ok(larder)
}

/// A second bucket with the same objects, in a directory behind a web server.
fn backup(ground: &Ground) -> Result<Target> {
    let target = Target::Directory(Directory::start()?);
    for (key, bytes) in objects(&ground.world.target)? {
        target.put(&key, &bytes)?;
    }
    Ok(target)
}

fn address(target: &Target) -> String {
    match target {
        Target::Directory(directory) => directory.file_url(),
        Target::Server(_) => String::new(),
    }
}

fn a_version() -> Option<NixVersion> {
    versions().first().copied()
}

#[test]
fn each_damage_is_mended_from_the_local_store() -> Result<()> {
    let Some(version) = a_version() else { return Ok(()) };
    for (name, target) in targets()? {
        let ground = Ground::new(version, target, &format!("store-{name}"))?;
        let larder = &ground.world.larder;
        ensure!(repair(larder, &["--yes"], 0)?.is_empty(), "{name}: a sound bucket was repaired");
        let count = damage(&ground)?;
        let before = objects(&ground.world.target)?;
        // Shown first, and nothing is changed.
        let shown = larder.try_run(&["repair", "--data"])?;
        ensure!(shown.code() == 3 && shown.stderr.contains("`--yes`"), "{}{}", shown.stdout, shown.stderr);
        ensure!(objects(&ground.world.target)? == before, "{name}: a dry run has changed the bucket");
        let results = repair(larder, &["--yes"], 0)?;
        ensure!(results.len() == count, "{name}: {results:#?}");
        ensure!(results.iter().all(|(_, result, _)| result == "mended"), "{name}: {results:#?}");
        assert_whole(&ground, &name)?;
        ensure!(repair(larder, &["--yes"], 0)?.is_empty(), "{name}: a second repair has something to do");
    }
    Ok(())
}

#[test]
fn each_damage_is_mended_from_another_cache_on_a_machine_without_a_store() -> Result<()> {
    let Some(version) = a_version() else { return Ok(()) };
    for (name, target) in targets()? {
        let ground = Ground::new(version, target, &format!("from-{name}"))?;
        let larder = without_store(&ground)?;
        let backup = backup(&ground)?;
        for source in [backup.public_base().context("no URL")?, address(&backup)] {
            let count = damage(&ground)?;
            let results = repair(&larder, &["--yes", "--from", &source], 0)?;
            ensure!(results.len() == count, "{name}, {source}: {results:#?}");
            ensure!(results.iter().all(|(_, result, _)| result == "mended"), "{name}: {results:#?}");
            assert_whole(&ground, &name)?;
            ground.mend()?;
        }
    }
    Ok(())
}

#[test]
fn a_hostile_cache_is_refused_and_what_cannot_be_mended_is_named_with_what_is_above_it() -> Result<()> {
    let Some(version) = a_version() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?), "hostile")?;
    let larder = without_store(&ground)?;
    let (hostile, forger) = (backup(&ground)?, backup(&ground)?);
    // Sound narinfos, and NARs of something else.
    let other = hostile.get(&nar_of(&hostile, &ground.links[0])?)?.context("no NAR")?;
    for link in &ground.links[1..] {
        hostile.put(&nar_of(&hostile, link)?, &other)?;
    }
    let victim = Victim { path: &ground.links[50], referrer: &ground.links[51], sound: &ground.links[0] };
    Damage::NoNar.plant(&ground.world.target, victim)?;
    let before = objects(&ground.world.target)?;
    let source = hostile.public_base().context("no URL")?;
    let results = repair(&larder, &["--yes", "--from", &source], 3)?;
    ensure!(
        matches!(&results[..], [(_, result, reason)] if result == "left" && reason.contains("other contents")),
        "{results:#?}"
    );
    ensure!(objects(&ground.world.target)? == before, "a hostile cache has changed the bucket");
    let output = larder.try_run(&["repair", "--json", "--yes"])?;
    let taken = lines(&output, "take-back")?;
    // The broken link and the nine above it, from the top.
    ensure!(taken.len() == 10 && output.code() == 3, "{}{}", output.stdout, output.stderr);
    ensure!(taken[0]["path"].as_str().is_some_and(|path| path.ends_with("link-59")), "{taken:#?}");
    ensure!(taken[9]["path"].as_str().is_some_and(|path| path.ends_with("link-50")), "{taken:#?}");
    // A cache whose key nobody trusts gives no narinfo.
    for link in &ground.links {
        let text = String::from_utf8(forger.get(&narinfo_key(link))?.context("no narinfo")?)?;
        forger.put(&narinfo_key(link), text.replace("Sig: test-1:", "Sig: stranger-1:").as_bytes())?;
    }
    ground.world.target.delete(&narinfo_key(&ground.links[20]))?;
    let source = forger.public_base().context("no URL")?;
    let results = repair(&larder, &["--yes", "--from", &source], 3)?;
    let absent = results.iter().find(|(kind, ..)| kind == "reference-missing");
    ensure!(absent.is_some_and(|(_, result, _)| result == "left"), "{results:#?}");
    ensure!(ground.world.target.get(&narinfo_key(&ground.links[20]))?.is_none());
    // The bytes of its NARs are good, because the narinfos of this bucket vouch for them.
    ensure!(
        results.iter().any(|(kind, result, _)| kind == "nar-missing" && result == "mended"),
        "{results:#?}"
    );
    Ok(())
}

#[test]
fn a_repair_that_is_killed_anywhere_makes_nothing_worse_and_the_next_completes() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(version) = a_version() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?), "killed")?;
    let kills = kill_at_each_step(&ground, 1)?;
    ensure!(kills >= 8, "only {kills} kills");
    if Kind::MinIo.is_here() {
        // Here, each request has two steps.
        let ground = Ground::new(version, Target::server(Kind::MinIo)?, "killed-requests")?;
        let kills = kill_at_each_step(&ground, 19)?;
        ensure!(kills >= 10, "only {kills} kills");
    }
    Ok(())
}

/// Kills a repair at its first step, and at each `stride`th after it, each time in a bucket with the same damage. Returns the
/// number of kills.
fn kill_at_each_step(ground: &Ground, stride: usize) -> Result<usize> {
    const KILLED: i32 = 9;
    const MOST: usize = 900;
    let larder = &ground.world.larder;
    let (mut kills, mut step) = (0, 1);
    let kinds = [Damage::NoNar, Damage::NoNarinfo, Damage::Rubbish, Damage::ForeignUrl];
    while step < MOST {
        ground.mend()?;
        for (number, damage) in mendable().filter(|(_, damage)| kinds.contains(damage)) {
            damage.plant(&ground.world.target, ground.victim(number))?;
        }
        let before = verify(larder, &[], 3)?;
        let mut command = larder.faulty_command(&["repair", "--yes"], &format!("*:{step}"))?;
        let output = run(&mut command, Duration::from_secs(180))?;
        if output.status.signal() != Some(KILLED) {
            output.ok()?;
            assert_whole(ground, "after the last step")?;
            return Ok(kills);
        }
        kills += 1;
        let left = larder.try_run(&["verify", "--json"])?;
        for fault in lines(&left, "fault")? {
            let named = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
            let fault = (named("kind"), named("object"));
            ensure!(before.contains(&fault), "step {step}: {fault:?} is new");
        }
        larder.run(&["repair", "--yes"])?;
        let found = verify(larder, &[], 0)?;
        ensure!(found.is_empty(), "step {step}: {found:#?}");
        step += stride;
    }
    anyhow::bail!("a repair passes more than {MOST} steps")
}

#[test]
fn writers_push_and_repair_beside_a_repair() -> Result<()> {
    let Some(version) = a_version() else { return Ok(()) };
    let target = match Kind::MinIo.is_here() {
        true => Target::server(Kind::MinIo)?,
        false => Target::Directory(Directory::start()?),
    };
    let ground = Ground::new(version, target, "beside")?;
    let larder = &ground.world.larder;
    let backup = backup(&ground)?;
    let other = without_store(&ground)?;
    let source = address(&backup);
    let more = ground.world.nix.build(&samples::chain("beside", 90))?.remove(0);
    for round in 0..3 {
        damage(&ground)?;
        std::thread::scope(|scope| {
            let runs = [
                scope.spawn(|| larder.try_run(&["repair", "--yes", "--data"])),
                scope.spawn(|| other.try_run(&["repair", "--yes", "--data", "--from", &source])),
                scope.spawn(|| larder.try_run(&["push", "--check", &more])),
            ];
            for run in runs {
                let output = run.join().map_err(|_| anyhow::anyhow!("a run panicked"))??;
                // One may meet what the others have not mended yet.
                ensure!([0, 3].contains(&output.code()), "{}{}", output.stdout, output.stderr);
            }
            Ok(())
        })?;
        larder.run(&["repair", "--yes", "--data"])?;
        assert_whole(&ground, &format!("round {round}"))?;
    }
    Ok(())
}
