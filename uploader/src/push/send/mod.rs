//! Sending the NAR of a path into the bucket.

pub mod budget;
mod buffer;
pub mod compress;
pub mod flow;
pub mod nar;
pub mod pace;
pub mod produce;
pub mod upload;
