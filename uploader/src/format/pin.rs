//! Pins: objects in a bucket that name paths which stay.
//!
//! A pin has a name and any number of generations. Each generation is one object, `larder/pins/<name>/<generation>.json`,
//! which is written once and never changed. So writers need no lock, and people can read pins. The server tells the ages of
//! generations; no clock of a writer counts.

use std::fmt;
use std::time::Duration;

use nix_derivation::StorePath;
use serde::{Deserialize, Serialize};

use super::object_keys;

/// The prefix of the keys of pins.
pub const PINS: &str = "larder/pins/";
const SUFFIX: &str = ".json";
/// The longest name of a pin, in bytes, and the most parts that slashes separate.
const LONGEST: usize = 200;
const MOST_PARTS: usize = 8;

/// The name of a pin: parts of letters, digits and `._+-`, separated by slashes, such as `system/laptop`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinName(String);

impl PinName {
    /// Reads a name. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain);
        if text.len() <= LONGEST && text.split('/').count() <= MOST_PARTS && text.split('/').all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{}` cannot name a pin: use letters, digits and `._+-`, in parts that slashes separate, such as `system/laptop`",
            text.escape_debug()
        ))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of the keys of all generations.
    pub fn prefix(&self) -> String {
        format!("{PINS}{}/", self.0)
    }

    /// The key of a generation.
    pub fn key(&self, generation: &str) -> String {
        format!("{}{generation}{SUFFIX}", self.prefix())
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name and the generation in the key of a pin; `None` for every other key.
pub fn parse_key(key: &str) -> Option<(PinName, &str)> {
    let (name, generation) = key.strip_prefix(PINS)?.strip_suffix(SUFFIX)?.rsplit_once('/')?;
    let is_generation = object_keys::lease_id(&object_keys::lease(generation)) == Some(generation);
    Some((PinName::parse(name).ok()?, generation)).filter(|_| is_generation)
}

/// A generation of a pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The base names of the paths, `<hash>-<name>`. Their closures stay with them.
    pub paths: Vec<String>,
    /// The number of generations that count. That of the youngest generation applies; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// The number of seconds, from its writing, for which the generation counts; absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Who wrote it. Only people read this field.
    #[serde(default)]
    pub by: String,
}

impl Pin {
    /// The contents of the object.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Reads the contents of the object. The error says why it is no pin that this version of larder understands.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let pin: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match pin.paths.iter().find(|path| StorePath::from_basename(path.as_bytes()).is_err()) {
            Some(path) => Err(format!("`{}` is no store path", path.escape_debug())),
            None => Ok(pin),
        }
    }

    /// The paths.
    pub fn store_paths(&self) -> impl Iterator<Item = StorePath> {
        self.paths.iter().filter_map(|path| StorePath::from_basename(path.as_bytes()).ok())
    }
}

/// A generation as it stands in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The name of the pin.
    pub name: PinName,
    /// The id of the generation.
    pub id: String,
    /// The time since it was written, by the clock of the bucket; `None` if the server does not tell.
    pub age: Option<Duration>,
    /// What it says.
    pub pin: Pin,
}

/// Divides the generations of a bucket into those that count and those that do not count any more. Both are sorted by name
/// and then by age, the youngest first.
pub fn effective(mut generations: Vec<Generation>) -> (Vec<Generation>, Vec<Generation>) {
    // A generation of unknown age may be the youngest.
    let age = |generation: &Generation| generation.age.unwrap_or_default();
    generations.sort_by(|one, other| {
        one.name.cmp(&other.name).then(age(one).cmp(&age(other))).then(other.id.cmp(&one.id))
    });
    let (mut counting, mut ended) = (Vec::new(), Vec::new());
    let mut current: Option<(PinName, Option<u32>, u32)> = None;
    for generation in generations {
        let (name, keep_last, number) = match current.take() {
            Some((name, keep_last, number)) if name == generation.name => (name, keep_last, number + 1),
            _ => (generation.name.clone(), generation.pin.keep_last, 0),
        };
        let is_over =
            generation.pin.seconds.is_some_and(|seconds| age(&generation) >= Duration::from_secs(seconds));
        let counts = !is_over && keep_last.is_none_or(|most| number < most);
        if counts { &mut counting } else { &mut ended }.push(generation);
        current = Some((name, keep_last, number));
    }
    (counting, ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(name: &str, hours: u64, keep_last: Option<u32>, hours_to_live: Option<u64>) -> Generation {
        let pin = Pin {
            paths: vec!["0c5b8vw40dy178xlpddw65q9gf1h2186-a".into()],
            keep_last,
            seconds: hours_to_live.map(|hours| hours * 3600),
            by: "laptop".into(),
        };
        let age = Some(Duration::from_secs(hours * 3600));
        Generation { name: PinName::parse(name).unwrap(), id: format!("{hours}"), age, pin }
    }

    fn ids(generations: &[Generation]) -> Vec<&str> {
        generations.iter().map(|generation| &*generation.id).collect()
    }

    #[test]
    fn names_are_plain_parts() {
        for name in ["system/laptop", "a", "A.b_c+d-1".replace('_', "-").as_str(), "a/b/c/d/e/f/g/h"] {
            assert!(PinName::parse(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            ".a",
            "a b",
            "é",
            "a\n",
            "a/b/c/d/e/f/g/h/i",
            &"x".repeat(201),
        ] {
            assert!(PinName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_are_read_back() {
        let (name, id) = (PinName::parse("system/laptop").unwrap(), object_keys::new_writer());
        let key = name.key(&id);
        assert_eq!(parse_key(&key), Some((name, &*id)));
        for key in
            ["larder/pins/x.json", "larder/pins/a/short.json", "larder/pins//x.json", "larder/pins/", "x"]
        {
            assert_eq!(parse_key(key), None, "{key}");
        }
    }

    #[test]
    fn a_pin_is_read_back_and_what_larder_does_not_understand_is_refused() {
        let pin = generation("a", 0, Some(3), Some(2)).pin;
        assert_eq!(Pin::parse(&pin.to_json()), Ok(pin));
        for text in ["", "{}", r#"{"paths":["x"]}"#, r#"{"paths":[],"later":1}"#, r#"{"paths":["../x"]}"#] {
            assert!(Pin::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_youngest_generation_says_how_many_count() {
        let all = vec![
            generation("a", 30, None, None),
            generation("a", 10, Some(2), None),
            generation("a", 20, Some(9), None),
            generation("b", 5, None, None),
            generation("b", 50, Some(1), None),
        ];
        let (counting, ended) = effective(all);
        assert_eq!((ids(&counting), ids(&ended)), (vec!["10", "20", "5", "50"], vec!["30"]));
    }

    #[test]
    fn a_generation_ends_when_its_time_is_over() {
        let all = vec![generation("a", 10, None, Some(10)), generation("a", 9, None, Some(10))];
        let (counting, ended) = effective(all);
        assert_eq!((ids(&counting), ids(&ended)), (vec!["9"], vec!["10"]));
    }
}
