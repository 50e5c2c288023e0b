use proptest::prelude::*;

use super::*;
use crate::base::file::MAX_SMALL;

const DAY: u64 = 24 * 3600;

fn name(number: usize) -> String {
    let mut digest = [0; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    StorePath::from_parts(digest, &format!("path-{number}")).unwrap().to_basename().to_string()
}

fn standing(hours: u64, groups: &[(u64, &[usize])]) -> StandingNeed {
    let group = |(seconds_before, paths): &(u64, &[usize])| Group {
        seconds_before: *seconds_before,
        paths: paths.iter().map(|number| name(*number)).collect(),
    };
    StandingNeed {
        key: key(&object_keys::new_writer(), 0),
        age: Some(Duration::from_secs(hours * 3600)),
        need: Need { needed: groups.iter().map(group).collect() },
    }
}

/// For each path, the seconds since it was last needed.
fn latest<'a>(needs: impl IntoIterator<Item = &'a StandingNeed>) -> BTreeMap<StorePath, u64> {
    let mut latest = BTreeMap::new();
    for (path, ago) in needs.into_iter().flat_map(StandingNeed::paths) {
        let seconds = latest.entry(path).or_insert(u64::MAX);
        *seconds = ago.as_secs().min(*seconds);
    }
    latest
}

fn compacted(need: Need) -> StandingNeed {
    StandingNeed { key: new_compacted(), age: Some(Duration::ZERO), need }
}

