//! Pins of what this machine pushes: the configuration names patterns, and each pushed root with such a name becomes a
//! generation of its pin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use globset::{Glob, GlobMatcher, GlobSet};
use nix_derivation::StorePath;

use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::format::pin::{Generation, Pin, PinName};
use crate::session::{FACT_AGE, Session};
use crate::survey::read_pins;

/// Stands for the name of the machine in the name of a pin.
const HOST: &str = "{host}";
/// What the wildcards of a pattern may stand for, to find out whether a name that matches is pushed at all.
const SAMPLES: [&str; 3] = ["x", "laptop-24.11", "unit-1.service"];
/// What every NixOS system refers to, and the beginning of its name.
const SYSTEM: (&str, [&str; 2]) = ("nixos-system-", ["etc", "system-path"]);

/// Which pushed roots are pinned.
#[derive(Clone, Debug, Default)]
pub struct PinRules {
    patterns: Vec<Pattern>,
    keep_last: Option<u32>,
    by: String,
}

#[derive(Clone, Debug)]
struct Pattern {
    pin: PinName,
    text: String,
    matcher: GlobMatcher,
}

impl PinRules {
    /// Reads patterns such as `system/{host}=nixos-system-*`. The last `keep_last` generations of each pin stay, or all.
    ///
    /// # Errors
    /// A text has not this form.
    pub fn new(texts: &[String], keep_last: Option<u32>, host: &str) -> Result<Self> {
        let patterns = texts.iter().map(|text| Pattern::parse(text, host)).collect::<Result<_>>()?;
        Ok(Self { patterns, keep_last, by: host.to_owned() })
    }

    /// Warnings about patterns that never match, because `exclude` keeps the paths from being pushed.
    pub fn never_pushed(&self, exclude: &GlobSet) -> Vec<String> {
        let warning = |pattern: &Pattern| {
            let Pattern { pin, text, .. } = pattern;
            let samples = pattern.samples();
            if !samples.is_empty() && samples.iter().all(|name| exclude.is_match(name)) {
                return Some(format!(
                    "the pin `{pin}` never gets a path: `exclude` has the names that match `{text}`"
                ));
            }
            let (system, parts) = SYSTEM;
            let is_system = samples.iter().any(|name| name.starts_with(system));
            let part = parts.into_iter().find(|part| is_system && exclude.is_match(part))?;
            Some(format!(
                "the pin `{pin}` never gets a system: `exclude` has `{part}`, and larder does not push what refers to an excluded path"
            ))
        };
        self.patterns.iter().filter_map(warning).collect()
    }

    /// For each pin, the roots whose names match.
    fn matching(&self, roots: &[Arc<StorePath>]) -> BTreeMap<&PinName, BTreeSet<String>> {
        let mut by_pin = BTreeMap::<_, BTreeSet<_>>::new();
        for pattern in &self.patterns {
            for root in roots.iter().filter(|root| pattern.matcher.is_match(root.name())) {
                by_pin.entry(&pattern.pin).or_default().insert(root.to_basename().to_string());
            }
        }
        by_pin
    }
}

impl Pattern {
    fn parse(text: &str, host: &str) -> Result<Self> {
        let wrong = |cause: String| {
            Error::permanent(Area::Config, format!("`{}` in `pin-patterns` is wrong", text.escape_debug()))
                .because(cause)
                .hint("write PIN=PATTERN, such as `system/{host}=nixos-system-*`")
        };
        let (name, glob) = text.split_once('=').ok_or_else(|| wrong("it has no `=`".into()))?;
        let pin = PinName::parse(&name.replace(HOST, &part_of_a_name(host))).map_err(wrong)?;
        let matcher = Glob::new(glob).map_err(|error| wrong(error.kind().to_string()))?.compile_matcher();
        Ok(Self { pin, text: glob.to_owned(), matcher })
    }

    /// Some names that match; none if the pattern has more than simple wildcards.
    fn samples(&self) -> Vec<String> {
        let samples = SAMPLES.iter().map(|sample| self.text.replace('*', sample).replace('?', "x"));
        samples.filter(|name| self.matcher.is_match(name)).collect()
    }
}

