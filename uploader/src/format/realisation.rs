//! Realisations: which path an output of a content-addressed derivation has become. A client that is to build such a
//! derivation asks a cache for them.
//!
//! There are two forms. Nix up to 2.34 names an output by the hash of its derivation (`realisations/`), and Nix from 2.35 by
//! the path of its derivation (`build-trace-v2/`). `docs/bucket.md` describes both.

use std::collections::BTreeMap;

use nix_derivation::StorePath;
use nix_narinfo::{NixSignature, TrustedPublicKey};
use serde::{Deserialize, Serialize};

use super::signature::{SecretKey, verified};
use crate::base::error::Result;
use crate::base::hex::hex;

/// The prefix of the keys for Nix up to 2.34.
const BY_HASH: &str = "realisations/";
/// The prefix of the keys for Nix from 2.35.
const BY_DERIVATION: &str = "build-trace-v2/";
const SUFFIX: &str = ".doi";
/// The largest object that is read, in bytes. One with a hundred signatures is smaller.
pub const LARGEST: u64 = 64 << 10;

/// How a derivation is named, and so which versions of Nix look there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// By its hash, see [`super::derivation_hash`]: `realisations/sha256:<hash>!<output>.doi`, for Nix up to 2.34.
    Hash([u8; 32]),
    /// By its path: `build-trace-v2/<derivation>/<output>.doi`, for Nix from 2.35.
    Path(StorePath),
}

/// Which path an output of a derivation has become.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realisation {
    derivation: Named,
    output: String,
    /// The path.
    pub path: StorePath,
    /// The signatures of others that it comes with.
    pub signatures: Vec<String>,
}

/// What an object in the bucket says, beside a realisation that belongs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the same, and nothing is missing.
    Complete,
    /// The object is to be replaced by this one: it lacks our signatures, or no client can use it.
    Lacks(Vec<u8>),
    /// It names the same path, and more, and others have signed it.
    Foreign,
    /// It names another path: somebody built the derivation with another result.
    Other(StorePath),
}

// The fields of what is signed stand in the order of their names: Nix signs the JSON in that order.
#[derive(Serialize)]
struct ByHash<'r> {
    #[serde(rename = "dependentRealisations")]
    dependent_realisations: BTreeMap<String, String>,
    id: String,
    #[serde(rename = "outPath")]
    out_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures: Option<&'r [String]>,
}

#[derive(Serialize)]
struct Traced<'r> {
    key: TraceKey<'r>,
    value: TraceValue<'r>,
}

#[derive(Serialize)]
struct TraceKey<'r> {
    #[serde(rename = "drvPath")]
    derivation: String,
    #[serde(rename = "outputName")]
    output: &'r str,
}

#[derive(Serialize)]
struct TraceValue<'r> {
    #[serde(rename = "outPath")]
    out_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures: Option<&'r [String]>,
}

/// What is read of an object of either form.
#[derive(Debug, Deserialize)]
struct Found {
    #[serde(rename = "outPath")]
    out_path: String,
    id: Option<String>,
    #[serde(rename = "dependentRealisations", default)]
    dependent_realisations: BTreeMap<String, String>,
    #[serde(default)]
    signatures: Vec<FoundSignature>,
}

/// A signature, in the two ways in which Nix writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum FoundSignature {
    Text(String),
    Parts {
        #[serde(rename = "keyName")]
        name: String,
        sig: String,
    },
}

impl FoundSignature {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts { name, sig } => format!("{name}:{sig}"),
        }
    }
}

