//! What Nix tells a `post-build-hook` through its environment.
//!
//! Nix adds `DRV_PATH`, `OUT_PATHS` and `NIX_CONFIG` only where they are absent, so an inherited value can stand in
//! their place: everything read here is checked. `NIX_CONFIG` holds access tokens; one setting is taken out of it and
//! nothing of it is kept or shown.

use crate::drv;
use crate::store_path::StorePath;

/// The variables that matter, as they were found.
#[derive(Default)]
pub struct Environment {
    /// `DRV_PATH`.
    pub drv_path: Option<String>,
    /// `OUT_PATHS`, separated by spaces.
    pub out_paths: Option<String>,
    /// `NIX_CONFIG`.
    pub nix_config: Option<String>,
}

/// A build, as far as the hook could tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// The derivation that was built.
    pub deriver: Option<StorePath>,
    /// Its outputs; empty where only the daemon knows them.
    pub outputs: Vec<StorePath>,
    /// The public keys that this Nix trusts.
    pub trusted_keys: Vec<String>,
    /// What could not be used, and why; for the one line that the hook prints.
    pub complaints: Vec<String>,
}

impl Environment {
    /// Reads this process's environment.
    pub fn read() -> Self {
        let text = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self { drv_path: text("DRV_PATH"), out_paths: text("OUT_PATHS"), nix_config: text("NIX_CONFIG") }
    }

    /// Validates everything against `store_dir`. `read_drv` yields the text of a derivation; it is asked only when
    /// `OUT_PATHS` is empty, as with Nix 2.8.0.
    pub fn build(&self, store_dir: &str, read_drv: impl FnOnce(&StorePath) -> Option<String>) -> Build {
        let mut build =
            Build { trusted_keys: trusted_public_keys(self.nix_config.as_deref()), ..Build::default() };
        if let Some(text) = self.drv_path.as_deref().filter(|text| !text.is_empty()) {
            match StorePath::parse(store_dir, text) {
                Ok(path) if path.name().ends_with(".drv") => build.deriver = Some(path),
                Ok(path) => build.complaints.push(format!("`{path}` in DRV_PATH is no derivation")),
                Err(error) => build.complaints.push(format!("DRV_PATH: {error}")),
            }
        }
        for text in self.out_paths.as_deref().unwrap_or_default().split_ascii_whitespace() {
            match StorePath::parse(store_dir, text) {
                Ok(path) => build.outputs.push(path),
                Err(error) => build.complaints.push(format!("OUT_PATHS: {error}")),
            }
        }
        let told_nothing = self.out_paths.as_deref().unwrap_or_default().trim().is_empty();
        if let (true, Some(deriver)) = (told_nothing, &build.deriver) {
            let outputs = read_drv(deriver).as_deref().and_then(drv::outputs).unwrap_or_default();
            // An output whose path is not written there is floating: then the agent asks the daemon for all of them.
            let paths: Option<Vec<_>> =
                outputs.iter().map(|(_, path)| StorePath::parse(store_dir, path).ok()).collect();
            build.outputs = paths.unwrap_or_default();
        }
        build.outputs.sort();
        build.outputs.dedup();
        build
    }
}

/// The values of `trusted-public-keys` and its `extra-` form; only what has the shape `name:base64`.
fn trusted_public_keys(nix_config: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    for line in nix_config.unwrap_or_default().lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        if !matches!(name.trim(), "trusted-public-keys" | "extra-trusted-public-keys") {
            continue;
        }
        keys.extend(value.split_ascii_whitespace().filter(|key| has_key_shape(key)).map(str::to_owned));
    }
    keys.sort();
    keys.dedup();
    keys
}

fn has_key_shape(text: &str) -> bool {
    let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
    // 32 bytes in base 64 are 44 characters; a secret key's 64 bytes are 88 and never copied.
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
    fn takes_the_outputs() {
        let build = environment(DRV, &format!("{OUT} {OUT}"), "").build(DIR, |_| panic!("not needed"));
        assert_eq!(build.outputs.len(), 1);
        assert_eq!(build.deriver.unwrap().as_str(), DRV);
        assert!(build.complaints.is_empty());
    }

    #[test]
    fn reads_the_derivation_when_nix_passes_no_outputs() {
        let text = format!(r#"Derive([("out","{OUT}","","")],[],[],"x","sh",[],[])"#);
        let build = environment(DRV, "", "").build(DIR, |_| Some(text));
        assert_eq!(build.outputs[0].as_str(), OUT);
        let floating = r#"Derive([("out","","r:sha256","")],[],[],"x","sh",[],[])"#;
        let build = environment(DRV, "", "").build(DIR, |_| Some(floating.to_owned()));
        assert!(build.outputs.is_empty() && build.deriver.is_some());
    }

    #[test]
    fn rubbish_is_told_and_the_rest_used() {
        let build = environment("/etc/passwd", &format!("rubbish {OUT} ../x"), "").build(DIR, |_| None);
        assert_eq!(build.outputs.len(), 1);
        assert_eq!(build.complaints.len(), 3);
    }

    #[test]
    fn copies_public_keys_and_nothing_else() {
        let key = format!("cache.example-1:{}=", "A".repeat(43));
        let secret = format!("cache.example-1:{}==", "A".repeat(86));
        let config = format!(
            "access-tokens = github.com=ghp_secret\ntrusted-public-keys = {key} {secret} bad\nextra-trusted-public-keys = {key}\n"
        );
        let build = environment(DRV, OUT, &config).build(DIR, |_| None);
        assert_eq!(build.trusted_keys, vec![key]);
    }
}
