//! The configuration: `/etc/larder/config.toml`, `$XDG_CONFIG_HOME/larder/config.toml`, `LARDER_*` variables, flags;
//! each wins over those before it. One table names every key; what is not in it is an error.

mod keys;
mod secret_file;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use larder_hook::settings;

pub use keys::{KEYS, Key};
pub use secret_file::exposure;
pub use value::{Kind, Value};

use crate::base::error::{Area, Error, Result};
use crate::format::object_keys::Compression;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable.
    Environment(String),
    /// A flag of the command.
    Flag(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The effective configuration, each value with its source.
#[derive(Clone, Debug, Default)]
pub struct Config {
    values: BTreeMap<&'static str, (Value, Source)>,
}

impl Config {
    /// Reads the files and the environment, and lays `flags` (key and text) over them.
    pub fn load(variable: settings::Variables<'_>, flags: &[(&str, String)]) -> Result<Self> {
        let mut config = Self::default();
        for file in settings::config_files(variable) {
            let at = || format!("cannot use the configuration `{}`", file.display());
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Error::permanent(Area::Config, at()).because(error))?;
            let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
                Error::permanent(Area::Config, at()).because(error.to_string().trim().replace('\n', "\n  "))
            })?;
            for (name, value) in table {
                let key =
                    keys::find(&name).map_err(|error| error.because(format!("in `{}`", file.display())))?;
                let value = Value::from_toml(key, value)
                    .map_err(|error| error.because(format!("in `{}`", file.display())))?;
                config.values.insert(key.name, (value, Source::File(file.clone())));
            }
        }
        for key in KEYS {
            let name = key.variable();
            if let Some(text) = variable(&name) {
                config.values.insert(key.name, (Value::from_text(key, &text)?, Source::Environment(name)));
            }
        }
        for (name, text) in flags {
            let key = keys::find(name)?;
            config.values.insert(key.name, (Value::from_text(key, text)?, Source::Flag(format!("--{name}"))));
        }
        config.check()?;
        Ok(config)
    }

    /// Variables of the environment that look like keys and are none.
    pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
        const OTHERS: [&str; 2] = ["LARDER_CONFIG", "LARDER_HOOK_STRICT"];
        let known =
            |name: &String| KEYS.iter().any(|key| key.variable() == *name) || OTHERS.contains(&name.as_str());
        names
            .filter(|name| name.starts_with("LARDER_") && !name.starts_with("LARDER_TEST"))
            .filter(|name| !known(name))
            .collect()
    }

    /// Every key with its effective value, if it has one, and its source.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Key, Option<Value>, Source)> + '_ {
        KEYS.iter().map(|key| match self.values.get(key.name) {
            Some((value, source)) => (key, Some(value.clone()), source.clone()),
            None => (key, key.default(), Source::Default),
        })
    }

    fn value(&self, name: &str) -> Option<Value> {
        let key = KEYS.iter().find(|key| key.name == name)?;
        self.values.get(name).map(|(value, _)| value.clone()).or_else(|| key.default())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A list of texts.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// A switch.
    pub fn switch(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Switch(true)))
    }

    /// A number, or a size in bytes.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// The bucket's address; an error says how to give one.
    pub fn bucket(&self) -> Result<String> {
        self.text("bucket").ok_or_else(|| {
            Error::permanent(Area::Config, "no bucket is configured").hint(
                "set `bucket` in /etc/larder/config.toml, LARDER_BUCKET or --bucket, for example `s3://nix-cache?endpoint=http://127.0.0.1:9000` or `file:///srv/cache`",
            )
        })
    }

    /// How NARs are compressed.
    pub fn compression(&self) -> Compression {
        let name = self.text("compression").unwrap_or_default();
        Compression::ALL.into_iter().find(|one| one.name() == name).unwrap_or(Compression::Zstd)
    }

    /// The compression level, checked against the compression.
    pub fn level(&self) -> Option<i32> {
        self.number("compression-level").and_then(|level| i32::try_from(level).ok())
    }

    /// Where the queue is.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state-dir").unwrap_or_else(|| {
            let root = rustix::process::geteuid().is_root();
            let own = settings::default_state_dir(&settings::process_environment, root);
            // Somebody without a queue of their own, on a machine where root's hook fills one, means that one.
            let shared = PathBuf::from(settings::SHARED_STATE_DIR);
            if !own.exists() && shared.exists() { shared } else { own }
        })
    }

    /// What a single value cannot show.
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Error::permanent(Area::Config, what);
        let name = self.text("compression").unwrap_or_default();
        if !Compression::ALL.iter().any(|one| one.name() == name) {
            return Err(
                wrong(format!("`compression = \"{name}\"` is unknown")).hint("it is `zstd`, `xz` or `none`")
            );
        }
        let highest = match self.compression() {
            Compression::Zstd => 22,
            Compression::Xz => 9,
            Compression::None => i32::MAX,
        };
        if let Some(level) = self.level().filter(|level| *level > highest) {
            return Err(wrong(format!("`compression-level = {level}` is too high"))
                .hint(format!("{name} goes up to {highest}")));
        }
        if self.number("jobs") == Some(0) {
            return Err(wrong("`jobs = 0` would upload nothing".into()).hint("leave it out for the default"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
