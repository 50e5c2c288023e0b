//! Public keys of caches in Nix's format, `<name>:<base64 of 32 bytes>`.
//!
//! `nix/lib.nix` checks public keys by the same rules. `nix/tests/keys.json` holds test cases for both.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use nix_narinfo::TrustedPublicKey;

use crate::base::error::{Area, Cause, Error, Result};

/// Finds the faults of a list of public keys and describes each fault in a message.
///
/// A malformed key makes Nix fail at every operation that checks a signature. Of two keys with the same name, Nix uses
/// the first. The messages never repeat a whole key, because it may be a secret key.
pub fn key_faults<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let (mut faults, mut values) = (Vec::new(), BTreeMap::<&str, BTreeSet<&str>>::new());
    for key in keys {
        if let Err(fault) = key_fault(key) {
            faults.push(format!("the public key `{}…` {fault}", label(key)));
        }
        let name = key.split_once(':').map_or("", |(name, _)| name);
        values.entry(name).or_default().insert(key);
    }
    let twice = values.iter().filter(|(name, values)| !name.is_empty() && values.len() > 1);
    faults.extend(twice.map(|(name, _)| {
        format!(
            "two different public keys are named `{name}`: Nix uses the first and ignores the other; give a new key a new name"
        )
    }));
    faults
}

/// The name of a key, or the beginning of a key without a name: enough to find the key.
fn label(key: &str) -> String {
    match key.split_once(':') {
        Some((name, _)) if !name.is_empty() => format!("{name}:"),
        _ => key.chars().take(8).collect(),
    }
}

/// Checks that a text is a public key. The error describes the fault.
fn key_fault(key: &str) -> Result<(), &'static str> {
    let (name, encoded) = key.split_once(':').ok_or("has no colon between name and key")?;
    if name.is_empty() {
        return Err("has no name before the colon");
    }
    if name.contains(char::is_whitespace) {
        return Err("has white space in its name");
    }
    let digits = encoded.trim_end_matches('=');
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')) {
        return Err("is not base64 after the colon");
    }
    match encoded.len() {
        44 => {}
        88 => {
            return Err(
                "is a secret key, which belongs into a file that nobody else reads: use its public key (`larder key public FILE`), and replace the key if it has become public",
            );
        }
        _ => return Err("has not 32 bytes after the colon (44 characters of base64)"),
    }
    match BASE64.decode(encoded) {
        Ok(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err("is not base64 of 32 bytes after the colon"),
    }
}

/// Parses public keys.
///
/// # Errors
/// A key is malformed. The error names the first malformed key and does not repeat it, because it may be a secret key.
pub fn public_keys<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<TrustedPublicKey>> {
    let parse = |text: &str| {
        let wrong = |cause: Cause| {
            Error::permanent(Area::Config, format!("`{}…` is not a public key", label(text)))
                .because(cause)
                .hint("a public key is `name:base64` with 32 bytes after the colon")
        };
        key_fault(text).map_err(|fault| wrong(format!("it {fault}").into()))?;
        TrustedPublicKey::parse(text).map_err(|error| wrong(error.into()))
    };
    texts.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::check_table::read;
    use serde_json::Value;

    #[test]
    fn keys_are_checked_as_the_table_says() {
        let (good, bad) = read(include_str!("../../../nix/tests/keys.json"));
        let check = |keys: &Value| {
            let keys: Vec<_> = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
            (key_faults(keys.iter().copied()), public_keys(keys))
        };
        for keys in good {
            let (faults, read) = check(&keys);
            assert!(faults.is_empty() && read.is_ok(), "{keys}: {faults:?}");
        }
        for case in bad {
            let (faults, _) = check(&case["keys"]);
            assert!(faults.len() == 1 && faults[0].contains(case["says"].as_str().unwrap()), "{faults:?}");
            assert!(!faults[0].contains("AAAAAAAAAA"), "the fault shows a secret key");
        }
    }
}
