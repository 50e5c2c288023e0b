//! What a case is given.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use larder_tests::bigstore::BigStore;
use larder_tests::larder::binary;
use larder_tests::nix::NixVersion;

/// What every case is given.
#[derive(Debug)]
pub(crate) struct Context {
    rounds: Option<usize>,
}

impl Context {
    /// With the rounds that `--rounds` asks for, if it does.
    ///
    /// Fails where a binary is missing.
    pub(crate) fn new(rounds: Option<usize>) -> Result<Self> {
        let context = Self { rounds };
        for name in ["larder", "larder-hook"] {
            context.binary(name)?;
        }
        Ok(context)
    }

    /// How many rounds count: as many as `--rounds` says, else as many as the case thinks right.
    pub(crate) fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }

    /// A release binary, `larder` or `larder-hook`.
    pub(crate) fn binary(&self, name: &str) -> Result<PathBuf> {
        binary(name)
    }

    /// The realistic store of a version, built if need be.
    pub(crate) fn store(&self, version: NixVersion) -> Result<BigStore> {
        BigStore::get(version)?
            .context("the realistic store is not here (`tests/provision usual store` brings it)")
    }

    /// Says on stderr what is going on; figures go into rows.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("bench: {what}");
    }
}
