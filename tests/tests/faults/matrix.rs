//! Every fault at every position: a push of a small closure with one fault, and then a push without faults.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::{self, Chance, Fault};
use larder_tests::servers::Kind;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::common::{Cases, Extent, Ground, assert_ordered, attempt};
use super::compare::Contents;

/// The number of cases that run at the same time: each waits most of its time.
const AT_ONCE: usize = 4;
/// Faults that take long are part of runs that take this long, and of full runs.
const LONG: Duration = Duration::from_secs(1200);

fn takes_long() -> bool {
    match Extent::of_run() {
        Extent::Sample => false,
        Extent::Full => true,
        Extent::Time(time) => time >= LONG,
    }
}

#[test]
fn every_fault_at_every_request_heals_with_the_next_push() -> Result<()> {
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    matrix(&ground, "matrix", 100)
}

#[test]
fn every_fault_at_every_request_heals_on_another_server_too() -> Result<()> {
    let Some(ground) = Ground::new(Kind::S3sFs)? else { return Ok(()) };
    matrix(&ground, "matrix-s3s", 80)
}

fn matrix(ground: &Ground, name: &'static str, sample: usize) -> Result<()> {
    let top = ground.closure(name)?.remove(0);
    let site = ground.site("undisturbed")?;
    site.larder.run(&["push", &top])?;
    let log = site.proxy.log();
    assert_ordered(&log, "undisturbed", &ground.given(), &HashSet::new());
    let wanted = Contents::read(ground, "undisturbed")?;
    ensure!(wanted.nars.len() == 5 && wanted.objects.len() >= 7, "{wanted:?}");
    ensure!(log.iter().any(|record| record.query.contains("uploadId")), "nothing was sent in parts");

    let mut faults = fault::ALL.to_vec();
    if takes_long() {
        faults.push(("stalled for longer than larder waits", Fault::Stall(Duration::from_secs(75))));
    }
    let mut positions: Vec<_> =
        (0..log.len()).flat_map(|k| faults.iter().map(move |fault| (k, *fault))).collect();
    let cases = Mutex::new(Cases::new(name, sample, positions.len(), Some(positions.len())));
    let seed = cases.lock().map(|cases| cases.seed).unwrap_or_default();
    Chance::new(seed).shuffle(&mut positions);
    let (hit, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = cases.lock().ok().and_then(|mut cases| Some((cases.next()?.0, cases.replay(0))));
            let Some((case, _)) = next else { return };
            let (k, (word, fault)) = positions[case % positions.len()];
            let replay = cases.lock().map(|cases| cases.replay(case)).unwrap_or_default();
            let what = format!("case {case}: {word} at request {k}");
            match attempt(&replay, &what, || one(ground, &top, case, k, fault, &wanted, &hit)) {
                Ok(()) => {}
                Err(error) => failed.lock().map(|mut failed| failed.push(error)).unwrap_or_default(),
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_default();
    if let Ok(cases) = cases.into_inner() {
        let hit = hit.load(Ordering::SeqCst);
        let requests = log.len();
        cases.report(&format!("{hit} faults in pushes of {requests} requests, {} failures", failed.len()));
    }
    match failed.len() {
        0 => Ok(()),
        many => {
            let all: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
            anyhow::bail!("{many} cases failed:\n{}", all.join("\n\n"))
        }
    }
}

fn one(
    ground: &Ground,
    top: &str,
    case: usize,
    k: usize,
    fault: Fault,
    wanted: &Contents,
    hit: &AtomicUsize,
) -> Result<()> {
    let bucket = format!("case-{case}");
    let site = ground.site(&bucket)?;
    let mut count = 0;
    site.proxy.set_fault(move |_| {
        count += 1;
        (count == k + 1).then_some(fault)
    });
    let first = site.larder.try_run(&["push", top])?;
    ensure!([0, 3, 5, 7].contains(&first.code()), "the first push: {} {}", first.code(), first.stderr);
    hit.fetch_add(site.proxy.log().iter().filter(|record| record.fault.is_some()).count(), Ordering::SeqCst);
    site.proxy.clear_fault();
    site.larder.run(&["push", top]).context("the second push")?;
    assert_ordered(&site.proxy.log(), &bucket, &ground.given(), &HashSet::new());
    let contents = Contents::read(ground, &bucket)?;
    ensure!(contents == *wanted, "the bucket differs:\n{contents:#?}\nfrom\n{wanted:#?}");
    if ground.server.kind() != Kind::S3sFs {
        let left = ground.unfinished(&bucket)?;
        ensure!(left.is_empty(), "uploads are left unfinished: {left:?}");
    }
    Ok(())
}

/// The checker detects a larder that publishes in the wrong order.
#[test]
fn a_larder_with_the_order_reversed_is_found_out() -> Result<()> {
    if larder_tests::need::need(larder_tests::need::Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let top = ground.closure("reversed")?.remove(0);
    for (fault, right) in [("", true), ("reversed-order", false)] {
        let bucket = if right { "right" } else { "reversed" };
        let site = ground.site(bucket)?;
        let mut push = site.larder.faulty_command(&["push", &top], fault)?;
        larder_tests::process::run(&mut push, Duration::from_secs(120))?.ok()?;
        let base = format!("/{bucket}");
        let checked = larder_tests::order::check(&site.proxy.log(), &base, &ground.given(), &HashSet::new());
        ensure!(checked.narinfos >= 6, "{checked:?}");
        ensure!(checked.violations.is_empty() == right, "{fault}: {:?}", checked.violations);
    }
    Ok(())
}

/// A release has no fail points: these tests run the same build of the crates.
#[test]
fn without_the_feature_there_are_no_fail_points() -> Result<()> {
    const { assert!(!larder_hook::fault::COMPILED_IN, "the workspace is built with fail points") };
    for name in ["larder", "larder-hook"] {
        let bytes = std::fs::read(larder_tests::larder::binary(name)?)?;
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"LARDER_FAULT"), "{name} knows LARDER_FAULT");
    }
    Ok(())
}
