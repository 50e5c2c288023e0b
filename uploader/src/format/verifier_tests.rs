use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use ed25519_dalek::Signature;
use proptest::prelude::*;

use super::*;
use crate::format::signature::SecretKey;

/// The order of the base point, in little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// A signature with chosen numbers: whoever has a secret key can make it. The points of small order with these numbers are
/// added to the key and to `R`.
struct Forged {
    key: VerifyingKey,
    message: Vec<u8>,
    signature: [u8; 64],
}

fn forge(secret: u64, nonce: u64, torsion: (usize, usize), message: &[u8]) -> Forged {
    let (secret, nonce) = (Scalar::from(secret), Scalar::from(nonce));
    let public = ED25519_BASEPOINT_POINT * secret + EIGHT_TORSION[torsion.0];
    let r = (ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[torsion.1]).compress();
    let key = VerifyingKey::from_bytes(public.compress().as_bytes()).unwrap();
    let hash = Sha512::new().chain_update(r.as_bytes()).chain_update(key.as_bytes()).chain_update(message);
    let s = nonce + Scalar::from_hash(hash) * secret;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(r.as_bytes());
    signature[32..].copy_from_slice(s.as_bytes());
    Forged { key, message: message.to_vec(), signature }
}

impl Forged {
    /// Whether the signature is valid, as both verifications agree.
    fn is_valid(&self) -> bool {
        let strict = self.key.verify_strict(&self.message, &Signature::from_bytes(&self.signature)).is_ok();
        let table = table_of(&self.key);
        assert_eq!(verifies_by(&table, &self.key, &self.message, &self.signature), strict);
        strict
    }

    fn with(&self, change: impl FnOnce(&mut [u8; 64])) -> Self {
        let mut signature = self.signature;
        change(&mut signature);
        Self { key: self.key, message: self.message.clone(), signature }
    }
}

/// Adds the order to `s`: the same number for the equation, but not the canonical one.
fn add_order(signature: &mut [u8; 64]) {
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
}

proptest! {
    #[test]
    fn a_table_accepts_what_a_strict_verification_accepts(
        secret in 0..4_u64,
        nonce in 0..4_u64,
        torsion in (0..8_usize, 0..8_usize),
        message in proptest::collection::vec(any::<u8>(), 0..4),
        flipped in 0..512_usize,
    ) {
        let forged = forge(secret, nonce, torsion, &message);
        let valid = forged.is_valid();
        let is_honest = torsion == (0, 0) && secret != 0 && nonce != 0;
        prop_assert!(valid || !is_honest);
        prop_assert!(!valid || nonce != 0 && secret != 0);
        prop_assert!(!forged.with(|signature| signature[flipped / 8] ^= 1 << (flipped % 8)).is_valid());
        prop_assert!(!forged.with(add_order).is_valid());
    }

    #[test]
    fn any_bytes_are_judged_alike(signature in any::<[u8; 32]>(), other in any::<[u8; 32]>(), small in 0..8_usize) {
        let honest = forge(7, 9, (0, 0), b"m");
        let bytes: Vec<u8> = signature.into_iter().chain(other).collect();
        let any = honest.with(|signature| signature.copy_from_slice(&bytes));
        prop_assert!(!any.is_valid());
        let small = EIGHT_TORSION[small].compress();
        prop_assert!(!honest.with(|signature| signature[..32].copy_from_slice(small.as_bytes())).is_valid());
    }
}

#[test]
fn some_signatures_with_points_of_small_order_are_valid() {
    // The property above would hold for a verification that refuses them all.
    let valid = |torsion| {
        (0..64_u64).filter(|message| forge(3, 5, torsion, &message.to_le_bytes()).is_valid()).count()
    };
    assert!(valid((1, 0)) > 0 && valid((1, 1)) > 0 && valid((0, 1)) == 0);
}

#[test]
fn encodings_of_small_order_that_are_not_canonical_are_refused() {
    // With a weak key, any message has a valid signature for a verification that is not strict.
    let weak = [
        *EIGHT_TORSION[0].compress().as_bytes(),
        *EIGHT_TORSION[1].compress().as_bytes(),
        // p + 1: another encoding of the neutral element.
        std::array::from_fn(|place| match place {
            0 => 0xee,
            31 => 0x7f,
            _ => 0xff,
        }),
    ];
    for key in &weak {
        let key = VerifyingKey::from_bytes(key).unwrap();
        for r in &weak {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r);
            for message in 0..16_u8 {
                assert!(!Forged { key, message: vec![message], signature }.is_valid());
            }
        }
    }
}

#[test]
fn each_key_verifies_its_own_signatures_early_and_late() {
    let [one, other, namesake] = ["a-1", "b-1", "a-1"].map(|name| SecretKey::generate(name).unwrap());
    let stranger = SecretKey::generate("c-1").unwrap();
    let trusted = vec![one.public(), other.public(), namesake.public()];
    let verifier = Verifier::new(trusted.clone());
    for round in 0..2 * WORTH {
        let message = format!("message {round}");
        for (key, is_trusted) in [(&one, true), (&other, true), (&namesake, true), (&stranger, false)] {
            let signature = key.sign(&message).unwrap();
            assert_eq!(verifier.verifies(message.as_bytes(), &signature), is_trusted);
            assert_eq!(trusted.verifies(message.as_bytes(), &signature), is_trusted);
            assert!(!verifier.verifies(b"another message", &signature));
            let renamed = NixSignature { key_name: "b-1".into(), ..signature };
            assert_eq!(verifier.verifies(message.as_bytes(), &renamed), key.name() == "b-1");
        }
    }
    assert!(verifier.keys.iter().all(|key| key.table.get().is_some()));
    for encoded in [String::new(), "A".repeat(88), BASE64.encode([1; 65])] {
        assert!(!verifier.verifies(b"", &NixSignature { key_name: "a-1".into(), encoded }));
    }
}
