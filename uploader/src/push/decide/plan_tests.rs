use globset::GlobSet;
use nix_derivation::StoreDir;

use super::*;
use crate::base::error::Error;
use crate::format::signature::SecretKey;
use crate::push::decide::{Request, Root, Rules, judge};

fn path(name: &str) -> Arc<StorePath> {
    let mut hash = *b"00000000000000000000000000000000";
    hash[0] = name.as_bytes()[0].to_ascii_lowercase();
    let base = format!("{}-{name}", std::str::from_utf8(&hash).unwrap());
    Arc::new(StorePath::from_basename(base.as_bytes()).unwrap())
}

/// A closure with one path for each line `name: references`. A `!` before the name makes the path `ultimate`.
fn closure(lines: &[&str]) -> Closure {
    let mut closure = Closure::default();
    for line in lines {
        let (name, references) = line.split_once(':').unwrap();
        let (ultimate, name) = (name.starts_with('!'), name.trim_start_matches('!'));
        let info = PathInfo {
            path: path(name),
            deriver: None,
            nar_hash: [name.as_bytes()[0]; 32],
            nar_size: 100,
            references: references.split_whitespace().map(|name| (*path(name)).clone()).collect(),
            registration_time: 0,
            ultimate,
            signatures: Box::default(),
            ca: None,
        };
        closure.infos.insert(info.path.clone(), Arc::new(info));
    }
    closure
}

fn sign(closure: &mut Closure, name: &str, key: &SecretKey) {
    let info = closure.infos.get_mut(&path(name)).map(Arc::make_mut).unwrap();
    let print = crate::format::narinfo::fingerprint(&StoreDir::default(), info);
    info.signatures = [key.sign(&print).unwrap().to_nix_string()].into();
}

fn rules() -> Rules {
    Rules {
        upstream_keys: Vec::new(),
        push_upstream: false,
        trusted_keys: Vec::new(),
        trust_unsigned: false,
        closure_trust: true,
        exclude: GlobSet::empty(),
        max_nar_size: None,
    }
}

fn request(roots: &[&str], built_here: bool) -> Request {
    Request {
        roots: roots.iter().map(|name| Root { path: path(name), built_here, derivation: None }).collect(),
        ..Request::default()
    }
}

fn make(request: &Request, closure: Closure, rules: &Rules, present: &[(&str, Presence)]) -> Plan {
    let verdicts = judge(&StoreDir::default(), request, &closure, rules);
    let mut presence: HashMap<_, _> =
        closure.infos.keys().map(|path| (path.clone(), Presence::Absent)).collect();
    presence.extend(present.iter().map(|(name, presence)| (path(name), presence.clone())));
    plan(request, closure, verdicts, presence)
}

fn todo(plan: &Plan) -> String {
    plan.todo.iter().map(|todo| todo.info.path.name().to_owned()).collect::<Vec<_>>().join(" ")
}

fn settled(plan: &Plan, name: &str) -> &'static str {
    if let Some((.., outcome)) = plan.above_work.paths.iter().find(|(_, above, _)| *above == path(name)) {
        return outcome.kind().word();
    }
    plan.settled.outcomes.get(&path(name)).map_or("-", |outcome| outcome.kind().word())
}

#[test]
fn the_plan_covers_the_references_of_present_paths() {
    let plan = make(
        &request(&["a"], true),
        closure(&["a: b", "b: c", "c: c"]),
        &rules(),
        &[("b", Presence::Complete)],
    );
    assert_eq!(todo(&plan), "a c");
    assert_eq!(settled(&plan, "b"), "present");
    // `a` waits for `c`, although only `b` refers to `c`, and `b` is in the bucket. A path does not wait for itself.
    assert_eq!(plan.references, [vec![1], vec![]]);
}