/// The first label of a host's name, so that it can be a part of a pin's name.
fn part_of_a_name(host: &str) -> String {
    let label = host.split('.').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_+-".contains(c) { c } else { '-' };
    let name: String = label.chars().map(plain).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// The pins of a session.
#[derive(Debug, Default)]
pub(super) struct Pins {
    rules: PinRules,
    /// For each pin, the paths of its youngest generation, and when this session learnt them.
    youngest: Mutex<BTreeMap<PinName, (BTreeSet<String>, Moment)>>,
}

impl Pins {
    pub(super) fn new(rules: PinRules) -> Self {
        Self { rules, youngest: Mutex::default() }
    }

    /// Those of the roots that some pin wants.
    pub(super) fn wanted(&self, mut roots: Vec<Arc<StorePath>>) -> Vec<Arc<StorePath>> {
        let patterns = &self.rules.patterns;
        roots.retain(|root| patterns.iter().any(|pattern| pattern.matcher.is_match(root.name())));
        roots
    }

    /// Adds a generation to each pin of these roots, which are in the bucket. `since` is the moment since when the caller knows
    /// that. A pin whose youngest generation has the same paths stays as it is: else pushes that repeat the same would
    /// drive out earlier generations. Returns a remark about each new generation.
    ///
    /// # Errors
    /// As for [`Session::pin`].
    pub(super) async fn pin(
        &self,
        session: &Session,
        roots: &[Arc<StorePath>],
        since: Moment,
    ) -> Result<Vec<String>> {
        let mut pinned = Vec::new();
        for (name, paths) in self.rules.matching(roots) {
            if self.is_known(name, &paths) {
                continue;
            }
            let asked = Moment::now();
            if self.is_youngest(session, name, &paths).await {
                lock(&self.youngest).insert(name.clone(), (paths, asked));
                continue;
            }
            let pin = Pin {
                paths: paths.iter().cloned().collect(),
                keep_last: self.rules.keep_last,
                seconds: None,
                by: self.rules.by.clone(),
            };
            session.pin(name, &pin, since).await?;
            pinned
                .push(format!("pinned {} as `{name}`", paths.iter().cloned().collect::<Vec<_>>().join(", ")));
            lock(&self.youngest).insert(name.clone(), (paths, asked));
        }
        Ok(pinned)
    }

    /// Whether this session has learnt lately that the youngest generation of the pin has these paths. Somebody may have
    /// removed the pin since, so an old answer counts for nothing.
    fn is_known(&self, name: &PinName, paths: &BTreeSet<String>) -> bool {
        let youngest = lock(&self.youngest);
        youngest.get(name).is_some_and(|(known, asked)| known == paths && asked.elapsed() <= FACT_AGE)
    }

    /// Whether the youngest generation in the bucket says the same. If nobody knows, it does not.
    async fn is_youngest(&self, session: &Session, name: &PinName, paths: &BTreeSet<String>) -> bool {
        let Ok(all) = read_pins(&**session.bucket(), &name.prefix()).await else { return false };
        let own = all.into_iter().filter(|generation| generation.name == *name);
        let youngest = own.min_by(|one, other| one.age.cmp(&other.age).then(other.id.cmp(&one.id)));
        youngest.is_some_and(|generation| self.says(&generation, paths))
    }

    /// Whether the generation keeps these paths for as long as a new one would.
    fn says(&self, generation: &Generation, paths: &BTreeSet<String>) -> bool {
        let Pin { paths: named, keep_last, seconds, .. } = &generation.pin;
        let named: BTreeSet<&String> = named.iter().collect();
        generation.age.is_some()
            && *keep_last == self.rules.keep_last
            && seconds.is_none()
            && named.into_iter().eq(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::decide::patterns;

    fn rules(texts: &[&str]) -> Result<PinRules> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        PinRules::new(&texts, Some(5), "laptop.example.org")
    }

    fn root(number: u8, name: &str) -> Arc<StorePath> {
        Arc::new(StorePath::from_parts([number; 20], name).unwrap())
    }

    #[test]
    fn roots_are_pinned_by_their_names() {
        let rules = rules(&["system/{host}=nixos-system-*", "all=*"]).unwrap();
        let roots = [root(1, "nixos-system-laptop-24.11"), root(2, "hello-2.12")];
        let found = rules.matching(&roots);
        let found: Vec<_> = found.iter().map(|(pin, paths)| (pin.as_str(), paths.len())).collect();
        assert_eq!(found, [("all", 2), ("system/laptop", 1)]);
        assert!(rules.matching(&[]).is_empty());
    }

    #[test]
    fn a_pattern_of_another_form_is_refused() {
        for text in ["", "nixos-system-*", "=x", "a//b=x", "a b=x", "a=[x", "{hots}=x"] {
            let error = rules(&[text]).unwrap_err();
            assert!(error.area() == Area::Config && error.hint_text().is_some(), "{text}: {error}");
        }
        for (host, part) in [("", "localhost"), ("a.b", "a"), ("bär/x", "b-r-x"), (".", "localhost")] {
            assert_eq!(part_of_a_name(host), part);
        }
    }

    #[test]
    fn a_pattern_of_excluded_names_is_found() {
        let exclude = |texts: &[&str]| {
            patterns(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        let warnings =
            |pattern: &str, texts: &[&str]| rules(&[pattern]).unwrap().never_pushed(&exclude(texts));
        let system = "system/{host}=nixos-system-*";
        for (pattern, excluded, words) in [
            (system, &["nixos-system-*", "etc"][..], "never gets a path"),
            ("a=nixos-system-laptop-*", &["nixos-*"], "never gets a path"),
            (system, &["etc", "etc-*"], "never gets a system: `exclude` has `etc`"),
        ] {
            let found = warnings(pattern, excluded);
            assert!(found.len() == 1 && found[0].contains(words), "{pattern} {excluded:?}: {found:?}");
        }
        for (pattern, excluded) in [
            (system, &["nixos-system-server*", "etc-x"][..]),
            ("a=*", &["nixos-system-*"]),
            ("a=hello*", &["etc"]),
        ] {
            assert_eq!(warnings(pattern, excluded), [""; 0], "{pattern} {excluded:?}");
        }
    }
}
