//! Four agents on four stores push overlapping closures into one bucket, by different rules and with two keys, over a
//! bad network. Most of the agents are killed.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::{self, Chance};
use larder_tests::larder::{LarderHome, faulty_binary};
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{KeyPair, NixHome, hash_part, samples, versions};
use larder_tests::process::{Child, clean_command, run};
use larder_tests::proxy::Proxy;
use larder_tests::servers::Kind;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::common::{Cases, Ground, assert_ordered, attempt};
use super::compare::Contents;

const LONG: Duration = Duration::from_secs(180);

/// One of the four stores.
struct Writer {
    nix: NixHome,
    key: KeyPair,
    /// Whether the writer leaves out the paths of upstream.
    skips: bool,
    /// The paths that its hook queues.
    built: Vec<String>,
}

/// Makes four stores with overlapping parts of the paths of `builder`. Returns also the hash parts of the paths that
/// upstream signed, and the public key of upstream.
fn writers(builder: &NixHome) -> Result<(Vec<Writer>, HashSet<String>, Vec<String>)> {
    let mut tops = builder.build(&samples::layered("writers", 8))?;
    tops.extend(builder.build(&samples::chain("writers", 8))?);
    tops.extend(builder.build(&samples::assorted("writers"))?);
    let upstream = builder.key_pair("upstream-1")?;
    // `base` and the first paths of the chain come from upstream.
    let all = builder.closure(&tops)?;
    let theirs: Vec<_> = all
        .iter()
        .map(|info| info.path.clone())
        .filter(|path| ["-base", "-link-0", "-link-1"].iter().any(|name| path.ends_with(name)))
        .collect();
    ensure!(theirs.len() == 3, "{theirs:?}");
    let keys = [builder.key_pair("first-1")?, builder.key_pair("second-1")?];
    let mut writers = Vec::new();
    for number in 0..4 {
        let nix = builder.twin()?;
        // Each lacks one of the tops; the second and the fourth are of one mind about upstream.
        let built: Vec<_> =
            tops.iter().enumerate().filter(|(n, _)| n % 4 != number).map(|(_, top)| top.clone()).collect();
        nix.import_unsigned(builder, &built)?;
        let here: Vec<_> = theirs.iter().filter(|path| nix.is_valid(path)).cloned().collect();
        nix.sign(&upstream, &here)?;
        writers.push(Writer { nix, key: keys[number % 2].clone(), skips: number == 1, built });
    }
    let hash = |path: &String| hash_part(path).to_owned();
    Ok((writers, theirs.iter().map(hash).collect(), vec![upstream.public]))
}

#[test]
fn four_writers_over_a_bad_network_that_are_killed_keep_the_order_and_finish() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let (Some(version), true) = (versions().first().copied(), Kind::MinIo.is_here()) else { return Ok(()) };
    let builder = NixHome::new(version)?;
    let (writers, upstream, keys) = writers(&builder)?;
    let ground = Ground::with(builder.twin()?, Kind::MinIo)?;
    let (kills, faults) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut cases = Cases::new("writers", 3, 17, None);
    while let Some((case, chance)) = cases.next() {
        let replay = cases.replay(case);
        attempt(&replay, &format!("case {case}"), || {
            one(&ground, &writers, &upstream, &keys, case, chance, (&kills, &faults))
        })?;
    }
    let (kills, faults) = (kills.into_inner(), faults.into_inner());
    cases.report(&format!("{kills} kills, {faults} faults"));
    Ok(())
}

fn one(
    ground: &Ground,
    writers: &[Writer],
    upstream: &HashSet<String>,
    upstream_keys: &[String],
    case: usize,
    mut chance: Chance,
    (kills, faults): (&AtomicUsize, &AtomicUsize),
) -> Result<()> {
    let bucket = format!("case-{case}");
    ground.bucket(&bucket)?;
    let proxy = Proxy::start(&ground.server.endpoint())?;
    proxy.set_latency(Duration::from_millis(3));
    let mut homes = Vec::new();
    for writer in writers {
        let mut larder = ground.larder(&writer.nix, &writer.key, &proxy, &bucket)?;
        let keys: Vec<_> = upstream_keys.iter().map(|key| format!("{key:?}")).collect();
        larder.set("upstream-keys", &format!("[{}]", keys.join(", ")))?;
        larder.set("push-upstream", if writer.skips { "false" } else { "true" })?;
        larder.run(&["queue", "create"])?;
        for path in &writer.built {
            let mut hook = clean_command(faulty_binary("larder-hook")?);
            hook.envs(writer.nix.client_env()).env("LARDER_CONFIG", larder.config_file());
            run(hook.env("OUT_PATHS", path), LONG)?.ok()?;
        }
        homes.push(larder);
    }
    // One request in twenty gets a fault.
    let rule = Mutex::new(Chance::new(chance.draw()));
    proxy.set_fault(move |_| {
        let mut chance = rule.lock().ok()?;
        (chance.below(20) == 0).then(|| fault::ALL[chance.below(fault::ALL.len())].1)
    });
    let seeds: Vec<_> = homes.iter().map(|_| chance.draw()).collect();
    let over = AtomicBool::new(false);
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let agents: Vec<_> = homes
            .iter()
            .zip(&seeds)
            .map(|(larder, seed)| scope.spawn(|| live_badly(larder, Chance::new(*seed), kills, &over)))
            .collect();
        agents.into_iter().map(|agent| agent.join().unwrap_or_else(|_| anyhow::bail!("a panic"))).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    faults.fetch_add(proxy.log().iter().filter(|one| one.fault.is_some()).count(), Ordering::SeqCst);
    proxy.clear_fault();
    for larder in &homes {
        larder.run(&["flush", "--wait", "--timeout", "90"]).context("finishing without faults")?;
    }
    assert_ordered(&proxy.log(), &bucket, &ground.given(), upstream);
    complete(ground, writers, &bucket, upstream)
}

/// Runs agents one after the other. Most of them are killed.
fn live_badly(larder: &LarderHome, mut chance: Chance, kills: &AtomicUsize, over: &AtomicBool) -> Result<()> {
    let log = larder.dir().join("agent.log");
    for _ in 0..4 {
        if over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let fault = format!("*:{}", 1 + chance.below(120));
        let command = larder.faulty_command(&["agent", "--exit-when-idle"], &fault)?;
        let mut agent = Child::spawn(&command, &log)?;
        let until = Instant::now() + Duration::from_millis(300 + chance.below(2500) as u64);
        while agent.try_wait()?.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let finished = agent.try_wait()?.is_some_and(|status| status.success());
        agent.kill();
        kills.fetch_add(usize::from(!finished), Ordering::SeqCst);
    }
    Ok(())
}

/// Checks that the bucket has the closure of each path, without the paths of upstream that no writer mirrors.
fn complete(ground: &Ground, writers: &[Writer], bucket: &str, upstream: &HashSet<String>) -> Result<()> {
    let contents = Contents::read(ground, bucket)?;
    for writer in writers {
        for info in writer.nix.closure(&writer.built)? {
            let hash = hash_part(&info.path);
            let narinfo = contents.objects.get(&format!("{hash}.narinfo"));
            let Some(narinfo) = narinfo else {
                ensure!(writer.skips && upstream.contains(hash), "{} is missing", info.path);
                continue;
            };
            let name = writer.key.public.split(':').next().unwrap_or_default();
            let left_out = writer.skips && upstream.contains(hash);
            ensure!(
                left_out || narinfo.lines().any(|line| line.starts_with(&format!("Sig: {name}:"))),
                "{} has no signature by {name}:\n{narinfo}",
                info.path
            );
        }
    }
    Ok(())
}
