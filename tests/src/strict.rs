//! A strict reader of a binary cache: what a client with one public key accepts, and what it can substitute. It shares no
//! code with larder.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// All objects of a bucket.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// The characters of nix-base32.
const ALPHABET: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// A narinfo, as Nix reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narinfo {
    /// The full store path.
    pub path: String,
    /// `URL`.
    pub url: String,
    /// `Compression`; `bzip2` if it is absent.
    pub compression: String,
    /// `FileSize`.
    pub file_size: Option<u64>,
    /// `NarHash`, as it stands there.
    pub nar_hash: String,
    /// `NarSize`.
    pub nar_size: u64,
    /// `References`: base names.
    pub references: Vec<String>,
    /// `Sig`.
    pub signatures: Vec<String>,
}

impl Narinfo {
    /// Parses a narinfo. Follows Nix's constructor of `NarInfo`: of a repeated `URL`, the last counts, and a second
    /// `References` or `CA` is an error.
    ///
    /// # Errors
    /// Nix would call the narinfo corrupt.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)?;
        let mut info = Self::default();
        let (mut has_ca, mut rest) = (false, text);
        while !rest.is_empty() {
            let (line, next) = rest.split_once('\n').context("a line without an end")?;
            rest = next;
            let (name, value) = line.split_once(':').context("a line without a colon")?;
            let value = value.get(1..).context("nothing after a colon")?;
            match name {
                "StorePath" => info.path = value.into(),
                "URL" => info.url = value.into(),
                "Compression" => info.compression = value.into(),
                "FileSize" => info.file_size = Some(value.parse()?),
                "NarHash" => info.nar_hash = value.into(),
                "NarSize" => info.nar_size = value.parse()?,
                "References" => {
                    ensure!(info.references.is_empty(), "extra References");
                    info.references = value.split_whitespace().map(str::to_owned).collect();
                    info.references.iter().try_for_each(|base| check_base(base))?;
                }
                "Deriver" if value != "unknown-deriver" => check_base(value)?,
                "CA" => {
                    ensure!(!std::mem::replace(&mut has_ca, true), "extra CA");
                    ensure!(value.starts_with("fixed:") || value.starts_with("text:"), "a malformed CA");
                }
                "Sig" => info.signatures.push(value.into()),
                _ => {}
            }
        }
        if info.compression.is_empty() {
            info.compression = "bzip2".into();
        }
        ensure!(
            !info.path.is_empty() && !info.nar_hash.is_empty() && !info.url.is_empty(),
            "a field is missing"
        );
        ensure!(info.nar_size > 0, "no NarSize");
        sha256(&info.nar_hash)?;
        check_base(info.base())?;
        Ok(info)
    }

    /// The base name of the path.
    pub fn base(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The key of the narinfo of a path, from its base name.
pub fn key_of(base: &str) -> String {
    format!("{}.narinfo", base.split('-').next().unwrap_or_default())
}

fn check_base(base: &str) -> Result<()> {
    let (hash, name) = base.split_once('-').with_context(|| format!("`{base}` is no store path"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    ensure!(hash.len() == 32 && hash.bytes().all(|c| ALPHABET.contains(&c)), "`{base}` is no store path");
    ensure!(!name.is_empty() && name.chars().all(plain), "`{base}` is no store path");
    Ok(())
}

/// The bytes of a hash that Nix prints: `sha256:` and nix-base32, or base 16.
fn sha256(text: &str) -> Result<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").context("no SHA-256")?.as_bytes();
    let mut hash = [0_u8; 32];
    match digits.len() {
        52 => {
            for (place, digit) in digits.iter().rev().enumerate() {
                let value = ALPHABET.iter().position(|c| c == digit).context("no nix-base32")? as u16;
                let (byte, shift) = (place * 5 / 8, place * 5 % 8);
                let wide = value << shift;
                hash[byte] |= wide as u8;
                match hash.get_mut(byte + 1) {
                    Some(next) => *next |= (wide >> 8) as u8,
                    None => ensure!(wide >> 8 == 0, "no hash"),
                }
            }
        }
        64 => {
            for (place, byte) in hash.iter_mut().enumerate() {
                *byte =
                    u8::from_str_radix(text.get(7 + 2 * place..9 + 2 * place).context("no base 16")?, 16)?;
            }
        }
        _ => bail!("no SHA-256"),
    }
    Ok(hash)
}

/// A client that trusts one public key.
#[derive(Clone, Debug)]
pub struct Reader {
    store_dir: String,
    name: String,
    key: VerifyingKey,
}

impl Reader {
    /// A client of a store with a key, in the form of `trusted-public-keys`.
    ///
    /// # Errors
    /// The text is no public key.
    pub fn new(store_dir: &str, public: &str) -> Result<Self> {
        let (name, key) = public.split_once(':').context("no public key")?;
        let key = <[u8; 32]>::try_from(BASE64.decode(key)?.as_slice())?;
        Ok(Self { store_dir: store_dir.into(), name: name.into(), key: VerifyingKey::from_bytes(&key)? })
    }

    /// The narinfo under a key, if the client accepts it for the path of this key.
    ///
    /// # Errors
    /// Why the client does not accept it.
    pub fn accepted(&self, key: &str, objects: &Objects) -> Result<Narinfo> {
        let info = Narinfo::parse(objects.get(key).with_context(|| format!("{key} is missing"))?)?;
        ensure!(info.path == format!("{}/{}", self.store_dir, info.base()), "another store");
        ensure!(key_of(info.base()) == key, "a narinfo of another path");
        let references: BTreeSet<_> =
            info.references.iter().map(|base| format!("{}/{base}", self.store_dir)).collect();
        let references = references.into_iter().collect::<Vec<_>>().join(",");
        let fingerprint = format!("1;{};{};{};{references}", info.path, info.nar_hash, info.nar_size);
        let is_ours = |text: &String| {
            let (name, encoded) = text.split_once(':')?;
            let bytes = <[u8; 64]>::try_from(BASE64.decode(encoded).ok()?.as_slice()).ok()?;
            let valid = self.key.verify(fingerprint.as_bytes(), &Signature::from_bytes(&bytes)).is_ok();
            (name == self.name && valid).then_some(())
        };
        ensure!(info.signatures.iter().any(|text| is_ours(text).is_some()), "no signature of the key");
        Ok(info)
    }

    /// The narinfos, by key, because of which the client cannot take the path of `key` with its whole closure. The text
    /// says what is wrong with each.
    pub fn culprits(&self, key: &str, objects: &Objects) -> BTreeMap<String, String> {
        let (mut culprits, mut seen) = (BTreeMap::new(), BTreeSet::new());
        let mut next = vec![key.to_owned()];
        while let Some(key) = next.pop() {
            if !seen.insert(key.clone()) {
                continue;
            }
            match self.accepted(&key, objects).and_then(|info| nar(&info, objects).map(|()| info)) {
                Ok(info) => next.extend(info.references.iter().map(|base| key_of(base))),
                Err(error) => drop(culprits.insert(key, format!("{error:#}"))),
            }
        }
        culprits
    }
}

/// Fetches and checks the NAR of a narinfo.
fn nar(info: &Narinfo, objects: &Objects) -> Result<()> {
    ensure!(!info.url.contains("://"), "the URL leads to another server");
    let object = objects.get(&info.url).with_context(|| format!("{} is missing", info.url))?;
    let mut bytes = Vec::new();
    let most = info.nar_size + 1;
    match info.compression.as_str() {
        "none" => object.take(most).read_to_end(&mut bytes)?,
        "zstd" => zstd::stream::read::Decoder::new(&**object)?.take(most).read_to_end(&mut bytes)?,
        other => bail!("the client does not decompress {other}"),
    };
    ensure!(bytes.len() as u64 == info.nar_size, "{} is a NAR of another size", info.url);
    ensure!(Sha256::digest(&bytes)[..] == sha256(&info.nar_hash)?, "{} is another NAR", info.url);
    Ok(())
}
