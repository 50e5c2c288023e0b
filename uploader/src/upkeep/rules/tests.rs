use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::format::need::{Group, Need, StandingNeed, new_compacted};
use crate::format::pin::{Generation, Pin, PinName};
use crate::upkeep::house::{self, House, id, names};
use crate::upkeep::inventory::{Catalog, PathId};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn pin(paths: &[&str]) -> Generation {
    let paths = paths.iter().map(|name| house::path(name).to_basename().to_string()).collect();
    let pin = Pin { paths, keep_last: None, seconds: None, by: String::new() };
    Generation { name: PinName::parse("system/laptop").unwrap(), id: "1".into(), age: None, pin }
}

/// A house with paths, their references, and their ages in days.
async fn catalog(paths: &[(&str, &[&str], u32)]) -> Catalog {
    let house = House::new().await;
    for (name, references, days) in paths {
        house.publish(name, references).await;
        house.bucket.make_older(&house::narinfo(name), DAY * *days);
    }
    house.catalog().await
}

fn going(catalog: &Catalog, decision: &Decision) -> Vec<String> {
    names(catalog, decision.going().iter())
}

fn within(days: u32) -> Rules {
    Rules { keep_within: Some(DAY * days), ..Rules::default() }
}

#[tokio::test]
async fn what_pins_name_stays_with_its_closure_and_the_chain_says_why() {
    let catalog = catalog(&[("a", &[], 9), ("b", &["a"], 9), ("c", &["b"], 9), ("d", &["a"], 9)]).await;
    let decision = decide(&catalog, &[pin(&["c", "gone"])], &Rules::default(), &Uses::default());
    assert_eq!(going(&catalog, &decision), ["d"]);
    let a = id(&catalog, "a");
    assert_eq!(decision.verdict(a), Some(Verdict::Stays(Keeper::Pin(0))));
    let chain: Vec<_> = decision.chain(a).iter().filter_map(|id| catalog.name(*id)).collect();
    assert_eq!(chain, ["c", "b", "a"]);
    assert_eq!(decision.missing, [(0, house::path("gone").to_basename().to_string())]);
    assert_eq!(decision.verdict(id(&catalog, "d")), Some(Verdict::Old(DAY * 8)));
}

#[tokio::test]
async fn without_a_pin_and_a_rule_nothing_may_go() {
    let catalog = catalog(&[("a", &[], 900)]).await;
    let decision = decide(&catalog, &[], &Rules::default(), &Uses::default());
    assert_eq!(decision.verdict(id(&catalog, "a")), Some(Verdict::Stays(Keeper::NoRule)));
}

#[tokio::test]
async fn what_was_needed_lately_stays_with_what_it_refers_to() {
    let catalog = catalog(&[("a", &[], 99), ("b", &["a"], 9), ("c", &[], 99), ("d", &[], 99)]).await;
    let mut uses = Uses::default();
    uses.add(*house::path("c").digest(), DAY * 20, Use::Asked);
    uses.add(*house::path("c").digest(), DAY * 30, Use::Downloaded);
    let decision = decide(&catalog, &[], &within(21), &uses);
    assert_eq!(going(&catalog, &decision), ["d"]);
    assert_eq!(decision.need(id(&catalog, "c")), Some((DAY * 20, Use::Asked)));
    let (nar, _) = catalog.nar_object(catalog.nar(id(&catalog, "d")).unwrap());
    uses.add_nar(nar, DAY, Use::Downloaded);
    assert!(decide(&catalog, &[], &within(21), &uses).going().is_empty());
}

#[tokio::test]
async fn what_a_push_asked_for_counts_from_the_time_of_the_record() {
    let catalog = catalog(&[("a", &[], 99), ("b", &["a"], 99)]).await;
    let name = house::path("b").to_basename().to_string();
    let group = Group { seconds_before: 2 * DAY.as_secs(), paths: vec![name] };
    let need = StandingNeed { key: new_compacted(), age: Some(DAY * 3), need: Need { needed: vec![group] } };
    let mut uses = Uses::default();
    uses.add_need(&need);
    let decision = decide(&catalog, &[], &within(6), &uses);
    assert!(going(&catalog, &decision).is_empty());
    assert_eq!(decision.need(id(&catalog, "a")), Some((DAY * 5, Use::Asked)));
    assert_eq!(going(&catalog, &decide(&catalog, &[], &within(5), &uses)).len(), 2);
}

