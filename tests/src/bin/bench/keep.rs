//! The upkeep of a bucket: verification, signatures, collection. The bucket is generated, and the server shares the
//! processors with larder.

use anyhow::{Context as _, Result};
use larder::bucket::{Options, open};
use larder::format::collection::{List, Part, piece};
use larder::format::members;
use larder::format::object_keys;
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::nix::KeyPair;
use larder_tests::servers::{Kind, S3Server};
use larder_tests::synthetic::SyntheticStore;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::context::Context;
use crate::cost::{Cost, interleave, measure};
use crate::raw;
use crate::raw_upkeep::{VICTIMS, Work};
use crate::row::Target::AtMost;
use crate::row::{Row, Side};

/// The number of paths in the bucket, unless `$LARDER_KEEP_PATHS` names another.
const PATHS: usize = 100_000;
/// The number of paths that are new at the second verification.
const NEW: usize = 100;
/// The name of the bucket.
const BUCKET: &str = "cache";

/// Measures the first and the second verification.
pub(crate) fn run_verify(context: &Context) -> Result<Vec<Row>> {
    let mut keep = Keep::prepare(context)?;
    let paths = keep.paths;
    let costs = interleave(context.rounds(3), 2, |_, which| match which {
        0 => keep.measure_cold(&["verify"]),
        _ => keep.raw(Work::Read),
    })?;
    let first =
        row(format!("verify, {paths} paths, first time, MinIO"), costs, "raw client, the same requests", 1.2);
    // The records of the first verification stay, and a hundred paths are new each time.
    keep.measure_warm(&["verify"])?;
    let costs = interleave(context.rounds(3), 2, |_, which| match which {
        0 => {
            keep.add(NEW)?;
            keep.measure_warm(&["verify"])
        }
        _ => keep.raw(Work::List),
    })?;
    let again =
        row(format!("verify, {paths} paths, again, {NEW} new"), costs, "raw client, listings alone", 3.0);
    Ok(vec![first, again])
}

/// Measures a second signature for every narinfo, against reading and writing each.
pub(crate) fn run_sign(context: &Context) -> Result<Vec<Row>> {
    let mut keep = Keep::prepare(context)?;
    let paths = keep.paths;
    let mut keys = vec![keep.pair("bench-1", &keep.key)?];
    let mut round = 1;
    let costs = interleave(context.rounds(3), 2, |_, which| match which {
        0 => {
            // Each round adds a key, so that each narinfo lacks a signature.
            round += 1;
            let name = format!("bench-{round}");
            keys.push(keep.pair(&name, &SecretKey::generate(&name)?)?);
            keep.larder.use_keys(&keys.iter().collect::<Vec<_>>())?;
            keep.measure_cold(&["sign"])
        }
        _ => keep.raw(Work::Rewrite),
    })?;
    Ok(vec![row(format!("sign, {paths} paths, MinIO"), costs, "raw client, GET and PUT of each", 1.3)])
}

/// Measures the decision of a collection, with the records of an earlier one; and the deletion of objects.
pub(crate) fn run_collect(context: &Context) -> Result<Vec<Row>> {
    let mut keep = Keep::prepare(context)?;
    let paths = keep.paths;
    let decide = ["collect", "--keep-within", "1d"];
    keep.measure_warm(&decide)?;
    let mut costs = interleave(context.rounds(3), 2, |_, which| match which {
        0 => keep.measure_warm(&decide),
        _ => keep.raw(Work::List),
    })?;
    let (list, ours) = (Side::new("raw client, listings alone", costs.remove(1)), costs.remove(0));
    let ours = Side::new("larder", ours);
    let (time, ratio) = (ours.median_wall(), ours.median_wall() / list.median_wall());
    let decided = Row::new(format!("collect decides over {paths} paths, again, MinIO"), ours)
        .against(list)
        .figure("time", ratio, "x", None)
        .figure("seconds", time, "s", Some(AtMost(10.0)))
        .peak(Some(AtMost(200.0)));
    let costs = interleave(context.rounds(3), 2, |_, which| {
        keep.add_victims(paths)?;
        keep.raw(if which == 0 { Work::DeleteByLarder } else { Work::Delete })
    })?;
    let deleted = row(format!("{paths} objects deleted, MinIO"), costs, "raw client, the same batches", 1.5);
    Ok(vec![decided, deleted])
}

/// The number of paths that a push finds present while a collection runs.
const PUSHED: usize = 1000;

