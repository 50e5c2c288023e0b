//! The environment variables through which Nix describes a build to its `post-build-hook`.
//!
//! Nix sets `DRV_PATH`, `OUT_PATHS` and `NIX_CONFIG` only if they are absent, so a value can also be inherited from the
//! user. Therefore this module checks all values. `NIX_CONFIG` can hold access tokens: the hook takes the trusted
//! public keys from it, and neither keeps nor prints any other part.

use crate::drv;
use crate::store_path::StorePath;

/// The values of the variables; `None` for a variable that is not set.
#[derive(Default)]
pub struct Environment {
    /// `DRV_PATH`.
    pub drv_path: Option<String>,
    /// `OUT_PATHS`: store paths, separated by spaces.
    pub out_paths: Option<String>,
    /// `NIX_CONFIG`.
    pub nix_config: Option<String>,
}

/// The valid part of the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// The derivation that was built.
    pub deriver: Option<StorePath>,
    /// Its outputs, sorted. The list is empty if only the daemon knows the outputs.
    pub outputs: Vec<StorePath>,
    /// The public keys that Nix trusts, sorted; each has the form `name:base64`.
    pub trusted_keys: Vec<String>,
    /// Why parts of the environment cannot be used, one text for each part.
    pub complaints: Vec<String>,
}

impl Environment {
    /// Reads the environment of the process.
    pub fn read() -> Self {
        let text = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self { drv_path: text("DRV_PATH"), out_paths: text("OUT_PATHS"), nix_config: text("NIX_CONFIG") }
    }

    /// Checks the values: paths must be store paths in `store_dir`. `complaints` names each path that is not.
    ///
    /// `read_drv` returns the text of a derivation. It is called only if `OUT_PATHS` is empty, as with Nix 2.8.0.
    pub fn build(&self, store_dir: &str, read_drv: impl FnOnce(&StorePath) -> Option<String>) -> Build {
        let mut build =
            Build { trusted_keys: trusted_public_keys(self.nix_config.as_deref()), ..Build::default() };
        if let Some(text) = self.drv_path.as_deref().filter(|text| !text.is_empty()) {
            match StorePath::parse(store_dir, text) {
                Ok(path) if path.name().ends_with(".drv") => build.deriver = Some(path),
                Ok(path) => build.complaints.push(format!("DRV_PATH: `{path}` is not a derivation")),
                Err(error) => build.complaints.push(format!("DRV_PATH: {error}")),
            }
        }
        for text in self.out_paths.as_deref().unwrap_or_default().split_ascii_whitespace() {
            match StorePath::parse(store_dir, text) {
                Ok(path) => build.outputs.push(path),
                Err(error) => build.complaints.push(format!("OUT_PATHS: {error}")),
            }
        }
        let no_outputs = self.out_paths.as_deref().unwrap_or_default().trim().is_empty();
        if let (true, Some(deriver)) = (no_outputs, &build.deriver) {
            build.outputs =
                read_drv(deriver).and_then(|text| outputs_of(store_dir, &text)).unwrap_or_default();
        }
        build.outputs.sort();
        build.outputs.dedup();
        build
    }
}

/// The outputs of the derivation `text`; `None` if the path of an output is not known before the build. In that case
/// the agent asks the daemon for all outputs.
fn outputs_of(store_dir: &str, text: &str) -> Option<Vec<StorePath>> {
    drv::outputs(text)?.iter().map(|(_, path)| StorePath::parse(store_dir, path).ok()).collect()
}

/// The public keys in the settings `trusted-public-keys` and `extra-trusted-public-keys`.
fn trusted_public_keys(nix_config: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    for line in nix_config.unwrap_or_default().lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        if !matches!(name.trim(), "trusted-public-keys" | "extra-trusted-public-keys") {
            continue;
        }
        keys.extend(value.split_ascii_whitespace().filter(|key| is_public_key(key)).map(str::to_owned));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Whether `text` has the form of a public key: a name, a colon, and 32 bytes in base64.
fn is_public_key(text: &str) -> bool {
    let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    // 32 bytes have 44 characters. The 64 bytes of a secret key have 88, so a secret key is never copied.
    text.split_once(':').is_some_and(|(name, key)| {
        !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_graphic())
            && key.len() == 44
            && key.bytes().all(base64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/nix/store";
    const OUT: &str = "/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-hello";
    const DRV: &str = "/nix/store/1c5b8vw40dy178xlpddw65q9gf1h2186-hello.drv";

    fn environment(drv: &str, out: &str, config: &str) -> Environment {
        let some = |text: &str| Some(text.to_owned());
        Environment { drv_path: some(drv), out_paths: some(out), nix_config: some(config) }
    }

    #[test]
    fn outputs_are_read_once_each() {
        let build = environment(DRV, &format!("{OUT} {OUT}"), "").build(DIR, |_| panic!("not needed"));
        assert_eq!(build.outputs.len(), 1);
        assert_eq!(build.deriver.unwrap().as_str(), DRV);
        assert!(build.complaints.is_empty());
    }

    #[test]
    fn the_derivation_is_read_if_nix_passes_no_outputs() {
        let text = format!(r#"Derive([("out","{OUT}","","")],[],[],"x","sh",[],[])"#);
        let build = environment(DRV, "", "").build(DIR, |_| Some(text));
        assert_eq!(build.outputs[0].as_str(), OUT);
        let floating = r#"Derive([("out","","r:sha256","")],[],[],"x","sh",[],[])"#;
        let build = environment(DRV, "", "").build(DIR, |_| Some(floating.to_owned()));
        assert!(build.outputs.is_empty() && build.deriver.is_some());
    }

    #[test]
    fn invalid_paths_are_named_and_the_others_used() {
        let build = environment("/etc/passwd", &format!("rubbish {OUT} ../x"), "").build(DIR, |_| None);
        assert_eq!(build.outputs.len(), 1);
        assert_eq!(build.complaints.len(), 3);
    }

    #[test]
    fn only_public_keys_are_copied_from_nix_config() {
        let key = format!("cache.example-1:{}=", "A".repeat(43));
        let secret = format!("cache.example-1:{}==", "A".repeat(86));
        let config = format!(
            "access-tokens = github.com=ghp_secret\ntrusted-public-keys = {key} {secret} bad\nextra-trusted-public-keys = {key}\n"
        );
        let build = environment(DRV, OUT, &config).build(DIR, |_| None);
        assert_eq!(build.trusted_keys, vec![key]);
    }
}
