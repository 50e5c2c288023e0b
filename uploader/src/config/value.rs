//! The values of configuration keys, read from TOML or from text.

use std::time::Duration;

use crate::base::span::{parse_span, span_code};

/// The kind of value that a configuration key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// The path of a file or directory.
    Path,
    /// A list of texts. White space separates the texts in a variable.
    List,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// A size in bytes. It may have a unit: `10 GiB`.
    Size,
    /// A length of time with its unit: `90d`.
    Span,
}

impl Kind {
    /// The word for the kind in the documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::List => "list",
            Self::Switch => "switch",
            Self::Number => "number",
            Self::Size => "size",
            Self::Span => "time",
        }
    }

    /// The kind with its article, and an example in a configuration file.
    pub(super) fn example(self) -> (&'static str, &'static str) {
        match self {
            Self::Text => ("a text", "\"text\""),
            Self::Path => ("a path", "\"/directory/file\""),
            Self::List => ("a list of texts", "[\"first\", \"second\"]"),
            Self::Switch => ("`true` or `false`", "true"),
            Self::Number => ("a whole number", "4"),
            Self::Size => ("a size", "\"10 GiB\""),
            Self::Span => ("a length of time", "\"90d\""),
        }
    }
}

/// The value of a configuration key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text or a path.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// A switch.
    Switch(bool),
    /// A number, or a size in bytes.
    Number(u64),
    /// A length of time.
    Span(Duration),
}

impl Value {
    /// Reads a value of a configuration file. `None` if the value is not of this kind.
    pub fn from_toml(kind: Kind, value: toml::Value) -> Option<Self> {
        match (kind, value) {
            (Kind::Text | Kind::Path, toml::Value::String(text)) => Some(Self::Text(text)),
            (Kind::Switch, toml::Value::Boolean(switch)) => Some(Self::Switch(switch)),
            (Kind::Number | Kind::Size, toml::Value::Integer(number)) => {
                u64::try_from(number).ok().map(Self::Number)
            }
            (Kind::Size | Kind::Span, toml::Value::String(text)) => Self::from_text(kind, &text),
            (Kind::List, toml::Value::Array(items)) => {
                let texts = items.into_iter().map(|item| item.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().map(Self::List)
            }
            _ => None,
        }
    }

    /// Reads the text of an environment variable or of a flag. `None` if the text is not of this kind.
    pub fn from_text(kind: Kind, text: &str) -> Option<Self> {
        let text = text.trim();
        match kind {
            Kind::Text | Kind::Path => Some(Self::Text(text.to_owned())),
            Kind::List => Some(Self::List(text.split_whitespace().map(str::to_owned).collect())),
            Kind::Switch => match text {
                "true" | "1" | "yes" => Some(Self::Switch(true)),
                "false" | "0" | "no" => Some(Self::Switch(false)),
                _ => None,
            },
            Kind::Number => text.parse().ok().map(Self::Number),
            Kind::Size => parse_size(text).map(Self::Number),
            Kind::Span => parse_span(text).ok().map(Self::Span),
        }
    }
}

/// Shows the value as TOML.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(list) => write!(f, "{list:?}"),
            Self::Switch(switch) => write!(f, "{switch}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Span(span) => write!(f, "\"{}\"", span_code(*span)),
        }
    }
}

/// Reads a number of bytes: `20M`, `500 GiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
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
