//! The machines for time keep what the large model presupposes, and each of their rules is needed.

use collection_model::clocks::Clocks;
use larder::protocol::rules::{Rule, Rules};
use stateright::{Checker, HasDiscoveries, Model};

const DEATH: &str = "a process is counted as dead";

/// Up to two renewals, one change and two questions within eight seconds; and, on their own, three changes.
const BOUNDS: [(u64, (u8, u8, u8)); 2] = [(8, (2, 1, 2)), (6, (1, 3, 0))];

#[test]
fn a_dead_process_changes_nothing() {
    for (horizon, most) in BOUNDS {
        let model = Clocks { rules: Rules::ALL, horizon, most };
        let checker = model.checker().threads(2).spawn_dfs().join();
        println!("{} states", checker.unique_state_count());
        let found = checker.discoveries();
        let bad = found.keys().find(|name| **name != DEATH);
        assert!(bad.is_none() && checker.is_done(), "{bad:?}");
        assert_eq!(found.contains_key(DEATH), most.2 > 0, "the observer must be able to see a death");
    }
}

#[test]
fn each_rule_about_time_is_needed() {
    let rules = [
        Rule::CountAttempts,
        Rule::CountFromSending,
        Rule::EndForGood,
        Rule::TwoSights,
        Rule::CountLateRequests,
        Rule::SignBeforeCheck,
        Rule::CheckLease,
    ];
    for rule in rules {
        let model = Clocks { rules: Rules::ALL.without(rule), horizon: BOUNDS[0].0, most: BOUNDS[0].1 };
        let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries().into_iter().find(|(name, _)| *name != DEATH);
        let (name, path) = found.unwrap_or_else(|| panic!("without {rule:?}, nothing happens"));
        println!("without {rule:?}: not `{name}` after {} steps", path.into_actions().len());
    }
}
