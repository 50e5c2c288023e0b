//! The hash that identifies the outputs of a derivation to Nix up to 2.34: the hash of the derivation "modulo" its
//! fixed-output inputs. Two derivations that differ only in how a fixed output is fetched have the same hash.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::hex::hex;
use nix_derivation::{Derivation, InputDerivation, InputDerivationHash, Output, StorePath};
use sha2::{Digest, Sha256};

/// The hash in the place of an impure derivation: what such a derivation builds is never the same.
const IMPURE: &[u8] = b"impure";

/// Why a derivation has no such hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unhashable {
    /// An input of the derivation is an output of a derivation that a build makes.
    #[error("it needs a derivation that only a build makes")]
    Dynamic,
    /// The hash of this input is not known.
    #[error("the hash of its input `{0}` is not known")]
    Input(String),
    /// The derivation contradicts itself.
    #[error("{0}")]
    Malformed(String),
}

/// For which purpose a derivation is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is an input of another derivation.
    Input,
    /// Its own outputs are identified. What the derivation says of their paths does not count.
    Outputs,
}

/// The hash of a derivation. `inputs` has the hash of each of its input derivations, for [`Purpose::Input`].
///
/// # Errors
/// When the derivation has no such hash.
pub fn hash(
    derivation: &Derivation,
    purpose: Purpose,
    inputs: &BTreeMap<StorePath, [u8; 32]>,
) -> Result<[u8; 32], Unhashable> {
    let malformed = |error: nix_derivation::Error| Unhashable::Malformed(error.to_string());
    if derivation.outputs().values().any(|output| matches!(output, Output::Fixed { .. })) {
        let fixed = derivation.hash_input_derivation_modulo(|_| InputDerivationHash::Deferred);
        return match fixed.map_err(malformed)?.fixed_output_hash() {
            Some(hash) => Ok(hash.into_bytes()),
            None => Err(Unhashable::Malformed("fixed outputs stand beside others".into())),
        };
    }
    if derivation.outputs().values().any(|output| matches!(output, Output::Impure { .. })) {
        return Ok(Sha256::digest(IMPURE).into());
    }
    let inputs = by_hash(derivation.input_derivations(), inputs)?;
    let text = text(derivation, purpose, &inputs).map_err(malformed)?;
    Ok(Sha256::digest(text).into())
}

/// The outputs that a derivation needs, by the hash of the derivation that makes them, in hexadecimal digits.
fn by_hash<'d>(
    wanted: &'d BTreeMap<StorePath, InputDerivation>,
    known: &BTreeMap<StorePath, [u8; 32]>,
) -> Result<BTreeMap<String, BTreeSet<&'d str>>, Unhashable> {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (path, input) in wanted {
        if input.is_dynamic() {
            return Err(Unhashable::Dynamic);
        }
        let hash = known.get(path).ok_or_else(|| Unhashable::Input(path.to_basename()))?;
        let outputs = input.outputs().iter().map(String::as_str);
        found.entry(hex(hash)).or_default().extend(outputs);
    }
    Ok(found)
}

/// The derivation in the ATerm format, with hashes in the place of its inputs.
fn text(
    derivation: &Derivation,
    purpose: Purpose,
    inputs: &BTreeMap<String, BTreeSet<&str>>,
) -> Result<Vec<u8>, nix_derivation::Error> {
    let store_dir = derivation.store_dir();
    let is_hidden = |name: &str| purpose == Purpose::Outputs && derivation.outputs().contains_key(name);
    let outputs = derivation.outputs().iter().map(|(name, output)| {
        let path = output.path_in(store_dir, derivation.name(), name)?;
        let path = path.filter(|_| purpose == Purpose::Input).map(|path| store_dir.render_path(&path));
        let how = match output {
            Output::Floating { method, hash_algorithm } => format!("{}{hash_algorithm}", prefix(*method)),
            _ => String::new(),
        };
        let path = path.unwrap_or_default();
        Ok([b"(", &*quoted(name), b",", &quoted(path), b",", &quoted(how), b",", &quoted(""), b")"].concat())
    });
    let outputs: Vec<_> = outputs.collect::<Result<_, nix_derivation::Error>>()?;
    let input = |(hash, names): (&String, &BTreeSet<&str>)| {
        [b"(", &*quoted(hash), b",", &list(names.iter().map(quoted)), b")"].concat()
    };
    let environment = derivation.environment().iter().map(|(name, value)| {
        let value: &[u8] = if is_hidden(name) { b"" } else { value };
        [b"(", &*quoted(name), b",", &quoted(value), b")"].concat()
    });
    let sources = derivation.input_sources().iter().map(|path| quoted(store_dir.render_path(path)));
    let fields = [
        list(outputs),
        list(inputs.iter().map(input)),
        list(sources),
        quoted(derivation.system()),
        quoted(derivation.builder()),
        list(derivation.arguments().iter().map(quoted)),
        list(environment),
    ];
    Ok([b"Derive(", &*fields.join(&b','), b")"].concat())
}