#[test]
fn a_valid_signature_of_an_upstream_key_decides_what_is_upstream() {
    let upstream = SecretKey::generate("upstream-1").unwrap();
    let imposter = SecretKey::generate("upstream-1").unwrap();
    let mut closure = closure(&["a: b c", "b:", "c:"]);
    sign(&mut closure, "b", &upstream);
    sign(&mut closure, "c", &imposter);
    let mut rules = rules();
    rules.upstream_keys = vec![upstream.public()];
    let made = make(&request(&["a"], true), closure.clone(), &rules, &[]);
    assert_eq!((todo(&made).as_str(), settled(&made, "b")), ("a c", "upstream"));
    rules.push_upstream = true;
    assert_eq!(todo(&make(&request(&["a"], true), closure, &rules, &[])), "a b c");
}

#[test]
fn the_closure_of_a_local_build_is_trusted_and_other_unsigned_paths_are_refused() {
    let lines = ["!a: b", "b:", "x: y", "y:"];
    // The closure of an `ultimate` path is trusted. Nothing shows the origin of x and y.
    let made = make(&request(&["a", "x"], false), closure(&lines), &rules(), &[]);
    assert_eq!(todo(&made), "a b");
    assert_eq!((settled(&made, "x"), settled(&made, "y")), ("refused", "refused"));
    // The hook says that this machine built x, so x and its reference y are trusted.
    let lines = &lines[2..];
    assert_eq!(todo(&make(&request(&["x"], true), closure(lines), &rules(), &[])), "x y");
    // Only the closure of x says that y can be trusted. The configuration may deny that.
    let by_closure = |lines: &[&str], rules: &Rules| {
        let (closure, request) = (closure(lines), request(&["x"], true));
        judge(&StoreDir::default(), &request, &closure, rules).by_closure(&closure)
    };
    assert_eq!(by_closure(lines, &rules()), [path("y")].into());
    assert!(by_closure(&["x: y", "!y:"], &rules()).is_empty());
    let mut strict = rules();
    strict.closure_trust = false;
    let made = make(&request(&["x"], true), closure(lines), &strict, &[]);
    assert_eq!((settled(&made, "x"), settled(&made, "y")), ("blocked", "refused"));
    assert!(by_closure(lines, &strict).is_empty());
    let mut willing = rules();
    willing.trust_unsigned = true;
    assert_eq!(todo(&make(&request(&["x"], false), closure(lines), &willing, &[])), "x y");
    let key = SecretKey::generate("friend-1").unwrap();
    let (mut signed, mut trusting) = (closure(lines), rules());
    sign(&mut signed, "y", &key);
    trusting.trusted_keys = vec![key.public()];
    let made = make(&request(&["x"], false), signed, &trusting, &[]);
    assert_eq!((todo(&made).as_str(), settled(&made, "x")), ("y", "refused"));
}

#[test]
fn a_refused_path_blocks_its_referrers_unless_the_bucket_has_it() {
    let closure = || closure(&["a: r", "r:", "b:"]);
    let key = SecretKey::generate("friend-1").unwrap();
    let mut trusting = rules();
    trusting.trusted_keys = vec![key.public()];
    let mut signed = closure();
    sign(&mut signed, "a", &key);
    let made = make(&request(&["a"], false), signed.clone(), &trusting, &[]);
    assert_eq!((settled(&made, "a"), settled(&made, "r")), ("blocked", "refused"));
    let made = make(
        &request(&["a"], false),
        signed,
        &trusting,
        &[("r", Presence::LacksSignatures { accepted: true })],
    );
    assert_eq!((todo(&made).as_str(), settled(&made, "r")), ("a", "present"));
    // A narinfo that no client accepts does not help.
    let lacks = Presence::LacksSignatures { accepted: false };
    let made = make(&request(&["a"], false), closure(), &trusting, &[("r", lacks)]);
    assert_eq!(settled(&made, "r"), "refused");
}

#[test]
fn the_referrers_of_an_excluded_path_are_excluded() {
    let mut rules = rules();
    rules.exclude = crate::push::decide::patterns(&["secret*".into()]).unwrap();
    let made = make(
        &request(&["a", "b"], true),
        closure(&["a: secret-x", "secret-x: c", "b: c", "c:"]),
        &rules,
        &[],
    );
    assert_eq!(todo(&made), "b c");
    assert_eq!((settled(&made, "a"), settled(&made, "secret-x")), ("excluded", "excluded"));
    rules.exclude = GlobSet::empty();
    rules.max_nar_size = Some(99);
    assert_eq!(todo(&make(&request(&["b"], true), closure(&["b:"]), &rules, &[])), "");
}