#[tokio::test]
async fn a_pinned_narinfo_that_nobody_can_read_is_told() {
    let house = House::new().await;
    house.put(&house::narinfo("a"), "rubbish").await;
    let catalog = house.catalog().await;
    let decision = decide(&catalog, &[pin(&["a"])], &Rules::default(), &Uses::default());
    assert_eq!(decision.unreadable, [id(&catalog, "a")]);
}

/// Numbers of references, ages in days, pins and rules.
type Case = (Vec<(Vec<prop::sample::Index>, u32)>, Vec<prop::sample::Index>, Option<u32>, Option<u64>);

fn case() -> impl Strategy<Value = Case> {
    let path = (prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0..40_u32);
    let pins = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let rules = (prop::option::of(0..40_u32), prop::option::of(0..6000_u64));
    (prop::collection::vec(path, 1..12), pins, rules)
        .prop_map(|(paths, pins, (days, size))| (paths, pins, days, size))
}

/// The closure, step by step.
fn naive_closure(catalog: &Catalog, root: PathId) -> HashSet<PathId> {
    let mut closure = HashSet::from([root]);
    loop {
        let more: HashSet<_> = closure.iter().flat_map(|id| catalog.present_references(*id)).collect();
        let before = closure.len();
        closure.extend(more);
        if closure.len() == before {
            return closure;
        }
    }
}

/// What stays apart from `max-size`: the closures of what is pinned, and of what is young or within the rule.
fn naive(catalog: &Catalog, pinned: &[PathId], rules: &Rules) -> HashSet<PathId> {
    let is_needed = |id: &PathId| {
        let days = catalog.age(*id).unwrap();
        days < rules.grace || rules.keep_within.is_some_and(|within| days < within)
    };
    let roots = catalog.ids().filter(|id| pinned.contains(id) || is_needed(id));
    roots.flat_map(|root| naive_closure(catalog, root)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn decisions_agree_with_a_naive_model((paths, pins, days, size) in case()) {
        let all: Vec<String> = (0..paths.len()).map(|number| format!("p{number}")).collect();
        let rows: Vec<(&str, Vec<&str>, u32)> = paths.iter().enumerate().map(|(number, (references, days))| {
            let below = references.iter().filter(|_| number > 0).map(|index| &*all[index.index(number.max(1))]);
            (&*all[number], below.collect(), *days)
        }).collect();
        let rows: Vec<(&str, &[&str], u32)> = rows.iter().map(|(name, below, days)| (*name, &**below, *days)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let catalog = runtime.block_on(catalog(&rows));
        let pinned: Vec<&str> = pins.iter().map(|index| &*all[index.index(all.len())]).collect();
        let ids: Vec<PathId> = pinned.iter().map(|name| id(&catalog, name)).collect();
        let generations: Vec<_> = pinned.iter().map(|name| pin(&[name])).collect();
        let rules = Rules { keep_within: days.map(|days| DAY * days), max_size: size, ..Rules::default() };
        let decision = decide(&catalog, &generations, &rules, &Uses::default());
        let stays = |id: PathId| !decision.may_go(id);
        for id in catalog.ids().filter(|id| stays(*id)) {
            prop_assert!(catalog.present_references(id).all(stays), "a path stays without what it refers to");
            prop_assert!(decision.chain(id).windows(2).all(|pair| catalog.present_references(pair[0]).any(|id| id == pair[1])));
        }
        let always = naive(&catalog, &ids, &Rules { keep_within: None, ..rules.clone() });
        prop_assert!(always.iter().all(|id| stays(*id)), "what is pinned or young goes");
        let kept: HashSet<PathId> = catalog.ids().filter(|id| stays(*id)).collect();
        match size {
            Some(size) => prop_assert!(kept == always || decision.staying_bytes <= size),
            None if days.is_none() && pins.is_empty() => prop_assert_eq!(kept.len(), catalog.paths()),
            None => prop_assert_eq!(kept, naive(&catalog, &ids, &rules)),
        }
    }
}
