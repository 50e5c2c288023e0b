//! Keeps a bucket whole and small: verify, repair, pins and rules, collection, new signatures, copies.

pub mod collect;
#[cfg(test)]
pub(crate) mod house;
pub mod inventory;
#[cfg(test)]
pub(crate) mod large;
pub mod repair;
pub mod rules;
pub mod sign;
pub mod transfer;
pub mod verify;
