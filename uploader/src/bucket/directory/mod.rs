//! A bucket in a directory.

mod files;
mod listing;
mod multipart;
mod store;

pub use store::DirectoryBucket;