#[test]
fn keys_are_read_back() {
    let id = object_keys::new_writer();
    for number in [0, 7, u32::MAX] {
        assert_eq!(NeedKey::parse(&key(&id, number)), Some(NeedKey::Session(&id, number)));
    }
    assert!(matches!(NeedKey::parse(&new_compacted()), Some(NeedKey::Compacted(_))));
    for wrong in [
        "larder/needs/",
        "larder/needs/x.json",
        "larder/needs/compacted-x.json",
        &format!("larder/needs/{id}-01.json"),
        &format!("larder/needs/{id}-+1.json"),
        &format!("larder/needs/{id}-4294967296.json"),
        &format!("larder/needs/{id}.json"),
        &format!("larder/needs/x/{id}-1.json"),
        &format!("larder/needs/{}-1.json", "/".repeat(24)),
    ] {
        assert_eq!(NeedKey::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_need_is_read_back_and_what_larder_does_not_understand_is_refused() {
    let need = standing(0, &[(0, &[1, 2]), (9, &[3])]).need;
    assert_eq!(Need::parse(&need.to_json()), Ok(need));
    for text in [
        "",
        "{}",
        "[]",
        r#"{"needed":[{"seconds_before":0,"paths":["x"]}]}"#,
        r#"{"needed":[{"seconds_before":-1,"paths":[]}]}"#,
        r#"{"needed":[{"seconds_before":1e3,"paths":[]}]}"#,
        r#"{"needed":[{"paths":[]}]}"#,
        r#"{"needed":[],"later":1}"#,
        r#"{"needed":[]}x"#,
    ] {
        assert!(Need::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn many_paths_are_split_and_each_object_is_small() {
    let longest = |number: usize| format!("{}-{}", &name(number)[..32], "x".repeat(211));
    let needs = Need::of((0..=MOST_PATHS).map(longest).chain([longest(0)]));
    assert_eq!(needs.iter().map(|need| need.needed[0].paths.len()).collect::<Vec<_>>(), [MOST_PATHS, 1]);
    let apart =
        (0..MOST_PATHS).map(|number| Group { seconds_before: u64::MAX, paths: vec![longest(number)] });
    for need in needs.into_iter().chain([Need { needed: apart.collect() }]) {
        let json = need.to_json();
        assert!(json.len() as u64 <= MAX_SMALL, "{}", json.len());
        assert_eq!(Need::parse(&json), Ok(need));
    }
    let many = standing(0, &[(0, &(0..=MOST_PATHS).collect::<Vec<_>>())]).need;
    assert!(Need::parse(&many.to_json()).is_err());
    assert!(Need::of([]).is_empty());
}

#[test]
fn each_path_keeps_its_latest_time() {
    let needs = [standing(48, &[(0, &[1, 2])]), standing(30, &[(0, &[2]), (DAY, &[1, 3])])];
    let Compaction { written, deleted } = compact(&needs, COMPACTED_AGE, &|_| true);
    assert_eq!(deleted, [needs[0].key.clone(), needs[1].key.clone()]);
    let hours = |hours: u64| hours * 3600 - ROUNDING;
    let groups: Vec<_> =
        written[0].needed.iter().map(|group| (group.seconds_before, &*group.paths)).collect();
    assert_eq!(groups, [(hours(30), &[name(2)][..]), (hours(48), &[name(1)]), (hours(54), &[name(3)])]);
}

#[test]
fn what_is_young_or_of_unknown_age_stays_as_it_is() {
    let unknown = StandingNeed { age: None, ..standing(0, &[(0, &[1])]) };
    let needs = [standing(23, &[(0, &[1])]), unknown, compacted(Need::default())];
    assert_eq!(compact(&needs, COMPACTED_AGE, &|_| true), Compaction::default());
}

#[test]
fn a_single_compacted_need_is_not_written_again() {
    let day = Some(Duration::from_secs(DAY));
    let one = StandingNeed { age: day, ..compacted(standing(0, &[(5, &[1])]).need) };
    assert_eq!(compact(std::slice::from_ref(&one), COMPACTED_AGE, &|_| true), Compaction::default());
    assert_eq!(compact(&[one, standing(24, &[(0, &[1])])], COMPACTED_AGE, &|_| true).written.len(), 1);
}

#[test]
fn paths_that_do_not_matter_any_more_are_left_out() {
    let gone = *StorePath::from_basename(name(1).as_bytes()).unwrap().digest();
    let needs = [standing(24, &[(0, &[1, 2])])];
    let Compaction { written, .. } = compact(&needs, COMPACTED_AGE, &|digest| *digest != gone);
    assert_eq!(
        written,
        [Need { needed: vec![Group { seconds_before: DAY - ROUNDING, paths: vec![name(2)] }] }]
    );
    let Compaction { written, deleted } = compact(&needs, COMPACTED_AGE, &|_| false);
    assert_eq!((written.len(), deleted.len()), (0, 1));
}

proptest! {
    /// After any number of steps of a compaction, no path is lost, and none looks older than before.
    #[test]
    fn a_compaction_may_end_at_any_step(
        needs in prop::collection::vec((0u64..100, prop::collection::vec((0u64..9 * DAY, 0usize..9), 0..4)), 0..6),
        steps in 0usize..8,
    ) {
        let mut needs: Vec<_> = needs
            .into_iter()
            .map(|(hours, groups)| {
                let groups: Vec<_> = groups.into_iter().map(|(before, path)| (before, [path])).collect();
                let groups: Vec<(u64, &[usize])> = groups.iter().map(|(before, path)| (*before, &path[..])).collect();
                standing(hours, &groups)
            })
            .collect();
        let before = latest(&needs);
        let Compaction { written, deleted } = compact(&needs, COMPACTED_AGE, &|_| true);
        let whole = written.len() + deleted.len();
        needs.extend(written.iter().take(steps).cloned().map(compacted));
        let gone = &deleted[..steps.saturating_sub(written.len()).min(deleted.len())];
        needs.retain(|need| !gone.contains(&need.key));
        let after = latest(&needs);
        prop_assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (path, ago) in &before {
            prop_assert!(after[path] <= *ago && after[path] + ROUNDING >= *ago, "{}: {} {}", steps, ago, after[path]);
        }
        if steps >= whole {
            let again = compact(&needs, COMPACTED_AGE, &|_| true);
            prop_assert_eq!(again, Compaction::default());
        }
    }

    /// Any bytes are read or refused.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
        let _ = Need::parse(&bytes);
        let _ = NeedKey::parse(&text);
        let _ = NeedKey::parse(&format!("{NEEDS}{text}{SUFFIX}"));
    }
}
