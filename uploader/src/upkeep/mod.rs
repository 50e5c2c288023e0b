//! Keeps a bucket whole and small: verify, repair, pins and rules, collection, new signatures, copies.

#[cfg(test)]
pub(crate) mod house;
pub mod inventory;
pub mod repair;
pub mod verify;
