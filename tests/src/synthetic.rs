//! A generated store of any number of paths. Its daemon is part of the tests, and knows the operations of the worker
//! protocol that larder uses. For tests with up to 100,000 paths.
//!
//! Each path is a file of one line and refers to about ten paths before it, or, in [`SyntheticStore::in_blocks`], to
//! fewer that are near. Files exist only after [`SyntheticStore::write_files`].

use crate::larder::LarderHome;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use larder::bucket::{Bucket, Condition, ContentType};
use larder::format::narinfo::{NarObject, compose};
use larder::format::object_keys::{self, Compression};
use larder::format::path_info::PathInfo;
use larder::format::signature::SecretKey;
use larder::store::{StoreDir, StorePath};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use tempfile::TempDir;

const STORE_DIR: &str = "/nix/store";
/// The highest number of references of a path.
const REFERENCES: usize = 10;
/// The name of each path, before and after its number.
const NAME: (&str, &str) = ("synthetic-package-", "-1.23");
/// The number of concurrent requests while a bucket is filled.
const AT_ONCE: usize = 32;

/// The running store. When it is dropped, it takes no more connections.
#[derive(Debug)]
pub struct SyntheticStore {
    dir: TempDir,
    paths: Arc<Paths>,
}

/// The paths by their numbers.
#[derive(Debug)]
struct Paths {
    /// Paths refer only to paths of the same block; the size of a block.
    block: usize,
    paths: Vec<StorePath>,
    nar_hashes: Vec<[u8; 32]>,
}

impl SyntheticStore {
    /// A store of this number of paths, with a daemon of protocol 1.38.
    pub fn start(paths: usize) -> Result<Self> {
        Self::speaking(paths, 38)
    }

    /// The same with an older protocol, from 1.34.
    pub fn speaking(paths: usize, minor: u64) -> Result<Self> {
        Self::new(paths, minor, usize::MAX)
    }

    /// A store whose closures have at most `block` paths, as after many small independent builds.
    pub fn in_blocks(paths: usize, block: usize) -> Result<Self> {
        Self::new(paths, 38, block)
    }