/// Measures a push that wants nothing condemned, with and without an open collection of 100,000 other paths.
pub(crate) fn run_push(context: &Context) -> Result<Vec<Row>> {
    let keep = Keep::of(context, PUSHED)?;
    let paths: Vec<_> = keep.store.paths().take(PUSHED).collect();
    let args: Vec<_> = ["push"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let costs = interleave(context.rounds(9), 2, |_, which| {
        let collection = if which == 0 { Some(keep.open_collection()?) } else { None };
        let cost = measure(&mut keep.larder.command(&args)?);
        for key in collection.iter().flatten().rev() {
            keep.server.client().delete(BUCKET, key)?;
        }
        cost
    })?;
    let case = format!("push of {PUSHED} present paths beside a collection of {PATHS} others, MinIO");
    Ok(vec![row(case, costs, "the same without a collection", 1.1)])
}

fn row(case: String, mut costs: Vec<Vec<Cost>>, other: &str, most: f64) -> Row {
    let theirs = Side::new(other, costs.remove(1));
    let ours = Side::new("larder", costs.remove(0));
    let ratio = ours.median_wall() / theirs.median_wall();
    Row::new(case, ours).against(theirs).figure("time", ratio, "x", Some(AtMost(most))).peak(None)
}

/// A bucket of a generated store.
struct Keep {
    larder: LarderHome,
    server: Box<dyn S3Server>,
    store: SyntheticStore,
    key: SecretKey,
    runtime: tokio::runtime::Runtime,
    cache: TempDir,
    paths: usize,
    filled: usize,
}

impl Keep {
    /// Puts the objects of a collection that has condemned other paths. Returns their keys.
    fn open_collection(&self) -> Result<Vec<String>> {
        let digest = |number: usize| -> [u8; 20] {
            let hash = Sha256::digest(number.to_le_bytes());
            std::array::from_fn(|place| hash[place])
        };
        let list = List { levels: vec![(0..PATHS).map(digest).collect()], objects: Vec::new() };
        let key = Part::Condemned.key(&object_keys::new_writer());
        let (header, pieces) = list.encode(false);
        let mut objects: Vec<_> =
            (0..).zip(pieces).map(|(number, contents)| (piece(&key, number), contents)).collect();
        objects.push((members::key(&key), members::encode(&list)));
        objects.push((key, header));
        for (key, contents) in &objects {
            self.server.client().put(BUCKET, key, contents)?;
        }
        Ok(objects.into_iter().map(|(key, _)| key).collect())
    }

    /// Generates the store and fills the bucket. This takes minutes.
    fn prepare(context: &Context) -> Result<Self> {
        let paths = match std::env::var("LARDER_KEEP_PATHS") {
            Ok(number) => number.parse().context("`LARDER_KEEP_PATHS` is not a number")?,
            Err(_) => PATHS,
        };
        Self::of(context, paths)
    }

    fn of(context: &Context, paths: usize) -> Result<Self> {
        let server = Kind::MinIo.start(&[])?;
        server.client().create_bucket(BUCKET)?;
        let store = SyntheticStore::start(paths + 100 * NEW)?;
        let mut larder = store.larder()?;
        larder.set_timeout(std::time::Duration::from_secs(1800));
        let key = SecretKey::generate("bench-1")?;
        let secret_file = larder.dir().join("bench-1.sec");
        larder::config::key_files::write_secret_key(&key, &secret_file)?;
        larder.use_keys(&[&KeyPair { secret_file, public: key.public_text() }])?;
        larder.use_server(&*server, BUCKET)?;
        larder.run(&["init", "--private"])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let cache = tempfile::tempdir()?;
        let mut keep = Self { larder, server, store, key, runtime, cache, paths, filled: 0 };
        context.say(&format!("filling a bucket with {paths} paths"));
        keep.add(paths)?;
        Ok(keep)
    }

    /// Puts objects that are to be deleted.
    fn add_victims(&mut self, count: usize) -> Result<()> {
        let list = tempfile::NamedTempFile::new()?;
        let lines: String = (0..count).map(|number| format!("{VICTIMS}{number} 1\n")).collect();
        std::fs::write(list.path(), lines)?;
        measure(&mut raw::put(&*self.server, BUCKET, list.path())?).map(drop)
    }

    /// The files of a key.
    fn pair(&self, name: &str, key: &SecretKey) -> Result<KeyPair> {
        let secret_file = self.larder.dir().join(format!("{name}.sec"));
        if !secret_file.exists() {
            larder::config::key_files::write_secret_key(key, &secret_file)?;
        }
        Ok(KeyPair { secret_file, public: key.public_text() })
    }

    /// Adds paths to the bucket.
    fn add(&mut self, count: usize) -> Result<()> {
        let address =
            format!("s3://{BUCKET}?endpoint={}&region={}", self.server.endpoint(), self.server.region());
        let credentials_file = Some(self.larder.dir().join("credentials"));
        let options = Options { credentials_file, ..Options::default() };
        let numbers = self.filled..self.filled + count;
        self.runtime.block_on(async {
            let bucket = open(&address, &options).await?;
            self.store.fill_range(&*bucket, std::slice::from_ref(&self.key), numbers).await
        })?;
        self.filled += count;
        Ok(())
    }

    /// Runs a command of larder without records of earlier runs.
    fn measure_cold(&self, words: &[&str]) -> Result<Cost> {
        let cache = tempfile::tempdir()?;
        measure(self.larder.command(words)?.env("XDG_CACHE_HOME", cache.path()))
    }

    /// Runs a command of larder with the records of earlier runs.
    fn measure_warm(&self, words: &[&str]) -> Result<Cost> {
        measure(self.larder.command(words)?.env("XDG_CACHE_HOME", self.cache.path()))
    }

    fn raw(&self, work: Work) -> Result<Cost> {
        measure(&mut work.command(&*self.server, BUCKET)?)
    }
}
