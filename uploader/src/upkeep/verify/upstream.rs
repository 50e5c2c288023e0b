//! Whether upstream still has what was left out of a bucket because upstream has it.

use std::collections::HashSet;

use futures::{StreamExt, stream};

use crate::base::error::{Area, Error, Result};
use crate::format::object_keys::narinfo_of;
use crate::format::summary::Summary;
use crate::http::PublicReader;
use crate::upkeep::inventory::{AbsentId, Catalog, Options};

/// The number of concurrent questions. Upstream serves others, too.
const CONCURRENT: usize = 16;
/// The number of failed questions after which no more are asked.
const MOST_ERRORS: usize = 16;

/// What upstream says about paths.
#[derive(Debug, Default)]
pub struct Upstream {
    /// The paths that no upstream cache has, with a signature that clients trust.
    pub missing: HashSet<AbsentId>,
    /// The questions that no cache answered.
    pub errors: Vec<Error>,
}

/// Asks the caches at `urls` for paths that the bucket does not have. `options` has the keys with which upstream signs.
pub async fn ask_upstream(
    reader: &PublicReader,
    urls: &[String],
    options: &Options,
    catalog: &Catalog,
    paths: Vec<AbsentId>,
    progress: impl Fn(usize, usize),
) -> Upstream {
    let count = paths.len();
    let asked = paths.into_iter().map(|id| async move {
        let Some(path) = catalog.absent_path(id) else { return (id, Ok(false)) };
        (id, has_any(reader, urls, options, path.digest()).await)
    });
    let mut answers = stream::iter(asked).buffer_unordered(CONCURRENT);
    let (mut found, mut done) = (Upstream::default(), 0);
    while let Some((id, answer)) = answers.next().await {
        done += 1;
        progress(done, count);
        match answer {
            Ok(true) => {}
            Ok(false) => drop(found.missing.insert(id)),
            Err(error) => found.errors.push(error),
        }
        if found.errors.len() >= MOST_ERRORS {
            break;
        }
    }
    found
}

/// Whether one of the caches has the path. If none has it and one does not answer, nobody knows.
///
/// # Errors
/// When nobody knows.
pub async fn has_any(
    reader: &PublicReader,
    urls: &[String],
    options: &Options,
    digest: &[u8; 20],
) -> Result<bool> {
    let mut unanswered = None;
    for url in urls {
        match has(reader, url, options, digest).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => unanswered = Some(error),
        }
    }
    unanswered.map_or(Ok(false), Err)
}

async fn has(reader: &PublicReader, url: &str, options: &Options, digest: &[u8; 20]) -> Result<bool> {
    let url = format!("{}/{}", url.trim_end_matches('/'), narinfo_of(digest));
    let answer = reader.get(&url).await?;
    match answer.status {
        200 => match Summary::read(&options.store_dir, &options.trusted[..], digest, &answer.body) {
            // The NAR may have any key there: only the signature matters.
            Ok(summary) => Ok(summary.fault.is_none()),
            Err(fault) => Err(Error::transient(Area::Bucket, format!("cannot read `{url}`"))
                .because(format!("it is no narinfo: {}", fault.text))),
        },
        // As for Nix: some caches answer 403 for what does not exist.
        403 | 404 | 410 => Ok(false),
        status => Err(Error::transient(Area::Bucket, format!("cannot read `{url}`"))
            .because(format!("the server answers with status {status}"))),
    }
}