    fn new(paths: usize, minor: u64, block: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("larder-synthetic-").tempdir()?;
        fs::create_dir(dir.path().join("store"))?;
        fs::create_dir(dir.path().join("var"))?;
        let path = |number: usize| {
            let hash = Sha256::digest(format!("path {number}"));
            let digest = std::array::from_fn(|place| hash[place]);
            StorePath::from_parts(digest, &format!("{}{number}{}", NAME.0, NAME.1))
        };
        let paths = Arc::new(Paths {
            block,
            nar_hashes: (0..paths).map(|number| Sha256::digest(nar(number)).into()).collect(),
            paths: (0..paths).map(path).collect::<Result<_, _>>()?,
        });
        let store = Self { dir, paths };
        let listener = UnixListener::bind(store.socket())?;
        let paths = store.paths.clone();
        // The thread ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let paths = paths.clone();
                thread::spawn(move || serve(&paths, &stream, minor));
            }
        });
        Ok(store)
    }

    /// The socket of the daemon.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The logical store directory.
    pub fn store_dir(&self) -> StoreDir {
        StoreDir::default()
    }

    /// The directory of the files.
    pub fn real_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The state directory of Nix, which is empty.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("var")
    }

    /// A larder for this store, without a bucket and a key.
    pub fn larder(&self) -> Result<LarderHome> {
        let mut larder = LarderHome::bare()?;
        larder.set_string("store-dir", STORE_DIR)?;
        larder.set_string("real-store-dir", &self.real_dir().display().to_string())?;
        larder.set_string("nix-state-dir", &self.dir.path().join("var").display().to_string())?;
        larder.set_string("daemon-socket", &self.socket().display().to_string())?;
        Ok(larder)
    }

    /// All paths, by number.
    pub fn paths(&self) -> impl DoubleEndedIterator<Item = String> + ExactSizeIterator {
        self.paths.paths.iter().map(StorePath::to_absolute_path)
    }

    /// The path info that the daemon gives.
    pub fn path_info(&self, number: usize) -> PathInfo {
        PathInfo {
            path: self.paths.paths[number].clone().into(),
            deriver: None,
            nar_hash: self.paths.nar_hashes[number],
            nar_size: nar(number).len() as u64,
            references: self
                .paths
                .references(number)
                .map(|reference| self.paths.paths[reference].clone())
                .collect(),
            registration_time: 1,
            ultimate: true,
            signatures: Box::default(),
            ca: None,
        }
    }

    /// Writes the files of some paths, so that these can be pushed.
    pub fn write_files(&self, numbers: Range<usize>) -> Result<()> {
        for number in numbers {
            fs::write(self.real_dir().join(self.paths.paths[number].to_basename()), contents(number))?;
        }
        Ok(())
    }

    /// Writes the NARs and the narinfos of the first `count` paths to a bucket as larder does, signed with `keys`.
    pub async fn fill(&self, bucket: &dyn Bucket, keys: &[SecretKey], count: usize) -> Result<()> {
        self.fill_range(bucket, keys, 0..count).await
    }

    /// The same for the paths with these numbers.
    pub async fn fill_range(
        &self,
        bucket: &dyn Bucket,
        keys: &[SecretKey],
        numbers: Range<usize>,
    ) -> Result<()> {
        let put = async |number: usize| -> Result<()> {
            let info = self.path_info(number);
            let body = nar(number);
            let nar = NarObject {
                key: object_keys::new_nar(&info.nar_hash, Compression::None, &object_keys::new_writer()),
                compression: Compression::None,
                file_hash: Some(info.nar_hash),
                file_size: Some(info.nar_size),
            };
            let narinfo = compose(&self.store_dir(), &info, &nar, keys)?;
            bucket.put(&nar.key, body.into(), ContentType::Nar, Condition::None).await?;
            let key = object_keys::narinfo(&info.path);
            bucket.put(&key, narinfo.into(), ContentType::NarInfo, Condition::None).await?;
            Ok(())
        };
        stream::iter(numbers.map(put)).buffer_unordered(AT_ONCE).try_collect().await
    }
}

impl Drop for SyntheticStore {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
    }
}

/// The references of a path: numbers below its own, ascending, each once.
fn references(number: usize) -> impl Iterator<Item = usize> {
    let mut references: Vec<_> = match number {
        0 => Vec::new(),
        // Near and far paths, as in a real store.
        _ => (1..=REFERENCES)
            .map(|n| (number.wrapping_mul(n * 2_654_435_761) / 7 % number) >> (n % 4))
            .collect(),
    };
    references.sort_unstable();
    references.dedup();
    references.into_iter()
}

fn contents(number: usize) -> String {
    format!("synthetic package {number}\n")
}

/// The NAR of a path.
fn nar(number: usize) -> Vec<u8> {
    let mut nar = Vec::new();
    for text in ["nix-archive-1", "(", "type", "regular", "contents", &contents(number), ")"] {
        let _ = write_text(&mut nar, text);
    }
    nar
}

