//! Paths that a running push works on. Another push that wants the same path waits for the outcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nix_derivation::StorePath;
use tokio::sync::watch;

use super::outcome::Outcome;
use crate::base::error::{Area, Error, Retry};
use crate::base::lock::lock;

/// The claims of all running pushes.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<Arc<StorePath>, watch::Receiver<Option<Outcome>>>>);

/// The claim of a push on a path. A claim that is dropped without an outcome tells the waiting pushes to try again.
#[derive(Debug)]
pub(super) struct Claim(watch::Sender<Option<Outcome>>);

/// The claim of another push.
#[derive(Debug)]
pub(super) struct OtherClaim(watch::Receiver<Option<Outcome>>);

impl Claims {
    /// Claims a path, unless another push has it.
    pub(super) fn claim(&self, path: &Arc<StorePath>) -> Result<Claim, OtherClaim> {
        let mut claims = lock(&self.0);
        if let Some(claim) = claims.get(path).filter(|claim| claim.has_changed().is_ok()) {
            return Err(OtherClaim(claim.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        claims.insert(path.clone(), receiver);
        Ok(Claim(sender))
    }

    /// Ends a claim with the outcome of its path.
    pub(super) fn settle(&self, path: &StorePath, claim: Claim, outcome: &Outcome) {
        lock(&self.0).remove(path);
        claim.0.send_replace(Some(outcome.clone()));
    }
}

impl OtherClaim {
    /// Waits for the outcome.
    pub(super) async fn outcome(mut self) -> Outcome {
        let outcome = self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Outcome::Failed(interrupted()))
    }
}

fn interrupted() -> Error {
    Error::new(Area::General, Retry::Transient, "another push of the same path was interrupted")
}
