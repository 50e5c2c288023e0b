//! The type of a configuration key.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{Kind, Value, parse_size};
use crate::base::error::{Area, Error};

/// The row of a configuration key in the table of all keys.
#[derive(Debug)]
pub struct Row {
    /// The name of the key in a configuration file.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Its default.
    pub default: KeyDefault,
    /// Whether `larder-hook` reads the key too.
    pub hook: bool,
    /// The meaning of the key, in one sentence. Back-ticks stand around literals.
    pub help: &'static str,
}

/// The default of a configuration key.
#[derive(Clone, Copy, Debug)]
pub enum KeyDefault {
    /// The key has no value.
    Unset,
    /// This value, written as in an environment variable.
    Value(&'static str),
    /// The program finds the value. The text says how.
    Found(&'static str),
}

impl Row {
    /// The environment variable that sets the key: `LARDER_` and the name in capitals.
    pub fn variable(&self) -> String {
        format!("LARDER_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// The default value, if it is a fixed value.
    pub fn default(&self) -> Option<Value> {
        match self.default {
            KeyDefault::Value(text) => Value::from_text(self.kind, text),
            KeyDefault::Unset | KeyDefault::Found(_) => None,
        }
    }

    /// The error for a value that is not of the kind of this key. It does not repeat the value.
    pub(super) fn wrong_kind(&self) -> Error {
        let (kind, example) = self.kind.example();
        Error::permanent(Area::Config, format!("`{}` has a value of the wrong kind", self.name))
            .hint(format!("the value is {kind}, for example `{example}`"))
    }
}

/// The value of a configuration key on the command line.
#[derive(Clone, Debug)]
pub struct Flag<'a> {
    /// The name of the key.
    pub(super) key: &'a str,
    /// The value as text.
    pub(super) text: String,
    /// The flag as the user gave it, without the value.
    pub(super) given: String,
}

impl<'a> Flag<'a> {
    /// The value of `--set KEY=VALUE`.
    pub fn set(key: &'a str, text: impl Into<String>) -> Self {
        Self { key, text: text.into(), given: format!("--set {key}") }
    }

    /// The name of the key.
    pub fn key(&self) -> &'a str {
        self.key
    }
}

/// A configuration key whose value has the type `T`.
///
/// `T` is `Option<…>` if the key may be unset; for any other `T`, the key has a default value.
#[derive(Debug)]
pub struct ConfigKey<T> {
    row: &'static Row,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for ConfigKey<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ConfigKey<T> {}

impl<T> ConfigKey<T> {
    pub(super) const fn new(row: &'static Row) -> Self {
        Self { row, value: PhantomData }
    }

    /// The row of the key in the table.
    pub const fn row(self) -> &'static Row {
        self.row
    }

    /// A value of the key from a flag of its own, such as `--bucket`.
    pub fn flag(self, flag: &str, text: impl Into<String>) -> Flag<'static> {
        Flag { key: self.row.name, text: text.into(), given: flag.to_owned() }
    }
}

/// A type that a configuration key can have.
pub trait Typed: Sized {
    /// The kind of the values that this type can hold.
    const KIND: Kind;

    /// Converts the effective value.
    fn from_value(value: Option<Value>) -> Self;
}

impl Typed for Option<String> {
    const KIND: Kind = Kind::Text;

    fn from_value(value: Option<Value>) -> Self {
        match value {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl Typed for String {
    const KIND: Kind = Kind::Text;

    fn from_value(value: Option<Value>) -> Self {
        Option::<String>::from_value(value).unwrap_or_default()
    }
}

impl Typed for Option<PathBuf> {
    const KIND: Kind = Kind::Path;

    fn from_value(value: Option<Value>) -> Self {
        Option::<String>::from_value(value).map(PathBuf::from)
    }
}

impl Typed for Vec<String> {
    const KIND: Kind = Kind::List;

    fn from_value(value: Option<Value>) -> Self {
        match value {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }
}

impl Typed for bool {
    const KIND: Kind = Kind::Switch;

    fn from_value(value: Option<Value>) -> Self {
        matches!(value, Some(Value::Switch(true)))
    }
}

impl Typed for Option<u64> {
    const KIND: Kind = Kind::Number;

    fn from_value(value: Option<Value>) -> Self {
        match value {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }
}

impl Typed for u64 {
    const KIND: Kind = Kind::Number;

    fn from_value(value: Option<Value>) -> Self {
        Option::<u64>::from_value(value).unwrap_or_default()
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Size {
    /// Reads a size such as `20M` or `500 GiB`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self).ok_or_else(|| format!("`{text}` is no size, such as `20M` or `500 GiB`"))
    }
}

impl Typed for Option<Size> {
    const KIND: Kind = Kind::Size;

    fn from_value(value: Option<Value>) -> Self {
        Option::<u64>::from_value(value).map(Size)
    }
}

impl Typed for Option<Duration> {
    const KIND: Kind = Kind::Span;

    fn from_value(value: Option<Value>) -> Self {
        match value {
            Some(Value::Span(span)) => Some(span),
            _ => None,
        }
    }
}
