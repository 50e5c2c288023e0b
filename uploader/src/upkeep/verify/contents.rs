//! Reads NARs, and compares their contents with what narinfos say of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::fault::{Fault, Kind};
use crate::base::error::{Error, Result};
use crate::bucket::Bucket;
use crate::format::named_nar::NamedNar;
use crate::format::path_info::is_small;
use crate::survey::{ByteRate, CLIENT_WINDOW, NarContents, NarFault, NarSource, read_nar};
use crate::upkeep::inventory::{Catalog, NarId, PathId};

/// The number of small NARs that are read at the same time. A large NAR takes [`LARGE_SHARE`] of these places, which bounds
/// the memory of the decoders.
const PLACES: usize = 16;
/// The number of places that a large NAR takes.
const LARGE_SHARE: u32 = 8;
/// The number of forms in which one object is read. Only a hostile bucket has more than one or two.
const MOST_FORMS: usize = 4;
/// The number of NARs that the bucket may fail to hand out before the reading ends.
const MOST_ERRORS: usize = 16;

/// A NAR that was read.
#[derive(Debug)]
pub struct ReadNar {
    /// The object.
    pub nar: NarId,
    /// The faults of the paths whose narinfos name it, or why the bucket does not tell.
    pub faults: Result<Vec<Fault>>,
    /// The size of the object in bytes.
    pub bytes: u64,
}

/// Reads NARs. Hands each to `take` when it is read. Ends early when the bucket fails for many of them.
pub async fn read_contents(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    nars: Vec<NarId>,
    rate: Option<&ByteRate>,
    mut take: impl FnMut(ReadNar),
) {
    let mut paths: BTreeMap<NarId, Vec<PathId>> = nars.iter().map(|nar| (*nar, Vec::new())).collect();
    for id in catalog.ids() {
        if let Some(paths) = catalog.nar(id).and_then(|nar| paths.get_mut(&nar)) {
            paths.push(id);
        }
    }
    let places = Semaphore::new(PLACES);
    let places = &places;
    // The largest NARs first: one that begins last would be read alone.
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_key(|(nar, _)| Reverse(catalog.nar_object(*nar).1.size));
    let readings = paths.into_iter().map(|(nar, paths)| async move {
        let is_small = paths.iter().all(|id| is_small(catalog.nar_size(*id)));
        let _place = places.acquire_many(if is_small { 1 } else { LARGE_SHARE }).await;
        let faults = read(bucket, catalog, nar, &paths, rate).await;
        ReadNar { nar, faults, bytes: catalog.nar_object(nar).1.size }
    });
    let mut readings = stream::iter(readings).buffer_unordered(PLACES);
    let mut errors = 0;
    while let Some(read) = readings.next().await {
        errors += usize::from(read.faults.is_err());
        take(read);
        if errors >= MOST_ERRORS {
            return;
        }
    }
}

/// Reads a NAR, once for each form in which narinfos name it: usually once.
async fn read(
    bucket: &dyn Bucket,
    catalog: &Catalog,
    nar: NarId,
    paths: &[PathId],
    rate: Option<&ByteRate>,
) -> Result<Vec<Fault>> {
    let (key, object) = catalog.nar_object(nar);
    let named: Vec<(PathId, NamedNar)> =
        paths.iter().filter_map(|id| Some((*id, catalog.named_nar(*id)?))).collect();
    let forms: BTreeSet<_> = named.iter().map(|(_, named)| (named.label, named.nar_size)).collect();
    let mut faults = Vec::new();
    for (number, (label, nar_size)) in forms.into_iter().enumerate() {
        let of_form = named.iter().filter(|(_, named)| (named.label, named.nar_size) == (label, nar_size));
        if number >= MOST_FORMS {
            let text = format!("more than {MOST_FORMS} narinfos say different things of `{key}`");
            faults
                .extend(of_form.map(|(id, _)| Fault::new(Kind::NarContents, catalog.basename(*id), &*text)));
            continue;
        }
        let source =
            NarSource { key: key.to_owned(), size: object.size, label, zstd_window: CLIENT_WINDOW, nar_size };
        let read = read_nar(bucket, &source, rate, |_| Ok(())).await.map_err(unknown)?;
        for (id, named) in of_form {
            if let Some((kind, text)) = compare(named, &read) {
                faults.push(Fault::new(kind, catalog.basename(*id), text));
            }
        }
    }
    Ok(faults)
}

fn unknown(error: Error) -> Error {
    error.hint("the contents of this NAR are unknown; the next verification reads it again")
}

/// What is wrong with the contents of a NAR.
fn compare(named: &NamedNar, read: &Result<NarContents, NarFault>) -> Option<(Kind, String)> {
    let key = &named.key;
    let fault = match read {
        Ok(read) if (read.nar_hash, read.nar_size) != (named.nar_hash, named.nar_size) => {
            (Kind::NarContents, format!("its NAR `{key}` has other contents"))
        }
        Ok(read) if named.file_hash.is_some_and(|hash| hash != read.file_hash) => {
            (Kind::FileHash, format!("`FileHash` is not the hash of `{key}`"))
        }
        Ok(_) => return None,
        Err(NarFault::Short) => (Kind::NarContents, format!("its NAR `{key}` is gone or was cut")),
        Err(NarFault::TooLong) => {
            (Kind::NarContents, format!("its NAR `{key}` is longer than {} bytes", named.nar_size))
        }
        Err(NarFault::Undecodable(reason)) => {
            (Kind::NarContents, format!("its NAR `{key}` cannot be decompressed: {reason}"))
        }
    };
    Some(fault)
}
