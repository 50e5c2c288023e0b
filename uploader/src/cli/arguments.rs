//! The flags that every subcommand takes.

use std::path::PathBuf;

use crate::base::error::{Area, Error, Result};
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
    state_dir: Option<PathBuf>,
    /// Set any configuration key for this call: `--set compression=xz`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Global {
    /// The configuration keys that the flags set, with their values.
    pub(super) fn configuration(&self) -> Result<Vec<(&str, String)>> {
        let mut values: Vec<(&str, String)> = Vec::new();
        for set in &self.set {
            let (key, value) = set.split_once('=').ok_or_else(|| {
                Error::permanent(Area::Usage, format!("`--set {set}` has no `=`"))
                    .hint("write `--set key=value`")
            })?;
            values.push((key, value.to_owned()));
        }
        values.extend(self.bucket.iter().map(|bucket| BUCKET.flag(bucket)));
        values.extend(self.state_dir.iter().map(|dir| STATE_DIR.flag(dir.display().to_string())));
        Ok(values)
    }
}
