//! Installs larder on a Linux with systemd and Nix, and removes it. A set-up is a list of changes that can be shown,
//! made and taken back.
//!
//! - [`plan_installation`], [`plan_removal`]: compare the machine with the wanted state, and return a [`Plan`]
//! - [`install`], [`remove`]: make the changes of a plan
//! - [`System`]: users, units and processes of this machine
//! - [`Manifest`]: the record that a set-up leaves, so that it can be removed

mod apply;
mod change;
mod configuration;
mod diff;
mod install;
mod manifest;
mod nix_hook;
mod paths;
mod plan;
mod processes;
mod removal;
mod system;
mod units;
mod users;

pub use apply::{Removal, install, remove};
pub use change::{Change, Tree};
pub use configuration::{read_installation, read_or_make_configuration};
pub use diff::diff;
pub use install::{Installation, plan_installation};
pub use manifest::Manifest;
pub use paths::{HOOK_DIR, STARTED_UNITS, STATE_DIR, USER};
pub use plan::Plan;
pub use removal::plan_removal;
pub use system::System;
pub use users::look_up_user;
