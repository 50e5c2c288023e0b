//! A recheck: examines paths that larder has relied on.

use futures::stream::{self, Stream, StreamExt};
use nix_derivation::StorePath;

use super::examination::Examiner;
use super::presence::Presence;
use crate::base::error::{Error, Result};
use crate::format::path_info::PathInfo;

/// The number of paths that are examined at the same time.
const CONCURRENT: usize = 4;

/// What a recheck finds of one path.
#[derive(Clone, Debug)]
pub enum Finding {
    /// A client can take the path, as far as its own narinfo and NAR tell.
    Sound,
    /// The bucket has no narinfo of it.
    Absent,
    /// A client cannot take it, for this reason.
    Damaged(String),
    /// The bucket did not tell.
    Unknown(Error),
}

/// Examines paths, a few at a time, in any order. A path that is not in the store has no path info: its narinfo is judged
/// alone.
pub fn recheck<'a>(
    examiner: Examiner<'a>,
    paths: Vec<(StorePath, Option<PathInfo>)>,
) -> impl Stream<Item = (StorePath, Option<PathInfo>, Finding)> + 'a {
    let find = move |(path, info): (StorePath, Option<PathInfo>)| async move {
        let found = match &info {
            Some(info) => in_store(&examiner, info).await,
            None => alone(&examiner, &path).await,
        };
        (path, info, found.unwrap_or_else(Finding::Unknown))
    };
    stream::iter(paths.into_iter().map(find)).buffer_unordered(CONCURRENT)
}

async fn in_store(examiner: &Examiner<'_>, info: &PathInfo) -> Result<Finding> {
    let presence = examiner.examine(info, None).await.presence;
    Ok(match presence {
        Presence::Absent => Finding::Absent,
        Presence::Unusable(reason) => Finding::Damaged(reason),
        Presence::Unknown(error) => return Err(error),
        presence if presence.is_available() => Finding::Sound,
        // Nobody signed it, or no trusted key. The reason tells more.
        _ => match examiner.fault_of(&info.path).await? {
            Some(fault) => Finding::Damaged(fault),
            None => Finding::Damaged("the bucket had a narinfo that no client can use".into()),
        },
    })
}

async fn alone(examiner: &Examiner<'_>, path: &StorePath) -> Result<Finding> {
    let key = crate::format::object_keys::narinfo(path);
    Ok(match examiner.fault_of(path).await? {
        None => Finding::Sound,
        Some(_) if examiner.bucket.get(&key).await?.is_none() => Finding::Absent,
        Some(fault) => Finding::Damaged(fault),
    })
}
