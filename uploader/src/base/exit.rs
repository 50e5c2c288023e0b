//! The exit codes of the `larder` command. `docs/exit-codes.md` describes them.

use crate::base::error::Area;

/// The result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Ok = 0,
    /// An error that no other code describes.
    General = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The command succeeded in part: paths were refused, parked, or failed.
    Partial = 3,
    /// The configuration is wrong, or a file that the configuration names.
    Config = 4,
    /// Credentials are missing or refused.
    Credentials = 5,
    /// The local Nix store cannot be read.
    Store = 6,
    /// The bucket cannot be used.
    Bucket = 7,
    /// The command was interrupted.
    Interrupted = 130,
}

impl From<Area> for Exit {
    fn from(area: Area) -> Self {
        match area {
            Area::General | Area::Queue => Self::General,
            Area::Usage => Self::Usage,
            Area::Config => Self::Config,
            Area::Credentials => Self::Credentials,
            Area::Store => Self::Store,
            Area::Bucket => Self::Bucket,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}
