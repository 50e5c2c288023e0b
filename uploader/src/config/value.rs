//! Values of the configuration, from TOML or from text.

use super::keys::Key;
use crate::base::error::{Area, Error, Result};

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A list of texts; in a variable, separated by white space.
    List,
    /// true or false.
    Switch,
    /// A whole number.
    Number,
    /// A size in bytes; `10 GiB` may be written.
    Size,
}

/// A value; sizes are numbers of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// A switch.
    Switch(bool),
    /// A number.
    Number(u64),
}

impl Value {
    /// Takes a value of a file.
    pub fn from_toml(key: &Key, value: toml::Value) -> Result<Self> {
        match (key.kind, value) {
            (Kind::Text, toml::Value::String(text)) => Ok(Self::Text(text)),
            (Kind::Switch, toml::Value::Boolean(switch)) => Ok(Self::Switch(switch)),
            (Kind::Number | Kind::Size, toml::Value::Integer(number)) => {
                u64::try_from(number).map(Self::Number).map_err(|_| wrong(key))
            }
            (Kind::Size, toml::Value::String(text)) => Self::from_text(key, &text),
            (Kind::List, toml::Value::Array(items)) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(key)))
                .collect::<Result<_>>()
                .map(Self::List),
            _ => Err(wrong(key)),
        }
    }

    /// Takes a value of a variable or flag.
    pub fn from_text(key: &Key, text: &str) -> Result<Self> {
        let text = text.trim();
        match key.kind {
            Kind::Text => Ok(Self::Text(text.to_owned())),
            Kind::List => Ok(Self::List(text.split_whitespace().map(str::to_owned).collect())),
            Kind::Switch => match text {
                "true" | "1" | "yes" => Ok(Self::Switch(true)),
                "false" | "0" | "no" => Ok(Self::Switch(false)),
                _ => Err(wrong(key)),
            },
            Kind::Number => text.parse().map(Self::Number).map_err(|_| wrong(key)),
            Kind::Size => parse_size(text).map(Self::Number).ok_or_else(|| wrong(key)),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(list) => write!(f, "{list:?}"),
            Self::Switch(switch) => write!(f, "{switch}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

fn wrong(key: &Key) -> Error {
    let (what, example) = match key.kind {
        Kind::Text => ("a text", "\"…\""),
        Kind::List => ("a list of texts", "[\"…\", \"…\"]"),
        Kind::Switch => ("a switch", "true or false"),
        Kind::Number => ("a whole number", "4"),
        Kind::Size => ("a size", "\"10 GiB\""),
    };
    Error::permanent(Area::Config, format!("`{}` has a value of the wrong kind", key.name))
        .hint(format!("it takes {what}: {example} ({})", key.help))
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
