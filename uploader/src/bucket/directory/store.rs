//! Buckets in a directory, for a disk that a web server or a mount shows to readers.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use walkdir::{DirEntry, WalkDir};

use super::files::{TEMPORARY, Tree};
use super::multipart::DirectoryMultipart;
use crate::base::error::{Area, Error, Result};
use crate::base::file::blocking;
use crate::bucket::address::file_url;
use crate::bucket::interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Cursor, Depth, ListPage, MAX_SMALL, Multipart,
    Object, ObjectMeta, Position, Put,
};
use crate::bucket::key_syntax;

/// How many keys a page has.
const PAGE: usize = 1000;

/// A bucket whose objects are the files below a directory.
///
/// Files are written beside the tree, in `.larder-tmp`, made durable, and then moved into place. Media types are not
/// kept: the web server decides.
#[derive(Debug)]
pub struct DirectoryBucket {
    files: Arc<Tree>,
}

impl DirectoryBucket {
    /// The bucket in the directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { files: Arc::new(Tree::new(root.into())) }
    }

    fn check(&self, key: &str) -> Result<()> {
        key_syntax::check(key)?;
        if key.split('/').next() == Some(TEMPORARY) {
            return Err(Error::permanent(Area::Bucket, format!("cannot use the key `{key}`"))
                .because("larder keeps unfinished files there"));
        }
        Ok(())
    }

    /// Runs `work` where it may block.
    async fn run<T: Send + 'static>(
        &self,
        verb: &str,
        key: &str,
        work: impl FnOnce(&Tree) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        let what = format!("cannot {verb} `{key}` in `{}`", self.address());
        blocking(what, move || work(&files)).await
    }
}

