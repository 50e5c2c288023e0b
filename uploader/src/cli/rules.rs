//! The rules by which a bucket is collected: from the flags, or else from the configuration; and what is known of the needs of
//! paths.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix_derivation::nixbase32;

use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::span::parse_span;
use crate::config::config_keys::{KEEP_WITHIN, MAX_SIZE};
use crate::config::{Config, Size};
use crate::format::object_keys::narinfo_hash;
use crate::upkeep::rules::{AccessLog, Rules, Use, Uses};

/// The rules of a decision.
#[derive(Debug, clap::Args)]
pub(super) struct RuleArgs {
    /// What was pushed, asked for by a push, or downloaded within this time stays, such as 90d; else `keep-within`
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    keep_within: Option<Duration>,
    /// The most bytes of narinfos and NARs; what was needed least lately goes first; else `max-size`
    #[arg(long, value_name = "BYTES", value_parser = Size::parse)]
    max_size: Option<Size>,
    /// Count the downloads in this access log of nginx (combined) or of an S3 server, gzip or not
    #[arg(long, value_name = "FILE")]
    access_log: Vec<PathBuf>,
}

impl RuleArgs {
    /// The rules. A flag counts instead of the value in the configuration.
    pub(super) fn rules(&self, config: &Config) -> Rules {
        Rules {
            keep_within: self.keep_within.or_else(|| config.get(KEEP_WITHIN)),
            max_size: self.max_size.or_else(|| config.get(MAX_SIZE)).map(|Size(bytes)| bytes),
            ..Rules::default()
        }
    }

    /// The needs that the logs tell of. What pushes have recorded in the bucket comes besides.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(super) fn uses(&self) -> Result<Uses> {
        let mut uses = Uses::default();
        self.access_log.iter().try_for_each(|path| read_log(path, &mut uses))?;
        Ok(uses)
    }
}

/// Adds the downloads in a log.
fn read_log(path: &Path, uses: &mut Uses) -> Result<()> {
    let cannot = |error| {
        Error::permanent(Area::General, format!("cannot read the log `{}`", path.display())).because(error)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let log = BufReader::new(File::open(path).map_err(cannot)?);
    let counts = AccessLog::read(log, &mut |download| {
        // A time in the future counts as now.
        let ago = Duration::from_secs(now.saturating_sub(u64::try_from(download.at).unwrap_or(0)));
        match narinfo_hash(&download.key) {
            None => uses.add_nar(&download.key, ago, Use::Downloaded),
            Some(hash) => {
                let digest = nixbase32::decode(hash.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                digest.into_iter().for_each(|digest| uses.add(digest, ago, Use::Downloaded));
            }
        }
    })
    .map_err(cannot)?;
    if counts.malformed > 0 {
        let lines = output::count(counts.malformed as usize, "line");
        output::warn(&format!("skipped {lines} of `{}` that could not be understood", path.display()));
    }
    Ok(())
}
