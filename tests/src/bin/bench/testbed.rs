//! The testbed of a case: a server, a store, and the compared programs set up for both. Each run has its own bucket.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use larder_tests::larder::{LarderHome, toml_string};
use larder_tests::nix::NixHome;
use larder_tests::servers::{Kind, S3Server};
use tempfile::TempDir;

use crate::cost::{Cost, interleave, measure};
use crate::raw;
use crate::row::Side;

/// The compression level that larder lowers to when the processors limit the push.
pub(crate) const LEVEL: i32 = 1;

/// A server, a store, and a signing key.
#[derive(Debug)]
pub(crate) struct Testbed<'a> {
    /// The server, which runs for this testbed alone.
    pub(crate) server: Box<dyn S3Server>,
    nix: &'a NixHome,
    // All runs share one key. With another key, larder would sign the paths of a bucket again.
    key: TempDir,
    buckets: Cell<u32>,
}

impl<'a> Testbed<'a> {
    /// Starts a server and generates a key.
    pub(crate) fn new(kind: Kind, nix: &'a NixHome) -> Result<Self> {
        let testbed =
            Self { server: kind.start_open()?, nix, key: tempfile::tempdir()?, buckets: Cell::new(0) };
        LarderHome::new(nix)?.run(&["key", "generate", "bench-1", "--output", &testbed.key_file()])?;
        Ok(testbed)
    }

    fn key_file(&self) -> String {
        self.key.path().join("key.sec").display().to_string()
    }

    /// Creates a bucket that everybody may write. Its name begins with `prefix`.
    pub(crate) fn bucket(&self, prefix: &str) -> Result<String> {
        self.buckets.set(self.buckets.get() + 1);
        let name = format!("{prefix}-{}", self.buckets.get());
        self.server.make_open_bucket(&name)?;
        Ok(name)
    }

    /// Configures larder for a bucket, with its own queue, and initialises the bucket.
    pub(crate) fn larder(&self, bucket: &str) -> Result<LarderHome> {
        self.larder_with(|larder| larder.use_server(&*self.server, bucket))
    }

    /// Configures larder for a directory as a bucket, and initialises it.
    pub(crate) fn larder_in(&self, directory: &Path) -> Result<LarderHome> {
        self.larder_with(|larder| larder.use_directory(directory))
    }

    fn larder_with(&self, use_bucket: impl FnOnce(&mut LarderHome) -> Result<()>) -> Result<LarderHome> {
        let mut larder = LarderHome::new(self.nix)?;
        larder.set_timeout(Duration::from_secs(600));
        larder.set("signing-key-files", &format!("[{}]", toml_string(&self.key_file())))?;
        // Nix writes no listings by default.
        larder.set("write-listings", "false")?;
        use_bucket(&mut larder)?;
        larder.run(&["init", "--private"])?;
        Ok(larder)
    }

    /// Measures `larder push` of paths and their closures.
    pub(crate) fn push(&self, bucket: &str, paths: &[String]) -> Result<Cost> {
        self.push_with(None, bucket, paths)
    }

    /// Measures `larder push` of the build under test, or of the build `program`.
    pub(crate) fn push_with(&self, program: Option<&Path>, bucket: &str, paths: &[String]) -> Result<Cost> {
        let larder = self.larder(bucket)?;
        let mut command = match program {
            Some(program) => larder.command_of(program, &["push"]),
            None => larder.command(&["push"])?,
        };
        self.measured(command.args(paths), bucket)
    }

    /// Measures `larder push` through another endpoint of the server. larder initialises the bucket directly.
    pub(crate) fn push_through(&self, endpoint: &str, bucket: &str, paths: &[String]) -> Result<Cost> {
        let mut larder = self.larder(bucket)?;
        larder.use_server_at(&*self.server, endpoint, bucket)?;
        self.measured(larder.command(&["push"])?.args(paths), bucket)
    }

    /// Measures `larder push` into a directory in memory. No server uses the processors, and no disk delays the push.
    pub(crate) fn push_into_memory(&self, paths: &[String]) -> Result<Cost> {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let larder = self.larder_in(dir.path())?;
        let mut command = larder.command(&["push"])?;
        measure(command.args(paths))
    }

    /// Measures `nix copy` of paths and their closures, with empty caches of the client. The bucket gets plain HTTP PUT
    /// requests without signatures, because no installed Nix signs requests.
    pub(crate) fn copy(&self, bucket: &str, compression: &str, paths: &[String]) -> Result<Cost> {
        self.copy_through(&self.server.endpoint(), bucket, compression, paths)
    }

    /// Measures `nix copy` through another endpoint of the server.
    pub(crate) fn copy_through(
        &self,
        endpoint: &str,
        bucket: &str,
        compression: &str,
        paths: &[String],
    ) -> Result<Cost> {
        let url = format!("{endpoint}/{bucket}?compression={compression}&parallel-compression=true");
        let cache = tempfile::tempdir()?;
        let mut command = self.nix.command("nix", &["copy", "--to", &url]);
        self.measured(command.env("XDG_CACHE_HOME", cache.path()).args(paths), bucket)
    }

    /// Measures the raw client that reads, compresses and puts NARs.
    pub(crate) fn raw_push(&self, bucket: &str, level: i32, paths: &[String]) -> Result<Cost> {
        self.measured(&mut raw::push(&*self.server, bucket, level, self.real(paths))?, bucket)
    }

    /// Measures the raw client that puts objects with the keys and sizes in the file `objects`.
    pub(crate) fn raw_put(&self, bucket: &str, objects: &Path) -> Result<Cost> {
        self.measured(&mut raw::put(&*self.server, bucket, objects)?, bucket)
    }

    /// The locations of the files of store paths.
    pub(crate) fn real(&self, paths: &[String]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.nix.real(path)).collect()
    }

    /// Deletes the objects of a bucket, to free the disk. Do not call this for thousands of small objects: it takes
    /// longer than they are worth.
    pub(crate) fn empty(&self, bucket: &str) -> Result<()> {
        let client = self.server.client();
        client.list(bucket, "")?.iter().try_for_each(|(key, _)| client.delete(bucket, key))
    }

    /// Interleaves `larder push` and `nix copy`. Each run has a new bucket, which is emptied afterwards.
    pub(crate) fn against_nix(
        &self,
        rounds: usize,
        compression: &str,
        paths: &[String],
    ) -> Result<(Side, Side)> {
        let mut costs = interleave(rounds, 2, |_, which| {
            let bucket = self.bucket(["larder", "nix"][which])?;
            let cost = match which {
                0 => self.push(&bucket, paths)?,
                _ => self.copy(&bucket, compression, paths)?,
            };
            self.empty(&bucket)?;
            Ok(cost)
        })?;
        let theirs = Side::new(self.nix_name(compression), costs.remove(1));
        Ok((Side::new("larder", costs.remove(0)), theirs))
    }

    /// The name of `nix copy` in the table: `nix copy 2.34.8, zstd`.
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
