//! The paths, below the URL of a cache, of the files that Nix and its tools read, and what these files have to be.

use nix_derivation::store_path::StoreDir;
use nix_narinfo::NarInfo;
use percent_encoding::percent_decode_str;

use super::cache_info::CacheInfo;
use super::object_keys::{CACHE_INFO, HASH_PART};

/// The longest path in bytes. That of a realisation with the longest names is shorter.
const MAX_PATH: usize = 1024;
/// The longest part between two slashes in bytes. File systems have the same limit.
const MAX_PART: usize = 255;
/// The most parts of a path.
const MAX_PARTS: usize = 4;
/// The folders of a cache that Nix and its tools read.
const FOLDERS: [&str; 5] = ["nar", "log", "debuginfo", "realisations", "build-trace-v2"];
/// Characters of parts besides letters and digits: those of the names of store paths, and those of realisations.
const PUNCTUATION: &str = "+-._?=!:";
const NARINFO: &str = ".narinfo";

/// Whether a path names a file that a cache may have. The path begins without a slash, and has no query.
pub fn is_cache_path(path: &str) -> bool {
    if path.len() > MAX_PATH || path.contains('?') {
        return false;
    }
    let parts: Vec<_> = path.split('/').collect();
    match parts[..] {
        [file] => {
            file == CACHE_INFO || [NARINFO, ".ls"].iter().any(|suffix| hash_before(file, suffix).is_some())
        }
        [folder, ref below @ ..] => {
            FOLDERS.contains(&folder) && parts.len() <= MAX_PARTS && below.iter().all(|part| is_part(part))
        }
        [] => false,
    }
}

/// Whether Nix reads the file as a whole before it uses any of it, and fails if the file is malformed.
pub fn is_small(path: &str) -> bool {
    path == CACHE_INFO
        || path.ends_with(NARINFO)
        || ["realisations/", "build-trace-v2/"].iter().any(|folder| path.starts_with(folder))
}

/// Why Nix would fail to read the contents of a [small](is_small) file; `None` if Nix can read them.
pub fn fault(path: &str, contents: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(contents) else { return Some("it is no text".into()) };
    if path == CACHE_INFO {
        return CacheInfo::parse(text).err();
    }
    match path.strip_suffix(NARINFO) {
        Some(hash) => narinfo_fault(hash, text),
        None => serde_json::from_str::<serde::de::IgnoredAny>(text).err().map(|error| error.to_string()),
    }
}

fn narinfo_fault(hash: &str, text: &str) -> Option<String> {
    if !text.ends_with('\n') || text.contains('\r') {
        return Some("its lines do not end as Nix needs it".into());
    }
    // The store directory of the clients is not known here.
    let path = text.lines().find_map(|line| line.strip_prefix("StorePath: ")).unwrap_or_default();
    let (directory, name) = path.rsplit_once('/').unwrap_or_default();
    let Ok(directory) = StoreDir::new(directory) else { return Some("it has no store path".into()) };
    if !name.strip_prefix(hash).is_some_and(|rest| rest.starts_with('-')) {
        return Some("it is the narinfo of another path".into());
    }
    NarInfo::parse_in(&directory, text.as_bytes()).err().map(|error| error.to_string())
}

/// The hash part before a suffix of a file's name.
fn hash_before<'a>(file: &'a str, suffix: &str) -> Option<&'a str> {
    let is_digit =
        |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_lowercase() && !b"eotu".contains(&byte));
    file.strip_suffix(suffix).filter(|hash| hash.len() == HASH_PART && hash.bytes().all(is_digit))
}

/// Whether a part of a path, which may be percent-encoded, is plain and leads nowhere else.
fn is_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || PUNCTUATION.as_bytes().contains(&byte);
    let decoded: Vec<u8> = percent_decode_str(part).collect();
    !matches!(&decoded[..], b"" | b"." | b"..") && part.len() <= MAX_PART && decoded.into_iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186";

    #[test]
    fn files_that_nix_and_its_tools_read_are_paths_of_a_cache() {
        for path in [
            "nix-cache-info".to_owned(),
            format!("{HASH}.narinfo"),
            format!("{HASH}.ls"),
            format!("nar/{HASH}.nar.zst"),
            format!("nar/ab/{HASH}.nar.xz"),
            format!("log/{HASH}-a+b-1.0.drv"),
            format!("log/{HASH}-what%3F.drv"),
            "debuginfo/06faf5ac6b0d2c2b9d9bb5bd7b8f3bd3d8a0ae6a.debug".to_owned(),
            "realisations/sha256:0f5ad1e1a1cd3d2a0bdb2a19f4d3bb2ee2ac8ef2!out.doi".to_owned(),
            "realisations/sha256%3A0f5ad1e1a1cd3d2a0bdb2a19f4d3bb2ee2ac8ef2%21out.doi".to_owned(),
            format!("build-trace-v2/{HASH}-a.drv/out.doi"),
        ] {
            assert!(is_cache_path(&path), "{path}");
        }
    }

    #[test]
    fn other_paths_are_no_paths_of_a_cache() {
        for path in [
            String::new(),
            "index.html".into(),
            "larder/format.json".into(),
            "x.narinfo".into(),
            format!("{}.narinfo", HASH.to_uppercase()),
            format!("a/{HASH}.narinfo"),
            "nar".into(),
            "nar/".into(),
            "nar//x".into(),
            "nar/../x".into(),
            "nar/%2e%2E/x".into(),
            "nar/a%2fb".into(),
            "nar/a%00".into(),
            "nar/a%1bb".into(),
            "nar/a%zz".into(),
            "nar/x.nar?list-type=2".into(),
            "nar/a/b/c/d".into(),
            format!("nar/{}", "x".repeat(256)),
            format!("nar/{0}/{0}/{0}", "%41".repeat(85) + "%41%41"),
        ] {
            assert!(!is_cache_path(&path), "{path}");
        }
    }

    #[test]
    fn contents_on_which_nix_fails_are_found() {
        let narinfo = format!(
            "StorePath: /nix/store/{HASH}-a\nURL: nar/a.nar\nCompression: none\nNarHash: sha256:{}\nNarSize: 8\nReferences: \n",
            "0".repeat(52)
        );
        let path = format!("{HASH}.narinfo");
        assert_eq!(fault(&path, narinfo.as_bytes()), None);
        assert_eq!(fault(&path, narinfo.replace("/nix/", "/else/where/").as_bytes()), None);
        for wrong in [
            "garbage",
            "",
            narinfo.trim_end(),
            &narinfo.replace('\n', "\r\n"),
            &narinfo.replace(HASH, "1c5b8vw40dy178xlpddw65q9gf1h2186"),
            &narinfo.replace("NarSize: 8", "NarSize: x"),
        ] {
            assert!(fault(&path, wrong.as_bytes()).is_some(), "{wrong}");
        }
        assert!(fault(&path, b"\xff").is_some());
        assert!(
            fault(CACHE_INFO, b"Priority: high\n").is_some() && fault(CACHE_INFO, b"Priority: 3\n").is_none()
        );
        assert!(fault("realisations/x", b"<html>").is_some() && fault("realisations/x", b"{}").is_none());
        assert!(["nix-cache-info", &*path, "build-trace-v2/a/out.doi"].into_iter().all(is_small));
        assert!(!is_small("nar/x.nar") && !is_small("log/x.drv"));
    }
}
