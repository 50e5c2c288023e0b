//! Store paths as validated text.

use std::fmt;

/// The characters of Nix's base32: digits and letters without `e`, `o`, `t` and `u`.
const BASE32: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
const HASH_LEN: usize = 32;
const MAX_NAME_LEN: usize = 211;

/// An absolute, well-formed store path: `<store directory>/<hash part of 32 characters>-<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

/// The error for a text that is not a store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAStorePath {
    text: String,
    reason: &'static str,
}

impl fmt::Display for NotAStorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text can come from the environment. Only its beginning is shown, and without control characters.
        let shown: String = self.text.chars().take(80).flat_map(char::escape_debug).collect();
        write!(f, "`{shown}` is not a store path: {}", self.reason)
    }
}

impl std::error::Error for NotAStorePath {}

impl StorePath {
    /// Checks that `text` is a store path directly below `store_dir`, by the rules of Nix.
    pub fn parse(store_dir: &str, text: &str) -> Result<Self, NotAStorePath> {
        let not = |reason| NotAStorePath { text: text.to_owned(), reason };
        let base = text
            .strip_prefix(store_dir.trim_end_matches('/'))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| not("it is not in the store directory"))?;
        check_base_name(base).map_err(not)?;
        Ok(Self(text.to_owned()))
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without the store directory: `<hash part>-<name>`.
    pub fn base_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The name without the hash part.
    pub fn name(&self) -> &str {
        &self.base_name()[HASH_LEN + 1..]
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_base_name(base: &str) -> Result<(), &'static str> {
    let bytes = base.as_bytes();
    if bytes.len() < HASH_LEN + 2 || bytes[HASH_LEN] != b'-' {
        return Err("its base name does not begin with a hash part of 32 characters and a dash");
    }
    if !bytes[..HASH_LEN].iter().all(|c| BASE32.contains(c)) {
        return Err("its hash part is not in Nix's base32");
    }
    let name = &bytes[HASH_LEN + 1..];
    if name.len() > MAX_NAME_LEN {
        return Err("its name is longer than 211 characters");
    }
    if !name.iter().all(|c| c.is_ascii_alphanumeric() || b"+-._?=".contains(c)) {
        return Err("its name contains a character that Nix does not allow");
    }
    if name == b"." || name == b".." || name.starts_with(b".-") || name.starts_with(b"..-") {
        return Err("its name begins with a component `.` or `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186";

    #[test]
    fn valid_store_paths_are_accepted() {
        for name in ["hello-2.12", "a", ".hidden", "x+y?z=1_2", "foo.drv"] {
            let text = format!("/nix/store/{HASH}-{name}");
            let path = StorePath::parse("/nix/store", &text).unwrap();
            assert_eq!(path.as_str(), text);
            assert_eq!(path.name(), name);
        }
        assert!(StorePath::parse("/gnu/store/", &format!("/gnu/store/{HASH}-x")).is_ok());
    }

    #[test]
    fn invalid_store_paths_are_refused() {
        for text in [
            "",
            "/",
            "/nix/store",
            "/nix/store/",
            "/nix/store/x",
            &format!("/nix/storex/{HASH}-x"),
            &format!("/nix/store/{HASH}"),
            &format!("/nix/store/{HASH}-"),
            &format!("/nix/store/{HASH}-a/b"),
            &format!("/nix/store/{HASH}-a b"),
            &format!("/nix/store/{HASH}-a\n"),
            &format!("/nix/store/{HASH}-.."),
            &format!("/nix/store/{}-x", "e".repeat(32)),
            &format!("/nix/store/{HASH}-{}", "n".repeat(212)),
            &format!("/nix/store/../etc/{HASH}-x"),
        ] {
            assert!(StorePath::parse("/nix/store", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_shows_the_text_shortened_and_without_control_characters() {
        let error = StorePath::parse("/nix/store", &format!("\u{1b}[2J{}", "x".repeat(500))).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 200, "{text}");
    }
}
