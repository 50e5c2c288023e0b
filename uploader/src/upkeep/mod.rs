//! Keeps a bucket whole and small: verify, repair, pins and rules, collection, new signatures, copies.

#[cfg(test)]
pub(crate) mod house;
pub mod inventory;
#[cfg(test)]
pub(crate) mod large;
pub mod repair;
pub mod rules;
pub mod sign;
pub mod verify;
