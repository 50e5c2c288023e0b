//! The claims of running pushes on paths. A push that wants a path with another push's claim waits for the outcome of
//! the path.

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

/// The claim of a push on a path. When a claim is dropped without an outcome, the path fails in the waiting pushes with
/// an error that permits another attempt.
#[derive(Debug)]
pub(super) struct Claim(watch::Sender<Option<Outcome>>);

/// The claim of another push.
#[derive(Debug)]
pub(super) struct OtherClaim(watch::Receiver<Option<Outcome>>);

impl Claims {
    /// Claims a path, unless another push has a claim on it.
    ///
    /// # Errors
    /// The claim of the other push.
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
    /// Waits for the outcome of the path.
    pub(super) async fn outcome(mut self) -> Outcome {
        let outcome = self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Outcome::Failed(interrupted()))
    }
}

fn interrupted() -> Error {
    Error::new(Area::General, Retry::Transient, "another push of the same path was interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Arc<StorePath> {
        Arc::new(StorePath::from_parts([7; 20], "path").unwrap())
    }

    #[tokio::test]
    async fn a_waiting_push_gets_the_outcome() {
        let (claims, path) = (Claims::default(), path());
        let claim = claims.claim(&path).unwrap();
        let waiting = claims.claim(&path).unwrap_err();
        claims.settle(&path, claim, &Outcome::Present);
        assert!(matches!(waiting.outcome().await, Outcome::Present));
        assert!(claims.claim(&path).is_ok(), "a settled path can be claimed again");
    }

    #[tokio::test]
    async fn a_dropped_claim_fails_the_path_for_now_and_can_be_claimed_again() {
        let (claims, path) = (Claims::default(), path());
        let claim = claims.claim(&path).unwrap();
        let waiting = claims.claim(&path).unwrap_err();
        drop(claim);
        let Outcome::Failed(error) = waiting.outcome().await else { panic!("the path has no outcome") };
        assert_eq!(error.retry(), Retry::Transient);
        assert!(claims.claim(&path).is_ok());
    }

    #[test]
    fn other_paths_are_claimed_independently() {
        let claims = Claims::default();
        let other = Arc::new(StorePath::from_parts([8; 20], "path").unwrap());
        let _claim = claims.claim(&path()).unwrap();
        assert!(claims.claim(&other).is_ok());
    }
}
