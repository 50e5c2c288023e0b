//! Sending: the NAR of a path is read, hashed, compressed, and uploaded.

mod adaptive_compressor;
mod budget;
mod buffer;
pub mod compress;
mod effort_control;
mod idle_meter;
mod lanes;
mod nar;
mod part_sink;
mod produce;
mod request_limit;
mod upload;

pub use nar::NarSender;
pub use produce::{NarOrigin, WriteNar};
pub use request_limit::RequestLimit;
pub use upload::Uploaded;
