//! Several agents push overlapping closures of one store into one bucket. Each agent has its own queue.

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

use crate::context::Context;
use crate::cost::{Cost, Running, interleave, measure};
use crate::row::Target::AtMost;
use crate::row::{MEMORY_LIMIT, Row, Side, median};
use crate::testbed::Testbed;

/// The numbers of agents to compare.
const AGENTS: [usize; 3] = [1, 2, 4];

/// The longest time that an agent may take for one path and its closure.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Measures both ways to hand out the builds: all at once, and one build at a time.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    // Nix lists references before their referrers.
    let mut query = vec!["-qR"];
    query.extend(store.large.iter().map(String::as_str));
    let paths = store.nix.nix_store(&query)?.ok()?.lines();
    let overlap = overlap(&store.nix, &paths)?;
    let mut rows = Vec::new();
    for (name, target, hand_out) in [
        ("all builds at once", None, at_once as fn(&_, &_, _, &_, &_) -> _),
        ("a build at a time", Some(AtMost(1.05)), one_at_a_time),
    ] {
        let mut repetition = [const { Vec::new() }; AGENTS.len()];
        let costs = interleave(context.rounds(1), AGENTS.len(), |round, which| {
            // One push is enough to warm all caches up.
            if round == 0 && !(rows.is_empty() && which == 0) {
                return Ok(Cost::wall(0.0));
            }
            let bucket = testbed.bucket("agents")?;
            let cost: Cost = hand_out(&testbed, &store.nix, AGENTS[which], &bucket, &paths)?;
            let (sent, distinct) = nar_bytes(&testbed, &bucket)?;
            if round > 0 {
                repetition[which].push(sent as f64 / distinct as f64);
            }
            testbed.empty(&bucket)?;
            Ok(cost.sent(sent))
        })?;
        let sides: Vec<_> = AGENTS
            .iter()
            .zip(costs)
            .map(|(count, costs)| Side::new(format!("{count} × larder"), costs))
            .collect();
        for (index, count) in AGENTS.iter().enumerate() {
            let mut row = Row::new(format!("{count} agents, {name}"), sides[index].clone());
            if index > 0 {
                row = row.against(sides[0].clone()).speed(None).cpu(None);
            }
            let sent_over_distinct = median(std::mem::take(&mut repetition[index]));
            let row =
                row.figure("bytes sent over distinct", sent_over_distinct, "x", target).peak(MEMORY_LIMIT);
            rows.push(row.note(format!("each byte of NAR is in {overlap:.1} closures on average")));
        }
    }
    Ok(rows)
}

/// The sum of the NAR sizes of all closures, divided by the sum of the NAR sizes of the paths. `paths` contains every
/// path of the closures.
fn overlap(nix: &NixHome, paths: &[String]) -> Result<f64> {
    let infos: BTreeMap<_, _> =
        nix.path_info(paths)?.into_iter().map(|info| (info.path.clone(), info)).collect();
    let mut closures = 0;
    for root in paths {
        let (mut seen, mut pending) = (BTreeSet::new(), vec![root]);
        while let Some(path) = pending.pop() {
            if let Some(info) = infos.get(path).filter(|_| seen.insert(path)) {
                closures += info.nar_size;
                pending.extend(&info.references);
            }
        }
    }
    Ok(closures as f64 / infos.values().map(|info| info.nar_size).sum::<u64>() as f64)
}

