//! From an address to a bucket.

use std::sync::Arc;

use super::address::Address;
use super::interface::Bucket;
use crate::base::error::Result;
use crate::bucket::directory::DirectoryBucket;
use crate::bucket::s3::Options;
use crate::bucket::s3::S3Bucket;

/// The bucket at an address: `s3://…`, `file:///…` or an absolute path.
///
/// Nothing is sent. Fails where the address is malformed, or where a file that `options` names cannot be used.
pub async fn open(address: &str, options: &Options) -> Result<Arc<dyn Bucket>> {
    match address.parse()? {
        Address::S3(address) => Ok(Arc::new(S3Bucket::open(address, options).await?)),
        Address::Directory(root) => Ok(Arc::new(DirectoryBucket::new(root))),
    }
}
