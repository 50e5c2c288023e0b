//! Builds that failed. No hook runs for them, so the agent looks for their logs: a log that is newer than the last look, and
//! whose derivation has no valid output.
//!
//! A look asks the file system about each log, and the daemon about those that are new. It watches nothing: Nix writes the log of
//! a second attempt into the same file, which changes no directory, and a watch on each log would cost more than a look.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_hook::queue::{Layout, Place, SINCE};
use larder_hook::time::now;

use super::daemon_connection::DaemonConnection;
use crate::base::error::{Result, Retry};
use crate::base::queue_error::in_queue;
use crate::push::FailedBuild;
use crate::store::{StoreLocation, StorePath, recent_logs};

/// How old a log must be: Nix registers the outputs of a build after the end of its log.
pub(super) const SETTLED: Duration = Duration::from_secs(3);
/// The file in `state/` with the time up to which logs have been looked at, in seconds since 1970.
const LOOKED: &str = "logs-looked-at";

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The builds that failed.
    pub(super) builds: Vec<FailedBuild>,
    /// Logs from before this time have been looked at, in seconds since 1970.
    pub(super) until: u64,
    /// Whether there are logs that are too new.
    pub(super) more: bool,
}

impl Found {
    /// Whether no build has failed.
    pub(super) fn is_empty(&self) -> bool {
        self.builds.is_empty()
    }
}

/// Looks at the logs since the last look, or since the queue was made. Blocks.
///
/// # Errors
/// The queue cannot be read, or the daemon does not answer.
pub(super) fn find(layout: &Layout, store: &StoreLocation, daemon: &mut DaemonConnection) -> Result<Found> {
    let until = now().saturating_sub(SETTLED.as_secs());
    let from = beginning(layout, until)?;
    let logs = recent_logs(store, from);
    let more = logs.values().any(|at| *at >= until);
    let settled: Vec<StorePath> =
        logs.into_iter().filter(|(_, at)| *at < until).map(|(derivation, _)| derivation).collect();
    let mut found = Found { builds: Vec::new(), until, more };
    if settled.is_empty() {
        return Ok(found);
    }
    // What is not valid any more has no outputs that could be asked for.
    let mut outputs: BTreeMap<StorePath, BTreeMap<String, Option<StorePath>>> = BTreeMap::new();
    for derivation in daemon.get()?.valid_paths(&settled)? {
        match daemon.get()?.derivation_outputs(&derivation) {
            Ok(known) => drop(outputs.insert(derivation, known)),
            Err(error) if error.retry() == Retry::Transient => return Err(error),
            Err(_) => {}
        }
    }
    let paths: Vec<StorePath> = outputs.values().flat_map(BTreeMap::values).flatten().cloned().collect();
    let valid = daemon.get()?.valid_paths(&paths)?;
    outputs.retain(|_, outputs| !outputs.values().flatten().any(|output| valid.contains(output)));
    found.builds =
        outputs.into_iter().map(|(derivation, outputs)| FailedBuild { derivation, outputs }).collect();
    Ok(found)
}

/// Notes the time up to which logs have been looked at. Without the note, they are looked at again.
pub(super) fn note(layout: &Layout, until: u64) {
    let _ = layout.write(Place::State, Place::State, LOOKED, format!("{until}\n").as_bytes());
}

/// From when on logs are looked at. Those from before the queue never are.
fn beginning(layout: &Layout, until: u64) -> Result<u64> {
    let read = |name| -> Result<Option<u64>> {
        let text = match layout.read(Place::State, name) {
            Err(error) if error.is_no_file() => None,
            read => read.map_err(in_queue)?,
        };
        let time = text.and_then(|(bytes, _)| String::from_utf8_lossy(&bytes).trim().parse().ok());
        // A time in the future was written while the clock was ahead, and means nothing.
        Ok(time.filter(|at| *at <= until))
    };
    let (made, looked) = (read(SINCE)?, read(LOOKED)?);
    Ok(looked.max(made).unwrap_or(until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_begins_where_the_last_one_ended_and_never_before_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::ready(&dir.path().join("queue")).unwrap();
        let made = beginning(&layout, u64::MAX).unwrap();
        assert!(made + 60 > now() && made <= now());
        note(&layout, made + 5);
        assert_eq!(beginning(&layout, made + 10).unwrap(), made + 5);
        // The clock was ahead.
        assert_eq!(beginning(&layout, made + 2).unwrap(), made);
        note(&layout, 0);
        assert_eq!(beginning(&layout, made + 10).unwrap(), made);
    }
}
