//! A server that asks for less gets less, and all of it in the end.

use anyhow::{Result, ensure};
use larder_tests::fault::{Refusal, SLOW_DOWN};
use larder_tests::larder::LarderHome;
use larder_tests::process::{Output, run_with_input};
use larder_tests::proxy::{Fault, Proxy, Record};
use larder_tests::servers::Kind;
use larder_tests::synthetic::SyntheticStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::{Cases, Ground, attempt};

/// Paths of the store: each is two or three small requests.
const PATHS: usize = 220;
/// What each request takes, so that many are on their way at the same time.
const LATENCY: Duration = Duration::from_millis(40);

struct Crowd {
    store: SyntheticStore,
    larder: LarderHome,
    proxy: Proxy,
}

impl Crowd {
    /// A larder with many small paths to push, and a bucket that is not near.
    fn new(ground: &Ground, bucket: &str) -> Result<Self> {
        let store = SyntheticStore::start(PATHS)?;
        store.write_files(0..PATHS)?;
        let server = &*ground.server;
        server.client().create_bucket(bucket)?;
        let mut larder = store.larder()?;
        larder.use_keys(&[&ground.key])?;
        larder.use_server(server, bucket)?;
        larder.run(&["init", "--private"])?;
        let proxy = Proxy::start(&server.endpoint())?;
        proxy.set_latency(LATENCY);
        larder.use_server_at(server, &proxy.endpoint(), bucket)?;
        Ok(Self { store, larder, proxy })
    }

    fn push(&self) -> Result<Output> {
        let input = self.store.paths().collect::<Vec<_>>().join("\n");
        run_with_input(
            &mut self.larder.command(&["push", "--stdin"])?,
            input.as_bytes(),
            Duration::from_secs(180),
        )
    }
}

/// The most requests that were on their way at the same time, of those that began between two moments.
fn width(log: &[Record], from: Duration, to: Duration) -> usize {
    let within: Vec<_> = log.iter().filter(|one| (from..to).contains(&one.began)).collect();
    let at = |moment: Duration| {
        let runs = |one: &&&Record| one.began <= moment && one.ended.is_none_or(|ended| ended > moment);
        within.iter().filter(runs).count()
    };
    within.iter().map(|one| at(one.began)).max().unwrap_or(0)
}

fn refused(record: &Record) -> bool {
    record.fault.is_some_and(|fault| fault != Fault::Status(0))
}

/// A server that is too busy for some seconds: the requests that it gets meanwhile are bounded by the pauses, which
/// double; afterwards everything arrives, and as many are on their way as before.
#[test]
fn a_server_that_is_busy_for_a_while_is_left_alone_and_then_used_as_before() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let mut cases = Cases::new("polite", 1, Some(3));
    let mut told = Vec::new();
    while let Some((case, mut chance)) = cases.next() {
        let (code, status) =
            [("SlowDown", 503), ("TooManyRequests", 429), ("ServiceUnavailable", 503)][case % 3];
        let fault = Fault::Refuse(Refusal { status, code, retry_after: None });
        let busy = Duration::from_millis(1500 + chance.below(1500) as u64);
        let replay = cases.replay(case);
        attempt(&replay, &format!("case {case}: {code} for {busy:?}"), || {
            let crowd = Crowd::new(&ground, &format!("busy-{case}"))?;
            let mut since: Option<Instant> = None;
            crowd.proxy.set_fault(move |record| {
                if since.is_none() && record.method == "PUT" && record.path.contains("/nar/") {
                    since = Some(Instant::now());
                }
                since.is_some_and(|since| since.elapsed() < busy).then_some(fault)
            });
            let pushed = crowd.push()?;
            let log = crowd.proxy.log();
            let refusals: Vec<_> = log.iter().filter(|one| refused(one)).collect();
            let first = refusals.first().map(|one| one.began).unwrap_or_default();
            // What was on its way when the first was refused is not counted: nobody could know.
            let known = refusals.iter().filter(|one| one.began > first + 2 * LATENCY).count();
            // Pauses of 125 to 250 ms, then of 250 to 500, 500 to 1000, …: at most five of them begin within three
            // seconds, and after them 8, 4, 2, 1, 1 requests.
            ensure!(known <= 24, "{known} requests were sent to a server that was too busy");
            ensure!(pushed.code() == 0 || pushed.stderr.contains("fewer requests"), "{}", pushed.stderr);
            let again = crowd.push()?.ok()?;
            ensure!(again.timed_out.eq(&false));
            let keys = ground.objects(&format!("busy-{case}"))?;
            let narinfos = keys.keys().filter(|key| key.ends_with(".narinfo")).count();
            ensure!(narinfos == PATHS, "{narinfos} of {PATHS} have arrived");
            told.push(format!("{} refusals, {known} of them after the first round", refusals.len()));
            Ok(())
        })?;
    }
    cases.report(&told.join("; "));
    Ok(())
}

