//! Where objects live: on an S3-compatible server or in a directory, behind one trait.

mod address;
mod address_params;
#[doc(hidden)]
pub mod conformance;
mod contract;
mod directory;
mod directory_files;
mod directory_multipart;
mod forward;
mod http;
mod key;
mod network;
mod open;
mod reader;
mod s3;
mod s3_body;
mod s3_client;
mod s3_credentials;
mod s3_error;
mod s3_multipart;
mod s3_policy;
mod s3_request;
mod s3_retry;
mod s3_sender;
mod s3_signer;
mod s3_throttle;
mod s3_xml;
#[cfg(test)]
mod scripted;

pub use address::{Address, AddressingStyle, S3Address};
pub use contract::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, ListPage, MAX_SMALL, Multipart,
    Object, ObjectMeta, Put, Unfinished,
};
pub use directory::DirectoryBucket;
pub use forward::Forwarder;
pub use open::open;
pub use reader::{Answer, PublicReader};
pub use s3::S3Bucket;
pub use s3_client::Options;

/// Reads what a server may have answered, each way that it may be read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_answer(body: &[u8]) {
    let _ = s3_xml::listing(body);
    let _ = s3_xml::uploads(body);
    let _ = s3_xml::fault(body);
}
