//! What the tests share: seeds, cases, a store with a server, and any number of buckets on the server.

use anyhow::{Context, Result};
use larder_tests::fault::Chance;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{KeyPair, NixHome, samples, versions};
use larder_tests::proxy::{Proxy, Record};
use larder_tests::s3::tag;
use larder_tests::servers::{Kind, S3Server};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The seed of this run: `$LARDER_FAULTS_SEED`, else a new one in each process.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LARDER_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 % 1_000_000)
    })
}

/// How many cases of each kind a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A sample: the usual run.
    Sample,
    /// The full counts: `$LARDER_FAULTS_FULL`.
    Full,
    /// As many as begin within this time, at least the sample: `$LARDER_FAULTS_SECONDS`.
    Time(Duration),
}

impl Extent {
    /// The extent of this run.
    pub(crate) fn of_run() -> Self {
        let seconds = std::env::var("LARDER_FAULTS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        match (seconds, std::env::var_os("LARDER_FAULTS_FULL")) {
            (Some(seconds), _) => Self::Time(Duration::from_secs(seconds)),
            (None, Some(_)) => Self::Full,
            (None, None) => Self::Sample,
        }
    }
}

/// The one case that `$LARDER_FAULTS_CASE` asks for.
pub(crate) fn only_case() -> Option<usize> {
    std::env::var("LARDER_FAULTS_CASE").ok().and_then(|case| case.parse().ok())
}

/// The cases of one kind, by number.
pub(crate) struct Cases {
    name: &'static str,
    pub(crate) seed: u64,
    begun: Instant,
    sample: usize,
    full: usize,
    total: Option<usize>,
    done: usize,
}

impl Cases {
    /// Cases of a kind: the number in a sample and in a full run, and the number that there are, if that is limited.
    pub(crate) fn new(name: &'static str, sample: usize, full: usize, total: Option<usize>) -> Self {
        Self { name, seed: seed(), begun: Instant::now(), sample, full, total, done: 0 }
    }

    /// The number of the next case, and a generator of chance for it.
    pub(crate) fn next(&mut self) -> Option<(usize, Chance)> {
        let case = match only_case() {
            Some(case) => (self.done == 0).then_some(case)?,
            None => (self.done < self.limit()).then_some(self.done)?,
        };
        self.done += 1;
        Some((case, Chance::new(self.seed ^ (case as u64).wrapping_mul(0x2545_f491_4f6c_dd1d))))
    }

    fn limit(&self) -> usize {
        let limit = match Extent::of_run() {
            Extent::Full => self.full,
            Extent::Time(time) if self.begun.elapsed() < time => usize::MAX,
            Extent::Sample | Extent::Time(_) => self.sample,
        };
        limit.min(self.total.unwrap_or(usize::MAX))
    }

    /// The command that repeats a case.
    pub(crate) fn replay(&self, case: usize) -> String {
        format!("to repeat: tests/faults --only {} --seed {} --case {case}", self.name, self.seed)
    }

    /// Prints the number of cases and what they found.
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
    /// The objects that `larder init` writes.
    markers: BTreeMap<String, Vec<u8>>,
}

/// A bucket behind a recording proxy, and a larder that is configured for it.
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

    /// Creates a bucket as `larder init` leaves it.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<()> {
        self.server.client().create_bucket(bucket)?;
        self.markers.iter().try_for_each(|(key, bytes)| self.server.client().put(bucket, key, bytes))
    }

    /// Creates a bucket, and a larder and a proxy for it.
    pub(crate) fn site(&self, bucket: &str) -> Result<Site> {
        self.bucket(bucket)?;
        let proxy = Proxy::start(&self.server.endpoint())?;
        let larder = self.larder(&self.nix, &self.key, &proxy, bucket)?;
        Ok(Site { bucket: bucket.to_owned(), proxy, larder })
    }

    /// A larder for a store, with a bucket behind a proxy.
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

    /// The keys of a new bucket.
    pub(crate) fn given(&self) -> HashSet<String> {
        self.markers.keys().cloned().collect()
    }

    /// All objects of a bucket.
    pub(crate) fn objects(&self, bucket: &str) -> Result<BTreeMap<String, u64>> {
        Ok(self.server.client().list(bucket, "")?.into_iter().collect())
    }

    /// The keys of the unfinished multipart uploads in a bucket.
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

/// A larder for a store. larder reads a twin through a daemon that it starts.
fn home(nix: &NixHome) -> Result<LarderHome> {
    let mut larder = LarderHome::new(nix)?;
    if nix.real_store_dir() != nix.store_dir() {
        larder.set_string("real-store-dir", &nix.real_store_dir().display().to_string())?;
        let daemon = nix.version().bin_dir().join("nix-daemon");
        larder.set_string("nix-daemon", &daemon.display().to_string())?;
    }
    Ok(larder)
}

/// Checks the order of publication in a log.
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

/// The message of a panic.
pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs a case. The error of a case that fails or panics has the command that repeats the case.
pub(crate) fn attempt(replay: &str, what: &str, case: impl FnOnce() -> Result<()>) -> Result<()> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.context(format!("{what}\n{replay}"))),
        Err(panic) => anyhow::bail!("{what}: {}\n{replay}", words(&*panic)),
    }
}
