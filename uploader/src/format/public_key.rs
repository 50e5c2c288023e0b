//! Public keys of caches in Nix's format, `<name>:<base64 of 32 bytes>`.
//!
//! `nix/lib.nix` checks public keys by the same rules. `nix/tests/keys.json` holds test cases for both.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use nix_narinfo::TrustedPublicKey;

use crate::base::error::{Area, Error, Result};

/// What is wrong with a list of public keys, one message for each fault.
///
/// One malformed key makes Nix fail at every operation that checks a signature; of two keys of one name it uses the
/// first. A text that may be a secret key is not repeated.
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

/// A key's name, or else its beginning: enough to find it by.
pub(crate) fn label(key: &str) -> String {
    match key.split_once(':') {
        Some((name, _)) if !name.is_empty() => format!("{name}:"),
        _ => key.chars().take(8).collect(),
    }
}

/// Why a text is no public key.
pub(crate) fn key_fault(key: &str) -> Result<(), &'static str> {
    let (name, encoded) = key.split_once(':').ok_or("has no colon between name and key")?;
    if name.is_empty() {
        return Err("has no name before the colon");
    }
    if name.contains(char::is_whitespace) {
        return Err("has white space in its name");
    }
    let digits = encoded.trim_end_matches('=');
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')) {
        return Err("is not base64 behind the colon");
    }
    match encoded.len() {
        44 => {}
        88 => {
            return Err(
                "is a secret key, which belongs into a file that nobody else reads: give its public half (`larder key public FILE`), and replace the key if it has been published by this",
            );
        }
        _ => return Err("has not 32 bytes behind the colon (44 characters of base64)"),
    }
    match BASE64.decode(encoded) {
        Ok(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err("is not base64 of 32 bytes behind the colon"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn table(text: &str) -> (Vec<Value>, Vec<Value>) {
        let table: Value = serde_json::from_str(text).unwrap();
        let list = |name: &str| table[name].as_array().unwrap().clone();
        (list("good"), list("bad"))
    }

    #[test]
    fn keys_are_judged_as_the_table_says() {
        let (good, bad) = table(include_str!("../../../nix/tests/keys.json"));
        let judge = |keys: &Value| {
            let keys: Vec<_> = keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
            (key_faults(keys.iter().copied()), public_keys(keys))
        };
        for keys in good {
            let (faults, read) = judge(&keys);
            assert!(faults.is_empty() && read.is_ok(), "{keys}: {faults:?}");
        }
        for case in bad {
            let (faults, _) = judge(&case["keys"]);
            assert!(faults.len() == 1 && faults[0].contains(case["says"].as_str().unwrap()), "{faults:?}");
            assert!(!faults[0].contains("AAAAAAAAAA"), "a secret key is shown");
        }
    }
}
