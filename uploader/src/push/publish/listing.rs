//! Writes the listing of a path. Nix does not need the listing, so no narinfo waits for it.

use std::sync::Arc;

use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::listing::ListingWriter;
use crate::format::object_keys;
use crate::format::path_info::PathInfo;
use crate::push::progress::Progress;
use crate::store::{StoreLocation, dump};

/// Writes a listing. `listing` holds the listing when it was made during the upload of the NAR; otherwise, the path is
/// read from the store. A failure becomes a remark, and the push goes on.
pub async fn write_listing(
    bucket: &dyn Bucket,
    store: Arc<StoreLocation>,
    info: &PathInfo,
    listing: Option<String>,
    progress: &dyn Progress,
) {
    let path = info.path.clone();
    let list = move || {
        let mut listing = ListingWriter::new();
        dump(&store, &path, &mut listing).ok()?;
        listing.finish().ok()
    };
    let listing = match listing {
        Some(listing) => Some(listing),
        None => tokio::task::spawn_blocking(list).await.ok().flatten(),
    };
    let Some(listing) = listing else { return };
    let key = object_keys::listing(&info.path);
    if let Err(error) = bucket.put(&key, listing.into(), ContentType::Json, Condition::None).await {
        progress.remark(&format!("cannot write the listing of `{}`: {error}", info.path.to_basename()));
    }
}
