//! What the commands that look at a whole bucket share.

use std::path::Path;

use larder_hook::settings::process_environment;
use nix_derivation::nixbase32;
use nix_derivation::store_path::StoreDir;

use super::output;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::object_keys::HASH_PART;
use crate::upkeep::inventory::{self, Cache, Catalog, NoRecords, Records, cache_directory};
use crate::upkeep::verify::read_frame;

/// The store directory of the bucket's paths.
///
/// # Errors
/// The bucket has no sound `nix-cache-info`.
pub(super) async fn read_store_dir(bucket: &dyn Bucket) -> Result<StoreDir> {
    store_dir(bucket, read_frame(bucket).await?.store_dir)
}

/// The store directory that `nix-cache-info` states.
///
/// # Errors
/// There is none, or it is none.
pub(super) fn store_dir(bucket: &dyn Bucket, stated: Option<String>) -> Result<StoreDir> {
    let cannot =
        || Error::permanent(Area::Bucket, format!("cannot read the paths in `{}`", bucket.address()));
    let stated = stated.ok_or_else(|| {
        cannot()
            .because("without a sound `nix-cache-info`, the store directory is unknown")
            .hint("`larder init` writes one")
    })?;
    StoreDir::new(stated).map_err(|error| cannot().because(error))
}

/// Takes the inventory of the bucket, with a progress bar, and with what earlier runs have read.
///
/// # Errors
/// The bucket fails.
pub(super) async fn take_inventory(bucket: &dyn Bucket, options: &inventory::Options) -> Result<Catalog> {
    let bar = output::Steps::new("narinfos");
    let mut records = records(&bucket.address(), options);
    let progress = |done, total| bar.set(done, total);
    let catalog = inventory::take(bucket, options, &mut *records, &progress).await;
    bar.remove();
    catalog
}

/// What earlier runs read of the narinfos in this bucket.
pub(super) fn records(address: &str, options: &inventory::Options) -> Box<dyn Records> {
    let Some(directory) = cache_directory(process_environment) else { return Box::new(NoRecords) };
    match Cache::open(&directory, address, options) {
        Ok(cache) => Box::new(cache),
        Err(error) => {
            output::warn(&format!("every narinfo is read, because {error}"));
            Box::new(NoRecords)
        }
    }
}

/// The hash part that an argument names: a store path, its base name or hash part, or a link.
///
/// # Errors
/// It names no path of the store directory.
pub(super) fn digest(argument: &Path, store_dir: &StoreDir) -> Result<[u8; 20]> {
    let target = std::fs::canonicalize(argument).ok();
    let named = |path: &Path| {
        let relative = path.strip_prefix(store_dir.as_str()).unwrap_or(path);
        let first = relative.components().next()?.as_os_str().to_str()?.to_owned();
        let is_whole = first.get(HASH_PART..).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        let hash = first.get(..HASH_PART).filter(|_| is_whole)?;
        nixbase32::decode(hash.as_bytes()).ok()?.try_into().ok()
    };
    named(argument).or_else(|| named(&target?)).ok_or_else(|| {
        Error::permanent(Area::Usage, format!("`{}` is no store path", argument.display()))
            .hint(format!("name paths below `{}`, their base names, or links to them", store_dir.as_str()))
    })
}