impl Realisation {
    /// The realisation, if the name of its output can stand in a key.
    pub fn new(derivation: Named, output: &str, path: StorePath) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
        let is_fit = !output.is_empty() && output.chars().all(fits) && !output.starts_with('.');
        is_fit.then(|| Self { derivation, output: output.to_owned(), path, signatures: Vec::new() })
    }

    /// Reads the object with this key, of a bucket that others may have written. `None` if it is no realisation, or says
    /// more than larder writes.
    pub fn parse(key: &str, object: &[u8]) -> Option<Self> {
        let key = key.strip_suffix(SUFFIX)?;
        let (derivation, output) = match (key.strip_prefix(BY_HASH), key.strip_prefix(BY_DERIVATION)) {
            (Some(id), _) => {
                let (hash, output) = id.strip_prefix("sha256:")?.split_once('!')?;
                (Named::Hash(unhex(hash)?), output)
            }
            (None, Some(rest)) => {
                let (derivation, output) = rest.split_once('/')?;
                (Named::Path(StorePath::from_basename(derivation.as_bytes()).ok()?), output)
            }
            _ => return None,
        };
        let (found, path) = read(object)?;
        let mut realisation = Self::new(derivation, output, path)?;
        if !realisation.is_same(&found) {
            return None;
        }
        let signatures = found.signatures.into_iter().map(FoundSignature::text);
        realisation.signatures = signatures.filter(|text| NixSignature::parse(text).is_ok()).collect();
        Some(realisation)
    }

    /// The key of the object.
    pub fn key(&self) -> String {
        match &self.derivation {
            Named::Hash(hash) => format!("{BY_HASH}{}{SUFFIX}", self.id(hash)),
            Named::Path(path) => format!("{BY_DERIVATION}{}/{}{SUFFIX}", path.to_basename(), self.output),
        }
    }

    fn id(&self, hash: &[u8; 32]) -> String {
        format!("sha256:{}!{}", hex(hash), self.output)
    }

    /// Whether one of these keys has signed it.
    pub fn is_signed_by(&self, keys: &[TrustedPublicKey]) -> bool {
        verified(&self.fingerprint(), &self.signatures, keys)
    }

    /// The object, with signatures of these keys besides its own.
    ///
    /// # Errors
    /// When a key cannot sign.
    pub fn compose(&self, keys: &[SecretKey]) -> Result<Vec<u8>> {
        Ok(self.object(&self.all_signatures(keys)?))
    }

    /// Compares an object in the bucket with this realisation.
    ///
    /// # Errors
    /// When a key cannot sign.
    pub fn compare(&self, object: &[u8], keys: &[SecretKey]) -> Result<Standing> {
        let ours = self.all_signatures(keys)?;
        let Some((found, path)) = read(object) else {
            return Ok(Standing::Lacks(self.object(&ours)));
        };
        if path != self.path {
            return Ok(Standing::Other(path));
        }
        let is_same = self.is_same(&found);
        let all: Vec<_> = found.signatures.into_iter().map(FoundSignature::text).collect();
        let count = all.len();
        // A malformed signature makes clients refuse the object.
        let is_sound = |text: &String| NixSignature::parse(text).is_ok();
        let mut signatures: Vec<_> = all.into_iter().filter(is_sound).collect();
        if !is_same {
            return Ok(match signatures.is_empty() {
                true => Standing::Lacks(self.object(&ours)),
                false => Standing::Foreign,
            });
        }
        if signatures.len() == count && ours.iter().all(|signature| signatures.contains(signature)) {
            return Ok(Standing::Complete);
        }
        signatures.extend(ours);
        signatures.sort_unstable();
        signatures.dedup();
        Ok(Standing::Lacks(self.object(&signatures)))
    }

    /// Whether an object says no more of the path, and is for this output.
    fn is_same(&self, found: &Found) -> bool {
        match &self.derivation {
            Named::Hash(hash) => {
                found.id.as_ref() == Some(&self.id(hash)) && found.dependent_realisations.is_empty()
            }
            Named::Path(_) => true,
        }
    }

    fn all_signatures(&self, keys: &[SecretKey]) -> Result<Vec<String>> {
        let fingerprint = self.fingerprint();
        let mut all = self.signatures.clone();
        for key in keys {
            let signature = key.sign(&fingerprint)?;
            all.push(format!("{}:{}", signature.key_name, signature.encoded));
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// What is signed.
    fn fingerprint(&self) -> String {
        match &self.derivation {
            Named::Hash(hash) => json(&self.by_hash(hash, None)),
            Named::Path(path) => {
                let key = TraceKey { derivation: path.to_basename(), output: &self.output };
                json(&Traced { key, value: self.trace(None) })
            }
        }
    }

    fn object(&self, signatures: &[String]) -> Vec<u8> {
        match &self.derivation {
            Named::Hash(hash) => json(&self.by_hash(hash, Some(signatures))),
            Named::Path(_) => json(&self.trace(Some(signatures))),
        }
        .into_bytes()
    }

    // Nix 2.34 knows no dependent realisations any more and always signs an empty object. Nix before needs none of them
    // to substitute the path.
    fn by_hash<'r>(&self, hash: &[u8; 32], signatures: Option<&'r [String]>) -> ByHash<'r> {
        ByHash {
            dependent_realisations: BTreeMap::new(),
            id: self.id(hash),
            out_path: self.path.to_basename(),
            signatures,
        }
    }

    fn trace<'r>(&self, signatures: Option<&'r [String]>) -> TraceValue<'r> {
        TraceValue { out_path: self.path.to_basename(), signatures }
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let is_plain = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let digit = |place: usize| u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(digit).collect();
    bytes.filter(|_| is_plain)?.try_into().ok()
}

/// The path that an object of either form names; `None` if it cannot be read.
pub fn path_of(object: &[u8]) -> Option<StorePath> {
    read(object).map(|(_, path)| path)
}

fn read(object: &[u8]) -> Option<(Found, StorePath)> {
    let found: Found = serde_json::from_slice(object).ok()?;
    let path = StorePath::from_basename(found.out_path.as_bytes()).ok()?;
    Some((found, path))
}

