//! The exit codes of the `larder` command. `docs/exit-codes.md` describes them.

use crate::base::error::Area;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// Something else went wrong.
    General = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Some of it was done: paths were refused, parked or failed.
    Partial = 3,
    /// The configuration, or a file that it names, is wrong.
    Config = 4,
    /// Credentials are missing or refused.
    Credentials = 5,
    /// The local Nix store cannot be read.
    Store = 6,
    /// The bucket cannot be used.
    Bucket = 7,
    /// Interrupted.
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
