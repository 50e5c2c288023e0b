//! Buckets in a directory that readers see through a web server or a mount.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_hook::fault::point;

use super::files::{TEMPORARY, Tree, describe, etag, finish};
use super::listing;
use super::multipart::DirectoryMultipart;
use crate::base::error::{Area, Error, Result};
use crate::base::file::blocking;
use crate::bucket::address::file_url;
use crate::bucket::interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Copied, Cursor, Depth, Fence, ListPage, MAX_SMALL,
    Multipart, Object, ObjectMeta, Origin, Place, Put,
};
use crate::bucket::key_syntax;

/// A bucket whose objects are the files below a directory.
///
/// A file is written to `.larder-tmp`, made durable, and then moved to its place. Media types are not stored: the web server
/// decides about them.
#[derive(Debug)]
pub struct DirectoryBucket {
    files: Arc<Tree>,
    /// Is asked about each change, while a lock is held: see [`Bucket::barrier`].
    fence: Option<Arc<dyn Fence>>,
}

impl DirectoryBucket {
    /// The bucket in the directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { files: Arc::new(Tree::new(root.into())), fence: None }
    }

    fn check(&self, key: &str) -> Result<()> {
        key_syntax::check(key)?;
        if key.split('/').next() == Some(TEMPORARY) {
            return Err(Error::permanent(Area::Bucket, format!("cannot use the key `{key}`"))
                .because("larder keeps unfinished files in that directory"));
        }
        Ok(())
    }

    /// Runs blocking `work` on a thread for blocking work.
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

/// Whether an error proves that a file does not exist. That is true only while the root itself exists.
fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

/// Makes a change if the fence permits it.
fn behind<T>(
    fence: Option<&dyn Fence>,
    change: impl FnOnce() -> std::io::Result<T>,
) -> std::io::Result<Result<T>> {
    let Some(fence) = fence else { return change().map(Ok) };
    let passed = match fence.pass() {
        Ok(passed) => passed,
        Err(error) => return Ok(Err(error)),
    };
    point("directory: passed its fence");
    let changed = change();
    point("directory: changed");
    fence.answered(passed);
    changed.map(Ok)
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

    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("read", key, move |files| {
            let Some((mut file, meta)) = open_file(files, &name)? else { return Ok(None) };
            file.seek(SeekFrom::Start(from))?;
            let length = length.min(MAX_SMALL);
            // A vector that grows takes up to twice the memory.
            let mut body = Vec::with_capacity(length.min(meta.len().saturating_sub(from)) as usize);
            file.take(length).read_to_end(&mut body)?;
            Ok(Some(body.into()))
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        self.check(key)?;
        let name = key.to_owned();
        self.run("look up", key, move |files| match fs::metadata(files.path(&name)) {
            Ok(meta) if meta.is_file() => Ok(Some(describe(name, &meta, None))),
            Ok(_) => Ok(None),
            Err(error) if absent(&error) => files.require_root().map(|()| None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn put(&self, key: &str, body: Body, _: ContentType, condition: Condition) -> Result<Put> {
        self.check(key)?;
        let (name, fence) = (key.to_owned(), self.fence.clone());
        self.run("write", key, move |files| {
            let temporary = files.write_temporary(&body.bytes)?;
            // The lock is held from the question to the change.
            let _lock = match condition {
                Condition::None => files.lock_shared()?,
                _ => files.lock()?,
            };
            let change = || match condition {
                Condition::None => temporary.replace(&name).map(|()| Put::Written),
                Condition::IfAbsent => {
                    temporary.link(&name).map(|new| if new { Put::Written } else { Put::Refused })
                }
                Condition::IfMatch(wanted) => {
                    let standing = open_file(files, &name)?.map(|(_, meta)| etag(&meta));
                    if standing != Some(wanted) {
                        return Ok(Put::Refused);
                    }
                    temporary.replace(&name).map(|()| Put::Written)
                }
            };
            behind(fence.as_deref(), change)
        })
        .await?
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.check(key)?;
        let (name, fence) = (key.to_owned(), self.fence.clone());
        self.run("delete", key, move |files| {
            let path = files.path(&name);
            if path.is_dir() {
                return Ok(Ok(()));
            }
            let _lock = fence.is_some().then(|| files.lock_shared()).transpose()?;
            behind(fence.as_deref(), || match fs::remove_file(path) {
                Err(error) if absent(&error) => files.require_root(),
                result => result,
            })
        })
        .await?
    }

    fn origin(&self, object: &ObjectMeta) -> Option<Origin> {
        self.check(&object.key).ok()?;
        let place = Place::File { root: self.files.root().to_owned(), key: object.key.clone() };
        Some(Origin { place, size: object.size, etag: object.etag.clone() })
    }

    /// Copies the bytes, by reference where the file system can. A second name of the same file would let everybody who may
    /// write the origin change the copy.
    async fn copy(&self, from: &Origin, to: &str, _: ContentType) -> Result<Copied> {
        self.check(to)?;
        let Place::File { root, key } = from.place.clone() else { return Ok(Copied::Impossible) };
        let (name, from, fence) = (to.to_owned(), from.clone(), self.fence.clone());
        self.run("copy an object to", to, move |files| {
            let Some((mut origin, meta)) = open_file(&Tree::new(root), &key)? else {
                return Ok(Ok(Copied::Gone));
            };
            if from.etag.is_some_and(|wanted| wanted != etag(&meta)) {
                return Ok(Ok(Copied::Gone));
            }
            let (temporary, mut file) = files.temporary()?;
            let size = std::io::copy(&mut origin, &mut file)?;
            if size != from.size {
                return Ok(Ok(Copied::Gone));
            }
            finish(&file)?;
            let _lock = files.lock_shared()?;
            behind(fence.as_deref(), || temporary.replace(&name).map(|()| Copied::Done))
        })
        .await?
    }

    fn fenced(self: Arc<Self>, fence: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        Arc::new(Self { files: self.files.clone(), fence: Some(fence) })
    }

    /// A process that stops between its question and its change holds the lock.
    async fn barrier(&self) -> Result<()> {
        self.run("wait for changes of", TEMPORARY, |files| files.lock().map(drop)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        let (prefix_of, after) = (prefix.to_owned(), after.cloned());
        self.run("list", &format!("{prefix}*"), move |files| {
            listing::page(files, &prefix_of, after.as_ref(), depth)
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
                Ok(_) => Err(std::io::Error::new(ErrorKind::NotADirectory, "it is not a directory")),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn create(&self) -> Result<()> {
        let root = self.files.root().to_owned();
        blocking(format!("cannot create the directory `{}`", root.display()), move || {
            larder_hook::directories::make_directories(&root)
        })
        .await
    }

    /// All files have mode 0644 and all directories 0755. The directories above the root are the owner's business.
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Ok(AnonymousRead::Granted)
    }

    fn public_url(&self) -> String {
        file_url(self.files.root()).trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
