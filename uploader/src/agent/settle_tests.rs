use super::*;

fn path(name: &str) -> StorePath {
    StorePath::from_basename(format!("0c5b8vw40dy178xlpddw65q9gf1h2186-{name}").as_bytes()).unwrap()
}

fn report(outcomes: &[(&str, Outcome)]) -> Report {
    Report { outcomes: outcomes.iter().map(|(name, outcome)| (path(name).into(), outcome.clone())).collect() }
}

fn failed(area: Area, retry: Retry) -> Outcome {
    Outcome::Failed(Error::new(area, retry, "x"))
}

fn decide(name: &str, attempts: u32, outcomes: &[(&str, Outcome)]) -> &'static str {
    match next(&path(name), attempts, &report(outcomes), &|parked| *parked == path("parked")) {
        Next::Settled => "settled",
        Next::Again(_) => "again",
        Next::Park { blocked_by: None, .. } => "park",
        Next::Park { .. } => "park blocked",
    }
}

#[test]
fn a_job_leaves_only_when_its_paths_are_there_parked_or_gone() {
    for (outcome, expected) in [
        (Outcome::Pushed { nar_size: 1, sent: 1 }, "settled"),
        (Outcome::Present, "settled"),
        (Outcome::Upstream, "settled"),
        (Outcome::Excluded("x".into()), "settled"),
        (Outcome::Gone, "settled"),
        (Outcome::Refused("x".into()), "park"),
        (failed(Area::Store, Retry::Permanent), "park"),
        (failed(Area::Store, Retry::Unknown), "again"),
        (failed(Area::Store, Retry::Transient), "again"),
        (failed(Area::Bucket, Retry::Permanent), "again"),
        (failed(Area::Bucket, Retry::Transient), "again"),
    ] {
        assert_eq!(decide("a", 0, &[("a", outcome.clone())]), expected, "{outcome:?}");
    }
    assert_eq!(decide("a", 0, &[]), "again", "a path that the report does not know is not done");
}

#[test]
fn what_nobody_understands_is_parked_in_the_end_and_what_is_transient_never() {
    assert_eq!(decide("a", 9, &[("a", failed(Area::Store, Retry::Unknown))]), "park");
    assert_eq!(decide("a", 9, &[("a", failed(Area::Bucket, Retry::Permanent))]), "park");
    assert_eq!(decide("a", 900, &[("a", failed(Area::Bucket, Retry::Transient))]), "again");
}

#[test]
fn what_refers_to_a_failure_shares_its_fate() {
    let blocked = |by: &str| Outcome::Blocked { by: path(by).into() };
    assert_eq!(
        decide("a", 0, &[("a", blocked("b")), ("b", failed(Area::Store, Retry::Permanent))]),
        "park blocked"
    );
    assert_eq!(
        decide("a", 0, &[("a", blocked("b")), ("b", failed(Area::Bucket, Retry::Transient))]),
        "again"
    );
    assert_eq!(decide("a", 0, &[("a", blocked("parked")), ("parked", blocked("parked"))]), "park blocked");
    assert_eq!(decide("parked", 0, &[("parked", blocked("parked"))]), "settled");
}

#[test]
fn a_dead_bucket_is_suspected_and_one_success_shows_it_lives() {
    let dead = failed(Area::Bucket, Retry::Transient);
    assert!(suspicion(&report(&[("a", dead.clone()), ("b", Outcome::Present)])).is_some());
    assert!(suspicion(&report(&[("a", dead), ("b", Outcome::Pushed { nar_size: 1, sent: 1 })])).is_none());
    assert!(suspicion(&report(&[("a", failed(Area::Store, Retry::Permanent))])).is_none());
}
