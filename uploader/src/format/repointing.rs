//! What a narinfo vouches for, wherever it is: in this bucket, where its NAR may be gone, or in another cache. And the same
//! narinfo with another object for its NAR.

use nix_derivation::hash::NixHash;
use nix_derivation::store_path::StoreDir;
use nix_narinfo::{NarInfo, TrustedPublicKey};

use super::named_nar::{NamedNar, ObjectOfNar, label_of};
use super::narinfo::point_to;
use super::path_info::PathInfo;
use super::standing::{self, Judge};
use crate::base::error::Result as LarderResult;

/// What a narinfo says of its path.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The facts. `ultimate` is false.
    pub info: PathInfo,
    /// Whether clients that trust the keys believe them: a trusted key has signed, or the path is content-addressed.
    pub is_vouched: bool,
    /// The names of the keys with a well-formed signature.
    pub signers: Vec<String>,
    /// The value of `URL`.
    pub url: String,
    /// The word for the compression; `None` if Nix does not know it.
    pub label: Option<&'static str>,
    /// The size of the object, if the narinfo says it.
    pub file_size: Option<u64>,
    /// The NAR, if clients can read it from the same bucket.
    pub nar: Option<NamedNar>,
    present: NarInfo,
}

impl Claim {
    /// Reads the narinfo `bytes` of the path with this hash part (20 bytes, decoded). Clients trust the keys `trusted`.
    ///
    /// # Errors
    /// What is wrong with a narinfo that says nothing of this path.
    pub fn read(
        store_dir: &StoreDir,
        trusted: &[TrustedPublicKey],
        digest: &[u8; 20],
        bytes: &[u8],
    ) -> Result<Self, String> {
        let judge = Judge { store_dir, keys: &[], trusted };
        let present = judge.parse_any(bytes)?;
        let path = present.store_path();
        if path.digest() != digest {
            return Err(format!("it describes `{}`", path.to_basename()));
        }
        let NixHash::Sha256(nar_hash) = *present.nar_hash() else {
            return Err("its `NarHash` is no SHA-256".into());
        };
        let info = PathInfo {
            path: path.clone().into(),
            deriver: present.deriver().cloned(),
            nar_hash,
            nar_size: present.nar_size(),
            references: present.references().iter().cloned().collect(),
            registration_time: 0,
            ultimate: false,
            signatures: present.signatures().iter().map(|signature| signature.to_nix_string()).collect(),
            ca: present.content_address().map(|ca| ca.to_nix_string()),
        };
        let is_vouched = present.content_address().is_some() || judge.trusted_signer(&present).is_some();
        Ok(Self {
            info,
            is_vouched,
            signers: standing::signers(bytes),
            url: present.url().to_owned(),
            label: label_of(present.compression().as_str()),
            file_size: present.file_size().filter(|size| *size > 0),
            nar: NamedNar::of(&present).ok(),
            present,
        })
    }

    /// The narinfo that names another object with the same NAR. Every valid signature stays valid.
    ///
    /// # Errors
    /// When larder could not read the narinfo back, because it is too large.
    pub fn pointing_to(&self, store_dir: &StoreDir, object: &ObjectOfNar) -> LarderResult<Vec<u8>> {
        point_to(store_dir, &self.present, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::signature::SecretKey;
    use crate::format::{example, narinfo::NarObject, object_keys::Compression};

    fn narinfo(keys: &[SecretKey]) -> (PathInfo, Vec<u8>) {
        let info = example::info(&[example::B]);
        let nar = NarObject {
            key: "nar/old.nar.zst".into(),
            compression: Compression::Zstd,
            file_hash: None,
            file_size: None,
        };
        let bytes = super::super::narinfo::compose(&StoreDir::default(), &info, &nar, keys).unwrap();
        (info, bytes)
    }

    #[test]
    fn a_repointed_narinfo_names_the_other_object_and_keeps_its_valid_signatures() {
        let key = SecretKey::generate("k-1").unwrap();
        let trusted = [key.public()];
        let (info, bytes) = narinfo(std::slice::from_ref(&key));
        let text = String::from_utf8(bytes).unwrap() + "Sig: k-1:c2hvcnQ=\n";
        let read = |bytes: &[u8]| Claim::read(&StoreDir::default(), &trusted, info.path.digest(), bytes);
        let claim = read(text.as_bytes()).unwrap();
        assert!(claim.is_vouched);
        let object =
            ObjectOfNar { key: "nar/new.nar.xz".into(), label: "xz", file_size: 77, file_hash: [3; 32] };
        let rewritten = claim.pointing_to(&StoreDir::default(), &object).unwrap();
        let again = read(&rewritten).unwrap();
        assert!(again.is_vouched);
        let nar = again.nar.unwrap();
        assert_eq!(
            (&*nar.key, nar.label, nar.file_size, nar.file_hash),
            ("nar/new.nar.xz", "xz", Some(77), Some([3; 32]))
        );
        assert!(
            !String::from_utf8(rewritten).unwrap().contains("c2hvcnQ="),
            "a malformed signature is left out"
        );
        assert_eq!((again.info.nar_hash, again.info.references), (info.nar_hash, info.references));
    }

    #[test]
    fn a_narinfo_without_a_trusted_signature_vouches_for_nothing() {
        let (info, bytes) = narinfo(&[SecretKey::generate("other-1").unwrap()]);
        let trusted = [SecretKey::generate("k-1").unwrap().public()];
        let claim = Claim::read(&StoreDir::default(), &trusted, info.path.digest(), &bytes).unwrap();
        assert!(!claim.is_vouched);
        assert_eq!(claim.signers, ["other-1"]);
        assert!(Claim::read(&StoreDir::default(), &trusted, &[0; 20], &bytes).is_err());
    }
}
