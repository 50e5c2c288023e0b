//! The effective configuration: the value of each key, with its source.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::config_keys::ROWS;
use super::typed_key::{ConfigKey, Row, Typed};
use super::value::Value;

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
    /// Sets the value of a key. It replaces the value of an earlier source.
    pub(super) fn lay(&mut self, row: &'static Row, value: Value, source: Source) {
        self.values.insert(row.name, (value, source));
    }

    /// Every key with its effective value, if it has a value, and the source of the value.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Row, Option<Value>, Source)> + '_ {
        ROWS.iter().map(|row| match self.values.get(row.name) {
            Some((value, source)) => (*row, Some(value.clone()), source.clone()),
            None => (*row, row.default(), Source::Default),
        })
    }

    /// The source of the value of a key.
    pub(super) fn source(&self, row: &Row) -> Source {
        self.values.get(row.name).map_or(Source::Default, |(_, source)| source.clone())
    }

    /// The effective value of a key.
    pub fn get<T: Typed>(&self, key: ConfigKey<T>) -> T {
        let row = key.row();
        let set = self.values.get(row.name).map(|(value, _)| value.clone());
        T::from_value(set.or_else(|| row.default()))
    }
}
