//! Where objects live: on an S3-compatible server or in a directory, behind one trait.

mod address;
mod address_params;
mod contract;
mod http;
mod key;
mod network;
mod s3;
mod s3_client;
mod s3_credentials;
mod s3_error;
mod s3_multipart;
mod s3_policy;

pub use address::{Address, AddressingStyle, S3Address};
pub use contract::{
    AnonymousRead, Bucket, Condition, ContentType, Cursor, Depth, ListPage, MAX_SMALL, Multipart, Object,
    ObjectMeta, Put,
};
pub use s3::S3Bucket;
pub use s3_client::Options;
