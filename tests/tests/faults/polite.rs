//! A server that asks for fewer requests gets fewer, and everything arrives in the end.

use anyhow::{Result, ensure};
use larder_tests::fault::{Refusal, SLOW_DOWN};
use larder_tests::larder::LarderHome;
use larder_tests::process::{Output, run_with_input};
use larder_tests::proxy::{Fault, Proxy, Record};
use larder_tests::servers::Kind;
use larder_tests::synthetic::SyntheticStore;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::common::{Cases, Ground, attempt};

/// The number of paths in the store. Each takes two or three small requests.
const PATHS: usize = 220;
/// A round of requests is complete when none has come for this long. Shorter than the shortest pause that larder makes.
const QUIET: Duration = Duration::from_millis(60);
/// The number of requests that larder always sends at the same time, unless a server asks for fewer.
const USUAL: usize = 16;

struct Crowd {
    store: SyntheticStore,
    larder: LarderHome,
    proxy: Proxy,
}

impl Crowd {
    /// A larder with many small paths to push, and a bucket whose proxy answers in rounds.
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
        proxy.set_rounds(QUIET);
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

/// The number of requests in each round of a range: the requests that were on their way at the same time.
fn widths(log: &[Record], rounds: impl std::ops::RangeBounds<u64>) -> BTreeMap<u64, usize> {
    let mut widths = BTreeMap::new();
    for record in log.iter().filter(|record| rounds.contains(&record.round)) {
        *widths.entry(record.round).or_default() += 1;
    }
    widths
}

fn widest(log: &[Record], rounds: impl std::ops::RangeBounds<u64>) -> usize {
    widths(log, rounds).into_values().max().unwrap_or(0)
}

fn refused(record: &Record) -> bool {
    record.fault.is_some_and(|fault| fault != Fault::Status(0))
}

/// A server is too busy for some seconds. The pauses, which double, bound the requests that it gets meanwhile.
/// Afterwards everything arrives.
#[test]
fn a_busy_server_gets_few_requests_and_everything_arrives_later() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let mut cases = Cases::new("polite", 1, 3, Some(3));
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
            // All requests that were on their way when larder heard the first refusal are refused. Then come pauses of
            // 125 to 250 ms, of 250 to 500, 500 to 1000, …: at most five of them begin within three seconds. After each
            // pause, larder sends half as many requests as before it; at least one, and a few more for the rounds of one.
            let most = widest(&log, ..=refusals.first().map_or(0, |one| one.round)).max(USUAL);
            ensure!(
                refusals.len() <= 2 * most + 8,
                "{} requests were sent to a server that was too busy, {most} at once before",
                refusals.len()
            );
            ensure!(pushed.code() == 0 || pushed.stderr.contains("fewer requests"), "{}", pushed.stderr);
            let again = crowd.push()?.ok()?;
            ensure!(again.timed_out.eq(&false));
            let keys = ground.objects(&format!("busy-{case}"))?;
            let narinfos = keys.keys().filter(|key| key.ends_with(".narinfo")).count();
            ensure!(narinfos == PATHS, "{narinfos} of {PATHS} have arrived");
            told.push(format!("{} refusals, {most} requests at once before", refusals.len()));
            Ok(())
        })?;
    }
    cases.report(&told.join("; "));
    Ok(())
}

/// A server takes three requests at the same time and refuses others. larder finds that number, and few requests are
/// refused.
#[test]
fn a_server_that_takes_few_requests_at_once_is_not_overrun() -> Result<()> {
    const TAKES: usize = 3;
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let crowd = Crowd::new(&ground, "narrow")?;
    let (proxy, requests) = (&crowd.proxy, crowd.proxy.counter());
    // Each request takes a while, so that many are on their way at the same time.
    proxy.clear_rounds();
    proxy.set_latency(Duration::from_millis(20));
    proxy.set_fault(move |record| {
        let running = requests.count(|one| one.end.is_none() && one.start < record.start);
        (running >= TAKES).then_some(SLOW_DOWN)
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

/// After one refusal larder halves the number of its concurrent requests, and then raises it again.
#[test]
fn the_number_of_concurrent_requests_recovers_after_a_refusal() -> Result<()> {
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
    let refusal = log.iter().find(|one| refused(one)).map_or(0, |one| one.round);
    let before = widest(&log, ..=refusal);
    // The next round is the first that larder began after it heard the refusal. From round to round, one more request
    // is on its way.
    let after = widths(&log, refusal + 1..).into_values().next().unwrap_or(0);
    let last = widest(&log, refusal + 2..);
    println!("faults: polite: {before} at once before a refusal, {after} right after it, {last} later");
    ensure!(before >= 12, "only {before} at once: nothing is shown");
    ensure!(after <= before / 2 + 2, "{after} at once right after a refusal, {before} before");
    ensure!(last >= before.min(USUAL), "{last} at once later, {before} before");
    Ok(())
}
