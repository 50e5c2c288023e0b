//! The raw client and the compressor: they do only the work that every push has to do. They have no queue, no closures and
//! no order, and check nothing. They run as children of the benchmark, so their cost is measured in the same way as that of
//! larder.

use std::fs;
use std::io::{BufWriter, sink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use larder::store::HashingWriter;
use larder_tests::s3::{Client, hex};
use larder_tests::servers::S3Server;
use nix_archive::nar::{CaseHack, encode_path};
use sha2::{Digest, Sha256};
use zstd::Encoder;

use crate::connection::Connection;
use crate::raw_upkeep;

/// The first argument that makes the benchmark run the raw client or the compressor.
pub(crate) const COMMAND: &str = "raw";

/// The number of connections for small objects. larder uses the same number for a server with a short round-trip time.
const CONNECTIONS: usize = 16;

/// The variables of the server, the bucket and the credentials.
const ENDPOINT: &str = "RAW_ENDPOINT";
const REGION: &str = "RAW_REGION";
const BUCKET: &str = "RAW_BUCKET";
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// The command that sends one LIST, then a PUT for each line `KEY SIZE` of the file `objects`.
pub(crate) fn put(server: &dyn S3Server, bucket: &str, objects: &Path) -> Result<Command> {
    let mut command = with_bucket(server, bucket)?;
    command.arg("put").arg(objects);
    Ok(command)
}

/// The command that sends one LIST, then puts the NAR and the narinfo of each path. It reads, hashes and compresses the NAR
/// at `level`, and hashes the compressed NAR. It keeps the order of the paths, and works at two paths for each core at the
/// same time.
pub(crate) fn push(
    server: &dyn S3Server,
    bucket: &str,
    level: i32,
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<Command> {
    let mut command = with_bucket(server, bucket)?;
    command.arg("push").arg(level.to_string());
    command.args(paths.into_iter().map(|path| path.as_ref().to_owned()));
    Ok(command)
}

/// The command that compresses the NARs of the paths as one stream with `threads` threads. It discards the result, and uses
/// no network and no hashes.
pub(crate) fn compress(
    level: i32,
    threads: usize,
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<Command> {
    let mut command = this_program()?;
    command.args(["compress", &level.to_string(), &threads.to_string()]);
    command.args(paths.into_iter().map(|path| path.as_ref().to_owned()));
    Ok(command)
}

fn this_program() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(COMMAND);
    Ok(command)
}

/// The command of the raw client for a bucket, without its work.
pub(crate) fn with_bucket(server: &dyn S3Server, bucket: &str) -> Result<Command> {
    let mut command = this_program()?;
    command.env(ENDPOINT, server.endpoint()).env(REGION, server.region()).env(BUCKET, bucket);
    command.env(ACCESS_KEY, server.access_key()).env(SECRET_KEY, server.secret_key());
    Ok(command)
}

/// The address of the bucket that the environment names. larder takes the credentials from the environment, too.
pub(crate) fn address_from_environment() -> Result<String> {
    let value = |name: &str| std::env::var(name).with_context(|| format!("no {name}"));
    Ok(format!("s3://{}?endpoint={}&region={}", value(BUCKET)?, value(ENDPOINT)?, value(REGION)?))
}

/// Runs the raw client or the compressor. `words` are the arguments after [`COMMAND`].
pub(crate) fn main(words: &[String]) -> Result<()> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["put", objects] => put_all(&fs::read_to_string(objects)?),
        ["push", level, ref paths @ ..] => push_all(level.parse()?, paths),
        ["compress", level, threads, ref paths @ ..] => compress_all(level.parse()?, threads.parse()?, paths),
        [work] => raw_upkeep::Work::run(work),
        _ => bail!("`{COMMAND}` is an internal command of the benchmark"),
    }
}

fn put_all(objects: &str) -> Result<()> {
    let objects: Vec<(&str, usize)> = objects
        .lines()
        .map(|line| {
            let (key, size) = line.rsplit_once(' ').context("an object without a size")?;
            Ok((key, size.parse()?))
        })
        .collect::<Result<_>>()?;
    let largest = objects.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let body = random_bytes(largest);
    in_parallel(CONNECTIONS, &objects, |bucket, (key, size)| bucket.put(key, &body[..*size]))
}

