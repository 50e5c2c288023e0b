//! Kills at every step: hook and agent are killed at fail points, and the next ones finish their work.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::Chance;
use larder_tests::larder::faulty_binary;
use larder_tests::need::{Requirement, need};
use larder_tests::process::{clean_command, run};
use larder_tests::servers::Kind;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::common::{Cases, Ground, Site, assert_ordered, attempt};
use super::compare::Contents;

const LONG: Duration = Duration::from_secs(180);
const KILLED: i32 = 9;
const TWO_DAYS: Duration = Duration::from_secs(2 * 24 * 3600);

/// The fail points that an agent passes.
const POINTS: [&str; 19] = [
    "multipart: before its end",
    "multipart: before its start",
    "multipart: ended",
    "multipart: started",
    "publish: before",
    "remove: before",
    "remove: done",
    "rename: before",
    "rename: done",
    "request: answered",
    "request: before",
    "request: passed its fence",
    "session: before its end",
    "session: begun",
    "write: before",
    "write: draft",
    "write: empty draft",
    "write: renamed",
    "write: synced draft",
];

/// How many processes died at each fail point.
type Deaths = BTreeMap<String, usize>;

#[test]
fn a_hook_and_an_agent_that_are_killed_anywhere_lose_nothing_and_leave_nothing() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let top = ground.closure("killed")?.remove(0);
    let paths: Vec<_> = ground.nix.closure(std::slice::from_ref(&top))?.into_iter().map(|i| i.path).collect();
    let undisturbed = ground.site("undisturbed")?;
    undisturbed.larder.run(&["push", &top])?;
    let wanted = Contents::read(&ground, "undisturbed")?;
    let (mut deaths, mut cases) = (Deaths::new(), Cases::new("kill", 20, 340, None));
    while let Some((case, mut chance)) = cases.next() {
        let replay = cases.replay(case);
        attempt(&replay, &format!("case {case}"), || {
            one(&ground, &paths, case, &mut chance, &wanted, &mut deaths)
        })?;
    }
    let kills: usize = deaths.values().sum();
    cases.report(&format!("{kills} kills: {deaths:?}"));
    let spared: Vec<_> =
        POINTS.iter().filter(|point| !deaths.contains_key(&format!("agent, {point}"))).collect();
    ensure!(kills < 500 || spared.is_empty(), "in {kills} kills, no agent died at {spared:?}");
    ensure!(kills >= cases_least(kills), "only {kills} kills");
    Ok(())
}

/// The multipart upload of a killed writer is removed: of an agent by its next session; of a `larder push`, which keeps no
/// record, by the first session a day after the last renewal of its lease, by the clock of the server.
#[test]
fn uploads_of_killed_writers_are_removed() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    for kind in [Kind::MinIo, Kind::SeaweedFs] {
        let Some(ground) = Ground::new(kind)? else { continue };
        let top = ground.closure("uploads")?.remove(0);
        let mut none = Deaths::new();

        let site = ground.site("agents")?;
        hook(&ground, &site, &top, "", &mut none)?;
        agent(&site, "multipart: before its end:1", &mut none)?;
        ensure!(ground.unfinished("agents")?.len() == 1, "{kind:?}: nothing was left to take away: {none:?}");
        agent(&site, "", &mut none)?;
        ensure!(ground.unfinished("agents")?.is_empty(), "{kind:?}: an agent's upload is left");
        ensure!(leases(&ground, "agents")?.len() == 1, "{kind:?}: only a collector may remove a lease");
        collect(&site)?;
        ensure!(leases(&ground, "agents")?.is_empty(), "{kind:?}: an agent's lease is left");

        let site = ground.site("pushes")?;
        let mut push = site.larder.faulty_command(&["push", &top], "multipart: started:1")?;
        run(&mut push, LONG)?;
        // Other writers cannot know that it is dead.
        site.larder.run(&["push", &top])?;
        ensure!(
            ground.unfinished("pushes")?.len() == 1,
            "{kind:?}: an upload was taken away from under its writer"
        );
        // The lease says that its writer is dead. It says so by a clock that may be wrong.
        for lease in leases(&ground, "pushes")? {
            let text = br#"{"since": 1, "renewed": 1, "version": "0"}"#;
            ground.server.client().put("pushes", &lease, text)?;
        }
        site.larder.run(&["push", &top])?;
        ensure!(ground.unfinished("pushes")?.len() == 1, "{kind:?}: another clock than the server's counts");
        site.proxy.set_server_ahead(TWO_DAYS);
        site.larder.run(&["push", "--dry-run", &top])?;
        ensure!(ground.unfinished("pushes")?.len() == 1, "{kind:?}: a dry run takes something away");
        site.larder.run(&["push", &top])?;
        ensure!(ground.unfinished("pushes")?.is_empty(), "{kind:?}: an upload is left after a day");
        collect(&site)?;
        ensure!(leases(&ground, "pushes")?.is_empty(), "{kind:?}: a lease is left");
    }
    Ok(())
}

