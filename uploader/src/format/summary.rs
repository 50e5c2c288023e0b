//! What a narinfo in a bucket says, for those who look at the whole bucket: no local store is asked.

use nix_derivation::StorePath;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::NarInfo;

use super::named_nar::NamedNar;
use super::standing::{self, Judge};
use super::verifier::Verifies;

/// What a narinfo says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The path that it describes.
    pub path: StorePath,
    /// The NAR that it names, unless no client can read the NAR from this bucket.
    pub nar: Option<NamedNar>,
    /// The `URL` of a NAR that clients cannot read from this bucket, as far as larder knows: some of them may.
    pub unfit_url: Option<String>,
    /// Its references, without the reference of the path to itself, sorted.
    pub references: Vec<StorePath>,
    /// The derivation that built the path.
    pub deriver: Option<StorePath>,
    /// The names of the keys with a well-formed signature, each once, sorted.
    pub signers: Vec<String>,
    /// Why no client that trusts the keys can use it; `None` if such a client can.
    pub fault: Option<NarinfoFault>,
}

/// Why no client can use a narinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarinfoFault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// The fault for people: "it is malformed (…)".
    pub text: String,
}

/// The kinds of faults of a narinfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// Nix cannot parse it.
    Malformed,
    /// It describes a path other than that of its key.
    OtherPath,
    /// Its NAR is elsewhere, or its compression or hash contradicts the key of the NAR.
    UnfitNar,
    /// A signature in it is malformed, so that clients refuse the whole narinfo.
    MalformedSignature,
    /// No trusted key has signed it.
    Untrusted,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::OtherPath, Self::UnfitNar, Self::MalformedSignature, Self::Untrusted];

    fn with(self, text: impl Into<String>) -> NarinfoFault {
        NarinfoFault { kind: self, text: text.into() }
    }
}

impl Summary {
    /// Reads the narinfo `bytes` under the key with this hash part (20 bytes, decoded). Clients trust the keys that `trusted`
    /// verifies with.
    ///
    /// # Errors
    /// What is wrong with a narinfo that says nothing which can be relied on.
    pub fn read(
        store_dir: &StoreDir,
        trusted: &(impl Verifies + ?Sized),
        digest: &[u8; 20],
        bytes: &[u8],
    ) -> Result<Self, NarinfoFault> {
        let judge = Judge { store_dir, keys: &[], trusted: &[] };
        let present = judge.parse_any(bytes).map_err(|text| FaultKind::Malformed.with(text))?;
        if present.store_path().digest() != digest {
            let text = format!("it describes `{}`", present.store_path().to_basename());
            return Err(FaultKind::OtherPath.with(text));
        }
        let (nar, fault) = match NamedNar::of(&present) {
            Ok(nar) => (Some(nar), fault_of_signatures(store_dir, trusted, &present)),
            Err(text) => (None, Some(FaultKind::UnfitNar.with(text))),
        };
        Ok(Self {
            path: present.store_path().clone(),
            unfit_url: nar.is_none().then(|| present.url().to_owned()),
            nar,
            references: standing::references(&present),
            deriver: present.deriver().cloned(),
            signers: standing::signers_of(present.signatures().to_vec()),
            fault,
        })
    }
}

/// What is wrong with the signatures of a narinfo. A path that its content address leads to needs none.
fn fault_of_signatures(
    store_dir: &StoreDir,
    trusted: &(impl Verifies + ?Sized),
    present: &NarInfo,
) -> Option<NarinfoFault> {
    if standing::has_malformed_signature(present) {
        return Some(FaultKind::MalformedSignature.with("a signature in it is malformed"));
    }
    let is_signed = || {
        let fingerprint = present.fingerprint(store_dir);
        present.signatures().iter().any(|signature| trusted.verifies(fingerprint.as_bytes(), signature))
    };
    let accepted = present.content_address().is_some() || is_signed();
    (!accepted).then(|| FaultKind::Untrusted.with("no trusted key signed it"))
}