/// What stands before the name of a hash algorithm, and tells what is hashed.
fn prefix(method: nix_derivation::ContentAddressMethod) -> &'static str {
    use nix_derivation::ContentAddressMethod::{Flat, Git, Nar, Text};
    match method {
        Flat => "",
        Nar => "r:",
        Text => "text:",
        Git => "git:",
    }
}

fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<_> = items.into_iter().collect();
    [b"[", &*items.join(&b','), b"]"].concat()
}

fn quoted(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in text.as_ref() {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'\n' => quoted.extend(b"\\n"),
            b'\r' => quoted.extend(b"\\r"),
            b'\t' => quoted.extend(b"\\t"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use nix_derivation::StoreDir;

    use super::*;

    // Derivations that Nix 2.26.3 has written, and the hashes by which `nix realisation info` names their outputs.
    const BASE: &str = r#"Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",["-ec","echo base > $out; : TAG"],[("PATH","/usr/bin:/bin"),("builder","/bin/sh"),("name","base"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("outputHashAlgo","sha256"),("outputHashMode","recursive"),("system","x86_64-linux")])"#;
    const MID: &str = r#"Derive([("out","","r:sha256","")],[("/nix/store/5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv",["out"])],[],"x86_64-linux","/bin/sh",["-ec","echo mid > $out; : /0p1na4zppbxxa35acav5h8dz4mpw40rwcqkbni73kli558q4nz8w"],[("PATH","/usr/bin:/bin"),("builder","/bin/sh"),("name","mid"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("outputHashAlgo","sha256"),("outputHashMode","recursive"),("system","x86_64-linux")])"#;
    const TOP: &str = r#"Derive([("out","","r:sha256","")],[("/nix/store/p8p0lp81p862i2qrns0yz16ingnjqgwl-mid.drv",["out"])],[],"x86_64-linux","/bin/sh",["-ec","echo /01pwfkjcvc9si5gabdz107in1rfscbni8ds5hhc21kbnbxjx9zm0 top > $out"],[("PATH","/usr/bin:/bin"),("builder","/bin/sh"),("name","top"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("outputHashAlgo","sha256"),("outputHashMode","recursive"),("system","x86_64-linux")])"#;

    fn parsed(text: &str, name: &str) -> Derivation {
        Derivation::from_aterm_bytes_in(text.as_bytes(), name, StoreDir::default()).unwrap()
    }

    fn path(base: &str) -> StorePath {
        StorePath::from_basename(base.as_bytes()).unwrap()
    }

    #[test]
    fn the_hashes_are_those_of_nix() {
        let (base, mid, top) = (parsed(BASE, "base"), parsed(MID, "mid"), parsed(TOP, "top"));
        let mut inputs = BTreeMap::new();
        let outputs = |of: &Derivation, inputs: &_| hex(&hash(of, Purpose::Outputs, inputs).unwrap());
        assert_eq!(
            outputs(&base, &inputs),
            "ce7832bbca86e1450dc6e6edd65ec8e7faa70f0233d6fccc7168c8f5ee4db067"
        );
        assert!(matches!(hash(&mid, Purpose::Outputs, &inputs), Err(Unhashable::Input(_))));
        let of_base = hash(&base, Purpose::Input, &inputs).unwrap();
        inputs.insert(path("5g0qjl46yj5nb3x7qgyjkcmf55qfb6ry-base.drv"), of_base);
        assert_eq!(
            outputs(&mid, &inputs),
            "3b5a729ed5614acb52fc029a99050da678967f83659ce373a0990ae5be262000"
        );
        let of_mid = hash(&mid, Purpose::Input, &inputs).unwrap();
        inputs.insert(path("p8p0lp81p862i2qrns0yz16ingnjqgwl-mid.drv"), of_mid);
        assert_eq!(
            outputs(&top, &inputs),
            "5e351d9eba6a91d36a117b5d90aaf80f001cfd9d19d4932c76c37e5513949b71"
        );
    }

    #[test]
    fn the_text_is_that_of_nix_apart_from_what_is_replaced() {
        let text = String::from_utf8(text(&parsed(BASE, "base"), Purpose::Input, &BTreeMap::new()).unwrap());
        assert_eq!(text.unwrap(), BASE);
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(quoted("a\"b\\c\nd\re\tf"), b"\"a\\\"b\\\\c\\nd\\re\\tf\"");
    }
}
