//! Where contestants meet: a server, a store, and larder set up for both. Each run gets a bucket of its own.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use larder_tests::larder::{LarderHome, toml_string};
use larder_tests::nix::NixHome;
use larder_tests::servers::{Kind, S3Server};
use tempfile::TempDir;

use crate::cost::{Cost, in_turns, measure};
use crate::raw;
use crate::row::Side;

/// The compression level that larder falls to where the processor is the limit.
pub(crate) const LEVEL: i32 = 1;

/// A server, a store, and larder.
#[derive(Debug)]
pub(crate) struct Arena<'a> {
    /// The server, started for this arena.
    pub(crate) server: Box<dyn S3Server>,
    nix: &'a NixHome,
    // One key for all: another would have larder sign again what is there.
    key: TempDir,
    buckets: Cell<u32>,
}

impl<'a> Arena<'a> {
    /// Starts a server, makes a key.
    pub(crate) fn new(kind: Kind, nix: &'a NixHome) -> Result<Self> {
        let arena =
            Self { server: kind.start_open()?, nix, key: tempfile::tempdir()?, buckets: Cell::new(0) };
        LarderHome::new(nix)?.run(&["key", "generate", "bench-1", "--output", &arena.key_file()])?;
        Ok(arena)
    }

    fn key_file(&self) -> String {
        self.key.path().join("key.sec").display().to_string()
    }

    /// A new bucket, which anyone may write.
    pub(crate) fn bucket(&self, whose: &str) -> Result<String> {
        self.buckets.set(self.buckets.get() + 1);
        let name = format!("{whose}-{}", self.buckets.get());
        self.server.make_open_bucket(&name)?;
        Ok(name)
    }

    /// larder with a queue of its own, and the bucket made ready.
    pub(crate) fn larder(&self, bucket: &str) -> Result<LarderHome> {
        self.larder_for(|larder| larder.use_server(&*self.server, bucket))
    }

    fn larder_for(&self, bucket: impl FnOnce(&mut LarderHome) -> Result<()>) -> Result<LarderHome> {
        let mut larder = LarderHome::new(self.nix)?;
        larder.set_timeout(Duration::from_secs(600));
        larder.set("signing-key-files", &format!("[{}]", toml_string(&self.key_file())))?;
        // As Nix does by default.
        larder.set("write-listings", "false")?;
        bucket(&mut larder)?;
        larder.run(&["init", "--private"])?;
        Ok(larder)
    }

    /// Measures `larder push` of paths and their closures.
    pub(crate) fn push(&self, bucket: &str, paths: &[String]) -> Result<Cost> {
        self.push_with(None, bucket, paths)
    }

    /// Measures the same by another build of `larder`.
    pub(crate) fn push_with(&self, program: Option<&Path>, bucket: &str, paths: &[String]) -> Result<Cost> {
        let larder = self.larder(bucket)?;
        let mut command = match program {
            Some(program) => larder.command_of(program, &["push"]),
            None => larder.command(&["push"])?,
        };
        self.measured(command.args(paths), bucket)
    }

    /// Measures `larder push` into a directory in memory: no server takes its part of the processors, and no disk is
    /// waited for.
    pub(crate) fn push_into_memory(&self, paths: &[String]) -> Result<Cost> {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let larder = self.larder_for(|larder| larder.use_directory(dir.path()))?;
        let mut command = larder.command(&["push"])?;
        measure(command.args(paths))
    }

    /// Measures `nix copy` of paths and their closures, from a Nix that remembers nothing, by plain HTTP PUT into a
    /// bucket that anyone may write: no Nix here signs requests.
    pub(crate) fn copy(&self, bucket: &str, compression: &str, paths: &[String]) -> Result<Cost> {
        let url = format!(
            "{}/{bucket}?compression={compression}&parallel-compression=true",
            self.server.endpoint()
        );
        let cache = tempfile::tempdir()?;
        let mut command = self.nix.command("nix", &["copy", "--to", &url]);
        self.measured(command.env("XDG_CACHE_HOME", cache.path()).args(paths), bucket)
    }

    /// Measures the raw client that reads, compresses and puts NARs.
    pub(crate) fn raw_push(&self, bucket: &str, level: i32, paths: &[String]) -> Result<Cost> {
        self.measured(&mut raw::push(&*self.server, bucket, level, self.real(paths))?, bucket)
    }

    /// Measures the raw client that puts objects of given keys and sizes.
    pub(crate) fn raw_put(&self, bucket: &str, parcels: &Path) -> Result<Cost> {
        self.measured(&mut raw::put(&*self.server, bucket, parcels)?, bucket)
    }

    /// Where the files of store paths are.
    pub(crate) fn real(&self, paths: &[String]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.nix.real(path)).collect()
    }

    /// Removes what a bucket holds. For large objects: a thousand small ones are better left alone.
    pub(crate) fn empty(&self, bucket: &str) -> Result<()> {
        let client = self.server.client();
        client.list(bucket, "")?.iter().try_for_each(|(key, _)| client.delete(bucket, key))
    }

    /// Runs `larder push` and `nix copy` in turns, each time into a new bucket that is emptied afterwards.
    pub(crate) fn against_nix(
        &self,
        rounds: usize,
        compression: &str,
        paths: &[String],
    ) -> Result<(Side, Side)> {
        let mut costs = in_turns(rounds, 2, |_, who| {
            let bucket = self.bucket(["larder", "nix"][who])?;
            let cost = match who {
                0 => self.push(&bucket, paths)?,
                _ => self.copy(&bucket, compression, paths)?,
            };
            self.empty(&bucket)?;
            Ok(cost)
        })?;
        let theirs = Side::new(self.nix_name(compression), costs.remove(1));
        Ok((Side::new("larder", costs.remove(0)), theirs))
    }

    /// `nix copy 2.34.8, zstd`
    pub(crate) fn nix_name(&self, compression: &str) -> String {
        let version = self.nix.version();
        format!("nix copy {}, {compression}", version.full().unwrap_or_else(|| version.to_string()))
    }

    fn measured(&self, command: &mut Command, bucket: &str) -> Result<Cost> {
        let cost = measure(command)?;
        let nars = self.server.client().list(bucket, "nar/")?;
        Ok(cost.sent(nars.iter().map(|(_, size)| size).sum()))
    }
}
