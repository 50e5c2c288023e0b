//! Secret signing keys in Nix's format, and the verification of signatures. The algorithm is ed25519.
//!
//! A secret key has the form `<name>:<base64 of seed ‖ public key>`. The source of the format is Nix's
//! `libstore/crypto.cc`.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use nix_narinfo::{NixSignature, TrustedPublicKey};
use zeroize::Zeroizing;

use crate::base::error::{Area, Error, Result};

/// Signs with a key that larder does not have: in a TPM, a vault, or on another machine.
pub trait OutsideSigner: fmt::Debug + Send + Sync {
    /// The signature of a fingerprint, in the form `<name>:<base64>`. May take long.
    ///
    /// # Errors
    /// There is no signature.
    fn sign(&self, fingerprint: &str) -> Result<String>;
}

/// A signing key with its name. `Debug` shows only the name. A secret is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    public: VerifyingKey,
    secret: Secret,
}

#[derive(Clone)]
enum Secret {
    /// A box, so that a key that is moved leaves no copy behind.
    Own(Box<SigningKey>),
    /// Somebody else signs.
    Outside(Arc<dyn OutsideSigner>),
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
        Ok(Self::own(name, SigningKey::generate(&mut rand_core::OsRng)))
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
        Ok(Self::own(name, key))
    }

    fn own(name: &str, key: SigningKey) -> Self {
        Self { name: name.to_owned(), public: key.verifying_key(), secret: Secret::Own(Box::new(key)) }
    }

    /// A key of which larder has only the public half.
    pub fn outside(public: TrustedPublicKey, signer: Arc<dyn OutsideSigner>) -> Self {
        Self { name: public.name, public: public.key, secret: Secret::Outside(signer) }
    }

    /// The contents of the key file; `None` if larder does not have the secret half. They are wiped from memory when they are
    /// dropped.
    pub(crate) fn to_text(&self) -> Option<Zeroizing<String>> {
        let Secret::Own(key) = &self.secret else { return None };
        let pair = Zeroizing::new(key.to_keypair_bytes());
        let encoded = Zeroizing::new(BASE64.encode(*pair));
        // One allocation of the right size: a text that grows leaves copies behind.
        Some(Zeroizing::new([&self.name, ":", &encoded].concat()))
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    pub fn public(&self) -> TrustedPublicKey {
        TrustedPublicKey { name: self.name.clone(), key: self.public }
    }

    /// The public key in the form for a client's `trusted-public-keys`.
    pub fn public_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.public.as_bytes()))
    }

    /// Signs a fingerprint. With a key outside, the calling thread waits.
    ///
    /// # Errors
    /// The signer outside gives no signature, or one that does not verify. A key of larder's own never fails.
    pub fn sign(&self, fingerprint: &str) -> Result<NixSignature> {
        match &self.secret {
            Secret::Own(key) => {
                let signature = key.sign(fingerprint.as_bytes());
                Ok(NixSignature { key_name: self.name.clone(), encoded: BASE64.encode(signature.to_bytes()) })
            }
            Secret::Outside(signer) => self.checked(fingerprint, &signer.sign(fingerprint)?),
        }
    }

    /// Checks a signature that somebody else has made: nobody would find out later whose it is.
    fn checked(&self, fingerprint: &str, text: &str) -> Result<NixSignature> {
        let wrong = |why: String| {
            Error::permanent(Area::Config, format!("cannot sign with the key `{}`", self.name))
                .because(why)
                .hint("compare `signing-command` with `signing-command-key`, the public half of the key")
        };
        let signature = NixSignature::parse(text.trim_end())
            .map_err(|_| wrong("what the signing command printed is no signature: `NAME:BASE64`".into()))?;
        if signature.key_name != self.name {
            let other = signature.key_name.escape_debug();
            return Err(wrong(format!("the signing command signed with the key `{other}`")));
        }
        match signature.verify(fingerprint.as_bytes(), &[self.public()]) {
            Ok(true) => Ok(signature),
            _ => Err(wrong("the signature of the signing command does not verify".into())),
        }
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

/// The bytes of a signature; `None` if its key has no name, or if it is not base64 of 64 bytes.
pub fn signature_bytes(signature: &NixSignature) -> Option<[u8; 64]> {
    // Base64 of 66 bytes is as long as that of 64.
    let mut bytes = [0; 66];
    if signature.key_name.is_empty() {
        return None;
    }
    match BASE64.decode_slice(&signature.encoded, &mut bytes) {
        Ok(64) => bytes.first_chunk().copied(),
        _ => None,
    }
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
        assert_eq!(*SecretKey::parse(&text).unwrap().to_text().unwrap(), text);
        assert_eq!(SecretKey::parse(&format!("{text}\n")).unwrap().name(), "test-1");
    }

    #[test]
    fn only_64_bytes_are_a_signature() {
        let signature =
            |name: &str, bytes: &[u8]| NixSignature { key_name: name.into(), encoded: BASE64.encode(bytes) };
        assert_eq!(signature_bytes(&signature("k-1", &[7; 64])), Some([7; 64]));
        for (name, length) in
            [("", 64), ("k-1", 0), ("k-1", 63), ("k-1", 65), ("k-1", 66), ("k-1", 67), ("k-1", 6400)]
        {
            assert_eq!(signature_bytes(&signature(name, &vec![7; length])), None, "{length}");
        }
        let garbled = NixSignature { key_name: "k-1".into(), encoded: "!".repeat(88) };
        assert_eq!(signature_bytes(&garbled), None);
    }

    #[test]
    fn keys_and_their_texts_are_wiped_when_they_are_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let key = SecretKey::generate("k-1").unwrap();
        let Secret::Own(own) = &key.secret else { panic!() };
        is_wiped::<SigningKey>(own);
        is_wiped(&key.to_text().unwrap());
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