/// Answers one client until it disconnects or sends an unknown operation.
fn serve(paths: &Paths, stream: &UnixStream, minor: u64) {
    let answer = || -> Result<()> {
        let (mut from, mut to) = (BufReader::new(stream), BufWriter::with_capacity(64 << 10, stream));
        greet(&mut from, &mut to, minor)?;
        loop {
            // Pipelined requests are answered together.
            if from.buffer().is_empty() {
                to.flush()?;
            }
            let Ok(operation) = read_u64(&mut from) else { return Ok(()) };
            paths.answer(operation, &mut from, &mut to)?;
        }
    };
    if let Err(error) = answer() {
        eprintln!("the synthetic store's daemon hangs up: {error:#}");
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

const LAST: u64 = 0x616c_7473;

fn greet(from: &mut impl Read, to: &mut impl Write, minor: u64) -> Result<()> {
    ensure!(read_u64(from)? == 0x6e69_7863, "no client of a nix daemon");
    let theirs = read_u64(from)?;
    write_u64(to, 0x6478_696f)?;
    write_u64(to, 0x100 | minor)?;
    to.flush()?;
    if minor >= 38 && theirs & 0xff >= 38 {
        for _ in 0..read_u64(from)? {
            read_text(from)?;
        }
        write_u64(to, 0)?;
        to.flush()?;
    }
    read_u64(from)?; // CPU affinity
    read_u64(from)?; // reserved space
    write_text(to, "2.99 (synthetic)")?;
    if minor >= 35 {
        write_u64(to, 1)?;
    }
    write_u64(to, LAST)?;
    Ok(to.flush()?)
}

impl Paths {
    fn answer(&self, operation: u64, from: &mut impl Read, to: &mut impl Write) -> Result<()> {
        match operation {
            // AddTempRoot
            11 => {
                read_text(from)?;
                write_u64(to, LAST)?;
                write_u64(to, 1)?;
            }
            // QueryAllValidPaths
            23 => {
                write_u64(to, LAST)?;
                write_u64(to, self.paths.len() as u64)?;
                self.paths.iter().try_for_each(|path| write_text(to, &path.to_absolute_path()))?;
            }
            // QueryPathInfo
            26 => {
                let asked = read_text(from)?;
                write_u64(to, LAST)?;
                match self.number(&asked) {
                    None => write_u64(to, 0)?,
                    Some(number) => self.write_info(number, to)?,
                }
            }
            // QueryValidPaths
            31 => {
                let asked: Vec<_> =
                    (0..read_u64(from)?).map(|_| read_text(from)).collect::<Result<_, _>>()?;
                read_u64(from)?; // whether to substitute
                let valid: Vec<_> = asked.iter().filter(|path| self.number(path).is_some()).collect();
                write_u64(to, LAST)?;
                write_u64(to, valid.len() as u64)?;
                valid.into_iter().try_for_each(|path| write_text(to, path))?;
            }
            other => anyhow::bail!("operation {other} is not known here"),
        }
        Ok(())
    }

    fn write_info(&self, number: usize, to: &mut impl Write) -> io::Result<()> {
        write_u64(to, 1)?;
        write_text(to, "")?; // no deriver
        let hash: String = self.nar_hashes[number].iter().map(|byte| format!("{byte:02x}")).collect();
        write_text(to, &hash)?;
        let references: Vec<_> = self.references(number).collect();
        write_u64(to, references.len() as u64)?;
        references.iter().try_for_each(|number| write_text(to, &self.paths[*number].to_absolute_path()))?;
        write_u64(to, 1)?; // registered in 1970
        write_u64(to, nar(number).len() as u64)?;
        write_u64(to, 1)?; // built here
        write_u64(to, 0)?; // no signatures
        write_text(to, "") // not content-addressed
    }

    fn references(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let before = number - number % self.block;
        references(number - before).map(move |reference| before + reference)
    }

    /// The number of a path of this store.
    fn number(&self, path: &str) -> Option<usize> {
        let (_, name) = Path::new(path).file_name()?.to_str()?.split_once('-')?;
        let number: usize = name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?.parse().ok()?;
        (self.paths.get(number)?.to_absolute_path() == path).then_some(number)
    }
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_text(from: &mut impl Read) -> Result<String> {
    let length = usize::try_from(read_u64(from)?)?;
    ensure!(length <= 4096, "a string of {length} bytes");
    let mut bytes = vec![0; length.next_multiple_of(8)];
    from.read_exact(&mut bytes)?;
    bytes.truncate(length);
    String::from_utf8(bytes).context("a string that is no text")
}

fn write_u64(to: &mut impl Write, number: u64) -> io::Result<()> {
    to.write_all(&number.to_le_bytes())
}

fn write_text(to: &mut impl Write, text: &str) -> io::Result<()> {
    write_u64(to, text.len() as u64)?;
    to.write_all(text.as_bytes())?;
    to.write_all(&[0; 7][..text.len().next_multiple_of(8) - text.len()])
}
