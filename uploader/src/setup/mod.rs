//! What `larder setup` makes of a machine: files, links and a few lines in Nix's configuration, as a list of changes
//! that can be shown, made, and taken back. What takes a service manager or makes users is the command's.

mod change;
mod diff;
mod manifest;
mod plan;
mod units;

pub use change::{Change, Tree};
pub use diff::diff;
pub use manifest::Manifest;
pub use plan::{
    HOOK_DIR, Hook, Plan, Request, STARTED, STATE_DIR, USER, earlier_hook, hook_file, removal, setup,
};
