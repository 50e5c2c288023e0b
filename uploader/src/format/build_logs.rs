//! Which build logs a bucket holds. A log is the plain text: no version of Nix decompresses one that comes without a
//! `Content-Encoding`, which not every server keeps.

/// Which build logs are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BuildLogs {
    /// Those of all builds.
    All,
    /// Those of builds whose outputs are pushed.
    #[default]
    Successful,
    /// Those of builds that failed.
    Failed,
    /// None.
    None,
}

impl BuildLogs {
    /// All values.
    pub const ALL: [Self; 4] = [Self::All, Self::Successful, Self::Failed, Self::None];

    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::None => "none",
        }
    }

    /// Whether the logs of pushed outputs are published.
    pub fn has_successful(self) -> bool {
        matches!(self, Self::All | Self::Successful)
    }

    /// Whether the logs of failed builds are published.
    pub fn has_failed(self) -> bool {
        matches!(self, Self::All | Self::Failed)
    }
}
