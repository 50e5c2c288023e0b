//! A bucket on an S3-compatible server.

mod body;
mod client;
mod credentials;
mod error;
mod multipart;
mod policy;
mod request;
mod retry;
mod sender;
mod signer;
mod store;
mod throttle;
mod xml;

pub use client::Options;
pub use store::S3Bucket;

/// Reads what a server may have answered, each way that it may be read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_answer(body: &[u8]) {
    let _ = xml::listing(body);
    let _ = xml::uploads(body);
    let _ = xml::fault(body);
}
