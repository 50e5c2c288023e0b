//! Checks whether the credentials have all rights that a push needs.

use super::probe_key;
use crate::base::error::{Area, Error, Result, Retry};
use crate::bucket::{Bucket, Condition, ContentType, Depth};
use crate::format::object_keys;

const NEEDED: &str = "a writer needs s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on its objects";

/// Lists the bucket, asks for a missing object, and writes and deletes a probe.
///
/// The error names the first operation that the credentials do not allow.
pub async fn check_rights(bucket: &dyn Bucket) -> Result<()> {
    let lacking = |operation: &'static str| move |error| lacking(bucket, operation, error);
    bucket.list("", None, Depth::OneLevel).await.map_err(lacking("list"))?;
    // Without the right to list, a server answers 403 for a missing key, which says nothing about presence.
    bucket.get(object_keys::MISSING).await.map_err(lacking("ask for a missing object in"))?;
    let probe = probe_key();
    let put = bucket.put(&probe, "probe\n".into(), ContentType::Text, Condition::None).await;
    put.map_err(lacking("write to"))?;
    bucket.delete(&probe).await.map_err(lacking("delete in"))
}

/// Says which operation failed, unless the error has another cause than the bucket's refusal.
fn lacking(bucket: &dyn Bucket, operation: &str, error: Error) -> Error {
    if error.area() != Area::Bucket || error.retry() != Retry::Permanent {
        return error;
    }
    let hint = error.hint_text().unwrap_or(NEEDED).to_owned();
    Error::permanent(Area::Bucket, format!("these credentials cannot {operation} `{}`", bucket.address()))
        .because(error)
        .hint(hint)
}
