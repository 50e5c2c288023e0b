//! Judges a narinfo in the bucket: whether a client that trusts our keys can use it for its path.
//!
//! The signature of a narinfo covers the store path, the hash and the size of the NAR, and the references. It does not
//! cover `URL`, `Compression`, `FileSize` and `CA`. Everybody who can write into the bucket can change these fields, so
//! they are judged by themselves. The source of the rules is Nix's constructor of `NarInfo`.

use nix_derivation::StorePath;
use nix_derivation::hash::NixHash;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::{NarInfo, NixSignature, TrustedPublicKey};

use super::named_nar::NamedNar;
use super::narinfo::{add_signatures, is_well_formed};
use crate::format::path_info::PathInfo;
use crate::format::signature::SecretKey;

/// The prefix of the line of a signature.
const SIGNATURE_LINE: &str = "Sig: ";
/// The largest number of signers that a reason names.
const NAMED_SIGNERS: usize = 3;

/// The relation of a narinfo in the bucket to the path in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The narinfo describes the same contents.
    Same {
        /// The NAR that it names.
        nar: NamedNar,
        /// Whether a client that trusts our keys accepts it.
        accepted: bool,
        /// The narinfo with all our signatures, which should replace it; `None` if nothing is missing.
        rewritten: Option<Vec<u8>>,
        /// The names of the keys that signed it.
        signers: Vec<String>,
    },
    /// The narinfo describes other contents, and a trusted key signed it: the build is not reproducible, and another
    /// machine pushed its result first.
    Other {
        /// The NAR that it names.
        nar: NamedNar,
        /// Its references, without the reference of the path to itself.
        references: Vec<StorePath>,
        /// The name of the trusted key.
        signer: String,
        /// The names of all keys that signed it.
        signers: Vec<String>,
    },
    /// No client that trusts our keys can use it.
    Unusable(Unusable),
}

/// A narinfo that no client can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Why: "its narinfo …".
    pub fault: String,
    /// The names of the keys that signed it, as far as the signatures are well-formed.
    pub signers: Vec<String>,
}

impl Unusable {
    /// Whether larder may replace the narinfo: nobody has signed it, or only keys of `adopt`.
    pub fn may_be_replaced(&self, adopt: &[String]) -> bool {
        self.signers.iter().all(|signer| adopt.contains(signer))
    }

    /// The reason for people, with the names of the signers and the way out.
    pub fn reason(&self) -> String {
        let shown = self.signers.iter().take(NAMED_SIGNERS);
        let names = shown.map(|name| format!("`{}`", printable(name))).collect::<Vec<_>>().join(", ");
        let more = match self.signers.len().saturating_sub(NAMED_SIGNERS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let adopt: Vec<_> = self
            .signers
            .iter()
            .map(|name| format!("--adopt {}", printable(name)))
            .take(NAMED_SIGNERS)
            .collect();
        format!(
            "the bucket has a narinfo that no client can use: {}. It is signed by {names}{more}. `larder push {}` replaces it; `larder repair` keeps it if somebody has its NAR",
            self.fault,
            adopt.join(" ")
        )
    }
}

/// The name of a key, without the characters that a terminal would obey.
fn printable(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}

/// Judges narinfos.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that should have signed each narinfo.
    pub keys: &'a [SecretKey],
    /// The keys that clients trust, among them ours.
    pub trusted: &'a [TrustedPublicKey],
}

