use super::*;

fn path(name: &str) -> StorePath {
    StorePath::from_basename(format!("0c5b8vw40dy178xlpddw65q9gf1h2186-{name}").as_bytes()).unwrap()
}

fn report(outcomes: &[(&str, Outcome)]) -> Report {
    let outcomes = outcomes.iter().map(|(name, outcome)| (path(name).into(), outcome.clone())).collect();
    Report { outcomes, since: None }
}

fn failed(area: Area, retry: Retry) -> Outcome {
    Outcome::Failed(Error::new(area, retry, "x"))
}

fn blocked(by: &str) -> Outcome {
    Outcome::Blocked { by: path(by).into() }
}

/// It is 1000 s after 1970, and the wait is as many minutes as attempts have failed.
const CLOCK: Clock = Clock { now: 1000, wait: |failures| Duration::from_secs(60 * failures as u64) };

fn voucher() -> Voucher {
    Voucher { origin: Origin::Hook, trusted_keys: vec!["k-1:abc=".into()] }
}

/// A job of the hook with these paths, each with so many failed attempts.
fn job(paths: &[(&str, u32)]) -> PushedJob {
    let state = |(name, failures): &(&str, u32)| PathState { path: Some(path(name)), failures: *failures };
    PushedJob { voucher: voucher(), paths: paths.iter().map(state).collect() }
}

/// Decides about one job all of whose paths were asked for; `parked` are parked paths, and whether each is only blocked.
fn decide_one(paths: &[(&str, u32)], outcomes: &[(&str, Outcome)], parked: &[(&str, bool)]) -> Decision {
    let asked = paths.iter().map(|(name, _)| path(name)).collect();
    let unknown = Voucher { origin: Origin::Retry, trusted_keys: Vec::new() };
    let before = |(name, is_blocked): &(&str, bool)| {
        (path(name), ParkedBefore { is_blocked: *is_blocked, voucher: unknown.clone() })
    };
    let parked = parked.iter().map(before).collect();
    decide(&[job(paths)], &asked, &report(outcomes), &parked, CLOCK)
}

/// What follows for the path `name` of a job, in one word.
fn word(name: &str, failures: u32, outcomes: &[(&str, Outcome)]) -> &'static str {
    let decision = decide_one(&[(name, failures)], outcomes, &[("parked", false)]);
    match &decision.jobs[0][0] {
        Consequence::Unchanged => "unchanged",
        Consequence::Settled(Settled::Available) => "available",
        Consequence::Settled(Settled::Excluded) => "excluded",
        Consequence::Settled(Settled::Gone) => "gone",
        Consequence::Settled(Settled::ParkedBefore) => "parked before",
        Consequence::Again { .. } => "again",
        Consequence::Park { blocked_by: None, .. } => "park",
        Consequence::Park { .. } => "park blocked",
    }
}

#[test]
fn a_path_leaves_its_job_only_when_it_is_available_excluded_gone_or_parked() {
    for (outcome, expected) in [
        (Outcome::Pushed { nar_size: 1, sent: 1 }, "available"),
        (Outcome::Signed, "available"),
        (Outcome::Present, "available"),
        (Outcome::Differs { signer: "other-1".into() }, "available"),
        (Outcome::Upstream, "available"),
        (Outcome::Excluded("x".into()), "excluded"),
        (Outcome::Gone, "gone"),
        (Outcome::Refused("x".into()), "park"),
        (failed(Area::Store, Retry::Permanent), "park"),
        (failed(Area::Store, Retry::Unknown), "again"),
        (failed(Area::Store, Retry::Transient), "again"),
        (failed(Area::Bucket, Retry::Permanent), "again"),
        (failed(Area::Credentials, Retry::Permanent), "again"),
        (failed(Area::Bucket, Retry::Transient), "again"),
    ] {
        assert_eq!(word("a", 0, &[("a", outcome.clone())]), expected, "{outcome:?}");
    }
    assert_eq!(word("a", 0, &[]), "again", "a path without an outcome is not done");
}

#[test]
fn an_unclear_error_parks_after_ten_attempts_and_a_transient_error_never() {
    for (failures, outcome, expected) in [
        (8, failed(Area::Store, Retry::Unknown), "again"),
        (9, failed(Area::Store, Retry::Unknown), "park"),
        (9, failed(Area::Bucket, Retry::Permanent), "park"),
        (900, failed(Area::Bucket, Retry::Transient), "again"),
    ] {
        assert_eq!(word("a", failures, &[("a", outcome.clone())]), expected, "{failures} {outcome:?}");
    }
}