#[test]
fn a_parked_path_blocks_its_referrers_and_no_other_path() {
    let mut request = request(&["a", "b"], true);
    request.parked = [(*path("p")).clone()].into();
    let made = make(&request, closure(&["a: p", "p: c", "b: c", "c:"]), &rules(), &[]);
    assert_eq!(todo(&made), "b c");
    assert_eq!((settled(&made, "a"), settled(&made, "p")), ("blocked", "blocked"));
    // When another writer has pushed the path, it blocks nothing.
    let made =
        make(&request, closure(&["a: p", "p: c", "b: c", "c:"]), &rules(), &[("p", Presence::Complete)]);
    assert_eq!(todo(&made), "a b c");
}

#[test]
fn a_path_of_unknown_presence_fails_and_blocks() {
    let unknown = Presence::Unknown(Error::transient(crate::base::error::Area::Bucket, "x"));
    let made = make(&request(&["a"], true), closure(&["a: b", "b:"]), &rules(), &[("b", unknown)]);
    assert_eq!(todo(&made), "");
    assert_eq!((settled(&made, "a"), settled(&made, "b")), ("blocked", "failed"));
}

#[test]
fn an_unusable_path_blocks_its_referrers_also_those_in_the_bucket() {
    let unusable = Presence::Unusable("the reason".into());
    let present =
        [("b", Presence::Complete), ("n", unusable), ("d", Presence::Differs { signer: "k".into() })];
    let made = make(
        &request(&["a", "x", "d"], true),
        closure(&["a: b", "b: n", "d: n", "n:", "x: y", "y:"]),
        &rules(),
        &present,
    );
    assert_eq!(todo(&made), "x y");
    assert_eq!(
        ["a", "b", "d", "n"].map(|name| settled(&made, name)),
        ["blocked", "blocked", "blocked", "unusable"]
    );
}

#[test]
fn a_narinfo_that_may_be_replaced_is_pushed_like_an_absent_path() {
    let made =
        make(&request(&["a"], true), closure(&["a: b", "b:"]), &rules(), &[("b", Presence::Replaceable)]);
    assert_eq!(todo(&made), "a b");
}

#[test]
fn a_path_in_the_bucket_depends_on_the_work_below_it() {
    let made = make(
        &request(&["a"], true),
        closure(&["a: b", "b: c", "c:", "d:"]),
        &rules(),
        &[("a", Presence::Complete), ("b", Presence::Complete), ("d", Presence::Complete)],
    );
    assert_eq!(todo(&made), "c");
    assert_eq!(settled(&made, "d"), "present");
    let words = |outcomes: Vec<(Arc<StorePath>, Outcome)>| {
        outcomes.into_iter().map(|(path, outcome)| (path.name().to_owned(), outcome.kind().word())).collect()
    };
    let after: Vec<(String, &str)> = words(made.above_work.outcomes_after(&[(0, path("c"))].into()));
    assert_eq!(after, [("a".into(), "blocked"), ("b".into(), "blocked")]);
}

#[test]
fn without_the_closure_the_references_must_be_in_the_bucket() {
    let mut request = request(&["a"], true);
    request.no_closure = true;
    let lines = ["a: b", "b:"];
    let made = make(&request, closure(&lines), &rules(), &[]);
    assert_eq!((todo(&made).as_str(), settled(&made, "a"), settled(&made, "b")), ("", "blocked", "-"));
    assert_eq!(todo(&make(&request, closure(&lines), &rules(), &[("b", Presence::Complete)])), "a");
}

#[test]
fn a_missing_path_is_reported_as_gone_and_blocks() {
    let mut closure = closure(&["a: g"]);
    closure.missing.push(path("g"));
    let made = make(&request(&["a"], true), closure, &rules(), &[]);
    assert_eq!((settled(&made, "a"), settled(&made, "g")), ("blocked", "gone"));
}
