//! The result of a push: one outcome for each store path.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix_derivation::StorePath;

use crate::base::clock::Moment;
use crate::base::error::Error;

/// The outcome of one store path.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The push has put the NAR and the narinfo into the bucket.
    Pushed {
        /// Size of the NAR in bytes.
        nar_size: u64,
        /// Size of the uploaded object in bytes; 0 if the narinfo shares a NAR object that was in the bucket before.
        sent: u64,
    },
    /// The narinfo was in the bucket, and the push has added a signature.
    Signed,
    /// The narinfo was in the bucket with all signatures.
    Present,
    /// The bucket has another build of the path, which a trusted key signed. Clients get that build.
    Differs {
        /// The name of the key.
        signer: String,
    },
    /// The bucket has a narinfo that no client can use, and that larder may not replace, for this reason.
    Unusable(String),
    /// A trusted upstream cache has the path.
    Upstream,
    /// The configuration excludes the path, for this reason.
    Excluded(String),
    /// No evidence says that the contents can be trusted, so larder does not sign them.
    Refused(String),
    /// The path is no longer valid in the store.
    Gone,
    /// The path refers to a path that cannot be published.
    Blocked {
        /// The reference that cannot be published.
        by: Arc<StorePath>,
    },
    /// The push of this path failed.
    Failed(Error),
    /// A dry run found that the path would be pushed.
    Planned {
        /// Size of the NAR in bytes.
        nar_size: u64,
    },
}

/// An [`Outcome`] without its data, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeKind {
    /// See [`Outcome::Pushed`].
    Pushed,
    /// See [`Outcome::Signed`].
    Signed,
    /// See [`Outcome::Planned`].
    Planned,
    /// See [`Outcome::Present`].
    Present,
    /// See [`Outcome::Differs`].
    Differs,
    /// See [`Outcome::Unusable`].
    Unusable,
    /// See [`Outcome::Upstream`].
    Upstream,
    /// See [`Outcome::Excluded`].
    Excluded,
    /// See [`Outcome::Refused`].
    Refused,
    /// See [`Outcome::Gone`].
    Gone,
    /// See [`Outcome::Blocked`].
    Blocked,
    /// See [`Outcome::Failed`].
    Failed,
}

impl OutcomeKind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Pushed,
        Self::Signed,
        Self::Planned,
        Self::Present,
        Self::Differs,
        Self::Unusable,
        Self::Upstream,
        Self::Excluded,
        Self::Refused,
        Self::Gone,
        Self::Blocked,
        Self::Failed,
    ];

    /// The word for this kind in JSON output and in lines for people. `docs/json.md` lists the words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Signed => "signed",
            Self::Planned => "planned",
            Self::Present => "present",
            Self::Differs => "differs",
            Self::Unusable => "unusable",
            Self::Upstream => "upstream",
            Self::Excluded => "excluded",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }

    /// Whether a client can substitute the path, from this bucket or from upstream.
    pub fn is_available(self) -> bool {
        matches!(self, Self::Pushed | Self::Signed | Self::Present | Self::Differs | Self::Upstream)
    }

    /// Whether a client can substitute the path from this bucket.
    pub fn is_in_bucket(self) -> bool {
        self.is_available() && self != Self::Upstream
    }

    /// Whether the path still needs somebody's attention, so that the push counts as incomplete.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Unusable | Self::Refused | Self::Gone | Self::Blocked | Self::Failed)
    }
}

impl Outcome {
    /// The kind of this outcome.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Pushed { .. } => OutcomeKind::Pushed,
            Self::Signed => OutcomeKind::Signed,
            Self::Planned { .. } => OutcomeKind::Planned,
            Self::Present => OutcomeKind::Present,
            Self::Differs { .. } => OutcomeKind::Differs,
            Self::Unusable(_) => OutcomeKind::Unusable,
            Self::Upstream => OutcomeKind::Upstream,
            Self::Excluded(_) => OutcomeKind::Excluded,
            Self::Refused(_) => OutcomeKind::Refused,
            Self::Gone => OutcomeKind::Gone,
            Self::Blocked { .. } => OutcomeKind::Blocked,
            Self::Failed(_) => OutcomeKind::Failed,
        }
    }

    /// Whether a client can substitute the path, from this bucket or from upstream.
    pub fn is_available(&self) -> bool {
        self.kind().is_available()
    }

    /// The reason for the outcome, for people; `None` where the kind says it all.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Excluded(reason) | Self::Refused(reason) | Self::Unusable(reason) => Some(reason.clone()),
            Self::Blocked { by } => Some(format!("refers to `{}`", by.to_basename())),
            Self::Failed(error) => Some(error.to_string()),
            Self::Differs { signer } => Some(format!(
                "the bucket has another build of this path, signed by `{}`; clients get that build, also below paths that were built against the build of this machine",
                signer.escape_debug()
            )),
            _ => None,
        }
    }
}

/// The outcomes of all paths of a push.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The outcome of each path.
    pub outcomes: BTreeMap<Arc<StorePath>, Outcome>,
    /// Since when the push knows what it says of the bucket. `None` before it has asked.
    pub since: Option<Moment>,
}

impl Report {
    /// The number of paths with an outcome of this kind.
    pub fn count(&self, kind: OutcomeKind) -> usize {
        self.outcomes.values().filter(|outcome| outcome.kind() == kind).count()
    }

    /// Two sums in bytes: the NAR sizes of the pushed and planned paths, and the sizes of the uploaded objects.
    pub fn bytes(&self) -> (u64, u64) {
        self.outcomes.values().fold((0, 0), |(nar, file), outcome| match outcome {
            Outcome::Pushed { nar_size, sent } => (nar + nar_size, file + sent),
            Outcome::Planned { nar_size } => (nar + nar_size, file),
            _ => (nar, file),
        })
    }

    /// Whether no path was unusable, refused, gone, blocked or failed.
    pub fn is_complete(&self) -> bool {
        !self.outcomes.values().any(|outcome| outcome.kind().is_unfinished())
    }
}
