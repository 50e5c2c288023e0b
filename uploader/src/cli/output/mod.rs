//! Everything that the commands print. Data goes to standard output, messages for people to standard error.

mod bar;
mod collections;
mod compression;
mod faults;
mod human;
mod json;
mod quantity;
mod repair;
mod setup;
mod steps;
mod terminal;

pub(super) use collections::Collections;
pub(super) use faults::{fault_as_json, show_faults};
pub(super) use human::Human;
pub(super) use json::Json;
pub(super) use quantity::{count, size};
pub(super) use repair::Repairs;
pub(super) use setup::show_plan;
pub(super) use steps::Steps;
pub(super) use terminal::{data, data_lines, error, say, usage, warn};
