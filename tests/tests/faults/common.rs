//! What the tests share: seeds, time, one store with a server, and any number of buckets on it.

use anyhow::{Context, Result};
use larder_tests::fault::Chance;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{KeyPair, NixHome, samples, versions};
use larder_tests::proxy::{Proxy, Record};
use larder_tests::s3::tag;
use larder_tests::servers::{Kind, S3Server};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The seed of this run: `$LARDER_FAULTS_SEED`, or another each time.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LARDER_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 % 1_000_000)
    })
}

/// How long each kind of test may go on: `$LARDER_FAULTS_SECONDS`, or 45.
pub(crate) fn time() -> Duration {
    let given = std::env::var("LARDER_FAULTS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(45))
}

/// The one case that is asked for, as `$LARDER_FAULTS_CASE`.
pub(crate) fn only_case() -> Option<usize> {
    std::env::var("LARDER_FAULTS_CASE").ok().and_then(|case| case.parse().ok())
}

/// Cases of one kind, until the time is over.
pub(crate) struct Cases {
    name: &'static str,
    pub(crate) seed: u64,
    until: Instant,
    least: usize,
    total: Option<usize>,
    done: usize,
}

impl Cases {
    /// At least `least` of them, whatever the time, and at most `total`.
    pub(crate) fn new(name: &'static str, least: usize, total: Option<usize>) -> Self {
        Self { name, seed: seed(), until: Instant::now() + time(), least, total, done: 0 }
    }

    /// The number of the next case, and chance of its own.
    pub(crate) fn next(&mut self) -> Option<(usize, Chance)> {
        let case = match (only_case(), self.done) {
            (Some(_), 1..) => return None,
            (Some(case), _) => case,
            (None, done) if self.total.is_some_and(|total| done >= total) => return None,
            (None, done) if done >= self.least && Instant::now() > self.until => return None,
            (None, done) => done,
        };
        self.done += 1;
        Some((case, Chance::new(self.seed ^ (case as u64).wrapping_mul(0x2545_f491_4f6c_dd1d))))
    }

    /// The command that repeats a case.
    pub(crate) fn replay(&self, case: usize) -> String {
        format!("to repeat: tests/faults --only {} --seed {} --case {case}", self.name, self.seed)
    }

    /// Tells what was run.
    pub(crate) fn report(&self, what: &str) {
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        println!("faults: {}: {} cases{of} by seed {}: {what}", self.name, self.done, self.seed);
    }
}

/// A store behind a daemon, a key, and a server.
pub(crate) struct Ground {
    pub(crate) nix: NixHome,
    pub(crate) key: KeyPair,
    pub(crate) server: Box<dyn S3Server>,
    /// What `larder init` writes.
    markers: BTreeMap<String, Vec<u8>>,
}

/// A bucket of its own behind a recording proxy, and larder configured for it.
pub(crate) struct Site {
    pub(crate) bucket: String,
    pub(crate) proxy: Proxy,
    pub(crate) larder: LarderHome,
}

impl Ground {
    /// `None`, noted as skipped, where there is no Nix or no such server.
    pub(crate) fn new(kind: Kind) -> Result<Option<Self>> {
        match (versions().first(), kind.is_here()) {
            (Some(version), true) => Self::with(NixHome::new(*version)?, kind).map(Some),
            _ => Ok(None),
        }
    }

    pub(crate) fn with(mut nix: NixHome, kind: Kind) -> Result<Self> {
        if nix.real_store_dir() == nix.store_dir() {
            nix.start_daemon()?;
        }
        let server = kind.start(&[])?;
        server.client().create_bucket("first")?;
        let mut larder = home(&nix)?;
        let key = nix.key_pair("test-1")?;
        larder.use_keys(&[&key])?;
        larder.use_server(&*server, "first")?;
        larder.run(&["init", "--private"])?;
        let mut markers = BTreeMap::new();
        for marker in ["nix-cache-info", "larder/format.json"] {
            let bytes = server.client().get("first", marker)?.context("init wrote no marker")?;
            markers.insert(marker.to_owned(), bytes);
        }
        Ok(Self { nix, key, server, markers })
    }

    /// A new bucket that is ready.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<()> {
        self.server.client().create_bucket(bucket)?;
        self.markers.iter().try_for_each(|(key, bytes)| self.server.client().put(bucket, key, bytes))
    }

    /// A new bucket with larder before it.
    pub(crate) fn site(&self, bucket: &str) -> Result<Site> {
        self.bucket(bucket)?;
        let proxy = Proxy::start(&self.server.endpoint())?;
        let larder = self.larder(&self.nix, &self.key, &proxy, bucket)?;
        Ok(Site { bucket: bucket.to_owned(), proxy, larder })
    }

    /// A larder for a store, by way of a proxy.
    pub(crate) fn larder(
        &self,
        nix: &NixHome,
        key: &KeyPair,
        proxy: &Proxy,
        bucket: &str,
    ) -> Result<LarderHome> {
        let mut larder = home(nix)?;
        larder.use_keys(&[key])?;
        larder.use_server_at(&*self.server, &proxy.endpoint(), bucket)?;
        larder.set("linger", "0")?;
        larder.set_timeout(Duration::from_secs(120));
        Ok(larder)
    }

    /// The keys that were in a new bucket.
    pub(crate) fn given(&self) -> HashSet<String> {
        self.markers.keys().cloned().collect()
    }

    /// All objects of a bucket.
    pub(crate) fn objects(&self, bucket: &str) -> Result<BTreeMap<String, u64>> {
        Ok(self.server.client().list(bucket, "")?.into_iter().collect())
    }

    /// The uploads that were begun in a bucket and not ended: their keys.
    pub(crate) fn unfinished(&self, bucket: &str) -> Result<Vec<String>> {
        let listing =
            self.server.client().send("GET", &format!("/{bucket}"), &[("uploads", "")], &[], b"")?;
        let listing = listing.ok()?.text();
        let uploads = listing.split("<Upload>").skip(1);
        Ok(uploads.filter_map(|upload| tag(upload, "Key")).map(str::to_owned).collect())
    }

    /// Builds the small closure that most cases push: five small paths and one of 11 MiB, of which the top refers to
    /// all others.
    pub(crate) fn closure(&self, tag: &str) -> Result<Vec<String>> {
        let app = self.nix.build(&samples::layered(tag, 11))?;
        Ok(app)
    }
}

/// A larder for a store; one that is a twin is read through a daemon that larder runs.
fn home(nix: &NixHome) -> Result<LarderHome> {
    let mut larder = LarderHome::new(nix)?;
    if nix.real_store_dir() != nix.store_dir() {
        larder.set_string("real-store-dir", &nix.real_store_dir().display().to_string())?;
        let daemon = nix.version().bin_dir().join("nix-daemon");
        larder.set_string("nix-daemon", &daemon.display().to_string())?;
    }
    Ok(larder)
}

/// Checks the order in a log, and that something was checked.
pub(crate) fn assert_ordered(
    log: &[Record],
    bucket: &str,
    given: &HashSet<String>,
    upstream: &HashSet<String>,
) {
    let checked = larder_tests::order::check(log, &format!("/{bucket}"), given, upstream);
    let list: Vec<_> = checked.violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} violations of the order:\n{}", list.len(), list.join("\n"));
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs a case; whatever is wrong with it, an error or a panic, comes with the command that repeats it.
pub(crate) fn attempt(replay: &str, what: &str, case: impl FnOnce() -> Result<()>) -> Result<()> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.context(format!("{what}\n{replay}"))),
        Err(panic) => anyhow::bail!("{what}: {}\n{replay}", words(&*panic)),
    }
}
