//! Verifies many signatures with few keys.
//!
//! With a table of the multiples of a key, a verification takes two thirds of the time. It is the same equation as that of
//! [`VerifyingKey::verify_strict`], `R = s·B - k·A`, and accepts the same signatures.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use curve25519_dalek::edwards::{EdwardsBasepointTable, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::BasepointTable;
use ed25519_dalek::VerifyingKey;
use nix_narinfo::{NixSignature, TrustedPublicKey};
use sha2::{Digest, Sha512};

use super::signature::signature_bytes;

/// The number of verifications that are worth a table. A table takes as long as 30 verifications, and 30 KiB.
const WORTH: usize = 100;

/// Verifies signatures by trusted keys.
pub trait Verifies {
    /// Whether a trusted key made this signature of the message. A malformed signature is none.
    fn verifies(&self, message: &[u8], signature: &NixSignature) -> bool;
}

/// For a few signatures.
impl Verifies for [TrustedPublicKey] {
    fn verifies(&self, message: &[u8], signature: &NixSignature) -> bool {
        signature.verify(message, self).unwrap_or(false)
    }
}

/// Verifies many signatures. Several threads may use it at the same time.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<Key>,
}

struct Key {
    name: String,
    public: VerifyingKey,
    uses: AtomicUsize,
    /// The multiples of the negated key.
    table: OnceLock<Box<EdwardsBasepointTable>>,
}

impl Verifier {
    /// Trusts these keys.
    pub fn new(keys: Vec<TrustedPublicKey>) -> Self {
        let key = |TrustedPublicKey { name, key: public }| Key {
            name,
            public,
            uses: AtomicUsize::new(0),
            table: OnceLock::new(),
        };
        Self { keys: keys.into_iter().map(key).collect() }
    }
}

impl Verifies for Verifier {
    fn verifies(&self, message: &[u8], signature: &NixSignature) -> bool {
        let Some(bytes) = signature_bytes(signature) else { return false };
        self.keys.iter().filter(|key| key.name == signature.key_name).any(|key| key.verifies(message, &bytes))
    }
}

impl Key {
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        if self.uses.fetch_add(1, Ordering::Relaxed) < WORTH {
            let signature = ed25519_dalek::Signature::from_bytes(signature);
            return self.public.verify_strict(message, &signature).is_ok();
        }
        let table = self.table.get_or_init(|| table_of(&self.public));
        verifies_by(table, &self.public, message, signature)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

fn table_of(key: &VerifyingKey) -> Box<EdwardsBasepointTable> {
    Box::new(EdwardsBasepointTable::create(&-key.to_edwards()))
}

/// Verifies as `verify_strict` does. That one refuses a signature whose `R` is no point, is not encoded canonically, or has a
/// small order. Here `R` is computed first: what equals its encoding is canonical, and encodes this very point.
fn verifies_by(
    table: &EdwardsBasepointTable,
    key: &VerifyingKey,
    message: &[u8],
    signature: &[u8; 64],
) -> bool {
    let (Some(r), Some(s)) = (signature.first_chunk::<32>(), signature.last_chunk::<32>()) else {
        return false;
    };
    let Some(s) = Option::<Scalar>::from(Scalar::from_canonical_bytes(*s)) else { return false };
    let hash = Sha512::new().chain_update(r).chain_update(key.as_bytes()).chain_update(message);
    let computed = EdwardsPoint::mul_base(&s) + table.mul_base(&Scalar::from_hash(hash));
    computed.compress().as_bytes() == r && !computed.is_small_order() && !key.is_weak()
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
