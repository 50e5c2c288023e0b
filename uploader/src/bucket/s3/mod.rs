//! A bucket on an S3-compatible server.
//!
//! From the bottom up: `xml`, `request` and `reply` are values; `error`, `retry`, `throttle`, `signer` and `upload_body`
//! each decide one thing about them; `sender` sends a request; `connection` knows the bucket's address; `objects`,
//! `listing`, `multipart`, `policy` and `bucket` are the operations; `store` composes them.

mod bucket;
mod connection;
mod credentials;
mod error;
mod listing;
mod multipart;
mod objects;
mod place;
mod policy;
mod policy_document;
mod reply;
mod request;
mod retry;
mod sender;
mod signer;
mod store;
mod throttle;
mod upload_body;
mod xml;

pub use connection::Options;
pub use credentials::check_credentials_file;
pub use store::S3Bucket;

/// Reads a body as every kind of answer that larder reads.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_answer(body: &[u8]) {
    let _ = xml::read::listing(body);
    let _ = xml::read::uploads(body);
    let _ = xml::read::upload_id(body);
    let _ = xml::read::names_an_object(body);
    let _ = xml::read::fault(body);
}
