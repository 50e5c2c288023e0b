//! Secret signing keys in Nix's format, and the verification of signatures. The algorithm is ed25519.
//!
//! A secret key has the form `<name>:<base64 of seed ‖ public key>`. The source of the format is Nix's
//! `libstore/crypto.cc`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use nix_narinfo::{NixSignature, TrustedPublicKey};
use zeroize::Zeroizing;

use crate::base::error::{Area, Error, Result};

/// A secret signing key with its name. `Debug` shows only the name. The key is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    /// A box, so that a key that is moved leaves no copy behind.
    key: Box<SigningKey>,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.name)
    }
}

impl SecretKey {
    /// Generates a key. By convention, the name is `<domain of the cache>-<number>`.
    ///
    /// # Errors
    /// The text cannot be the name of a key.
    pub fn generate(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: Box::new(SigningKey::generate(&mut rand_core::OsRng)) })
    }

    /// Parses the contents of a key file. The error never repeats the contents.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, encoded) =
            text.trim_end().split_once(':').ok_or("it has no colon between name and key")?;
        check_name(name).map_err(|_| "its name is empty or holds white space or a colon")?;
        let bytes = BASE64.decode(encoded).map_err(|_| "the text after the colon is not base64")?;
        let bytes = Zeroizing::new(bytes);
        let pair = <&[u8; 64]>::try_from(bytes.as_slice()).map_err(|_| match bytes.len() {
            32 => "it is a public key; larder needs the secret key",
            _ => "its key does not have 64 bytes",
        })?;
        let key = SigningKey::from_keypair_bytes(pair)
            .map_err(|_| "its secret half does not match its public half")?;
        Ok(Self { name: name.to_owned(), key: Box::new(key) })
    }

    /// The contents of the key file. They are secret, and are wiped from memory when they are dropped.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.key.to_keypair_bytes());
        let encoded = Zeroizing::new(BASE64.encode(*pair));
        // One allocation of the right size: a text that grows leaves copies behind.
        Zeroizing::new([&self.name, ":", &encoded].concat())
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    pub fn public(&self) -> TrustedPublicKey {
        TrustedPublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// The public key in the form for a client's `trusted-public-keys`.
    pub fn public_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.verifying_key().as_bytes()))
    }

    /// Signs a fingerprint.
    pub fn sign(&self, fingerprint: &str) -> NixSignature {
        let signature = self.key.sign(fingerprint.as_bytes());
        NixSignature { key_name: self.name.clone(), encoded: BASE64.encode(signature.to_bytes()) }
    }
}

fn check_name(name: &str) -> Result<()> {
    if !name.is_empty() && !name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
        return Ok(());
    }
    Err(Error::permanent(Area::Usage, format!("`{}` cannot name a key", name.escape_debug()))
        .because("a name is not empty and contains neither white space nor a colon")
        .hint("by convention, use the domain of the cache and a number: `cache.example.org-1`"))
}

/// Whether at least one of `signatures` is a valid signature of `fingerprint` by one of `keys`. Malformed signatures
/// are ignored.
pub fn verified(fingerprint: &str, signatures: &[String], keys: &[TrustedPublicKey]) -> bool {
    signatures
        .iter()
        .filter_map(|text| NixSignature::parse(text).ok())
        .any(|signature| signature.verify(fingerprint.as_bytes(), keys).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_keys_are_read() {
        // The form that `nix-store --generate-binary-cache-key test-1` writes.
        let seed = [7_u8; 32];
        let pair = SigningKey::from_bytes(&seed).to_keypair_bytes();
        let text = format!("test-1:{}", BASE64.encode(pair));
        assert_eq!(*SecretKey::parse(&text).unwrap().to_text(), text);
        assert_eq!(SecretKey::parse(&format!("{text}\n")).unwrap().name(), "test-1");
    }

    #[test]
    fn keys_and_their_texts_are_wiped_when_they_are_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let key = SecretKey::generate("k-1").unwrap();
        is_wiped::<SigningKey>(&key.key);
        is_wiped(&key.to_text());
    }

    #[test]
    fn errors_about_malformed_keys_do_not_show_the_key() {
        let public = SecretKey::generate("k-1").unwrap().public_text();
        for (text, expected) in [
            ("", "no colon"),
            ("nocolon", "no colon"),
            (":AAAA", "name is empty"),
            ("k:!!!", "not base64"),
            ("k:AAAA", "not have 64 bytes"),
            (public.as_str(), "public key"),
        ] {
            let reason = SecretKey::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
        assert!(!format!("{:?}", SecretKey::generate("k-1").unwrap()).contains("=="));
        assert!(SecretKey::generate("a b").is_err());
    }
}
