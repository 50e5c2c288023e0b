//! The context of a case: the number of rounds, the store, and messages.

use anyhow::{Context as _, Result};
use larder_tests::bigstore::BigStore;
use larder_tests::larder::binary;
use larder_tests::nix::NixVersion;

/// The context that every case gets.
#[derive(Debug)]
pub(crate) struct Context {
    rounds: Option<usize>,
}

impl Context {
    /// A context with the argument of `--rounds`. Fails if a program under test is missing.
    pub(crate) fn new(rounds: Option<usize>) -> Result<Self> {
        for name in ["larder", "larder-hook"] {
            binary(name)?;
        }
        Ok(Self { rounds })
    }

    /// The number of counted rounds: the argument of `--rounds`, or the default of the case.
    pub(crate) fn rounds(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default)
    }

    /// The realistic store of a version of Nix. It is built if it does not exist.
    pub(crate) fn store(&self, version: NixVersion) -> Result<BigStore> {
        BigStore::get(version)?
            .context("the packages of the realistic store are missing: run `tests/provision usual store`")
    }

    /// Prints a message about the progress on stderr.
    pub(crate) fn say(&self, message: &str) {
        eprintln!("bench: {message}");
    }
}
