//! Secrets that larder is given, and the search for them in its output and files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use walkdir::WalkDir;

/// An access token in the configuration of every store. Nix passes it to the hook in `NIX_CONFIG`.
pub const ACCESS_TOKEN: &str = "example.org=planted-token-3f81c0d2e5a94b67";

/// Secrets, and the files that may have them.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    texts: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Secrets {
    /// Adds a secret, and the file that may have it.
    pub fn add(&self, text: &str, file: &Path) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.files.insert(file.to_owned());
        if text.len() >= 16 {
            known.texts.insert(text.to_owned());
        }
    }

    /// Adds a signing key by its file.
    pub fn add_key(&self, file: &Path) {
        // A test may name a file that does not exist.
        let text = fs::read_to_string(file).unwrap_or_default();
        self.add(text.trim().rsplit(':').next().unwrap_or_default(), file);
    }

    /// Fails the test if `bytes`, which came from `place`, have a secret.
    ///
    /// # Panics
    /// When a secret is found. The message does not show it.
    pub fn search(&self, place: &str, bytes: &[u8]) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = known
            .texts
            .iter()
            .map(String::as_str)
            .chain(ACCESS_TOKEN.split_once('=').map(|(_, token)| token));
        for text in texts {
            let holds = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            let shown: String = text.chars().take(4).collect();
            assert!(!holds, "{place} holds a secret, `{shown}…`");
        }
    }

    /// Searches all files below a directory, except those that may have secrets.
    ///
    /// # Panics
    /// When a secret is found.
    pub fn search_dir(&self, dir: &Path) {
        for entry in WalkDir::new(dir).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
            let own = self.0.lock().unwrap_or_else(PoisonError::into_inner).files.contains(entry.path());
            if let (false, Ok(bytes)) = (own, fs::read(entry.path())) {
                self.search(&entry.path().display().to_string(), &bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "holds a secret, `sesa…`")]
    fn a_secret_in_a_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::default();
        let own = dir.path().join("credentials");
        secrets.add("sesame-open-sesame", &own);
        fs::write(&own, "sesame-open-sesame").unwrap();
        secrets.search_dir(dir.path());
        fs::write(dir.path().join("log"), "x sesame-open-sesame y").unwrap();
        secrets.search_dir(dir.path());
    }
}