fn push_all(level: i32, paths: &[&str]) -> Result<()> {
    let jobs = 2 * std::thread::available_parallelism()?.get();
    in_parallel(jobs, paths, |bucket, path| {
        let nar = HashingWriter::new(Encoder::new(HashingWriter::new(Vec::new()), level)?);
        let mut out = BufWriter::with_capacity(1 << 20, nar);
        encode_path(&mut out, Path::new(path), CaseHack::native())?;
        let (encoder, nar) = out.into_inner().map_err(|error| error.into_error())?.finish();
        let (bytes, file) = encoder.finish()?.finish();
        let (nar_hash, file_hash) = (hex(&nar.sha256), hex(&file.sha256));
        let key = format!("nar/{file_hash}.nar.zst");
        bucket.put_hashed(&key, &bytes, &file_hash)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let signature = "A".repeat(86);
        let narinfo = format!(
            "StorePath: {path}\nURL: {key}\nCompression: zstd\nFileHash: sha256:{file_hash}\nFileSize: {}\n\
             NarHash: sha256:{nar_hash}\nNarSize: {}\nReferences: {name}\nSig: raw-1:{signature}==\n",
            file.size, nar.size
        );
        bucket.put(&format!("{}.narinfo", name.split('-').next().unwrap_or_default()), narinfo.as_bytes())
    })
}

fn compress_all(level: i32, threads: u32, paths: &[&str]) -> Result<()> {
    let mut encoder = Encoder::new(sink(), level)?;
    encoder.multithread(threads)?;
    let mut out = BufWriter::with_capacity(1 << 20, encoder);
    for path in paths {
        encode_path(&mut out, Path::new(path), CaseHack::native())?;
    }
    out.into_inner().map_err(|error| error.into_error())?.finish()?;
    Ok(())
}

/// A connection to a bucket.
#[derive(Debug)]
pub(crate) struct BucketConnection {
    pub(crate) connection: Connection,
    pub(crate) bucket: String,
}

impl BucketConnection {
    pub(crate) fn from_environment() -> Result<Self> {
        let get = |name| std::env::var(name).with_context(|| format!("`{name}` is not set"));
        let client = Client {
            endpoint: get(ENDPOINT)?,
            access_key: get(ACCESS_KEY)?,
            secret_key: get(SECRET_KEY)?,
            region: get(REGION)?,
        };
        Ok(Self { connection: Connection::open(&client)?, bucket: get(BUCKET)? })
    }

    fn list(&mut self) -> Result<()> {
        let (path, empty_hash) = (format!("/{}", self.bucket), hex(&Sha256::digest(b"")));
        self.connection.send("GET", &path, "delimiter=%2F&list-type=2", &empty_hash, b"")?;
        Ok(())
    }

    pub(crate) fn put(&mut self, key: &str, body: &[u8]) -> Result<()> {
        self.put_hashed(key, body, &hex(&Sha256::digest(body)))
    }

    fn put_hashed(&mut self, key: &str, body: &[u8], hash: &str) -> Result<()> {
        self.connection.send("PUT", &format!("/{}/{key}", self.bucket), "", hash, body)?;
        Ok(())
    }
}

/// Lists the bucket, then runs `work` for each item on `threads` threads. Each thread has its own connection.
pub(crate) fn in_parallel<T: Sync>(
    threads: usize,
    items: &[T],
    work: impl Fn(&mut BucketConnection, &T) -> Result<()> + Sync,
) -> Result<()> {
    BucketConnection::from_environment()?.list()?;
    let next = AtomicUsize::new(0);
    let work_on_items = || -> Result<()> {
        let mut bucket = BucketConnection::from_environment()?;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut bucket, item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(work_on_items)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of the raw client panicked"))
    })
}

/// Bytes that do not compress, from the generator xorshift64.
fn random_bytes(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    })
    .flatten()
    .take(size)
    .collect()
}
