//! Values that follow from the effective configuration by a rule.

use std::path::PathBuf;

use larder_hook::settings;

use super::config_keys::{
    BUCKET, BUILD_LOGS, COMPRESSION, COMPRESSION_LEVEL, COMPRESSION_THREADS, JOBS, PRIORITY, STATE_DIR,
};
use super::effective::Config;
use crate::base::error::{Area, Error, Result};
use crate::format::build_logs::BuildLogs;
use crate::format::object_keys::Compression;

/// By default, at most this number of threads compress one NAR. One thread reads and hashes the NAR for all of them and
/// cannot supply more.
const MOST_THREADS: usize = 8;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

impl Config {
    /// The address of the bucket. The error says how to set the address.
    pub fn bucket(&self) -> Result<String> {
        self.get(BUCKET).ok_or_else(|| {
            Error::permanent(Area::Config, "no bucket is configured").hint(
                "set `bucket` in /etc/larder/config.toml, LARDER_BUCKET or --bucket, for example `s3://nix-cache?endpoint=http://127.0.0.1:9000` or `file:///srv/cache`",
            )
        })
    }

    /// The compression of NARs.
    pub fn compression(&self) -> Compression {
        let name = self.get(COMPRESSION);
        Compression::ALL.into_iter().find(|known| known.name() == name).unwrap_or(Compression::Zstd)
    }

    /// Which build logs are published.
    pub fn build_logs(&self) -> BuildLogs {
        let name = self.get(BUILD_LOGS);
        BuildLogs::ALL.into_iter().find(|known| known.name() == name).unwrap_or_default()
    }

    /// The compression level, if the configuration sets a level.
    pub fn level(&self) -> Option<i32> {
        self.get(COMPRESSION_LEVEL).and_then(|level| i32::try_from(level).ok())
    }

    /// The number of threads that may compress one large NAR.
    pub fn compression_threads(&self) -> u32 {
        let threads = self.get(COMPRESSION_THREADS).unwrap_or(cores().min(MOST_THREADS) as u64);
        u32::try_from(threads).unwrap_or(1)
    }

    /// The number of large NARs that are compressed at the same time.
    pub fn jobs(&self) -> usize {
        self.get(JOBS).and_then(|jobs| usize::try_from(jobs).ok()).unwrap_or_else(cores)
    }

    /// The priority in a new `nix-cache-info`.
    pub fn priority(&self) -> i64 {
        i64::try_from(self.get(PRIORITY)).unwrap_or(30)
    }

    /// The directory of the queue, as an absolute path: the GC roots of Nix are links to its links. A flag may name a
    /// path relative to the current directory.
    pub fn state_dir(&self) -> PathBuf {
        let given = self.get(STATE_DIR).map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        given.unwrap_or_else(|| {
            let root = rustix::process::geteuid().is_root();
            let own = settings::default_state_dir(&settings::process_environment, root);
            // A user without a queue, on a machine where root's hook fills a queue, means the queue of root.
            let shared = PathBuf::from(settings::SHARED_STATE_DIR);
            if !own.exists() && shared.exists() { shared } else { own }
        })
    }
}
