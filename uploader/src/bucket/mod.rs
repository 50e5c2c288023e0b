//! Buckets: one trait for objects on an S3-compatible server and objects in a directory.

mod address;
mod address_parameters;
#[doc(hidden)]
pub mod conformance;
mod directory;
mod interface;
mod key_syntax;
#[cfg(test)]
pub(crate) mod memory;
mod open;
mod s3;

pub use address::{Address, AddressingStyle, S3Address};
pub use directory::DirectoryBucket;
#[cfg(test)]
pub(crate) use interface::Position;
pub use interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Copied, Cursor, Depth, Fence, ListPage, MAX_SMALL,
    Multipart, Object, ObjectMeta, Origin, Put, Unfinished, Version,
};
pub use key_syntax::is_key;
pub use open::open;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use s3::properties;
pub use s3::{Options, S3Bucket, check_credentials_file};
