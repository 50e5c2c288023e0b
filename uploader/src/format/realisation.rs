//! Realisations: which path an output of a content-addressed derivation has become. A client that is to build such a
//! derivation asks a cache for them.
//!
//! There are two forms. Nix up to 2.34 names an output by the hash of its derivation (`realisations/`), and Nix from 2.35 by
//! the path of its derivation (`build-trace-v2/`). `docs/bucket.md` describes both.

use std::collections::BTreeMap;

use nix_derivation::StorePath;
use nix_narinfo::NixSignature;
use serde::{Deserialize, Serialize};

use super::derivation_hash::hex;
use super::signature::SecretKey;
use crate::base::error::Result;

/// The form of the object of a realisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// `realisations/sha256:<hash>!<output>.doi`, for Nix up to 2.34.
    ByHash,
    /// `build-trace-v2/<derivation>/<output>.doi`, for Nix from 2.35.
    ByDerivation,
}

impl Form {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::ByHash, Self::ByDerivation];
}

/// Which path an output of a derivation has become.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realisation {
    /// The hash of the derivation, see [`super::derivation_hash`].
    pub hash: [u8; 32],
    /// The derivation.
    pub derivation: StorePath,
    /// The name of the output.
    pub output: String,
    /// The path.
    pub path: StorePath,
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
    pub fn new(hash: [u8; 32], derivation: StorePath, output: String, path: StorePath) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
        let is_fit = !output.is_empty() && output.chars().all(fits) && !output.starts_with('.');
        is_fit.then_some(Self { hash, derivation, output, path })
    }

    /// The key of the object.
    pub fn key(&self, form: Form) -> String {
        match form {
            Form::ByHash => format!("realisations/{}.doi", self.id()),
            Form::ByDerivation => {
                format!("build-trace-v2/{}/{}.doi", self.derivation.to_basename(), self.output)
            }
        }
    }

    fn id(&self) -> String {
        format!("sha256:{}!{}", hex(&self.hash), self.output)
    }

    /// The object, with signatures of these keys.
    ///
    /// # Errors
    /// When a key cannot sign.
    pub fn compose(&self, form: Form, keys: &[SecretKey]) -> Result<Vec<u8>> {
        Ok(self.object(form, &self.signatures(form, keys)?))
    }

    /// Compares an object in the bucket with this realisation.
    ///
    /// # Errors
    /// When a key cannot sign.
    pub fn compare(&self, form: Form, object: &[u8], keys: &[SecretKey]) -> Result<Standing> {
        let ours = self.signatures(form, keys)?;
        let Some((found, path)) = read(object) else {
            return Ok(Standing::Lacks(self.object(form, &ours)));
        };
        if path != self.path {
            return Ok(Standing::Other(path));
        }
        let is_same = match form {
            Form::ByHash => found.id == Some(self.id()) && found.dependent_realisations.is_empty(),
            Form::ByDerivation => true,
        };
        let all: Vec<_> = found.signatures.into_iter().map(FoundSignature::text).collect();
        let count = all.len();
        // A malformed signature makes clients refuse the object.
        let is_sound = |text: &String| NixSignature::parse(text).is_ok();
        let mut signatures: Vec<_> = all.into_iter().filter(is_sound).collect();
        if !is_same {
            return Ok(match signatures.is_empty() {
                true => Standing::Lacks(self.object(form, &ours)),
                false => Standing::Foreign,
            });
        }
        if signatures.len() == count && ours.iter().all(|signature| signatures.contains(signature)) {
            return Ok(Standing::Complete);
        }
        signatures.extend(ours);
        signatures.sort_unstable();
        signatures.dedup();
        Ok(Standing::Lacks(self.object(form, &signatures)))
    }

    fn signatures(&self, form: Form, keys: &[SecretKey]) -> Result<Vec<String>> {
        let fingerprint = self.fingerprint(form);
        let sign = |key: &SecretKey| {
            let signature = key.sign(&fingerprint)?;
            Ok(format!("{}:{}", signature.key_name, signature.encoded))
        };
        keys.iter().map(sign).collect()
    }

    /// What is signed.
    fn fingerprint(&self, form: Form) -> String {
        match form {
            Form::ByHash => json(&self.by_hash(None)),
            Form::ByDerivation => {
                let key = TraceKey { derivation: self.derivation.to_basename(), output: &self.output };
                json(&Traced { key, value: self.trace(None) })
            }
        }
    }

    fn object(&self, form: Form, signatures: &[String]) -> Vec<u8> {
        match form {
            Form::ByHash => json(&self.by_hash(Some(signatures))),
            Form::ByDerivation => json(&self.trace(Some(signatures))),
        }
        .into_bytes()
    }

    // Nix 2.34 knows no dependent realisations any more and always signs an empty object. Nix before needs none of them
    // to substitute the path.
    fn by_hash<'r>(&self, signatures: Option<&'r [String]>) -> ByHash<'r> {
        ByHash {
            dependent_realisations: BTreeMap::new(),
            id: self.id(),
            out_path: self.path.to_basename(),
            signatures,
        }
    }

    fn trace<'r>(&self, signatures: Option<&'r [String]>) -> TraceValue<'r> {
        TraceValue { out_path: self.path.to_basename(), signatures }
    }
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
    use super::super::signature::verified;
    use super::*;

    fn path(base: &str) -> StorePath {
        StorePath::from_basename(base.as_bytes()).unwrap()
    }

    fn realisation() -> Realisation {
        let derivation = path("5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv");
        let out = path("310mvzpcnra1g6jlia5wv50fzy29c08y-base");
        Realisation::new([0xab; 32], derivation, "out".into(), out).unwrap()
    }

    #[test]
    fn keys_and_objects_have_the_forms_of_nix() {
        let (one, key) = (realisation(), SecretKey::generate("k-1").unwrap());
        let hash = "ab".repeat(32);
        assert_eq!(one.key(Form::ByHash), format!("realisations/sha256:{hash}!out.doi"));
        let trace = "build-trace-v2/5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv/out.doi";
        assert_eq!(one.key(Form::ByDerivation), trace);
        let object = String::from_utf8(one.compose(Form::ByHash, &[]).unwrap()).unwrap();
        let expected = format!(
            r#"{{"dependentRealisations":{{}},"id":"sha256:{hash}!out","outPath":"310mvzpcnra1g6jlia5wv50fzy29c08y-base","signatures":[]}}"#
        );
        assert_eq!(object, expected);
        for (form, fingerprint) in [
            (Form::ByHash, expected.replace(r#","signatures":[]"#, "")),
            (
                Form::ByDerivation,
                r#"{"key":{"drvPath":"5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv","outputName":"out"},"value":{"outPath":"310mvzpcnra1g6jlia5wv50fzy29c08y-base"}}"#.to_owned(),
            ),
        ] {
            let object = one.compose(form, std::slice::from_ref(&key)).unwrap();
            let signatures: Vec<_> = read(&object).unwrap().0.signatures.into_iter().map(FoundSignature::text).collect();
            assert!(verified(&fingerprint, &signatures, &[key.public()]), "{form:?}");
            assert_eq!(path_of(&object), Some(one.path.clone()));
        }
    }

    #[test]
    fn what_stands_in_the_bucket_gains_signatures_and_is_never_pointed_elsewhere() {
        let one = realisation();
        let keys = [SecretKey::generate("k-1").unwrap()];
        let other_key = [SecretKey::generate("k-2").unwrap()];
        for form in Form::ALL {
            let ours = one.compose(form, &keys).unwrap();
            assert_eq!(one.compare(form, &ours, &keys).unwrap(), Standing::Complete);
            let theirs = one.compose(form, &other_key).unwrap();
            let Standing::Lacks(both) = one.compare(form, &theirs, &keys).unwrap() else {
                panic!("{form:?}")
            };
            assert_eq!(one.compare(form, &both, &keys).unwrap(), Standing::Complete);
            assert_eq!(one.compare(form, &both, &other_key).unwrap(), Standing::Complete);
            let elsewhere = Realisation { path: path("79flhqrg5cqsj3j9j8v1pdds16fxyww5-top"), ..one.clone() };
            let found = one.compare(form, &elsewhere.compose(form, &other_key).unwrap(), &keys).unwrap();
            assert_eq!(found, Standing::Other(elsewhere.path));
            for garbage in [&b""[..], b"{}", b"[1]", b"{\"outPath\":\"../x\"}", b"\xff"] {
                assert_eq!(one.compare(form, garbage, &keys).unwrap(), Standing::Lacks(ours.clone()));
                assert_eq!(path_of(garbage), None);
            }
        }
        // Nix up to 2.33 also names what the path depends on, and signs that.
        let dependent = |signatures: &str| {
            format!(
                r#"{{"dependentRealisations":{{"sha256:00!out":"x"}},"id":"{}","outPath":"{}","signatures":[{signatures}]}}"#,
                one.id(),
                one.path.to_basename()
            )
        };
        let compare = |text: String| one.compare(Form::ByHash, text.as_bytes(), &keys).unwrap();
        let sig = format!("{}==", "A".repeat(86));
        assert_eq!(compare(dependent(&format!(r#""k-9:{sig}""#))), Standing::Foreign);
        assert!(matches!(compare(dependent(r#""k-9""#)), Standing::Lacks(_)), "no client reads it");
        assert!(matches!(compare(dependent("")), Standing::Lacks(_)));
        assert_eq!(compare(dependent(&format!(r#"{{"keyName":"k-9","sig":"{sig}"}}"#))), Standing::Foreign);
    }

    #[test]
    fn names_that_leave_the_key_are_refused() {
        let one = realisation();
        for name in ["", "a/b", "..", "a!b", "ü", "a b"] {
            assert!(
                Realisation::new(one.hash, one.derivation.clone(), name.into(), one.path.clone()).is_none()
            );
        }
    }
}