/// Removes everything by a collection. It waits until the writers that were killed are dead for certain, which takes two
/// seconds by the divisor instead of 50 minutes, and removes their leases.
fn collect(site: &Site) -> Result<()> {
    site.larder.quick(&["collect", "--yes", "--grace", "0s", "--keep-within", "0s"], 1500).map(drop)
}

/// The leases in a bucket.
fn leases(ground: &Ground, bucket: &str) -> Result<Vec<String>> {
    Ok(ground.objects(bucket)?.into_keys().filter(|key| key.starts_with("larder/writers/")).collect())
}

/// The least number of kills; none in a run that repeats one case.
fn cases_least(kills: usize) -> usize {
    if super::common::only_case().is_some() { kills } else { 24 }
}

fn one(
    ground: &Ground,
    paths: &[String],
    case: usize,
    chance: &mut Chance,
    wanted: &Contents,
    deaths: &mut Deaths,
) -> Result<()> {
    let bucket = format!("case-{case}");
    let site = ground.site(&bucket)?;
    site.larder.run(&["queue", "create"])?;
    // Each path is a build of its own. Its hook may be killed; then the hook runs again, as for the next build.
    for path in paths {
        let fault = match chance.below(3) {
            0 => format!("*:{}", 1 + chance.below(12)),
            _ => String::new(),
        };
        hook(ground, &site, path, &fault, deaths)?;
        if !fault.is_empty() {
            hook(ground, &site, path, "", deaths)?;
        }
    }
    readable(&site)?;
    // Agents run one after the other. The longest range has about as many fail points as a whole agent passes.
    let most = [15, 60, 150][chance.below(3)];
    for round in 0..4 {
        let fault = match round % 2 {
            0 => format!("*:{}", 1 + chance.below(most)),
            _ => format!("{}:{}", POINTS[chance.below(POINTS.len())], 1 + chance.below(3)),
        };
        agent(&site, &fault, deaths)?;
        readable(&site)?;
        assert_ordered(&site.proxy.log(), &bucket, &ground.given(), &HashSet::new());
    }
    agent(&site, "", deaths)?;
    assert_ordered(&site.proxy.log(), &bucket, &ground.given(), &HashSet::new());
    let contents = Contents::read(ground, &bucket)?;
    ensure!(contents == *wanted, "the bucket differs:\n{contents:#?}\nfrom\n{wanted:#?}");
    nothing_is_left(ground, &site, &paths[0])?;
    // A few times, because it takes seconds.
    if case.is_multiple_of(5) {
        collect(&site)?;
        let left = leases(ground, &site.bucket)?;
        ensure!(left.is_empty(), "leases are left: {left:?}");
    }
    Ok(())
}

/// Runs the hook, and notes where it died.
fn hook(ground: &Ground, site: &Site, path: &str, fault: &str, deaths: &mut Deaths) -> Result<()> {
    let log = site.larder.dir().join("points");
    let _ = fs::remove_file(&log);
    let mut command = clean_command(faulty_binary("larder-hook")?);
    command.envs(ground.nix.client_env()).env("LARDER_CONFIG", site.larder.config_file());
    command.env("OUT_PATHS", path).env("LARDER_FAULT", fault).env("LARDER_FAULT_LOG", &log);
    let output = run(&mut command, LONG)?;
    if output.status.signal() == Some(KILLED) {
        died("hook", &log, deaths)
    } else {
        let output = output.ok()?;
        ensure!(output.stderr.is_empty(), "the hook says {}", output.stderr);
        Ok(())
    }
}

