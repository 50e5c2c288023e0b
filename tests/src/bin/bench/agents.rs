//! Several agents, each with a queue of its own, that push overlapping closures of one store into one bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::process::{clean_command, run as run_command};
use larder_tests::servers::Kind;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::{Cost, Running, in_turns, measure};
use crate::row::Reach::AtMost;
use crate::row::{MOST_MEMORY, Row, Side, Spread};

/// How many agents there are, in turn.
const AGENTS: [usize; 3] = [1, 2, 4];

/// How long an agent may take for one path and its closure.
const PATIENCE: Duration = Duration::from_secs(300);

/// In steady state, and all at once.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    // References first.
    let mut query = vec!["-qR"];
    query.extend(store.large.iter().map(String::as_str));
    let paths = store.nix.nix_store(&query)?.ok()?.lines();
    let overlap = overlap(&store.nix, &paths)?;
    let mut rows = Vec::new();
    for (name, reach, way) in [
        ("all builds at once", None, at_once as fn(&_, &_, _, &_, &_) -> _),
        ("a build at a time", Some(AtMost(1.05)), steady),
    ] {
        let mut doubled = [const { Vec::new() }; AGENTS.len()];
        let costs = in_turns(context.rounds(1), AGENTS.len(), |round, who| {
            // One push makes all warm.
            if round == 0 && !(rows.is_empty() && who == 0) {
                return Ok(Cost::wall(0.0));
            }
            let bucket = arena.bucket("agents")?;
            let cost: Cost = way(&arena, &store.nix, AGENTS[who], &bucket, &paths)?;
            let (sent, distinct) = nars(&arena, &bucket)?;
            if round > 0 {
                doubled[who].push(Some(sent as f64 / distinct as f64));
            }
            arena.empty(&bucket)?;
            Ok(cost.sent(sent))
        })?;
        let sides: Vec<_> = AGENTS
            .iter()
            .zip(costs)
            .map(|(count, costs)| Side::new(format!("{count} × larder"), costs))
            .collect();
        for (at, count) in AGENTS.iter().enumerate() {
            let mut row = Row::new(format!("{count} agents, {name}"), sides[at].clone());
            if at > 0 {
                row = row.against(sides[0].clone()).speed(None).cpu(None);
            }
            let times = Spread::of(doubled[at].iter().copied()).map_or(f64::NAN, |spread| spread.median);
            let row = row.figure("bytes sent over distinct", times, "x", reach).peak(MOST_MEMORY);
            rows.push(row.note(format!("the closures together name each byte {overlap:.1} times")));
        }
    }
    Ok(rows)
}

/// The NAR bytes of the closures of all paths, over those of the paths, which are each other's closures.
fn overlap(nix: &NixHome, paths: &[String]) -> Result<f64> {
    let infos: BTreeMap<_, _> =
        nix.path_info(paths)?.into_iter().map(|info| (info.path.clone(), info)).collect();
    let mut named = 0;
    for root in paths {
        let (mut seen, mut open) = (BTreeSet::new(), vec![root]);
        while let Some(path) = open.pop() {
            if let Some(info) = infos.get(path).filter(|_| seen.insert(path)) {
                named += info.nar_size;
                open.extend(&info.references);
            }
        }
    }
    Ok(named as f64 / infos.values().map(|info| info.nar_size).sum::<u64>() as f64)
}

/// Each agent gets the next path when it is done with its last, as builders do that take what is to be built from
/// one list.
fn steady(arena: &Arena, nix: &NixHome, count: usize, bucket: &str, paths: &[String]) -> Result<Cost> {
    let homes = (0..count).map(|_| arena.larder(bucket)).collect::<Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let feed = |home: &LarderHome| -> Result<f64> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            enqueue(home, path)?;
            settled(home)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    };
    let one = |home: &LarderHome| -> Result<(f64, Cost)> {
        home.run(&["queue", "create"])?;
        // It ends by itself should this program die.
        let agent =
            Running::start(&mut home.command(&["--set", "linger=30", "agent", "--exit-when-idle"])?)?;
        let end = agent.ender();
        thread::scope(|scope| {
            let agent = scope.spawn(|| agent.finish());
            let fed = feed(home);
            // Fails only where it has ended already, which the next line tells better.
            let _ = end.end();
            let cost = agent.join().expect("a measuring thread panicked")?;
            Ok((fed?, cost))
        })
    };
    let done = all(&homes, one);
    homes.iter().try_for_each(|home| forget(nix, home.dir()))?;
    let (ends, costs): (Vec<_>, Vec<_>) = done?.into_iter().unzip();
    Ok(Cost::together(ends.into_iter().fold(0.0, f64::max), &costs))
}

/// Each pushes its share of the paths, with their closures, and all begin at the same time.
fn at_once(arena: &Arena, _: &NixHome, count: usize, bucket: &str, paths: &[String]) -> Result<Cost> {
    let homes = (0..count)
        .map(|which| Ok((arena.larder(bucket)?, paths.iter().skip(which).step_by(count))))
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let costs = all(&homes, |(home, share)| measure(home.command(&["push"])?.args(share.clone())))?;
    Ok(Cost::together(begun.elapsed().as_secs_f64(), &costs))
}

/// Does the same for each at the same time.
fn all<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an agent's thread panicked")).collect()
    })
}

/// What Nix does after a build.
fn enqueue(home: &LarderHome, path: &str) -> Result<()> {
    let mut hook = clean_command(binary("larder-hook")?);
    hook.env("LARDER_CONFIG", home.config_file()).env("OUT_PATHS", path);
    let output = run_command(&mut hook, Duration::from_secs(20))?.ok()?;
    ensure!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(())
}

/// Waits until nothing is queued.
fn settled(home: &LarderHome) -> Result<()> {
    let holds = |place: &str| -> Result<bool> {
        Ok(fs::read_dir(home.state_dir().join(place))?.next().transpose()?.is_some())
    };
    let begun = Instant::now();
    // In the order in which a job moves.
    while holds("incoming")? || holds("work")? {
        ensure!(begun.elapsed() < PATIENCE, "an agent is stuck");
        thread::sleep(Duration::from_millis(5));
    }
    if holds("parked")? {
        bail!("something is parked: {}", home.run(&["status"])?.stdout);
    }
    Ok(())
}

/// Removes the roots' entries in Nix's own directory, which outlive the queue.
fn forget(nix: &NixHome, home: &Path) -> Result<()> {
    for entry in fs::read_dir(nix.state_dir().join("gcroots/auto"))? {
        let link = entry?.path();
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(home)) {
            fs::remove_file(link)?;
        }
    }
    Ok(())
}

/// Bytes of all NAR objects in a bucket, and of one for each NAR. Every upload has left an object of its own: the key
/// is the NAR's hash and a nonce.
fn nars(arena: &Arena, bucket: &str) -> Result<(u64, u64)> {
    let mut distinct = BTreeMap::new();
    let mut sent = 0;
    for (key, size) in arena.server.client().list(bucket, "nar/")? {
        let (hash, _) = key.split_once('-').with_context(|| format!("a NAR key without a nonce: {key}"))?;
        distinct.insert(hash.to_owned(), size);
        sent += size;
    }
    Ok((sent, distinct.values().sum()))
}
