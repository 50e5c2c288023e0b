use std::collections::BTreeSet;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Numbers;

impl Names for Numbers {
    type Collection = u8;
    type Path = u8;
    type Nar = u8;
    type Paths = BTreeSet<u8>;
    type Nars = BTreeSet<u8>;
    type OpenPaths = Self::Paths;
    type OpenNars = Self::Nars;
}

fn open(id: u8, stage: Stage, paths: &[u8]) -> Open<Numbers> {
    Open { id, stage, paths: paths.iter().copied().collect(), nars: [90].into(), rescuable: true }
}

fn gate(seen: &[Open<Numbers>]) -> Gate<Numbers> {
    let mut gate = Gate::new(Rules::ALL);
    gate.observe(seen.to_vec());
    gate
}

fn narinfo<'a>(path: &'a u8, references: &'a [u8], nar: &'a u8) -> Mutation<'a, Numbers> {
    Mutation::Narinfo { path, references, nar }
}

#[test]
fn a_condemned_path_is_free_until_the_collection_closes() {
    let mut gate = gate(&[open(1, Stage::Condemned, &[5, 6])]);
    assert_eq!((gate.classify(&5), gate.classify(&7)), (Verdict::Condemned(vec![1]), Verdict::Free));
    assert_eq!(gate.may_send(&narinfo(&8, &[5], &80), true), Ok(()));
    gate.rescued(&1, [6]);
    gate.observe(vec![open(1, Stage::Closing, &[5, 6])]);
    assert_eq!((gate.classify(&5), gate.classify(&6)), (Verdict::Wait, Verdict::Free));
    assert_eq!(gate.may_send(&narinfo(&8, &[5], &80), true), Err(Refusal::Wait));
    assert_eq!(gate.may_send(&narinfo(&8, &[6], &80), true), Ok(()));
    assert_eq!(gate.may_send(&Mutation::Record { paths: &[5] }, true), Err(Refusal::Wait));
    assert_eq!(gate.may_send(&Mutation::Rescue { collection: &1 }, true), Err(Refusal::Wait));
    // What is not in `final` is free at once.
    gate.observe(vec![open(1, Stage::Deleting, &[])]);
    assert_eq!(gate.classify(&5), Verdict::Free);
}

#[test]
fn a_rescue_counts_in_its_own_collection_only() {
    let mut gate = gate(&[open(1, Stage::Condemned, &[5]), open(2, Stage::Condemned, &[5])]);
    assert_eq!(gate.classify(&5), Verdict::Condemned(vec![1, 2]));
    gate.rescued(&1, [5]);
    assert_eq!(gate.classify(&5), Verdict::Condemned(vec![2]));
    gate.observe(vec![open(1, Stage::Closing, &[5]), open(2, Stage::Closing, &[5])]);
    assert_eq!(gate.classify(&5), Verdict::Wait);
}

#[test]
fn nothing_rescues_what_a_person_has_removed() {
    let removal = |stage| Open { rescuable: false, ..open(1, stage, &[5]) };
    let mut gate = gate(&[removal(Stage::Condemned)]);
    assert_eq!(gate.classify(&5), Verdict::Condemned(vec![]));
    assert_eq!(gate.may_send(&Mutation::Rescue { collection: &1 }, true), Err(Refusal::Wait));
    gate.observe(vec![removal(Stage::Closing)]);
    assert_eq!(gate.classify(&5), Verdict::Wait);
}

#[test]
fn a_condemned_nar_counts_as_absent() {
    let gate = gate(&[open(1, Stage::Condemned, &[])]);
    assert_eq!(gate.may_send(&narinfo(&8, &[], &90), true), Err(Refusal::NarCondemned));
    assert_eq!(gate.may_send(&Mutation::NewKey, true), Ok(()));
    assert_eq!(gate.may_send(&Mutation::NewKey, false), Err(Refusal::SessionOver));
}

#[test]
fn a_writer_forgets_what_an_ended_collection_could_take() {
    let mut gate = gate(&[open(1, Stage::Condemned, &[5, 6])]);
    gate.rescued(&1, [6]);
    let change = gate.observe(Vec::new());
    assert_eq!((change.forget, change.forget_nars), (vec![[5].into()], vec![[90].into()]));
    assert!(gate.is_open() && !change.advanced);
}

#[test]
fn a_stage_is_acknowledged_when_older_requests_are_settled() {
    let mut gate = gate(&[open(1, Stage::Condemned, &[5])]);
    assert_eq!(gate.acknowledgements().count(), 0);
    assert!(!gate.acknowledge(true) && gate.acknowledge(false) && !gate.acknowledge(false));
    assert!(gate.observe(vec![open(1, Stage::Closing, &[5])]).advanced);
    assert!(!gate.observe(vec![open(1, Stage::Condemned, &[5])]).advanced, "an old listing");
    assert!(!gate.acknowledge(true));
    assert_eq!(gate.acknowledgements().collect::<Vec<_>>(), [(&1, Stage::Condemned)]);
    gate.acknowledge(false);
    assert_eq!(gate.acknowledgements().collect::<Vec<_>>(), [(&1, Stage::Closing)]);
}