/// Runs an agent until its queue is empty, and notes where it died.
fn agent(site: &Site, fault: &str, deaths: &mut Deaths) -> Result<()> {
    let log = site.larder.dir().join("points");
    let _ = fs::remove_file(&log);
    let mut command = site.larder.faulty_command(&["agent", "--exit-when-idle"], fault)?;
    let output = run(command.env("LARDER_FAULT_LOG", &log), LONG)?;
    if output.status.signal() == Some(KILLED) && !output.timed_out {
        return died("agent", &log, deaths);
    }
    output.ok().map(drop)
}

fn died(who: &str, log: &Path, deaths: &mut Deaths) -> Result<()> {
    let text = fs::read_to_string(log)?;
    let last = text.lines().last().context("no point was passed")?;
    *deaths.entry(format!("{who}, {last}")).or_default() += 1;
    Ok(())
}

/// Checks that everything in the queue can be read.
fn readable(site: &Site) -> Result<()> {
    let status = site.larder.run(&["status", "--json"])?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    ensure!(status["parked"].as_array().is_some_and(Vec::is_empty), "something is parked: {status:#}");
    ensure!(
        status["queued"]["unreadable"].as_array().is_none_or(Vec::is_empty),
        "something is unreadable: {status:#}"
    );
    for place in ["incoming", "work"] {
        for entry in fs::read_dir(site.larder.state_dir().join(place))?.flatten() {
            let text = fs::read_to_string(entry.path())?;
            ensure!(text.ends_with("End: \n"), "{place}/ holds half a job: {text:?}");
        }
    }
    Ok(())
}

/// Checks that later processes remove what killed processes left. They remove some of it only after a day, so files and
/// leases are made old.
fn nothing_is_left(ground: &Ground, site: &Site, path: &str) -> Result<()> {
    let state = site.larder.state_dir();
    let names = |place: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(state.join(place))?.flatten();
        Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    for place in ["incoming", "work", "parked"] {
        ensure!(names(place)?.is_empty(), "something is left in {place}/: {:?}", names(place)?);
    }
    // Roots without a job, and drafts, become two days old.
    let old = SystemTime::now() - TWO_DAYS;
    let seconds = old.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    for name in names("roots")? {
        let aged = format!("{seconds:010}{}", &name[10..]);
        fs::rename(state.join("roots").join(&name), state.join("roots").join(aged))?;
    }
    for place in ["tmp", "state"] {
        for name in names(place)?.iter().filter(|name| name.starts_with(".new-")) {
            fs::File::options().write(true).open(state.join(place).join(name))?.set_modified(old)?;
        }
    }
    let mut none = Deaths::new();
    hook(ground, site, path, "", &mut none)?;
    agent(site, "", &mut none)?;
    ensure!(names("tmp")?.is_empty(), "drafts are left in tmp/: {:?}", names("tmp")?);
    ensure!(names("roots")?.is_empty(), "roots are left: {:?}", names("roots")?);
    let mut left = names("state")?;
    left.sort();
    ensure!(left == ["relied-on", "session", "since", "summary.json"], "state/ holds {left:?}");
    // An agent that was killed before it had recorded its lease leaves the lease, and its uploads, in the bucket.
    let writers = leases(ground, &site.bucket)?;
    for upload in ground.unfinished(&site.bucket)? {
        let writer = larder::format::object_keys::nar_writer(&upload)
            .context("an upload of somebody else")?
            .to_owned();
        ensure!(
            writers.iter().any(|lease| lease.contains(&format!("/{writer}"))),
            "{upload} is left and has no lease"
        );
    }
    // A day later those are removed, too.
    site.proxy.set_server_ahead(TWO_DAYS);
    site.larder.run(&["push", path])?;
    let left = ground.unfinished(&site.bucket)?;
    ensure!(left.is_empty(), "uploads are left unfinished: {left:?}");
    Ok(())
}