#[test]
fn a_path_shares_the_fate_of_the_path_that_blocks_it() {
    for (name, outcomes, expected) in [
        ("a", vec![("a", blocked("b")), ("b", failed(Area::Store, Retry::Permanent))], "park blocked"),
        ("a", vec![("a", blocked("b")), ("b", Outcome::Refused("x".into()))], "park blocked"),
        ("a", vec![("a", blocked("b")), ("b", failed(Area::Bucket, Retry::Transient))], "again"),
        ("a", vec![("a", blocked("b")), ("b", Outcome::Gone)], "again"),
        ("a", vec![("a", blocked("parked")), ("parked", blocked("parked"))], "park blocked"),
        ("parked", vec![("parked", blocked("parked"))], "parked before"),
    ] {
        assert_eq!(word(name, 0, &outcomes), expected, "{outcomes:?}");
    }
}

#[test]
fn the_next_attempt_comes_after_the_wait() {
    let decision = decide_one(&[("a", 2)], &[("a", failed(Area::Store, Retry::Transient))], &[]);
    let expected = Consequence::Again { failures: 3, at: 1180, reason: "x".into() };
    assert_eq!(decision.jobs, [[expected]]);
}

#[test]
fn a_path_that_was_not_due_keeps_its_attempts() {
    let pushed = report(&[("a", Outcome::Present)]);
    let asked = BTreeSet::from([path("a")]);
    let mut job = job(&[("a", 0), ("b", 4)]);
    job.paths.push(PathState { path: None, failures: 0 });
    let decision = decide(&[job], &asked, &pushed, &BTreeMap::new(), CLOCK);
    let [available, unchanged, elsewhere] = &decision.jobs[0][..] else { panic!("{decision:?}") };
    assert_eq!(*available, Consequence::Settled(Settled::Available));
    assert_eq!(*unchanged, Consequence::Unchanged);
    assert!(matches!(elsewhere, Consequence::Again { failures: 1, .. }), "{elsewhere:?}");
}

#[test]
fn the_path_that_blocks_is_parked_with_the_voucher_of_the_job() {
    let outcomes = [("a", blocked("b")), ("b", Outcome::Refused("no trust".into()))];
    let decision = decide_one(&[("a", 3)], &outcomes, &[]);
    let parking = |reason: &str, blocked_by: Option<StorePath>| Parking {
        attempts: 4,
        reason: reason.into(),
        blocked_by,
        voucher: voucher(),
    };
    let blocked = format!("refers to `{}`: no trust", path("b").to_basename());
    let expected = [(path("a"), parking(&blocked, Some(path("b")))), (path("b"), parking("no trust", None))];
    assert_eq!(decision.park, BTreeMap::from(expected));
}

#[test]
fn a_refused_path_of_a_closure_is_parked_only_when_it_blocks_a_job() {
    let outcomes = [("a", Outcome::Present), ("b", Outcome::Refused("no trust".into()))];
    assert!(decide_one(&[("a", 0)], &outcomes, &[]).park.is_empty());
}

#[test]
fn a_parked_path_keeps_its_record_unless_there_is_more_to_say() {
    let error = [("a", failed(Area::Store, Retry::Permanent))];
    for (parked, expected) in [(vec![("a", false)], 0), (vec![("a", true)], 1), (vec![], 1)] {
        assert_eq!(decide_one(&[("a", 0)], &error, &parked).park.len(), expected, "{parked:?}");
    }
}

#[test]
fn a_parked_path_leaves_when_it_is_available_excluded_or_gone() {
    for (outcome, expected) in [
        (Outcome::Pushed { nar_size: 1, sent: 1 }, Some(Settled::Available)),
        (Outcome::Excluded("x".into()), Some(Settled::Excluded)),
        (Outcome::Gone, Some(Settled::Gone)),
        (blocked("a"), None),
        (failed(Area::Store, Retry::Transient), None),
    ] {
        let unparked = decide_one(&[], &[("a", outcome.clone())], &[("a", false)]).unpark;
        let expected: Vec<_> = expected.map(|settled| (path("a"), settled)).into_iter().collect();
        assert_eq!(unparked, expected, "{outcome:?}");
    }
}

#[test]
fn an_error_of_the_bucket_is_suspicious_unless_something_was_written() {
    let unreachable = failed(Area::Bucket, Retry::Transient);
    let pushed = Outcome::Pushed { nar_size: 1, sent: 1 };
    for (outcomes, expected) in [
        (vec![("a", unreachable.clone()), ("b", Outcome::Present)], true),
        (vec![("a", unreachable.clone()), ("b", pushed)], false),
        (vec![("a", failed(Area::Store, Retry::Permanent))], false),
    ] {
        assert_eq!(possible_bucket_error(&report(&outcomes)).is_some(), expected, "{outcomes:?}");
    }
}
