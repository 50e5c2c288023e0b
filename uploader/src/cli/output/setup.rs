//! Shows the changes of `larder setup` to a person.

use super::quantity::size;
use super::terminal::{data, data_lines, say};
use crate::setup::{Change, Plan, diff};

/// Prints each change of a plan, with the difference of each text file, and the plan's remarks.
pub(in crate::cli) fn show_plan(plan: &Plan) {
    for change in plan.files.iter().chain(&plan.nix) {
        match change {
            Change::Directory(path) => data(&format!("new directory {path}")),
            Change::File { path, before, after, mode } => show_file(path, before.as_deref(), after, *mode),
            Change::Link { path, target } => data(&format!("new link {path} -> {target}")),
            Change::Remove(path) => data(&format!("gone {path}")),
            Change::RemoveDirectory(path) => data(&format!("gone {path}, if it is empty")),
        }
    }
    plan.remarks.iter().for_each(|text| say(text));
}

fn show_file(path: &str, before: Option<&[u8]>, after: &[u8], mode: u32) {
    let verb = if before.is_some() { "changed" } else { "new" };
    match (std::str::from_utf8(before.unwrap_or_default()), std::str::from_utf8(after)) {
        (Ok(before), Ok(after)) => {
            data(&format!("{verb} file {path} (mode {mode:04o})"));
            data_lines(&diff(before, after));
        }
        _ => data(&format!("{verb} file {path} ({})", size(after.len() as u64))),
    }
}
