//! Changes the signatures of a narinfo in a bucket, and nothing else: every other byte stays.

use nix_derivation::store_path::StoreDir;
use nix_narinfo::{NarInfo, NixSignature, TrustedPublicKey};

use super::narinfo::is_well_formed;
use super::signature::SecretKey;
use super::standing::Judge;

const SIGNATURE_LINE: &str = "Sig: ";
const CA_LINE: &str = "CA: ";

/// How signatures change.
#[derive(Clone, Copy, Debug)]
pub struct Resigning<'a> {
    /// The store directory of the paths.
    pub store_dir: &'a StoreDir,
    /// The keys that sign.
    pub keys: &'a [SecretKey],
    /// The keys whose signatures are believed, among them those that sign.
    pub trusted: &'a [TrustedPublicKey],
    /// The names of the keys whose signatures are taken away.
    pub drop: &'a [String],
}

/// What becomes of a narinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resigned {
    /// It has the wanted signatures.
    Unchanged,
    /// These bytes replace it.
    Changed {
        /// The new narinfo.
        bytes: Vec<u8>,
        /// The names of the keys whose signatures are new.
        added: Vec<String>,
        /// The names of the keys whose signatures are gone.
        dropped: Vec<String>,
    },
    /// It stays, for this reason.
    Left(String),
}

