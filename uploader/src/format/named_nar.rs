//! The NAR that a narinfo in the bucket names: where it should be, and which sizes it can have.

use nix_derivation::hash::NixHash;
use nix_narinfo::NarInfo;

use super::object_keys::{self, Compression};
use super::object_kind::{OWN, ObjectKind};

/// The compressions that Nix reads, with the usual endings of their objects.
const ENDINGS: &[(&str, &str)] = &[
    (PLAIN_LABEL, PLAIN),
    ("zstd", ".nar.zst"),
    ("xz", ".nar.xz"),
    ("bzip2", ".nar.bz2"),
    ("gzip", ".nar.gz"),
    ("br", ".nar.br"),
    ("lz4", ".nar.lz4"),
    ("lzip", ".nar.lzip"),
];
/// The label of a NAR without compression.
const PLAIN_LABEL: &str = "none";
/// The ending of a NAR without compression.
const PLAIN: &str = ".nar";
/// No compression that Nix reads makes a NAR smaller than by this factor.
const MOST_COMPRESSION: u64 = 50_000;

/// The NAR that a narinfo names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNar {
    /// The key of the object.
    pub key: String,
    /// The SHA-256 of the NAR.
    pub nar_hash: [u8; 32],
    /// The compression, if larder can read it.
    pub compression: Option<Compression>,
    /// The word in the narinfo's `Compression` line.
    pub label: &'static str,
    /// The size of the NAR in bytes.
    pub nar_size: u64,
    /// The size of the object in bytes, if the narinfo says it.
    pub file_size: Option<u64>,
    /// The SHA-256 of the object, if the narinfo says it.
    pub file_hash: Option<[u8; 32]>,
}

/// An object that holds a NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectOfNar {
    /// The key in the bucket.
    pub key: String,
    /// The word for its compression in a narinfo.
    pub label: &'static str,
    /// The size of the object in bytes.
    pub file_size: u64,
    /// The SHA-256 of the object.
    pub file_hash: [u8; 32],
}

/// The label of a narinfo, if Nix knows it.
pub fn label_of(label: &str) -> Option<&'static str> {
    ENDINGS.iter().map(|(known, _)| *known).find(|known| *known == label)
}

/// The number of a compression that Nix reads. The numbers may change between versions of larder.
pub fn label_number(label: &str) -> u8 {
    ENDINGS.iter().position(|(known, _)| *known == label).unwrap_or(0) as u8
}

/// The compression with this number.
pub fn label_named(number: u8) -> &'static str {
    ENDINGS.get(usize::from(number)).map_or(PLAIN_LABEL, |(label, _)| label)
}

impl NamedNar {
    /// The NAR with these properties, which were those of a sound narinfo.
    pub fn new(
        key: &str,
        nar_hash: [u8; 32],
        label: &'static str,
        nar_size: u64,
        file_size: Option<u64>,
        file_hash: Option<[u8; 32]>,
    ) -> Self {
        let compression = Compression::ALL.into_iter().find(|compression| compression.name() == label);
        Self { key: key.to_owned(), nar_hash, compression, label, nar_size, file_size, file_hash }
    }