impl Judge<'_> {
    /// Judges the narinfo `bytes` that the bucket has for a path of the store.
    pub fn standing(&self, info: &PathInfo, bytes: &[u8]) -> Standing {
        let signers = signers(bytes);
        let unusable = |fault: String| Standing::Unusable(Unusable { fault, signers: signers.clone() });
        let present = match self.parse(&info.path, bytes) {
            Ok(present) => present,
            Err(fault) => return unusable(fault),
        };
        let nar = match NamedNar::of(&present) {
            Ok(nar) => nar,
            Err(fault) => return unusable(fault),
        };
        let same = *present.nar_hash() == NixHash::Sha256(info.nar_hash)
            && present.nar_size() == info.nar_size
            && present.references().iter().eq(info.references.iter().map(|path| &**path));
        if !same {
            return match self.trusted_signer(&present) {
                None => unusable("it describes other contents, and no trusted key signed it".into()),
                Some(_) if has_malformed_signature(&present) => {
                    unusable("a signature in it is malformed".into())
                }
                Some(signer) => Standing::Other { nar, references: references(&present), signer, signers },
            };
        }
        let accepted = self.trusted_signer(&present).is_some();
        match self.with_our_signatures(&present) {
            Ok(rewritten) => {
                let accepted = accepted && !has_malformed_signature(&present);
                Standing::Same { nar, accepted, rewritten, signers }
            }
            Err(fault) => unusable(fault),
        }
    }

    /// Judges the narinfo `bytes` of a path that the store need not have. The result holds the NAR and the references of
    /// a narinfo that a client accepts.
    ///
    /// # Errors
    /// Why no client accepts it.
    pub fn alone(&self, path: &StorePath, bytes: &[u8]) -> Result<(NamedNar, Vec<StorePath>), Unusable> {
        let unusable = |fault: String| Unusable { fault, signers: signers(bytes) };
        let present = self.parse(path, bytes).map_err(unusable)?;
        let nar = NamedNar::of(&present).map_err(unusable)?;
        if has_malformed_signature(&present) {
            return Err(unusable("a signature in it is malformed".into()));
        }
        // A client needs no signature for a path that its content address leads to.
        match present.content_address().is_some() || self.trusted_signer(&present).is_some() {
            true => Ok((nar, references(&present))),
            false => Err(unusable("no trusted key signed it".into())),
        }
    }

    /// Parses a narinfo as Nix does. The error says what is wrong.
    fn parse(&self, path: &StorePath, bytes: &[u8]) -> Result<NarInfo, String> {
        let present = self.parse_any(bytes)?;
        if present.store_path() != path {
            return Err(format!("it describes `{}`", present.store_path().to_basename()));
        }
        Ok(present)
    }

    /// Parses the narinfo of any path as Nix does. The error says what is wrong.
    pub(super) fn parse_any(&self, bytes: &[u8]) -> Result<NarInfo, String> {
        check_lines(bytes)?;
        let present = NarInfo::parse_in(self.store_dir, bytes)
            .map_err(|error| format!("it is malformed ({})", printable(&error.to_string())))?;
        // Nix computes the path of a content-addressed path again, and fails where the result is another path.
        if present.content_address().is_some() && !present.is_content_addressed(self.store_dir) {
            return Err("its content address is not that of the path".into());
        }
        Ok(present)
    }

    /// The name of a trusted key whose signature verifies.
    pub(super) fn trusted_signer(&self, present: &NarInfo) -> Option<String> {
        let fingerprint = present.fingerprint(self.store_dir);
        let valid = |sig: &&NixSignature| sig.verify(fingerprint.as_bytes(), self.trusted).unwrap_or(false);
        present.signatures().iter().find(valid).map(|sig| sig.key_name.clone())
    }

    /// The narinfo with the signatures of all our keys; `None` if it has them all and no malformed signature.
    fn with_our_signatures(&self, present: &NarInfo) -> Result<Option<Vec<u8>>, String> {
        let fingerprint = present.fingerprint(self.store_dir);
        let has = |key: &SecretKey| {
            let public = [key.public()];
            present
                .signatures()
                .iter()
                .any(|sig| sig.verify(fingerprint.as_bytes(), &public).unwrap_or(false))
        };
        let lacking: Vec<_> = self.keys.iter().filter(|key| !has(key)).collect();
        if lacking.is_empty() && !has_malformed_signature(present) {
            return Ok(None);
        }
        add_signatures(self.store_dir, present, &lacking)
            .map(Some)
            .map_err(|error| format!("no signature can be added ({})", printable(&error.to_string())))
    }
}

/// Whether a signature would make clients refuse the whole narinfo.
pub(super) fn has_malformed_signature(present: &NarInfo) -> bool {
    !present.signatures().iter().all(is_well_formed)
}

pub(super) fn references(present: &NarInfo) -> Vec<StorePath> {
    present.references().iter().filter(|path| *path != present.store_path()).cloned().collect()
}

/// Checks the form of the lines. Nix is strict here: each line ends in a line feed, and one blank follows the colon.
/// Names of store paths stand without their directory, except that of `StorePath`.
fn check_lines(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let malformed = |line: &str| format!("the line `{}` is malformed", printable(line));
    let lines = text.strip_suffix('\n').ok_or("it does not end with a line feed".to_owned())?;
    for line in lines.split('\n') {
        let (name, value) = line.split_once(": ").ok_or_else(|| malformed(line))?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_name || value.contains(char::is_control) || value.starts_with(char::is_whitespace) {
            return Err(malformed(line));
        }
        if matches!(name, "References" | "Deriver") && value.contains('/') {
            return Err(malformed(line));
        }
    }
    Ok(())
}

/// The names of the keys that signed the narinfo, each once. The narinfo may be malformed; only signatures of the right
/// form count.
pub fn signers(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let signatures =
        text.lines().filter_map(|line| NixSignature::parse(line.strip_prefix(SIGNATURE_LINE)?).ok());
    signers_of(signatures)
}

/// The names of the keys with signatures of the right form, each once.
pub(super) fn signers_of(signatures: impl IntoIterator<Item = NixSignature>) -> Vec<String> {
    let mut names: Vec<_> = signatures.into_iter().filter(is_well_formed).map(|sig| sig.key_name).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