impl Resigning<'_> {
    /// Gives the narinfo `bytes`, which has the hash part `digest`, the wanted signatures.
    ///
    /// Only what a trusted key has signed is signed: a signature without a reason would make clients trust what nobody
    /// vouches for. No narinfo loses its last signature of a key that is still trusted.
    pub fn of(&self, digest: &[u8; 20], bytes: &[u8]) -> Resigned {
        let judge = Judge { store_dir: self.store_dir, keys: self.keys, trusted: self.trusted };
        let present = match judge.parse_any(bytes) {
            Ok(present) if present.store_path().digest() == digest => present,
            Ok(present) => {
                return Resigned::Left(format!("it describes `{}`", present.store_path().to_basename()));
            }
            Err(fault) => return Resigned::Left(fault),
        };
        if !present.signatures().iter().all(is_well_formed) {
            return Resigned::Left("a signature in it is malformed".into());
        }
        let fingerprint = present.fingerprint(self.store_dir);
        let is_valid = |signature: &NixSignature| {
            signature.verify(fingerprint.as_bytes(), self.trusted).unwrap_or(false)
        };
        if present.content_address().is_none() && !present.signatures().iter().any(is_valid) {
            return Resigned::Left("no trusted key signed it".into());
        }
        let lacking: Vec<_> = self.keys.iter().filter(|key| !self.has(&present, &fingerprint, key)).collect();
        let goes = |name: &str| {
            self.drop.iter().any(|drop| drop == name) || lacking.iter().any(|key| key.name() == name)
        };
        let dropped = self.dropped(&present);
        if lacking.is_empty() && dropped.is_empty() {
            return Resigned::Unchanged;
        }
        let stays = present.signatures().iter().filter(|signature| !goes(&signature.key_name)).any(is_valid);
        if self.keys.is_empty() && !stays && present.content_address().is_none() {
            return Resigned::Left(
                "no other trusted key has signed it, so that clients would refuse it".into(),
            );
        }
        let new: Vec<_> = lacking.iter().map(|key| key.sign(&fingerprint)).collect();
        let added = lacking.iter().map(|key| key.name().to_owned()).collect();
        Resigned::Changed { bytes: with_signatures(bytes, goes, &new), added, dropped }
    }

    fn has(&self, present: &NarInfo, fingerprint: &str, key: &SecretKey) -> bool {
        let public = [key.public()];
        let valid =
            |signature: &NixSignature| signature.verify(fingerprint.as_bytes(), &public).unwrap_or(false);
        present.signatures().iter().any(valid)
    }

    fn dropped(&self, present: &NarInfo) -> Vec<String> {
        let mut names: Vec<_> = present
            .signatures()
            .iter()
            .map(|signature| signature.key_name.clone())
            .filter(|name| self.drop.contains(name))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The narinfo without the signatures of the keys that `goes` names, and with new signatures after those that stay.
fn with_signatures(bytes: &[u8], goes: impl Fn(&str) -> bool, new: &[NixSignature]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let name =
        |line: &str| line.strip_prefix(SIGNATURE_LINE)?.split_once(':').map(|(name, _)| name.to_owned());
    let (mut lines, mut after_signatures) = (Vec::new(), None);
    for line in text.lines() {
        let name = name(line);
        if !name.as_ref().is_some_and(|name| goes(name)) {
            lines.push(line.to_owned());
        }
        if name.is_some() {
            after_signatures = Some(lines.len());
        }
    }
    // The order of Nix: the signatures, then the content address.
    let before_address = || lines.iter().position(|line| line.starts_with(CA_LINE));
    let place = after_signatures.or_else(before_address).unwrap_or(lines.len());
    lines.splice(place..place, new.iter().map(|signature| format!("{SIGNATURE_LINE}{signature}")));
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{A, info, path};
    use crate::format::narinfo::{NarObject, compose};
    use crate::format::object_keys::Compression;

    fn key(name: &str) -> SecretKey {
        SecretKey::generate(name).unwrap()
    }

    fn narinfo(keys: &[&SecretKey]) -> Vec<u8> {
        let nar = NarObject {
            key: "nar/x.nar.zst".into(),
            compression: Compression::Zstd,
            file_hash: Some([4; 32]),
            file_size: Some(60),
        };
        let keys: Vec<_> = keys.iter().map(|key| (*key).clone()).collect();
        compose(&StoreDir::default(), &info(&[]), &nar, &keys).unwrap()
    }

    fn resigned(bytes: &[u8], keys: &[&SecretKey], trusted: &[&SecretKey], drop: &[&str]) -> Resigned {
        let keys: Vec<_> = keys.iter().map(|key| (*key).clone()).collect();
        let trusted: Vec<_> = trusted.iter().map(|key| key.public()).collect();
        let drop: Vec<_> = drop.iter().map(|name| (*name).to_owned()).collect();
        let store_dir = StoreDir::default();
        let resigning = Resigning { store_dir: &store_dir, keys: &keys, trusted: &trusted, drop: &drop };
        resigning.of(path(A).digest(), bytes)
    }

    fn changed(resigned: Resigned) -> Vec<u8> {
        let Resigned::Changed { bytes, .. } = resigned else { panic!("{resigned:?}") };
        bytes
    }

    fn without_signatures(bytes: &[u8]) -> Vec<&str> {
        std::str::from_utf8(bytes).unwrap().lines().filter(|line| !line.starts_with("Sig: ")).collect()
    }

    #[test]
    fn keys_change_in_two_steps_and_nothing_else_changes() {
        let (old, new) = (key("old-1"), key("new-1"));
        // A field that larder does not know, and another order than that of Nix.
        let before = [narinfo(&[&old]), b"Extra: x\n".to_vec()].concat();
        let both = changed(resigned(&before, &[&new], &[&old, &new], &[]));
        assert_eq!(without_signatures(&both), without_signatures(&before));
        assert_eq!(resigned(&both, &[&new], &[&old, &new], &[]), Resigned::Unchanged);
        let after = changed(resigned(&both, &[&new], &[&old, &new], &["old-1"]));
        assert_eq!(without_signatures(&after), without_signatures(&before));
        assert_eq!(after.len(), before.len());
        assert_eq!(resigned(&after, &[&new], &[&new], &["old-1"]), Resigned::Unchanged);
        // Both steps at once.
        let at_once = changed(resigned(&before, &[&new], &[&old, &new], &["old-1"]));
        assert_eq!(at_once, after);
    }

    #[test]
    fn what_nobody_trusted_signed_is_not_signed() {
        let (ours, stranger) = (key("ours-1"), key("stranger-1"));
        for bytes in [narinfo(&[&stranger]), narinfo(&[])] {
            assert!(matches!(resigned(&bytes, &[&ours], &[&ours], &[]), Resigned::Left(_)));
        }
        let forged = narinfo(&[&ours]);
        let forged = String::from_utf8(forged).unwrap().replace("NarSize: 120", "NarSize: 121").into_bytes();
        assert!(matches!(resigned(&forged, &[&ours], &[&ours], &[]), Resigned::Left(_)));
        assert!(matches!(resigned(b"rubbish", &[&ours], &[&ours], &[]), Resigned::Left(_)));
    }

    #[test]
    fn an_invalid_signature_of_our_name_is_replaced() {
        let (ours, impostor, friend) = (key("ours-1"), key("ours-1"), key("friend-1"));
        let bytes = narinfo(&[&impostor, &friend]);
        let after = changed(resigned(&bytes, &[&ours], &[&ours, &friend], &[]));
        assert_eq!(resigned(&after, &[&ours], &[&ours], &[]), Resigned::Unchanged);
        assert_eq!(std::str::from_utf8(&after).unwrap().matches("Sig: ").count(), 2);
    }

    #[test]
    fn the_last_trusted_signature_stays() {
        let (old, new, stranger) = (key("old-1"), key("new-1"), key("stranger-1"));
        let bytes = narinfo(&[&old, &stranger]);
        assert!(matches!(resigned(&bytes, &[], &[&old], &["old-1"]), Resigned::Left(_)));
        let bytes = narinfo(&[&old, &new]);
        assert!(matches!(resigned(&bytes, &[], &[&old, &new], &["old-1"]), Resigned::Changed { .. }));
    }
}
