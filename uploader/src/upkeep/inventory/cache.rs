//! What was read of narinfos, in a file of this machine. The file may be lost or thrown away at any time.
//!
//! A record counts only for the very object that it was made of: key, size and entity tag are those of the listing. It
//! holds a judgement by the keys that clients trust, so that there is one file for each bucket, store directory and set of
//! keys.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use sha2::{Digest, Sha256};

use super::objects::Object;
use super::record_codec::{self, VERSION};
use super::records::{Record, Records};
use super::take::Options;
use crate::base::error::{Area, Error, Result};
use crate::base::hex::hex;

const RECORDS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("records");
/// What the file is for, under the number 0.
const IDENTITY: TableDefinition<'_, u8, &[u8; 32]> = TableDefinition::new("identity");
/// The memory of the database, in bytes. Records are read and written in the order of the file.
const MEMORY: usize = 8 << 20;
/// The number of new records, and of their bytes, that are written together.
const MOST_PENDING: usize = 8192;
const MOST_PENDING_BYTES: usize = 8 << 20;
/// The time after which the file of a bucket that nobody looks at is removed.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const PREFIX: &str = "inventory-";
const SUFFIX: &str = ".redb";

/// The directory of the cache: that of systemd's service, or that of the user; `None` if the environment names neither.
pub fn cache_directory(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |text: &str| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    // systemd separates several directories by colons.
    let of_service = variable("CACHE_DIRECTORY");
    let of_service = of_service.as_deref().and_then(|list| list.split(':').next()).and_then(absolute);
    let of_user = || variable("XDG_CACHE_HOME").as_deref().and_then(absolute);
    let of_home = || variable("HOME").as_deref().and_then(absolute).map(|home| home.join(".cache"));
    of_service.or_else(|| of_user().or_else(of_home).map(|directory| directory.join("larder")))
}

/// The cache of one bucket.
pub struct Cache {
    database: Database,
    /// The records when the file was opened, or last written.
    table: ReadOnlyTable<&'static [u8; 20], &'static [u8]>,
    pending: BTreeMap<[u8; 20], Vec<u8>>,
    pending_bytes: usize,
    /// Whether the file failed. It is then left alone.
    has_failed: bool,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens the cache of the bucket with this address in a directory, which is made if it does not exist. A file that is
    /// damaged is thrown away.
    ///
    /// # Errors
    /// The reason why there is no cache: another process uses it, or the directory cannot be written.
    pub fn open(directory: &Path, address: &str, options: &Options) -> Result<Self> {
        let identity = identity(address, options);
        let name = hex(&identity[..16]);
        let path = directory.join(format!("{PREFIX}{name}{SUFFIX}"));
        let failed = |error: Failure| {
            let what = format!("cannot use the cache `{}`", path.display());
            match error {
                Failure::InUse => Error::transient(Area::General, what).because("another larder uses it"),
                Failure::Other(error) => Error::permanent(Area::General, what).because(error),
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| failed(error.into()))?;
        remove_unused(directory, &path);
        match Self::open_file(&path, &identity) {
            Err(Failure::Other(_)) => {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error.into())),
                    _ => {}
                }
                Self::open_file(&path, &identity).map_err(failed)
            }
            opened => opened.map_err(failed),
        }
    }

    fn open_file(path: &Path, identity: &[u8; 32]) -> Result<Self, Failure> {
        let file = own_file(path)?;
        // Whatever happened to the file, it is sound, or it is thrown away.
        let database = Builder::new()
            .set_cache_size(MEMORY)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)?;
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(IDENTITY)?;
            let standing = table.get(0)?.map(|value| *value.value());
            match standing {
                Some(standing) if standing == *identity => {}
                Some(_) => return Err(io::Error::other("it is of another bucket").into()),
                None => drop(table.insert(0, identity)?),
            }
            write.open_table(RECORDS)?;
        }
        write.commit()?;
        let table = database.begin_read()?.open_table(RECORDS)?;
        Ok(Self { database, table, pending: BTreeMap::new(), pending_bytes: 0, has_failed: false })
    }

    /// Writes the new records into the file.
    fn flush(&mut self) {
        if self.pending.is_empty() || self.has_failed {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let written = self.change(|table| {
            pending.iter().try_for_each(|(digest, bytes)| table.insert(digest, &**bytes).map(drop))
        });
        self.has_failed = written.is_err();
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8; 20], &'static [u8]>) -> redb::Result<()>,
    ) -> Result<(), Failure> {
        let write = self.database.begin_write()?;
        change(&mut write.open_table(RECORDS)?)?;
        write.commit()?;
        self.table = self.database.begin_read()?.open_table(RECORDS)?;
        Ok(())
    }
}

impl Records for Cache {
    fn get(&mut self, digest: &[u8; 20], object: &Object) -> Option<Record> {
        let record = match self.pending.get(digest) {
            Some(bytes) => record_codec::decode(bytes),
            None if self.has_failed => None,
            None => match self.table.get(digest) {
                Ok(bytes) => bytes.and_then(|bytes| record_codec::decode(bytes.value())),
                Err(_) => {
                    self.has_failed = true;
                    None
                }
            },
        };
        record.filter(|(kept, _)| kept.is_same(object)).map(|(_, record)| record)
    }

    fn put(&mut self, digest: &[u8; 20], object: &Object, record: &Record) {
        let Some(bytes) = record_codec::encode(object, record) else { return };
        if self.has_failed {
            return;
        }
        self.pending_bytes += bytes.len();
        self.pending.insert(*digest, bytes);
        if self.pending.len() >= MOST_PENDING || self.pending_bytes >= MOST_PENDING_BYTES {
            self.flush();
        }
    }

    fn keep_only(&mut self, paths: usize, is_listed: &dyn Fn(&[u8; 20]) -> bool) {
        self.flush();
        let kept = self.table.len().unwrap_or(0);
        // A few that are gone cost less than a search for them.
        if !self.has_failed && kept > (paths + paths / 8 + 1000) as u64 {
            self.has_failed = self.change(|table| table.retain(|digest, _| is_listed(digest))).is_err();
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // What was read before an error need not be read again.
        self.flush();
    }
}

/// What the file is for: the bucket, the trust by which narinfos were judged, and the form of the records.
fn identity(address: &str, options: &Options) -> [u8; 32] {
    let keys = options.trusted.iter().flat_map(|key| [key.name.as_bytes(), key.key.as_bytes()]);
    let mut hash = Sha256::new();
    hash.update(format!("{} {VERSION}", env!("CARGO_PKG_VERSION")));
    for part in [address.as_bytes(), options.store_dir.as_str().as_bytes()].into_iter().chain(keys) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Opens or makes a file that nobody else can write.
fn own_file(path: &Path) -> io::Result<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(no_link)
        .open(path)?;
    let meta = file.metadata()?;
    let is_own = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw();
    if !is_own || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write into the file"));
    }
    Ok(file)
}

/// Removes the files of buckets that nobody has looked at for long.
fn remove_unused(directory: &Path, except: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_cache = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        let written = entry.metadata().and_then(|meta| meta.modified());
        let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
        if is_cache && entry.path() != except && age.is_some_and(|age| age > UNUSED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Why the file cannot be used.
enum Failure {
    InUse,
    Other(Box<dyn std::error::Error + Send + Sync>),
}

macro_rules! failure_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Other(error.into())
            }
        })*
    };
}

failure_from!(io::Error, redb::StorageError, redb::TransactionError, redb::TableError, redb::CommitError);

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            error => Self::Other(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
