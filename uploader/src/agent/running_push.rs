//! A push as a task of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::decide::possible_bucket_error;
use crate::base::error::{Area, Error, Result, Retry};
use crate::push::{Progress, Pusher, Report, Request};
use crate::store::StorePath;

/// A push that has ended.
pub(super) struct EndedPush {
    /// The jobs that it was for; empty when it tried blocked paths.
    pub(super) ids: Vec<String>,
    /// The paths that it was asked for.
    pub(super) asked: BTreeSet<StorePath>,
    pub(super) report: Result<Report>,
    pub(super) suspicion: Suspicion,
}

/// What the errors of a report have turned out to mean.
pub(super) enum Suspicion {
    /// Each error concerns its path.
    None,
    /// The session of the push has ended, while the bucket may work: another session can push the paths.
    SessionEnded,
    /// This error means that the bucket cannot be used at all.
    Bucket(Error),
}

/// Begins a push for the jobs `ids`. The result resolves when it has ended.
pub(super) fn begin(
    pusher: Arc<Pusher>,
    ids: Vec<String>,
    request: Request,
    progress: Arc<dyn Progress>,
) -> BoxFuture<'static, EndedPush> {
    let asked = request.roots.iter().map(|root| (*root.path).clone()).collect();
    let push = tokio::spawn(async move {
        let report = pusher.push(request, progress).await?;
        let suspicion = match possible_bucket_error(&report).cloned() {
            Some(error) if pusher.probe().await.is_err() => match pusher.check() {
                Ok(()) => Suspicion::Bucket(error),
                Err(_) => Suspicion::SessionEnded,
            },
            _ => Suspicion::None,
        };
        Ok((report, suspicion))
    });
    Box::pin(async move {
        let ended = push.await.unwrap_or_else(|error| {
            Err(Error::new(Area::General, Retry::Unknown, "a push ended unexpectedly").because(error))
        });
        let (report, suspicion) = match ended {
            Ok((report, suspicion)) => (Ok(report), suspicion),
            Err(error) => (Err(error), Suspicion::None),
        };
        EndedPush { ids, asked, report, suspicion }
    })
}
