//! Opening of the bucket at an address.

use std::sync::Arc;

use super::address::Address;
use super::interface::Bucket;
use crate::base::error::Result;
use crate::bucket::directory::DirectoryBucket;
use crate::bucket::s3::{Options, S3Bucket};

/// The bucket at an address: `s3://…`, `file:///…` or an absolute path.
///
/// Sends nothing. Fails if the address is malformed, or a file that `options` names cannot be used.
pub async fn open(address: &str, options: &Options) -> Result<Arc<dyn Bucket>> {
    match address.parse()? {
        Address::S3(address) => Ok(Arc::new(S3Bucket::open(address, options).await?)),
        Address::Directory(root) => Ok(Arc::new(DirectoryBucket::new(root))),
    }
}
