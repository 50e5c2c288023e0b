//! The effective configuration: the values of all sources, each laid over those before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use larder_hook::settings;

use super::config_keys::{self, ROWS};
use super::typed_key::{ConfigKey, Row, Typed};
use super::value::Value;
use crate::base::error::{Area, Error, Result};

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
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
    /// Reads the configuration files, then the environment, then `flags` (names of keys with their values as text).
    ///
    /// # Errors
    /// A file cannot be read, a key is unknown, or a value is wrong.
    pub fn load(variable: settings::Variables<'_>, flags: &[(&str, String)]) -> Result<Self> {
        let mut config = Self::default();
        for file in settings::config_files(variable) {
            config.lay_file(&file)?;
        }
        for row in ROWS {
            let name = row.variable();
            if let Some(text) = variable(&name) {
                config.lay_text(row, &text, Source::Environment(name))?;
            }
        }
        for (name, text) in flags {
            config.lay_text(config_keys::find(name)?, text, Source::Flag(format!("--{name}")))?;
        }
        config.check()?;
        Ok(config)
    }

    fn lay_file(&mut self, file: &Path) -> Result<()> {
        let failed =
            || Error::permanent(Area::Config, format!("cannot use the configuration `{}`", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| failed().because(error))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            failed().because(error.to_string().trim().replace('\n', "\n  "))
        })?;
        let place = |error: Error| error.because(format!("in `{}`", file.display()));
        for (name, value) in table {
            let row = config_keys::find(&name).map_err(place)?;
            let value = Value::from_toml(row.kind, value).ok_or_else(|| place(row.wrong_kind()))?;
            self.values.insert(row.name, (value, Source::File(file.to_owned())));
        }
        Ok(())
    }

    fn lay_text(&mut self, row: &'static Row, text: &str, source: Source) -> Result<()> {
        let value = Value::from_text(row.kind, text).ok_or_else(|| row.wrong_kind())?;
        self.values.insert(row.name, (value, source));
        Ok(())
    }

    /// The names of environment variables that look like configuration keys and are not.
    pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
        let known = |name: &String| name == "LARDER_CONFIG" || ROWS.iter().any(|row| row.variable() == *name);
        names
            .filter(|name| name.starts_with("LARDER_") && !name.starts_with("LARDER_TEST"))
            .filter(|name| !known(name))
            .collect()
    }

    /// Every key with its effective value, if it has a value, and the source of the value.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Row, Option<Value>, Source)> + '_ {
        ROWS.iter().map(|row| match self.values.get(row.name) {
            Some((value, source)) => (*row, Some(value.clone()), source.clone()),
            None => (*row, row.default(), Source::Default),
        })
    }

    /// The effective value of a key.
    pub fn get<T: Typed>(&self, key: ConfigKey<T>) -> T {
        let row = key.row();
        let set = self.values.get(row.name).map(|(value, _)| value.clone());
        T::from_value(set.or_else(|| row.default()))
    }
}
