//! Frozen and thawed: a writer or a collector is stopped at a step for longer than every limit, while others collect and push,
//! and then goes on. Nothing is lost, and nothing is broken.
//!
//! All times of the protocol are divided by one number. A server refuses signatures that are older than 15 minutes; here a
//! proxy refuses them after that time by the same divisor.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::{Fault, Refusal};
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::samples;
use larder_tests::process::{Child, Output, at_once, is_stopped};
use larder_tests::proxy::{Proxy, Record};
use larder_tests::servers::Kind;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::common::{Cases, Extent, Ground, attempt};

/// A lease holds for 6 seconds, a signature for 4.5, and a lease is dead after 15.
const DIVISOR: u32 = 200;
const SIGNATURE: Duration = Duration::from_millis(4500);
const LONG: Duration = Duration::from_secs(150);
/// The cases that run at the same time. Each waits most of its time.
const AT_ONCE: usize = 10;
/// More steps than any of the processes has.
const MOST_STEPS: usize = 400;

/// The process that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    /// It pushes and pins a path that is in the bucket, and that a collection is about to take.
    PushesOld,
    /// It pushes and pins a new path above paths that a collection is about to take.
    PushesNew,
    /// It pins a path that a collection is about to take.
    Pins,
    /// It signs anew.
    Signs,
    /// It collects.
    Collects,
}

const ACTORS: [Actor; 5] = [Actor::PushesOld, Actor::PushesNew, Actor::Pins, Actor::Signs, Actor::Collects];

/// The tops: one that is pinned, one that is in the bucket and not pinned, one that is not in the bucket.
struct Tops {
    pinned: String,
    old: String,
    new: String,
}

/// `tests/faults --only frozen --full` stops each process at each of its steps.
#[test]
fn a_process_that_was_frozen_at_any_step_breaks_nothing() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let tops = ground.nix.build(&samples::overlapping("frozen", 3, 12))?;
    let [pinned, old, new] = &tops[..] else { anyhow::bail!("three tops") };
    let tops = Tops { pinned: pinned.clone(), old: old.clone(), new: new.clone() };
    let full = Extent::of_run() == Extent::Full;
    let mut cases = Cases::new("frozen", AT_ONCE, ACTORS.len() * MOST_STEPS, Some(ACTORS.len() * MOST_STEPS));
    let mut all = Vec::new();
    while let Some((case, mut chance)) = cases.next() {
        let step = if full { 1 + case / ACTORS.len() } else { 1 + chance.below(60) };
        all.push((case, ACTORS[case % ACTORS.len()], step, cases.replay(case)));
    }
    let stopped: Mutex<BTreeMap<Actor, usize>> = Mutex::default();
    let all = Mutex::new(all.into_iter());
    at_once(vec![(); AT_ONCE], |()| {
        loop {
            let next = all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
            let Some((case, actor, step, replay)) = next else { return Ok(()) };
            attempt(&replay, &format!("case {case}: {actor:?}, step {step}"), || {
                if one(&ground, &tops, case, actor, step)? {
                    let mut stopped = stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    *stopped.entry(actor).or_default() += 1;
                }
                Ok(())
            })?;
        }
    })?;
    let stopped = stopped.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    ensure!(
        super::common::only_case().is_some() || stopped.values().sum::<usize>() > 0,
        "nothing was stopped"
    );
    cases.report(&format!("stopped {stopped:?}"));
    Ok(())
}

