//! Signing keys in Nix's format, and the public keys that signatures are checked against.
//!
//! A secret key file holds `<name>:<base64 of seed ‖ public key>`, a public key is `<name>:<base64 of 32 bytes>`;
//! both ed25519. Source: Nix's `libstore/crypto.cc`.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use nix_narinfo::{NixSignature, TrustedPublicKey};

use crate::base::error::{Area, Error, Result};
use crate::config::exposure;
use crate::format::client_values::{key_fault, label};

/// A named signing key. Its `Debug` shows the name alone.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.name)
    }
}

impl SecretKey {
    /// A fresh key. By custom the name is `<domain of the cache>-<number>`.
    pub fn generate(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::generate(&mut rand_core::OsRng) })
    }

    /// Reads the contents of a key file; the error never repeats them.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, encoded) =
            text.trim_end().split_once(':').ok_or("it has no colon between name and key")?;
        check_name(name).map_err(|_| "its name is empty or holds white space or a colon")?;
        let bytes = BASE64.decode(encoded).map_err(|_| "what stands behind the colon is not base64")?;
        let bytes: [u8; 64] = bytes.try_into().map_err(|bytes: Vec<u8>| match bytes.len() {
            32 => "it is a public key; the secret one is needed",
            _ => "its key has not 64 bytes",
        })?;
        let key = SigningKey::from_keypair_bytes(&bytes)
            .map_err(|_| "its secret and public halves do not belong together")?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Reads a key file. The second value warns of a mode that lets others read it.
    pub fn read(path: &Path) -> Result<(Self, Option<String>)> {
        let failed = |cause: String| {
            Error::permanent(Area::Config, format!("cannot use the signing key `{}`", path.display()))
                .because(cause)
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            failed(error.to_string())
                .hint("make one with `larder key generate NAME`, or correct `signing-key-files`")
        })?;
        let key = Self::parse(&text).map_err(|reason| {
            failed(reason.to_owned()).hint("a key file holds one line, `name:base64`, as `larder key generate` and `nix-store --generate-binary-cache-key` write it")
        })?;
        Ok((key, exposure("the signing key", path)))
    }

    /// Writes the key file, mode 0600; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |error: std::io::Error| {
            let failed = Error::permanent(Area::General, format!("cannot write `{}`", path.display()));
            match error.kind() {
                std::io::ErrorKind::AlreadyExists => failed.because("there is a file of that name").hint(
                    "a key that signed something should not be lost; choose another name or `--output`",
                ),
                _ => failed.because(error),
            }
        };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.write_all(self.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn to_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.to_keypair_bytes()))
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn public(&self) -> TrustedPublicKey {
        TrustedPublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// The public half as clients want it in `trusted-public-keys`.
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
        .because("a name is not empty and has neither white space nor a colon")
        .hint("by custom it is the cache's domain and a number: `cache.example.org-1`"))
}

/// Reads public keys; the error names the first that is malformed, and does not repeat it: it may be a secret key.
pub fn public_keys<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<TrustedPublicKey>> {
    let parse = |text: &str| {
        let wrong = |cause: String| {
            Error::permanent(Area::Config, format!("`{}…` is no public key", label(text)))
                .because(cause)
                .hint("a public key is `name:base64` with 32 bytes behind the colon")
        };
        key_fault(text).map_err(|fault| wrong(format!("it {fault}")))?;
        TrustedPublicKey::parse(text).map_err(|error| wrong(error.to_string()))
    };
    texts.into_iter().map(parse).collect()
}

/// Whether one of `signatures` (as text; malformed ones count for nothing) is by one of `keys` on `fingerprint`.
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
    fn a_key_survives_its_file_and_its_signature_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let key = SecretKey::generate("cache.example-1").unwrap();
        key.write(&path).unwrap();
        assert!(key.write(&path).unwrap_err().to_string().contains("there is a file"));
        let (read, warning) = SecretKey::read(&path).unwrap();
        assert!(warning.is_none());
        let signature = read.sign("1;x").to_nix_string();
        let keys = public_keys([key.public_text().as_str()]).unwrap();
        assert!(verified("1;x", std::slice::from_ref(&signature), &keys));
        assert!(!verified("1;y", &[signature, "rubbish".into()], &keys));
    }

    #[test]
    fn nix_keys_are_read() {
        // Made by `nix-store --generate-binary-cache-key test-1`.
        let seed = [7_u8; 32];
        let pair = SigningKey::from_bytes(&seed).to_keypair_bytes();
        let text = format!("test-1:{}", BASE64.encode(pair));
        assert_eq!(SecretKey::parse(&text).unwrap().to_text(), text);
        assert_eq!(SecretKey::parse(&format!("{text}\n")).unwrap().name(), "test-1");
    }

    #[test]
    fn bad_keys_are_refused_without_being_shown() {
        let public = SecretKey::generate("k-1").unwrap().public_text();
        for (text, expected) in [
            ("", "no colon"),
            ("nocolon", "no colon"),
            (":AAAA", "name is empty"),
            ("k:!!!", "not base64"),
            ("k:AAAA", "not 64 bytes"),
            (public.as_str(), "public key"),
        ] {
            let reason = SecretKey::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
        assert!(!format!("{:?}", SecretKey::generate("k-1").unwrap()).contains("=="));
        assert!(SecretKey::generate("a b").is_err());
    }

    #[test]
    fn a_world_readable_key_is_warned_of() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        SecretKey::generate("k-1").unwrap().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(SecretKey::read(&path).unwrap().1.unwrap().contains("chmod 600"));
    }
}
