//! The settings that the hook needs, from larder's configuration files and the environment.
//!
//! The uploader checks all keys of the configuration. The hook reads its own keys and ignores the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::failure::{Failure, Result};

/// The locations of the queue and the store, and how the hook reports a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The state directory: the directory of the queue.
    pub state_dir: PathBuf,
    /// The store directory, as store paths name it.
    pub store_dir: String,
    /// The directory that holds the files of the store. It differs from `store_dir` for a store below another root.
    pub real_store_dir: PathBuf,
    /// Nix's state directory, by default `/nix/var/nix`.
    pub nix_state_dir: PathBuf,
    /// Whether a build fails if its outputs cannot be queued.
    pub strict: bool,
}

/// Reads an environment variable; `None` if it is unset or empty.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a variable from the environment of the process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The existing configuration files, the most important last: `/etc/larder/config.toml`, then the file of the user.
/// If `LARDER_CONFIG` is set, it names the only configuration file.
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

/// The state directory on a machine whose hook runs as root.
pub const SHARED_STATE_DIR: &str = "/var/lib/larder";

/// The default of the state directory: [`SHARED_STATE_DIR`] for root, a directory below the home directory otherwise.
pub fn default_state_dir(variable: Variables<'_>, root: bool) -> PathBuf {
    let user = || {
        let state = variable("XDG_STATE_HOME").map(PathBuf::from);
        Some(state.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")))?.join("larder"))
    };
    user().filter(|_| !root).unwrap_or_else(|| PathBuf::from(SHARED_STATE_DIR))
}

/// The value of `LARDER_HOOK_STRICT`, if it is set.
pub fn strict_by_environment(variable: Variables<'_>) -> Option<bool> {
    variable("LARDER_HOOK_STRICT").map(|value| matches!(value.as_str(), "1" | "true" | "yes"))
}

impl Settings {
    /// Reads the configuration files and the environment. `root` says whether the hook runs as root.
    pub fn read(variable: Variables<'_>, root: bool) -> Result<Self> {
        let mut table = Table::default();
        for path in config_files(variable) {
            let text =
                std::fs::read_to_string(&path).map_err(Failure::at("read the configuration", &path))?;
            table.merge(&path, &text)?;
        }
        // The uploader uses the same order, so that both programs find the same store and the same queue.
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

/// The keys of the configuration that hold a text for the hook.
const TEXT_KEYS: [&str; 4] = ["state-dir", "store-dir", "real-store-dir", "nix-state-dir"];

/// The hook's keys in the configuration files.
#[derive(Default)]
struct Table {
    text: BTreeMap<String, String>,
    strict: bool,
}

impl Table {
    /// Adds the keys of the file `path` with the content `text`. They replace the keys of earlier files.
    fn merge(&mut self, path: &Path, text: &str) -> Result<()> {
        let bad = |reason: String| Failure::at("use the configuration", path)(std::io::Error::other(reason));
        let table = DeTable::parse(text).map_err(|error| bad(error.message().to_owned()))?;
        for (name, value) in table.get_ref() {
            let name = name.get_ref().as_ref();
            match (name, value.get_ref()) {
                ("hook-strict", DeValue::Boolean(value)) => self.strict = *value,
                ("hook-strict", _) => {
                    return Err(bad(format!("the value of `{name}` must be true or false")));
                }
                (_, DeValue::String(value)) if TEXT_KEYS.contains(&name) => {
                    self.text.insert(name.to_owned(), value.to_string());
                }
                _ if TEXT_KEYS.contains(&name) => {
                    return Err(bad(format!("the value of `{name}` must be a string")));
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
    fn the_environment_overrides_the_file() {
        let config = "bucket = 's3://x'\nstate-dir = '/a'\nstore-dir = '/s/store'\nhook-strict = true\n[hints]\nx = 1\n";
        let settings = read(config, &[("LARDER_STATE_DIR", "/b")], true).unwrap();
        assert_eq!(settings.state_dir, Path::new("/b"));
        assert_eq!(settings.store_dir, "/s/store");
        assert_eq!(settings.real_store_dir, Path::new("/s/store"));
        assert!(settings.strict);
    }

    #[test]
    fn root_and_other_users_have_different_defaults() {
        assert_eq!(read("", &[("HOME", "/root")], true).unwrap().state_dir, Path::new("/var/lib/larder"));
        let user = read("", &[("HOME", "/home/u")], false).unwrap();
        assert_eq!(user.state_dir, Path::new("/home/u/.local/state/larder"));
    }

    #[test]
    fn an_invalid_file_is_an_error() {
        assert!(read("state-dir = ", &[], true).is_err());
        assert!(read("state-dir = 3", &[], true).unwrap_err().to_string().contains("state-dir"));
    }
}