/// Each agent gets the next path of a common list when it has pushed its previous path. Builders of one build farm work
/// like this.
fn one_at_a_time(
    testbed: &Testbed,
    nix: &NixHome,
    count: usize,
    bucket: &str,
    paths: &[String],
) -> Result<Cost> {
    let homes = (0..count).map(|_| testbed.larder(bucket)).collect::<Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let feed = |home: &LarderHome| -> Result<f64> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            enqueue(home, path)?;
            wait_until_empty(home)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    };
    let push_some = |home: &LarderHome| -> Result<(f64, Cost)> {
        home.run(&["queue", "create"])?;
        // The agent ends by itself if the benchmark is killed.
        let agent =
            Running::start(&mut home.command(&["--set", "linger=30", "agent", "--exit-when-idle"])?)?;
        let end = agent.end_signal();
        thread::scope(|scope| {
            let agent = scope.spawn(|| agent.finish());
            let fed = feed(home);
            // This fails only if the agent has ended already. The next line then gives the reason.
            let _ = end.send();
            let cost = agent.join().expect("a measuring thread panicked")?;
            Ok((fed?, cost))
        })
    };
    let done = in_parallel(&homes, push_some);
    homes.iter().try_for_each(|home| remove_links(nix, home.dir()))?;
    let (ends, costs): (Vec<_>, Vec<_>) = done?.into_iter().unzip();
    Ok(Cost::together(ends.into_iter().fold(0.0, f64::max), &costs))
}

/// Each agent pushes its share of the paths with their closures. All agents start at the same time.
fn at_once(testbed: &Testbed, _: &NixHome, count: usize, bucket: &str, paths: &[String]) -> Result<Cost> {
    let homes = (0..count)
        .map(|index| Ok((testbed.larder(bucket)?, paths.iter().skip(index).step_by(count))))
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let costs = in_parallel(&homes, |(home, share)| measure(home.command(&["push"])?.args(share.clone())))?;
    Ok(Cost::together(begun.elapsed().as_secs_f64(), &costs))
}

/// Runs `work` for all items at the same time, each on its own thread.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an agent's thread panicked")).collect()
    })
}

/// Runs the hook for a path, as Nix does after a build.
fn enqueue(home: &LarderHome, path: &str) -> Result<()> {
    let mut hook = clean_command(binary("larder-hook")?);
    hook.env("LARDER_CONFIG", home.config_file()).env("OUT_PATHS", path);
    let output = run_command(&mut hook, Duration::from_secs(20))?.ok()?;
    ensure!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(())
}

/// Waits until the queue is empty. Fails if a path is parked.
fn wait_until_empty(home: &LarderHome) -> Result<()> {
    let has_jobs = |folder: &str| -> Result<bool> {
        Ok(fs::read_dir(home.state_dir().join(folder))?.next().transpose()?.is_some())
    };
    let begun = Instant::now();
    // A job moves from `incoming` to `work`, so this order does not miss it.
    while has_jobs("incoming")? || has_jobs("work")? {
        ensure!(
            begun.elapsed() < TIME_LIMIT,
            "an agent has not emptied its queue within {} s",
            TIME_LIMIT.as_secs()
        );
        thread::sleep(Duration::from_millis(5));
    }
    if has_jobs("parked")? {
        bail!("the agent has parked a path: {}", home.run(&["status"])?.stdout);
    }
    Ok(())
}

/// Removes the links to the roots of a queue in the directory `gcroots/auto` of Nix, where they remain after the queue.
fn remove_links(nix: &NixHome, home: &Path) -> Result<()> {
    for entry in fs::read_dir(nix.state_dir().join("gcroots/auto"))? {
        let link = entry?.path();
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(home)) {
            fs::remove_file(link)?;
        }
    }
    Ok(())
}

/// The bytes of all NAR objects in a bucket, and the bytes of one object for each NAR. Each upload of a NAR leaves its own
/// object: the key consists of the hash of the NAR and a nonce.
fn nar_bytes(testbed: &Testbed, bucket: &str) -> Result<(u64, u64)> {
    let mut distinct = BTreeMap::new();
    let mut sent = 0;
    for (key, size) in testbed.server.client().list(bucket, "nar/")? {
        let (hash, _) = key.split_once('-').with_context(|| format!("a NAR key without a nonce: {key}"))?;
        distinct.insert(hash.to_owned(), size);
        sent += size;
    }
    Ok((sent, distinct.values().sum()))
}
