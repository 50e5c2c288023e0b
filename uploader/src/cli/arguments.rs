//! The flags that every subcommand takes.

use std::path::PathBuf;

use crate::base::error::{Area, Error, Result};
use crate::config::Flag;
use crate::config::config_keys::{BUCKET, STATE_DIR};

/// Flags that every subcommand takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Flags of every command")]
pub(super) struct Global {
    /// Read this configuration file instead of /etc/larder/config.toml and the user's own file
    #[arg(long, global = true, value_name = "FILE", env = "LARDER_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// The bucket: s3://bucket/prefix?endpoint=…&region=…&profile=… or file:///directory
    #[arg(long, global = true, value_name = "ADDRESS")]
    bucket: Option<String>,
    /// The directory of the queue
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Set any configuration key for this call: `--set compression=xz`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Reads a number of seconds.
pub(super) fn seconds(text: &str) -> std::result::Result<u64, &'static str> {
    text.parse().map_err(|_| "give a whole number of seconds, for example `60`")
}

impl Global {
    /// The configuration keys that the flags set, with their values.
    pub(super) fn configuration(&self) -> Result<Vec<Flag<'_>>> {
        let mut values = Vec::new();
        for set in &self.set {
            let (key, value) = set.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                Error::permanent(Area::Usage, format!("`--set {set}` does not have the form KEY=VALUE"))
                    .hint("write, for example, `--set jobs=4`")
            })?;
            values.push(Flag::set(key, value));
        }
        values.extend(self.bucket.iter().map(|bucket| BUCKET.flag("--bucket", bucket)));
        values.extend(self.state_dir.iter().map(|dir| STATE_DIR.flag("--state-dir", dir)));
        Ok(values)
    }
}