/// A server that takes no more than three requests at the same time and refuses those beyond: larder finds the width
/// that it bears, and few requests are refused.
#[test]
fn a_server_that_bears_only_few_at_once_is_not_overrun() -> Result<()> {
    const BEARS: usize = 3;
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let crowd = Crowd::new(&ground, "narrow")?;
    let proxy = Arc::new(crowd.proxy);
    let asked = Arc::downgrade(&proxy);
    proxy.set_fault(move |record| {
        let log = asked.upgrade()?.log();
        let running = log.iter().filter(|one| one.end.is_none() && one.start < record.start).count();
        (running >= BEARS).then_some(SLOW_DOWN)
    });
    let input = crowd.store.paths().collect::<Vec<_>>().join("\n");
    let mut pushes = 0;
    loop {
        let mut push = crowd.larder.command(&["push", "--stdin"])?;
        let pushed = run_with_input(&mut push, input.as_bytes(), Duration::from_secs(120))?;
        pushes += 1;
        if pushed.code() == 0 {
            break;
        }
        ensure!(pushes < 5, "{}", pushed.stderr);
    }
    let log = proxy.log();
    let (refusals, done) =
        (log.iter().filter(|one| refused(one)).count(), log.iter().filter(|one| one.succeeded()).count());
    proxy.clear_fault();
    println!("faults: polite: {refusals} of {} requests refused, {done} done, in {pushes} pushes", log.len());
    ensure!(refusals * 3 < done, "{refusals} refused, {done} done");
    Ok(())
}

/// A server that has recovered is used as before.
#[test]
fn the_width_comes_back_after_one_refusal() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let crowd = Crowd::new(&ground, "recovers")?;
    let once = AtomicBool::new(true);
    crowd.proxy.set_fault(move |record| {
        let hit =
            record.method == "PUT" && record.path.contains("/nar/") && once.swap(false, Ordering::SeqCst);
        hit.then_some(SLOW_DOWN)
    });
    crowd.push()?.ok()?;
    let log = crowd.proxy.log();
    let slowed = log.iter().find(|one| refused(one)).and_then(|one| one.ended).unwrap_or_default();
    let end = log.iter().map(|one| one.began).max().unwrap_or_default();
    let before = width(&log, Duration::ZERO, slowed);
    // As many requests as there were at once: half of them may begin together, and each round of answers lets one more
    // through.
    let mut begun: Vec<_> = log.iter().map(|one| one.began).filter(|began| *began > slowed).collect();
    begun.sort();
    let until = begun.get(before).copied().unwrap_or(end);
    let after = width(&log, slowed + Duration::from_millis(1), until);
    let last = width(&log, slowed + Duration::from_millis(400), end);
    println!("faults: polite: {before} at once before a refusal, {after} right after it, {last} later");
    ensure!(before >= 12, "only {before} at once: nothing is shown");
    ensure!(after <= before / 2 + 2, "{after} at once right after a refusal, {before} before");
    ensure!(last >= before.min(16), "{last} at once later, {before} before");
    Ok(())
}
