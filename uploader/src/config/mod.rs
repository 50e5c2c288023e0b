//! The configuration. Its sources are `/etc/larder/config.toml`, `$XDG_CONFIG_HOME/larder/config.toml`, `LARDER_…`
//! variables, and flags. Each source overrides those before it. One table holds all keys; an unknown key is an error.

pub mod config_keys;
mod derived;
mod effective;
pub mod key_files;
mod load;
mod secret_file;
mod signing_command;
#[cfg(test)]
mod table;
mod typed_key;
mod value;

pub use effective::{Config, Source};
pub use secret_file::exposure;
pub use signing_command::SigningCommand;
pub use typed_key::{ConfigKey, Flag, KeyDefault, Row, Size, Typed};
pub use value::{Kind, Value};

#[cfg(test)]
mod tests;
