//! A bucket in a directory.

mod files;
mod multipart;
mod store;

pub use store::DirectoryBucket;
