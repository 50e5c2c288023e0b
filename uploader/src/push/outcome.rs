//! What became of the paths of a push.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix_derivation::StorePath;

use crate::base::error::Error;

/// What became of one path.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its NAR and narinfo are in the bucket now.
    Pushed {
        /// Size of the NAR.
        nar_size: u64,
        /// Size of the object; 0 when an object of equal contents was there and is shared.
        sent: u64,
    },
    /// It was there, and has our signature now.
    Signed,
    /// It was there.
    Present,
    /// Other contents of the same path are there; they stand.
    Differs,
    /// A trusted upstream cache has it.
    Upstream,
    /// The configuration keeps it out.
    Excluded(String),
    /// Nothing says that its contents can be trusted, so it is not signed.
    Refused(String),
    /// The store does not have it any more.
    Gone,
    /// It refers to a path that cannot be published.
    Blocked {
        /// That path.
        by: Arc<StorePath>,
    },
    /// It could not be pushed.
    Failed(Error),
    /// A dry run would have pushed it.
    Planned {
        /// Size of the NAR.
        nar_size: u64,
    },
}

impl Outcome {
    /// Whether a client finds the path, here or upstream.
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Pushed { .. } | Self::Signed | Self::Present | Self::Differs | Self::Upstream)
    }

    /// One word for it, as in JSON output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pushed { .. } => "pushed",
            Self::Signed => "signed",
            Self::Present => "present",
            Self::Differs => "differs",
            Self::Upstream => "upstream",
            Self::Excluded(_) => "excluded",
            Self::Refused(_) => "refused",
            Self::Gone => "gone",
            Self::Blocked { .. } => "blocked",
            Self::Failed(_) => "failed",
            Self::Planned { .. } => "planned",
        }
    }

    /// Why, where there is more to say.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Excluded(reason) | Self::Refused(reason) => Some(reason.clone()),
            Self::Blocked { by } => Some(format!("refers to `{}`", by.to_basename())),
            Self::Failed(error) => Some(error.to_string()),
            Self::Differs => {
                Some("the bucket has other contents under this path, made by another build".into())
            }
            _ => None,
        }
    }
}

/// What became of all paths of a push.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By path.
    pub outcomes: BTreeMap<Arc<StorePath>, Outcome>,
}

impl Report {
    /// How many paths ended with this word.
    pub fn count(&self, word: &str) -> usize {
        self.outcomes.values().filter(|outcome| outcome.word() == word).count()
    }

    /// Bytes of NAR that were pushed, and bytes of objects that were sent for them.
    pub fn bytes(&self) -> (u64, u64) {
        self.outcomes.values().fold((0, 0), |(nar, file), outcome| match outcome {
            Outcome::Pushed { nar_size, sent } => (nar + nar_size, file + sent),
            Outcome::Planned { nar_size } => (nar + nar_size, file),
            _ => (nar, file),
        })
    }

    /// Whether nothing is left to wish for.
    pub fn is_complete(&self) -> bool {
        !self.outcomes.values().any(|outcome| {
            matches!(
                outcome,
                Outcome::Refused(_) | Outcome::Gone | Outcome::Blocked { .. } | Outcome::Failed(_)
            )
        })
    }
}