    /// Reads the fields of a narinfo that say where its NAR is.
    ///
    /// # Errors
    /// Why no client can read the NAR, or why another server is to answer for it.
    pub(super) fn of(present: &NarInfo) -> Result<Self, String> {
        let url = present.url();
        let NixHash::Sha256(nar_hash) = *present.nar_hash() else {
            return Err("its `NarHash` is no SHA-256".into());
        };
        if !is_relative(url) {
            return Err(format!("its `URL` `{}` is not the key of a NAR in this bucket", url.escape_debug()));
        }
        let name = present.compression().as_str();
        let Some((label, _)) = ENDINGS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("Nix does not know its compression `{}`", name.escape_debug()));
        };
        // Nix gives some compressions no ending of their own, so that `.nar` alone tells nothing.
        let ending = ENDINGS.iter().find(|(_, ending)| *ending != PLAIN && url.ends_with(ending));
        let larders = object_keys::parse_nar(url);
        if ending.is_some_and(|(other, _)| *other != name)
            || larders.is_some_and(|(_, compression)| compression.name() != name)
        {
            return Err(format!("its compression `{name}` is not that of `{url}`"));
        }
        if larders.is_some_and(|(hash, _)| hash != nar_hash) {
            return Err(format!("`{url}` is the NAR of other contents"));
        }
        // Nix takes 0 for unknown.
        let file_size = present.file_size().filter(|size| *size > 0);
        let file_hash = match present.file_hash() {
            Some(NixHash::Sha256(hash)) => Some(*hash),
            _ => None,
        };
        Ok(Self::new(url, nar_hash, label, present.nar_size(), file_size, file_hash))
    }

    /// Whether an object of `size` bytes can be the NAR.
    pub fn fits(&self, size: u64) -> bool {
        self.file_size.is_none_or(|expected| expected == size)
            && is_credible(self.label == PLAIN_LABEL, self.nar_size, size)
    }

    /// What is wrong with an object of `size` bytes, or with the absence of an object.
    pub fn fault(&self, size: Option<u64>) -> String {
        match (size, self.file_size) {
            (None, _) => format!("its NAR `{}` is not in the bucket", self.key),
            (Some(size), Some(expected)) if size != expected => {
                format!("its NAR `{}` has {size} bytes instead of {expected}", self.key)
            }
            (Some(size), _) => format!("its NAR `{}` cannot have {size} bytes", self.key),
        }
    }
}

/// Whether an object of `size` bytes can be a NAR of `nar_size` bytes in this compression.
pub fn can_be_nar(compression: Compression, nar_size: u64, size: u64) -> bool {
    is_credible(compression == Compression::None, nar_size, size)
}

fn is_credible(is_plain: bool, nar_size: u64, size: u64) -> bool {
    // Incompressible bytes become slightly longer.
    let most = nar_size.saturating_add(nar_size / 64 + 1024);
    if is_plain { size == nar_size } else { size > nar_size / MOST_COMPRESSION && size <= most }
}

/// Whether a `URL` is the key of a NAR in the same bucket, for every client: without a scheme, and without characters
/// that have a meaning in a URL.
fn is_relative(url: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+=".contains(c);
    let segment = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    // A URL that names an object of another kind would make larder treat that object as a NAR.
    let is_nar = matches!(ObjectKind::of(url), ObjectKind::Nar | ObjectKind::Unknown);
    url.len() <= 512 && url.split('/').all(segment) && !url.starts_with(OWN) && is_nar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leads_elsewhere_is_not_relative() {
        for url in ["nar/x.nar.xz", "x.nar", "a/b/c=+._-"] {
            assert!(is_relative(url), "{url}");
        }
        let long = "x".repeat(513);
        for url in [
            "",
            "/nar/x",
            "http://h/nar/x",
            "https:nar/x",
            "file:///etc/x",
            "//h/x",
            "nar//x",
            "../x",
            "nar/../x",
            "nar/./x",
            "nar/x?y",
            "nar/x#y",
            "nar/%2e%2e/x",
            "nar/a b",
            "nar/\u{1b}[2J",
            "larder/format.json",
            "larder/",
            "nix-cache-info",
            "0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo",
            "0c5b8vw40dy178xlpddw65q9gf1h2186.ls",
            "log/x.drv",
            &long,
        ] {
            assert!(!is_relative(url), "{url}");
        }
    }

    #[test]
    fn only_a_possible_size_is_credible() {
        for (compression, nar_size, size, credible) in [
            (Compression::None, 120, 120, true),
            (Compression::None, 120, 119, false),
            (Compression::Zstd, 120, 0, false),
            (Compression::Zstd, 120, 1, true),
            (Compression::Zstd, 120, 1145, true),
            (Compression::Zstd, 120, 1146, false),
            (Compression::Zstd, 1 << 40, 1000, false),
            (Compression::Xz, 1 << 30, 1 << 20, true),
        ] {
            assert_eq!(
                can_be_nar(compression, nar_size, size),
                credible,
                "{compression:?} {nar_size} {size}"
            );
        }
    }
}
