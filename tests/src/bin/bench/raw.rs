//! The yardsticks: what no push can avoid, done in the barest way, by a program that knows neither queue nor closure
//! nor order, and checks nothing. They run as children of the benchmark, so that they are measured as larder is.

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

/// The first word of the command line that makes this program a yardstick.
pub(crate) const COMMAND: &str = "raw";

/// Connections that put small objects: as many as larder uses at a server that is near.
const CONNECTIONS: usize = 16;

/// The variables that tell where to put to.
const ENDPOINT: &str = "RAW_ENDPOINT";
const REGION: &str = "RAW_REGION";
const BUCKET: &str = "RAW_BUCKET";
const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// One LIST, then a PUT for each line of the file `parcels`, `KEY SIZE`.
pub(crate) fn put(server: &dyn S3Server, bucket: &str, parcels: &Path) -> Result<Command> {
    let mut command = networked(server, bucket)?;
    command.arg("put").arg(parcels);
    Ok(command)
}

/// One LIST, then for each path: its NAR, read, hashed, compressed at `level`, hashed again, and put; and its narinfo.
/// Paths are taken in their order, twice as many at a time as the machine has cores.
pub(crate) fn push(
    server: &dyn S3Server,
    bucket: &str,
    level: i32,
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<Command> {
    let mut command = networked(server, bucket)?;
    command.arg("push").arg(level.to_string());
    command.args(paths.into_iter().map(|path| path.as_ref().to_owned()));
    Ok(command)
}

/// The NARs of the paths, one after the other, through one compressor of so many threads; the result is thrown away.
/// No network, no hashes.
pub(crate) fn compress(
    level: i32,
    threads: usize,
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<Command> {
    let mut command = this()?;
    command.args(["compress", &level.to_string(), &threads.to_string()]);
    command.args(paths.into_iter().map(|path| path.as_ref().to_owned()));
    Ok(command)
}

fn this() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(COMMAND);
    Ok(command)
}

fn networked(server: &dyn S3Server, bucket: &str) -> Result<Command> {
    let mut command = this()?;
    command.env(ENDPOINT, server.endpoint()).env(REGION, server.region()).env(BUCKET, bucket);
    command.env(ACCESS_KEY, server.access_key()).env(SECRET_KEY, server.secret_key());
    Ok(command)
}

/// The yardstick itself, given the words after [`COMMAND`].
pub(crate) fn main(words: &[String]) -> Result<()> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["put", parcels] => put_all(&fs::read_to_string(parcels)?),
        ["push", level, ref paths @ ..] => push_all(level.parse()?, paths),
        ["compress", level, threads, ref paths @ ..] => compress_all(level.parse()?, threads.parse()?, paths),
        _ => bail!("the words after `{COMMAND}` are for the benchmark alone"),
    }
}

fn put_all(parcels: &str) -> Result<()> {
    let parcels: Vec<(&str, usize)> = parcels
        .lines()
        .map(|line| {
            let (key, size) = line.rsplit_once(' ').context("a parcel without size")?;
            Ok((key, size.parse()?))
        })
        .collect::<Result<_>>()?;
    let most = parcels.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let body = noise(most);
    in_parallel(CONNECTIONS, &parcels, |target, (key, size)| target.put(key, &body[..*size]))
}

fn push_all(level: i32, paths: &[&str]) -> Result<()> {
    let jobs = 2 * std::thread::available_parallelism()?.get();
    in_parallel(jobs, paths, |target, path| {
        let nar = HashingWriter::new(Encoder::new(HashingWriter::new(Vec::new()), level)?);
        let mut out = BufWriter::with_capacity(1 << 20, nar);
        encode_path(&mut out, Path::new(path), CaseHack::native())?;
        let (encoder, nar) = out.into_inner().map_err(|error| error.into_error())?.finish();
        let (bytes, file) = encoder.finish()?.finish();
        let (nar_hash, file_hash) = (hex(&nar.sha256), hex(&file.sha256));
        let key = format!("nar/{file_hash}.nar.zst");
        target.put_hashed(&key, &bytes, &file_hash)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let signature = "A".repeat(86);
        let narinfo = format!(
            "StorePath: {path}\nURL: {key}\nCompression: zstd\nFileHash: sha256:{file_hash}\nFileSize: {}\n\
             NarHash: sha256:{nar_hash}\nNarSize: {}\nReferences: {name}\nSig: raw-1:{signature}==\n",
            file.size, nar.size
        );
        target.put(&format!("{}.narinfo", name.split('-').next().unwrap_or_default()), narinfo.as_bytes())
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

/// A bucket, and a connection to it.
struct Target {
    connection: Connection,
    bucket: String,
}

impl Target {
    fn from_environment() -> Result<Self> {
        let get = |name| std::env::var(name).with_context(|| format!("no {name}"));
        let client = Client {
            endpoint: get(ENDPOINT)?,
            access_key: get(ACCESS_KEY)?,
            secret_key: get(SECRET_KEY)?,
            region: get(REGION)?,
        };
        Ok(Self { connection: Connection::open(&client)?, bucket: get(BUCKET)? })
    }

    fn list(&mut self) -> Result<()> {
        let (path, nothing) = (format!("/{}", self.bucket), hex(&Sha256::digest(b"")));
        self.connection.send("GET", &path, "delimiter=%2F&list-type=2", &nothing, b"")?;
        Ok(())
    }

    fn put(&mut self, key: &str, body: &[u8]) -> Result<()> {
        self.put_hashed(key, body, &hex(&Sha256::digest(body)))
    }

    fn put_hashed(&mut self, key: &str, body: &[u8], hash: &str) -> Result<()> {
        self.connection.send("PUT", &format!("/{}/{key}", self.bucket), "", hash, body)?;
        Ok(())
    }
}

/// Lists the bucket, then does the work for each item on so many threads, each with a connection of its own.
fn in_parallel<T: Sync>(
    threads: usize,
    items: &[T],
    work: impl Fn(&mut Target, &T) -> Result<()> + Sync,
) -> Result<()> {
    Target::from_environment()?.list()?;
    let next = AtomicUsize::new(0);
    let one = || -> Result<()> {
        let mut target = Target::from_environment()?;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut target, item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a yardstick's thread panicked"))
    })
}

/// Bytes that do not compress (xorshift).
fn noise(size: usize) -> Vec<u8> {
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
