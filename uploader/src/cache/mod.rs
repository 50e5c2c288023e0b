//! The binary cache's format.

pub mod listing;
