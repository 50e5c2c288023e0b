//! The few settings that the hook needs. They stand in larder's one configuration file; the uploader checks it
//! strictly, the hook takes what concerns it and leaves the rest alone.

use std::path::{Path, PathBuf};

use crate::{Failure, Result};

/// Where the queue and the store are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The queue's directory.
    pub state_dir: PathBuf,
    /// The store directory in store paths.
    pub store_dir: String,
    /// Where the store's files are; differs for a store below another root.
    pub real_store_dir: PathBuf,
    /// Nix's own state, `/nix/var/nix`.
    pub nix_state_dir: PathBuf,
    /// Whether a failure to queue fails the build.
    pub strict: bool,
}

/// Reads a variable; empty counts as unset.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The configuration files that exist, most important last: `/etc/larder/config.toml`, then the user's own. With
/// `LARDER_CONFIG` it is that one alone.
pub fn config_files(variable: Variables<'_>) -> Vec<PathBuf> {
    if let Some(path) = variable("LARDER_CONFIG") {
        return vec![path.into()];
    }
    let user = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    let mut files = vec![PathBuf::from("/etc/larder/config.toml")];
    files.extend(user.map(|dir| dir.join("larder/config.toml")));
    files.retain(|path| path.exists());
    files
}

/// The queue of a machine whose hook is run by root.
pub const SHARED_STATE_DIR: &str = "/var/lib/larder";

/// Where the queue is when nothing says so: [`SHARED_STATE_DIR`] for root, the user's state directory otherwise.
pub fn default_state_dir(variable: Variables<'_>, root: bool) -> PathBuf {
    let user = || {
        let state = variable("XDG_STATE_HOME").map(PathBuf::from);
        Some(state.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")))?.join("larder"))
    };
    user().filter(|_| !root).unwrap_or_else(|| PathBuf::from(SHARED_STATE_DIR))
}

/// What `LARDER_HOOK_STRICT` says, if anything.
pub fn strict_by_environment(variable: Variables<'_>) -> Option<bool> {
    variable("LARDER_HOOK_STRICT").map(|value| matches!(value.as_str(), "1" | "true" | "yes"))
}

impl Settings {
    /// Reads the configuration files and the environment. `root` is whether the hook runs as root.
    pub fn read(variable: Variables<'_>, root: bool) -> Result<Self> {
        let mut table = Table::default();
        for path in config_files(variable) {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::new(format!("cannot read the configuration `{}`", path.display()), error)
            })?;
            table.merge(&path, &text)?;
        }
        // The same order as in the uploader: both must mean the same store and the same queue.
        let text = |name: &str, own: &str, of_nix: &str| {
            variable(own).or_else(|| table.text.get(name).cloned()).or_else(|| variable(of_nix))
        };
        let store_dir = text("store-dir", "LARDER_STORE_DIR", "NIX_STORE_DIR");
        let store_dir = store_dir.unwrap_or_else(|| "/nix/store".into());
        let strict = strict_by_environment(variable).unwrap_or(table.strict);
        Ok(Self {
            state_dir: text("state-dir", "LARDER_STATE_DIR", "")
                .map_or_else(|| default_state_dir(variable, root), Into::into),
            real_store_dir: text("real-store-dir", "LARDER_REAL_STORE_DIR", "")
                .unwrap_or_else(|| store_dir.clone())
                .into(),
            store_dir: store_dir.trim_end_matches('/').to_owned(),
            nix_state_dir: text("nix-state-dir", "LARDER_NIX_STATE_DIR", "NIX_STATE_DIR")
                .unwrap_or_else(|| "/nix/var/nix".into())
                .into(),
            strict,
        })
    }
}

#[derive(Default)]
struct Table {
    text: std::collections::BTreeMap<String, String>,
    strict: bool,
}

impl Table {
    fn merge(&mut self, path: &Path, text: &str) -> Result<()> {
        let bad = |reason: String| {
            Failure::new(
                format!("cannot use the configuration `{}`", path.display()),
                std::io::Error::other(reason),
            )
        };
        let table = toml::de::DeTable::parse(text).map_err(|error| bad(error.message().to_owned()))?;
        for (name, value) in table.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                (
                    name @ ("state-dir" | "store-dir" | "real-store-dir" | "nix-state-dir"),
                    toml::de::DeValue::String(value),
                ) => {
                    self.text.insert(name.to_owned(), value.to_string());
                }
                ("hook-strict", toml::de::DeValue::Boolean(value)) => self.strict = *value,
                (
                    name @ ("state-dir" | "store-dir" | "real-store-dir" | "nix-state-dir" | "hook-strict"),
                    _,
                ) => {
                    return Err(bad(format!("`{name}` has a value of the wrong kind")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str, variables: &[(&str, &str)], root: bool) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let lookup = |name: &str| {
            if name == "LARDER_CONFIG" {
                return Some(file.display().to_string());
            }
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&lookup, root)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = "bucket = 's3://x'\nstate-dir = '/a'\nstore-dir = '/s/store'\nhook-strict = true\n[hints]\nx = 1\n";
        let settings = read(config, &[("LARDER_STATE_DIR", "/b")], true).unwrap();
        assert_eq!(settings.state_dir, Path::new("/b"));
        assert_eq!(settings.store_dir, "/s/store");
        assert_eq!(settings.real_store_dir, Path::new("/s/store"));
        assert!(settings.strict);
    }

    #[test]
    fn defaults_differ_for_root_and_others() {
        assert_eq!(read("", &[("HOME", "/root")], true).unwrap().state_dir, Path::new("/var/lib/larder"));
        let user = read("", &[("HOME", "/home/u")], false).unwrap();
        assert_eq!(user.state_dir, Path::new("/home/u/.local/state/larder"));
    }

    #[test]
    fn a_broken_file_is_an_error() {
        assert!(read("state-dir = ", &[], true).is_err());
        assert!(read("state-dir = 3", &[], true).unwrap_err().to_string().contains("state-dir"));
    }
}