/// Stops a process at a step. Returns false if it has fewer steps.
fn one(ground: &Ground, tops: &Tops, case: usize, actor: Actor, step: usize) -> Result<bool> {
    let bucket = format!("frozen-{case}");
    ground.bucket(&bucket)?;
    let proxy = Proxy::start(&ground.server.endpoint())?;
    proxy.set_fault(|request| is_late(request).then_some(Fault::Refuse(EXPIRED)));
    let home = || -> Result<LarderHome> {
        let mut larder = ground.larder(&ground.nix, &ground.key, &proxy, &bucket)?;
        larder.set_timeout(LONG);
        Ok(larder)
    };
    let (others, mut actors) = (home()?, home()?);
    others.run(&["push", &tops.pinned, "--pin", "stays"])?;
    others.run(&["push", &tops.old])?;
    if actor == Actor::Signs {
        let second = ground.nix.key_pair("second-1")?;
        actors.use_keys(&[&ground.key, &second])?;
    }
    let old = tops.old.clone();
    let args: Vec<&str> = match actor {
        Actor::PushesOld => vec!["push", &old, "--pin", "kept"],
        Actor::PushesNew => vec!["push", &tops.new, "--pin", "kept"],
        Actor::Pins => vec!["pin", "kept", &old],
        Actor::Signs => vec!["sign"],
        Actor::Collects => COLLECT.to_vec(),
    };
    let mut command = actors.faulty_command(&args, &format!("stop *:{step}"))?;
    command.env("LARDER_TIME_DIVISOR", DIVISOR.to_string());
    let mut child = Child::spawn(&command, &actors.dir().join("actor.log"))?;
    let until = Instant::now() + LONG;
    while !is_stopped(child.pid()) {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        ensure!(Instant::now() < until, "the process neither stops nor ends: {}", child.log_tail());
        std::thread::sleep(Duration::from_millis(5));
    }
    let quick = |args: &[&str]| others.quick(args, DIVISOR);
    // It takes over what a frozen collector has begun, and everything goes that no pin keeps.
    quick(&COLLECT).context("a collection beside the frozen process")?;
    let pushed = match actor {
        Actor::Collects => Some(quick(&["push", &tops.new, "--pin", "new"])?),
        _ => None,
    };
    quick(&COLLECT).context("the second collection")?;
    child.signal(Signal::CONT)?;
    let ended = child.wait(LONG)?;
    check(&others, tops, actor, ended.success(), pushed).with_context(|| child.log_tail())?;
    Ok(true)
}

const COLLECT: [&str; 8] = ["collect", "--yes", "--grace", "0s", "--keep-within", "0s", "--nar-grace", "0s"];

/// What holds when the process has gone on.
fn check(
    larder: &LarderHome,
    tops: &Tops,
    actor: Actor,
    succeeded: bool,
    pushed: Option<Output>,
) -> Result<()> {
    larder.run(&["verify"]).context("the bucket is not whole")?;
    larder.run(&["verify", &tops.pinned]).context("what is pinned")?;
    if pushed.is_some() {
        larder.run(&["verify", &tops.new]).context("what was pushed beside the frozen collector")?;
    }
    // A writer that says that it has succeeded has done so.
    match actor {
        Actor::PushesOld | Actor::Pins if succeeded => drop(larder.run(&["verify", &tops.old])?),
        Actor::PushesNew if succeeded => drop(larder.run(&["verify", &tops.new])?),
        _ => {}
    }
    // Whatever it has left, a collection ends it.
    larder.quick(&COLLECT, DIVISOR)?;
    larder.run(&["verify"]).context("the bucket at the end")?;
    larder.run(&["verify", &tops.pinned]).context("what is pinned, at the end")?;
    Ok(())
}

const EXPIRED: Refusal = Refusal { status: 403, code: "AccessDenied", retry_after: None };

/// Whether the signature of a request that changes something has expired.
fn is_late(request: &Record) -> bool {
    let in_query = || request.query.split('&').find_map(|one| one.strip_prefix("X-Amz-Date="));
    let signed = request.header("x-amz-date").or_else(in_query).and_then(seconds);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let is_change = matches!(&*request.method, "PUT" | "DELETE" | "POST");
    // The time of a signature has no fractions of a second.
    is_change && signed.is_some_and(|signed| now.saturating_sub(signed) > SIGNATURE + Duration::from_secs(1))
}

/// The seconds since 1970 of a time such as `20260101T000000Z`.
fn seconds(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let time = number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    // Days since 1970, by the formula for the Gregorian calendar that begins a year with March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(Duration::from_secs((days - 719_468) * 86_400 + time))
}
