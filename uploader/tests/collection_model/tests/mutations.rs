//! Each rule is needed: without it, a small model has a run that ends badly.
//!
//! `cargo test --locked -p collection-model --test mutations -- --nocapture` prints the table of `docs/collecting.md`;
//! `LARDER_SHOW_RUN=<rule>` prints the run that breaks without the rule.

use collection_model::{Plan, Setting};
use larder::protocol::rules::Rule;
use stateright::{Checker, Expectation, HasDiscoveries, Model};

const ONE: &[&[u8]] = &[&[]];
const TWO: &[&[u8]] = &[&[], &[0]];

fn one() -> Setting {
    Setting::new(ONE, &[Plan::push(0)], 1)
}

fn nars() -> Setting {
    one().all_nars()
}

fn two() -> Setting {
    Setting::new(TWO, &[Plan::push(1)], 1)
}

/// A signer of the referrer.
fn sign() -> Setting {
    Setting::new(TWO, &[Plan::sign(1)], 1)
}

/// One that brings the old NAR back.
fn undo() -> Setting {
    Setting::new(ONE, &[Plan::undo(0)], 1).all_nars()
}

fn collectors() -> Setting {
    Setting::new(TWO, &[Plan::push(1)], 2)
}

const REFERENCES: &str = "a narinfo has its references";
const NAR: &str = "a narinfo has its NAR";
const PROMISE: &str = "what was promised is there";

/// A rule, a small model that needs it, and what does not hold without it.
type Row = (Rule, fn() -> Setting, &'static str);

const TABLE: &[Row] = &[
    (Rule::LeaseBeforeLook, one, PROMISE),
    (Rule::SettleBeforeAcknowledging, one, PROMISE),
    (Rule::ConfirmRescue, one, PROMISE),
    (Rule::WaitAfterClosing, one, PROMISE),
    (Rule::WaitAfterClosing, sign, REFERENCES),
    (Rule::GateReferences, two, REFERENCES),
    (Rule::AvoidCondemnedNars, nars, NAR),
    (Rule::AskAnew, one, PROMISE),
    (Rule::AskAnew, sign, REFERENCES),
    (Rule::AskAnew, undo, NAR),
    (Rule::CheckLease, nars, NAR),
    (Rule::SignBeforeCheck, nars, NAR),
    (Rule::SettleBeforeLeaving, nars, NAR),
    (Rule::RecordBeforeReport, one, PROMISE),
    (Rule::GateRecords, one, PROMISE),
    (Rule::AwaitCondemned, || two().ages(), "an older session learns in time"),
    (Rule::AwaitClosing, one, PROMISE),
    (Rule::ListAfterPublication, one, PROMISE),
    (Rule::TwoSights, one, PROMISE),
    (Rule::CountLateRequests, nars, NAR),
    (Rule::CondemnReferrers, || two().parts(), REFERENCES),
    (Rule::ReadRecordsAgain, one, PROMISE),
    (Rule::ReadRescues, one, PROMISE),
    (Rule::ReadNewNarinfos, nars, NAR),
    (Rule::ReadChangedNarinfos, nars, NAR),
    (Rule::KeepClosures, two, REFERENCES),
    (Rule::DeleteByLevels, two, REFERENCES),
    (Rule::ConfirmLevels, two, REFERENCES),
    (Rule::Quarantine, one, PROMISE),
    (Rule::ClaimAlone, collectors, REFERENCES),
    (Rule::LeaseBeforeClaim, collectors, REFERENCES),
    (Rule::AwaitPredecessor, collectors, REFERENCES),
    (Rule::ContinueFinal, one, PROMISE),
];

/// The rules whose need other tests of this package show.
const TIME: &[Rule] = &[Rule::CountAttempts, Rule::CountFromSending, Rule::EndForGood];
const LIVENESS: &[Rule] = &[Rule::LookOrEnd, Rule::OneGivesWay];

#[test]
fn without_a_rule_something_breaks() {
    let shown = std::env::var("LARDER_SHOW_RUN").unwrap_or_default();
    for (rule, setting, broken) in TABLE {
        let checker = setting().without(*rule).checker();
        let checker = checker.finish_when(HasDiscoveries::AllOf([*broken].into())).spawn_bfs().join();
        let run = checker.discovery(broken).unwrap_or_else(|| panic!("without {rule:?}, `{broken}` holds"));
        if shown == format!("{rule:?}") {
            println!("{run}{:#?}", run.last_state());
        }
        println!("without {rule:?}: not `{broken}`, after {} steps", run.into_actions().len());
    }
}

#[test]
fn with_all_rules_the_same_models_are_safe() {
    for setting in [one(), nars(), sign(), undo(), two(), two().ages(), two().parts(), collectors()] {
        let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        for property in checker.model().properties() {
            let bad = property.expectation == Expectation::Always && found.contains_key(property.name);
            assert!(!bad, "{}: {:?}", property.name, found[property.name]);
        }
        assert!(checker.is_done());
    }
}

#[test]
fn each_rule_has_its_mutation() {
    let shown: Vec<Rule> =
        TABLE.iter().map(|(rule, ..)| *rule).chain(TIME.iter().chain(LIVENESS).copied()).collect();
    let missing: Vec<Rule> = Rule::EACH.into_iter().filter(|rule| !shown.contains(rule)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