/// Whether an error proves that there is no such file. That holds only while the root itself is there.
fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn etag(meta: &fs::Metadata) -> String {
    // Every write makes a new file, so that these never come together twice.
    format!("\"{:x}-{:x}-{:x}-{:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

fn open_file(files: &Tree, key: &str) -> std::io::Result<Option<(File, fs::Metadata)>> {
    let found = File::open(files.path(key)).and_then(|file| file.metadata().map(|meta| (file, meta)));
    match found {
        Ok((file, meta)) if meta.is_file() => Ok(Some((file, meta))),
        Ok(_) => Ok(None),
        Err(error) if absent(&error) => files.require_root().map(|()| None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Bucket for DirectoryBucket {
    fn address(&self) -> String {
        file_url(self.files.root())
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("read", key, move |files| {
            let Some((file, meta)) = open_file(files, &name)? else { return Ok(None) };
            let mut body = Vec::new();
            file.take(MAX_SMALL + 1).read_to_end(&mut body)?;
            if body.len() as u64 > MAX_SMALL {
                return Err(std::io::Error::new(
                    ErrorKind::FileTooLarge,
                    format!("it is larger than {MAX_SMALL} bytes, which no object of its kind is"),
                ));
            }
            Ok(Some(Object { body: body.into(), etag: Some(etag(&meta)) }))
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("look up", key, move |files| match fs::metadata(files.path(&name)) {
            Ok(meta) if meta.is_file() => {
                Ok(Some(ObjectMeta { key: name, size: meta.len(), etag: Some(etag(&meta)) }))
            }
            Ok(_) => Ok(None),
            Err(error) if absent(&error) => files.require_root().map(|()| None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn put(&self, key: &str, body: Body, _: ContentType, condition: Condition) -> Result<Put> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("write", key, move |files| {
            let temporary = files.write_temporary(&body.bytes)?;
            match condition {
                Condition::None => {
                    let _lock = files.lock_shared()?;
                    temporary.replace(&name)?;
                }
                Condition::IfAbsent => {
                    let _lock = files.lock()?;
                    if !temporary.link(&name)? {
                        return Ok(Put::Refused);
                    }
                }
                Condition::IfMatch(wanted) => {
                    let _lock = files.lock()?;
                    let standing = open_file(files, &name)?.map(|(_, meta)| etag(&meta));
                    if standing != Some(wanted) {
                        return Ok(Put::Refused);
                    }
                    temporary.replace(&name)?;
                }
            }
            Ok(Put::Written)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("delete", key, move |files| {
            let path = files.path(&name);
            if path.is_dir() {
                return Ok(());
            }
            match fs::remove_file(path) {
                Err(error) if absent(&error) => files.require_root(),
                result => result,
            }
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        let (prefix_of, after) = (prefix.to_owned(), after.cloned());
        self.run("list", &format!("{prefix}*"), move |files| {
            let after = after.map(|Cursor(Position::Key(key) | Position::Token(key))| key);
            page(files.root(), &prefix_of, after.as_deref(), depth)
        })
        .await
    }

    async fn start_multipart(&self, key: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        self.check(key)?;
        let what = format!("`{key}` in `{}`", self.address());
        let (name, object) = (key.to_owned(), what.clone());
        let files = Arc::clone(&self.files);
        let upload = blocking(format!("cannot start the upload of {what}"), move || {
            DirectoryMultipart::start(&files, name, object)
        });
        Ok(Box::new(upload.await?))
    }

    async fn exists(&self) -> Result<bool> {
        let root = self.files.root().to_owned();
        blocking(format!("cannot look up the directory `{}`", root.display()), move || {
            match fs::metadata(&root) {
                Ok(meta) if meta.is_dir() => Ok(true),
                Ok(_) => Err(std::io::Error::new(ErrorKind::NotADirectory, "it is no directory")),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn create(&self) -> Result<()> {
        let root = self.files.root().to_owned();
        blocking(format!("cannot make the directory `{}`", root.display()), move || {
            super::files::make_directories(&root)
        })
        .await
    }

    /// Files have mode 0644 and directories 0755 from the start; the way to the root is up to its owner.
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Ok(AnonymousRead::Granted)
    }

    fn public_url(&self) -> String {
        file_url(self.files.root()).trim_end_matches('/').to_owned()
    }
}

fn page(root: &Path, prefix: &str, after: Option<&str>, depth: Depth) -> std::io::Result<ListPage> {
    let mut page = ListPage::default();
    // A directory sorts as its keys do: with the slash.
    let sort_key = |entry: &DirEntry| {
        let mut name = entry.file_name().as_encoded_bytes().to_vec();
        if entry.file_type().is_dir() {
            name.push(b'/');
        }
        name
    };
    let base = prefix.rsplit_once('/').map_or("", |(base, _)| base);
    if !base.is_empty() && crate::bucket::key_syntax::fault(base).is_some() {
        return Ok(page);
    }
    let start = root.join(base);
    if !base.is_empty() && !start.is_dir() {
        fs::metadata(root)?;
        return Ok(page);
    }
    let levels = if depth == Depth::OneLevel { 1 } else { usize::MAX };
    let walk = WalkDir::new(&start)
        .min_depth(1)
        .max_depth(levels)
        .sort_by(move |a, b| sort_key(a).cmp(&sort_key(b)))
        .into_iter()
        .filter_entry(|entry| match key_of(root, entry) {
            // The root itself has no key.
            None => entry.depth() == 0,
            Some(key) if entry.file_type().is_dir() => {
                let folder = format!("{key}/");
                key != TEMPORARY
                    && (folder.starts_with(prefix) || prefix.starts_with(&folder))
                    && after.is_none_or(|after| folder.as_str() > after || after.starts_with(&folder))
            }
            Some(key) => key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after),
        });
    let mut last = String::new();
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            // Removed since its directory was read.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound) => {
                if error.depth() == 0 {
                    return Err(error.into());
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(key) = key_of(root, &entry).filter(|_| entry.depth() > 0) else { continue };
        if entry.file_type().is_dir() {
            let folder = format!("{key}/");
            // What the cursor stands in was told before.
            if depth == Depth::Flat || after.is_some_and(|after| after >= folder.as_str()) {
                continue;
            }
            if folder.starts_with(prefix) {
                last.clone_from(&folder);
                page.folders.push(folder);
            }
        } else {
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if !meta.is_file() {
                continue;
            }
            last.clone_from(&key);
            page.objects.push(ObjectMeta { key, size: meta.len(), etag: Some(etag(&meta)) });
        }
        if page.objects.len() + page.folders.len() >= PAGE {
            page.next = Some(Cursor(Position::Token(last)));
            break;
        }
    }
    Ok(page)
}

/// The key of an entry; `None` for what can be none, such as a name that is not UTF-8.
fn key_of(root: &Path, entry: &DirEntry) -> Option<String> {
    let relative = entry.path().strip_prefix(root).ok()?;
    relative.to_str().filter(|key| !key.is_empty()).map(str::to_owned)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
