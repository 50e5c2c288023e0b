//! Safety: in every state, a visible narinfo has its references and its NAR, and what was promised is there.
//!
//! The tests that are not ignored take about a minute together. The ignored ones go through all states of larger models:
//! `cargo test --locked -p collection-model --test safety -- --ignored --nocapture --test-threads=1`.

use collection_model::world::Bits;
use collection_model::{DELETED, PROMISED, Plan, Setting};
use stateright::{Checker, HasDiscoveries, Model};

const ONE: &[&[u8]] = &[&[]];
/// 1 → 0.
const TWO: &[&[u8]] = &[&[], &[0]];
/// 2 → 1 → 0.
const CHAIN: &[&[u8]] = &[&[], &[0], &[1]];
/// 2 → 0 ← 1.
const FORK: &[&[u8]] = &[&[], &[0], &[0]];

/// Goes through all states of the model.
fn safe(name: &str, setting: Setting) -> usize {
    let begin = std::time::Instant::now();
    let pushes = setting.writers.iter().any(|plan| plan.work == collection_model::Work::Push);
    let builder = setting.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "{name}: {states} states, {} steps, depth {}, {:.0?}",
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed()
    );
    let found = checker.discoveries();
    for property in checker.model().properties() {
        let always = property.expectation == stateright::Expectation::Always;
        if let Some(path) = found.get(property.name).filter(|_| always) {
            panic!("{name}: not `{}`: {path}{:#?}", property.name, path.last_state());
        }
    }
    assert!(checker.is_done(), "{name}: some states were left out");
    assert!(found.contains_key(DELETED), "{name}: nothing is ever deleted");
    assert!(!pushes || found.contains_key(PROMISED), "{name}: nothing is ever promised");
    states
}

#[test]
fn two_writers_one_collector_three_paths() {
    safe("2 writers of 2, chain", Setting::new(CHAIN, &[Plan::push(2), Plan::push(2)], 1).no_strays());
    safe("writers of 2 and 1, fork", Setting::new(FORK, &[Plan::push(2), Plan::push(1)], 1).no_strays());
}

#[test]
fn one_writer_two_collectors_two_paths() {
    safe("1 writer, 2 collectors", Setting::new(TWO, &[Plan::push(1)], 2));
    safe("with NARs of 0", Setting::new(TWO, &[Plan::push(1)], 2).nars(Bits(1)));
}

#[test]
fn nars_and_late_attempts() {
    safe("1 writer, NARs", Setting::new(TWO, &[Plan::push(1)], 1).all_nars());
    safe("conditional", Setting::new(TWO, &[Plan::push(1)], 1).all_nars().conditional());
    safe("two collections", Setting::new(ONE, &[Plan::push(0)], 1).all_nars().two_slots());
    safe("two writers", Setting::new(ONE, &[Plan::push(0), Plan::push(0)], 1).all_nars().no_strays());
    safe("two writers, late attempts", Setting::new(ONE, &[Plan::push(0), Plan::push(0)], 1));
}

#[test]
fn signing_repairing_and_bringing_back() {
    for plan in [Plan::sign(0), Plan::repair(0), Plan::undo(0)] {
        safe(&format!("{plan:?}"), Setting::new(TWO, &[Plan::push(1), plan], 1).no_strays());
        let nars = Setting::new(ONE, &[Plan::push(0), plan], 1).all_nars().no_strays();
        safe(&format!("{plan:?}, NARs"), nars.clone());
        safe(&format!("{plan:?}, NARs, conditional"), nars.conditional());
    }
}

#[test]
fn removals_and_collections_of_parts() {
    safe("removal", Setting::new(TWO, &[Plan::push(1), Plan::push(1)], 1).no_strays().removed(0));
    safe("removal, NARs", Setting::new(TWO, &[Plan::push(1)], 1).nars(Bits(1)).removed(0));
    safe("parts", Setting::new(TWO, &[Plan::push(1), Plan::push(0)], 1).no_strays().parts());
    safe("parts, 3 paths", Setting::new(CHAIN, &[Plan::push(2)], 1).parts().ages());
}

#[test]
#[ignore = "minutes"]
fn all_of_two_writers_one_collector_three_paths() {
    let states = safe("2 writers of 2, chain", Setting::new(CHAIN, &[Plan::push(2), Plan::push(2)], 1));
    assert!(states > 10_000_000, "{states}");
}

#[test]
#[ignore = "minutes"]
fn all_of_one_writer_two_collectors_two_paths() {
    safe("1 writer, 2 collectors, NARs", Setting::new(TWO, &[Plan::push(1)], 2).all_nars());
}

#[test]
#[ignore = "minutes"]
fn all_of_two_writers_with_a_nar() {
    safe("two writers, NAR", Setting::new(ONE, &[Plan::push(0), Plan::push(0)], 1).all_nars());
    for plan in [Plan::sign(0), Plan::repair(0), Plan::undo(0)] {
        let nars = Setting::new(ONE, &[Plan::push(0), plan], 1).all_nars();
        safe(&format!("{plan:?}, NAR"), nars.clone());
        safe(&format!("{plan:?}, NAR, conditional"), nars.conditional());
    }
}

#[test]
#[ignore = "minutes"]
fn all_of_two_writers_two_paths_with_a_nar() {
    safe("signer, NAR", Setting::new(TWO, &[Plan::push(1), Plan::sign(0)], 1).nars(Bits(1)));
    safe("undo, NAR", Setting::new(TWO, &[Plan::push(1), Plan::undo(0)], 1).nars(Bits(1)));
}

#[test]
#[ignore = "minutes"]
fn all_of_two_collections_that_follow_each_other() {
    safe("two collections, NARs", Setting::new(TWO, &[Plan::push(1)], 1).all_nars().two_slots());
}
