//! What the local store knows about paths that a bucket does not have.

use std::collections::HashSet;

use nix_narinfo::TrustedPublicKey;

use crate::base::error::Result;
use crate::format::narinfo::fingerprint;
use crate::format::path_info::PathInfo;
use crate::format::signature::verified;
use crate::store::{Daemon, StoreLocation};
use crate::upkeep::inventory::{AbsentId, Catalog};

/// The paths that narinfos refer to, that are not in the bucket, and that are not upstream's: the local store has them
/// without a signature of the keys `upstream`. Of a path that the store does not have, nothing is known.
///
/// # Errors
/// When the daemon does not answer.
pub fn missing_by_local_store(
    store: &StoreLocation,
    upstream: &[TrustedPublicKey],
    catalog: &Catalog,
) -> Result<HashSet<AbsentId>> {
    let absent: Vec<_> =
        catalog.absent_ids().filter_map(|id| catalog.absent_path(id).map(|path| (id, path))).collect();
    let paths: Vec<_> = absent.iter().map(|(_, path)| path.clone()).collect();
    if absent.is_empty() {
        return Ok(HashSet::new());
    }
    let infos = Daemon::connect(store)?.path_infos(&paths)?;
    let is_upstreams =
        |info: &PathInfo| verified(&fingerprint(&store.store_dir, info), &info.signatures, upstream);
    let known = absent.into_iter().zip(infos);
    Ok(known.filter_map(|((id, _), info)| info.filter(|info| !is_upstreams(info)).map(|_| id)).collect())
}
