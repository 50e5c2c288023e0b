//! The versions of Nix that the tests run.

use crate::cache;
use crate::need::{Requirement, need};
use std::fmt;
use std::path::PathBuf;

/// A version of Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NixVersion {
    /// 2.8.0: Debian 12's. Its hook gets an empty `OUT_PATHS`; worker protocol 1.34; no `s3://`.
    V2_8,
    /// 2.26.3: Debian trixie's. Worker protocol 1.38; no `s3://`.
    V2_26,
    /// 2.34.8, or what Debian sid has now. Worker protocol 1.38; `s3://` unsigned.
    V2_34,
}

/// The versions that this machine has, in order. A missing version is noted as skipped.
pub fn versions() -> Vec<NixVersion> {
    NixVersion::ALL.into_iter().filter(|v| need(v.requirement()).is_some()).collect()
}

impl NixVersion {
    /// All versions that the tests know.
    pub const ALL: [Self; 3] = [Self::V2_8, Self::V2_26, Self::V2_34];

    /// The requirement.
    pub fn requirement(self) -> Requirement {
        match self {
            Self::V2_8 => Requirement::Nix28,
            Self::V2_26 => Requirement::Nix226,
            Self::V2_34 => Requirement::Nix234,
        }
    }

    /// The directory of `nix`, `nix-store`, … of this version.
    pub fn bin_dir(self) -> PathBuf {
        match self {
            Self::V2_8 => "/usr/bin".into(),
            Self::V2_26 => cache::dir().join("nix-trixie/bin"),
            Self::V2_34 => cache::dir().join("nix-sid/bin"),
        }
    }

    /// The full version that was provisioned.
    pub fn full(self) -> Option<String> {
        cache::version(match self {
            Self::V2_8 => "nix",
            Self::V2_26 => "nix-trixie",
            Self::V2_34 => "nix-sid",
        })
    }
}

impl fmt::Display for NixVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2_8 => "2.8",
            Self::V2_26 => "2.26",
            Self::V2_34 => "2.34",
        })
    }
}
