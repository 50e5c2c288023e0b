//! What a command does about names that lead to no store path: it names each of them, and goes on without them.

use std::path::PathBuf;

use super::output::{self, Json};
use crate::base::error::{Error, Result};

/// Shows each bad name with its reason, as JSON if there is a renderer. `go_on` says whether the command goes on without
/// these names: it has other names, and no flag forbids it.
///
/// # Errors
/// There are bad names, and the command does not go on.
pub(super) fn check(go_on: bool, bad: &[(PathBuf, Error)], json: Option<&Json>) -> Result<()> {
    let Some((_, first)) = bad.first() else { return Ok(()) };
    if let Some(json) = json {
        bad.iter().for_each(|(name, error)| json.invalid(name, error));
    } else if go_on || bad.len() > 1 {
        bad.iter().for_each(|(_, error)| output::warn(&error.to_string()));
    }
    match bad.len() {
        _ if go_on => Ok(()),
        1 => Err(first.clone()),
        count => {
            let text = format!("{} cannot be used, so nothing was done", output::count(count, "name"));
            Err(Error::permanent(first.area(), text))
        }
    }
}