fn json(value: &impl Serialize) -> String {
    // Texts in maps with text keys: this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(base: &str) -> StorePath {
        StorePath::from_basename(base.as_bytes()).unwrap()
    }

    /// The same realisation in both forms.
    fn both() -> [Realisation; 2] {
        let derivation = path("5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv");
        let out = path("310mvzpcnra1g6jlia5wv50fzy29c08y-base");
        [Named::Hash([0xab; 32]), Named::Path(derivation)]
            .map(|named| Realisation::new(named, "out", out.clone()).unwrap())
    }

    #[test]
    fn keys_and_objects_have_the_forms_of_nix() {
        let ([old, new], key) = (both(), SecretKey::generate("k-1").unwrap());
        let hash = "ab".repeat(32);
        assert_eq!(old.key(), format!("realisations/sha256:{hash}!out.doi"));
        assert_eq!(new.key(), "build-trace-v2/5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv/out.doi");
        let object = String::from_utf8(old.compose(&[]).unwrap()).unwrap();
        let expected = format!(
            r#"{{"dependentRealisations":{{}},"id":"sha256:{hash}!out","outPath":"310mvzpcnra1g6jlia5wv50fzy29c08y-base","signatures":[]}}"#
        );
        assert_eq!(object, expected);
        assert_eq!(old.fingerprint(), expected.replace(r#","signatures":[]"#, ""));
        let expected = r#"{"key":{"drvPath":"5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv","outputName":"out"},"value":{"outPath":"310mvzpcnra1g6jlia5wv50fzy29c08y-base"}}"#;
        assert_eq!(new.fingerprint(), expected);
        for one in [old, new] {
            let object = one.compose(std::slice::from_ref(&key)).unwrap();
            let read = Realisation::parse(&one.key(), &object).unwrap();
            assert!(read.is_signed_by(&[key.public()]) && !one.is_signed_by(&[key.public()]));
            assert!(!read.is_signed_by(&[SecretKey::generate("k-1").unwrap().public()]));
            assert_eq!(Realisation { signatures: Vec::new(), ..read.clone() }, one);
            assert_eq!(read.compose(&[]).unwrap(), object, "the signatures of others stay");
            assert_eq!(path_of(&object), Some(one.path.clone()));
        }
    }

    #[test]
    fn what_stands_in_the_bucket_gains_signatures_and_is_never_pointed_elsewhere() {
        let keys = [SecretKey::generate("k-1").unwrap()];
        let other_key = [SecretKey::generate("k-2").unwrap()];
        for one in both() {
            let ours = one.compose(&keys).unwrap();
            assert_eq!(one.compare(&ours, &keys).unwrap(), Standing::Complete);
            let theirs = one.compose(&other_key).unwrap();
            let Standing::Lacks(both) = one.compare(&theirs, &keys).unwrap() else { panic!() };
            assert_eq!(one.compare(&both, &keys).unwrap(), Standing::Complete);
            assert_eq!(one.compare(&both, &other_key).unwrap(), Standing::Complete);
            let elsewhere = Realisation { path: path("79flhqrg5cqsj3j9j8v1pdds16fxyww5-top"), ..one.clone() };
            let found = one.compare(&elsewhere.compose(&other_key).unwrap(), &keys).unwrap();
            assert_eq!(found, Standing::Other(elsewhere.path));
            for garbage in [&b""[..], b"{}", b"[1]", b"{\"outPath\":\"../x\"}", b"\xff"] {
                assert_eq!(one.compare(garbage, &keys).unwrap(), Standing::Lacks(ours.clone()));
                assert!(path_of(garbage).is_none() && Realisation::parse(&one.key(), garbage).is_none());
            }
        }
    }

    #[test]
    fn what_others_have_signed_together_with_dependencies_stays() {
        let ([one, _], keys) = (both(), [SecretKey::generate("k-1").unwrap()]);
        // Nix up to 2.33 also names what the path depends on, and signs that.
        let dependent = |signatures: &str| {
            format!(
                r#"{{"dependentRealisations":{{"sha256:00!out":"x"}},"id":"sha256:{}!out","outPath":"{}","signatures":[{signatures}]}}"#,
                "ab".repeat(32),
                one.path.to_basename()
            )
        };
        let compare = |text: String| one.compare(text.as_bytes(), &keys).unwrap();
        let sig = format!("{}==", "A".repeat(86));
        assert_eq!(compare(dependent(&format!(r#""k-9:{sig}""#))), Standing::Foreign);
        assert!(matches!(compare(dependent(r#""k-9""#)), Standing::Lacks(_)), "no client reads it");
        assert!(matches!(compare(dependent("")), Standing::Lacks(_)));
        let parts = format!(r#"{{"keyName":"k-9","sig":"{sig}"}}"#);
        assert_eq!(compare(dependent(&parts)), Standing::Foreign);
        assert_eq!(Realisation::parse(&one.key(), dependent(&parts).as_bytes()), None);
    }

    #[test]
    fn names_that_leave_the_key_are_refused() {
        let [one, _] = both();
        for name in ["", "a/b", "..", "a!b", "ü", "a b"] {
            assert!(Realisation::new(Named::Hash([0; 32]), name, one.path.clone()).is_none());
        }
        let object = one.compose(&[]).unwrap();
        for key in ["realisations/sha256:00!out.doi", "realisations/x", "nar/x", "build-trace-v2/x/out.doi"] {
            assert_eq!(Realisation::parse(key, &object), None, "{key}");
        }
    }
}
