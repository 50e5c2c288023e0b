//! The rules for which paths are pushed and signed: upstream, exclusion, trust.

use std::cell::LazyCell;

use globset::{Glob, GlobSet, GlobSetBuilder};
use nix_derivation::StoreDir;
use nix_narinfo::TrustedPublicKey;

use crate::base::error::{Area, Error, Result};
use crate::format::narinfo::{fingerprint, is_content_addressed};
use crate::format::path_info::PathInfo;
use crate::format::signature::verified;

/// The rules.
#[derive(Clone, Debug)]
pub struct Rules {
    /// A path with a signature by one of these keys is available upstream.
    pub upstream_keys: Vec<TrustedPublicKey>,
    /// Also push paths that are available upstream.
    pub push_upstream: bool,
    /// A path with a signature by one of these keys is trusted.
    pub trusted_keys: Vec<TrustedPublicKey>,
    /// Trust every path.
    pub trust_unsigned: bool,
    /// Trust every path in the closure of a path that was built here.
    pub closure_trust: bool,
    /// Patterns on the names of paths that are not pushed.
    pub exclude: GlobSet,
    /// Paths whose NAR is larger than this number of bytes are not pushed.
    pub max_nar_size: Option<u64>,
}

/// The verdict on a path, without regard to its references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Push the path and sign it.
    Push,
    /// Push the path and sign it, only because a path that was built here refers to it.
    PushByClosure,
    /// The path is available upstream.
    Upstream,
    /// The configuration excludes the path, for this reason.
    Excluded(String),
    /// Nothing shows that the path can be trusted.
    Refused,
}

/// What this machine has done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This machine has built the path.
    Built,
    /// A path that this machine has built refers to the path, directly or indirectly.
    Used,
    /// Nothing is known.
    Unknown,
}

/// Compiles the patterns of `exclude`.
///
/// # Errors
/// When a text is not a pattern.
pub fn patterns(texts: &[String]) -> Result<GlobSet> {
    let bad = |text: &str, error: globset::Error| {
        Error::permanent(Area::Config, format!("`{text}` in `exclude` is not a pattern"))
            .because(error.kind().to_string())
    };
    let mut set = GlobSetBuilder::new();
    for text in texts {
        set.add(Glob::new(text).map_err(|error| bad(text, error))?);
    }
    set.build().map_err(|error| bad("…", error))
}

impl Rules {
    /// Judges a path. `origin` says whether this machine built the path or used it in a build; `extra_keys` are the keys
    /// that Nix trusted when the path was queued. A signature is checked only where it decides the verdict.
    pub fn judge(
        &self,
        store_dir: &StoreDir,
        info: &PathInfo,
        origin: Origin,
        extra_keys: &[TrustedPublicKey],
    ) -> Verdict {
        let print = LazyCell::new(|| fingerprint(store_dir, info));
        let signed_by = |keys: &[TrustedPublicKey]| {
            let named = |text: &String| {
                text.split_once(':').is_some_and(|(name, _)| keys.iter().any(|key| key.name == name))
            };
            info.signatures.iter().any(named) && verified(&print, &info.signatures, keys)
        };
        if !self.push_upstream && signed_by(&self.upstream_keys) {
            return Verdict::Upstream;
        }
        if self.exclude.is_match(info.path.name()) {
            return Verdict::Excluded("its name matches `exclude`".into());
        }
        if let Some(limit) = self.max_nar_size.filter(|limit| info.nar_size > *limit) {
            return Verdict::Excluded(format!(
                "its NAR of {} bytes is above `max-nar-size` ({limit})",
                info.nar_size
            ));
        }
        let trusted = self.trust_unsigned
            || origin == Origin::Built
            || signed_by(&self.upstream_keys)
            || signed_by(&self.trusted_keys)
            || signed_by(extra_keys)
            || is_content_addressed(store_dir, info);
        match origin {
            _ if trusted => Verdict::Push,
            Origin::Used if self.closure_trust => Verdict::PushByClosure,
            _ => Verdict::Refused,
        }
    }
}

/// The reason in the outcome of a refused path.
pub(super) const REFUSED: &str = "it was not built here, is not content-addressed and has no signature by a key of `trusted-keys`; `--trust-unsigned` signs it nevertheless";
