//! Liveness: garbage goes in the end, and no push waits for ever. It is shown on all states of small models, by the absence
//! of a fair run that never reaches the goal.
//!
//! Processes and requests may fail in every way, but from some moment on no more: a run in which every request is lost for
//! ever reaches nothing. After that moment, what is possible again and again happens again and again.

use collection_model::collector::CollectorAct;
use collection_model::graph::Graph;
use collection_model::world::{Bits, World};
use collection_model::writer::WriterAct;
use collection_model::{Act, Plan, Setting};
use larder::protocol::rules::{Rule, Rules};

/// What happens only finitely often.
fn fails(act: &Act) -> bool {
    match act {
        Act::Writer(_, act) => matches!(
            act,
            WriterAct::Expire | WriterAct::AnswerLost | WriterAct::Dropped | WriterAct::TimedOut
        ),
        Act::Collector(_, act) => {
            matches!(act, CollectorAct::Expire | CollectorAct::Abort | CollectorAct::PublicationDropped)
        }
        _ => false,
    }
}

/// What is not bound to happen, although it may: a writer ends its session, or rescues; a record expires.
fn free(act: &Act) -> bool {
    matches!(
        act,
        Act::Forget(_)
            | Act::Writer(_, WriterAct::Leave | WriterAct::Rescue)
            | Act::Collector(_, CollectorAct::Leave)
    )
}

fn fair(act: &Act) -> bool {
    !free(act)
}

/// Path 0 is garbage. The writer pushes path 1, which does not refer to it.
fn garbage(collectors: usize) -> Setting {
    let mut setting = Setting::new(&[&[], &[]], &[Plan::push(1)], collectors);
    setting.initial = vec![(Bits(1), Bits(0))];
    setting
}

fn garbage_stays(world: &World) -> bool {
    world.bucket.visible.has(0)
}

#[test]
fn garbage_goes_in_the_end() {
    for collectors in [1, 2] {
        let graph = Graph::of(&garbage(collectors));
        println!("{} states, {collectors} collectors", graph.worlds.len());
        let run = graph.fair_run(garbage_stays, fails, fair);
        assert!(run.is_none(), "{run:#?}");
    }
}

#[test]
fn two_collectors_that_both_give_way_livelock() {
    let mut setting = garbage(2);
    setting.rules = Rules::ALL.without(Rule::OneGivesWay);
    let graph = Graph::of(&setting);
    let run = graph.fair_run(garbage_stays, fails, fair).expect("a livelock");
    assert!(run.len() > 1, "it goes round, it does not stop: {run:#?}");
}

#[test]
fn a_session_that_cannot_look_must_end() {
    // Without the rule, a writer that renews its lease need not look at the collections.
    let fair_but_looks = |act: &Act| fair(act) && !matches!(act, Act::Writer(_, WriterAct::Look));
    let graph = Graph::of(&garbage(1));
    let run = graph.fair_run(garbage_stays, fails, fair_but_looks);
    assert!(run.is_some());
}

#[test]
fn a_dead_process_must_be_counted_as_dead() {
    let fair_but_buried = |act: &Act| fair(act) && !matches!(act, Act::BuryWriter(_) | Act::BuryCollector(_));
    let graph = Graph::of(&garbage(1));
    let run = graph.fair_run(garbage_stays, fails, fair_but_buried);
    assert!(run.is_some());
}

/// A push that goes on, whatever the collectors condemn.
fn push(references: &[&[u8]], target: u8, collectors: usize) -> Setting {
    let mut setting = Setting::new(references, &[Plan::push(target)], collectors);
    setting.forgetting = false;
    setting
}

fn push_fails(act: &Act) -> bool {
    fails(act) || matches!(act, Act::Writer(_, WriterAct::Leave))
}

#[test]
fn no_push_waits_for_ever() {
    for (references, target, collectors) in [(&[&[][..]][..], 0, 1), (&[&[], &[0]], 1, 1), (&[&[]], 0, 2)] {
        let graph = Graph::of(&push(references, target, collectors));
        println!("{} states, {references:?}, {collectors} collectors", graph.worlds.len());
        let run = graph.fair_run(|world| !world.bucket.promised.has(target), push_fails, fair);
        assert!(run.is_none(), "{run:#?}");
    }
}

#[test]
fn a_push_waits_for_ever_if_no_collection_is_taken_over() {
    let taken_over = |act: &Act| matches!(act, Act::Collector(_, CollectorAct::TakeOver(_)));
    let fails = |act: &Act| push_fails(act) || taken_over(act);
    let graph = Graph::of(&push(&[&[]], 0, 1));
    let run = graph.fair_run(|world| !world.bucket.promised.has(0), fails, fair);
    assert!(run.is_some());
}
