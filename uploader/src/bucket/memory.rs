//! A bucket in memory, for unit tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Copied, Cursor, Depth, Fence, ListPage, MAX_SMALL,
    Multipart, Object, ObjectMeta, Origin, Place, Position, Put, Unfinished,
};
use super::key_syntax;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;

/// The number of keys in a page.
const PAGE: usize = 1000;

/// A bucket whose objects live as long as the value. It exists from the start. Clones share the objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryBucket {
    objects: Arc<Mutex<Objects>>,
    fence: Option<Arc<dyn Fence>>,
}

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Stored>,
    /// The number of writes and uploads so far, from which entity tags and upload ids are made.
    writes: u64,
    /// Multipart uploads that were begun and not ended.
    uploads: Vec<Unfinished>,
}

#[derive(Clone, Debug)]
struct Stored {
    body: Bytes,
    etag: String,
    written: SystemTime,
}

impl MemoryBucket {
    /// Makes an object older.
    pub(crate) fn make_older(&self, key: &str, by: Duration) {
        let mut objects = self.objects();
        let stored = objects.by_key.get_mut(key).expect("an object");
        stored.written -= by;
    }

    fn pass(&self) -> Result<Option<u64>> {
        self.fence.as_deref().map(Fence::pass).transpose()
    }

    fn answered(&self, passed: Option<u64>) {
        if let (Some(fence), Some(passed)) = (&self.fence, passed) {
            fence.answered(passed);
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }
}

impl Objects {
    fn write(&mut self, key: &str, body: Bytes) {
        self.writes += 1;
        let etag = format!("\"{}\"", self.writes);
        self.by_key.insert(key.to_owned(), Stored { body, etag, written: SystemTime::now() });
    }

    fn allows(&self, key: &str, condition: &Condition) -> bool {
        let standing = self.by_key.get(key);
        match condition {
            Condition::None => true,
            Condition::IfAbsent => standing.is_none(),
            Condition::IfMatch(etag) => standing.is_some_and(|stored| stored.etag == *etag),
        }
    }

    fn page(&self, prefix: &str, after: &str, depth: Depth) -> ListPage {
        let mut page = ListPage::default();
        let start = after.max(prefix).to_owned();
        for (key, stored) in self.by_key.range(start..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            if key.as_str() <= after {
                continue;
            }
            let folder = match (depth, rest.find('/')) {
                (Depth::OneLevel, Some(at)) => Some(&key[..=prefix.len() + at]),
                _ => None,
            };
            // A page that ends with a folder continues after all keys of the folder.
            if folder.is_some_and(|folder| {
                after.starts_with(folder) || page.folders.last().is_some_and(|last| last == folder)
            }) {
                continue;
            }
            if page.objects.len() + page.folders.len() == PAGE {
                let last = page.objects.last().map(|object| object.key.clone()).into_iter();
                page.next = last.chain(page.folders.last().cloned()).max().map(Cursor::after);
                break;
            }
            match folder {
                Some(folder) => page.folders.push(folder.to_owned()),
                None => page.objects.push(stored.meta(key)),
            }
        }
        page
    }
}

impl Stored {
    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: self.body.len() as u64,
            etag: Some(self.etag.clone()),
            age: ObjectMeta::age(Some(SystemTime::now()), Some(self.written)),
        }
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    fn address(&self) -> String {
        "memory:".into()
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        key_syntax::check(key)?;
        let Some(stored) = self.objects().by_key.get(key).cloned() else { return Ok(None) };
        if stored.body.len() as u64 > MAX_SMALL {
            return Err(
                Error::permanent(Area::Bucket, format!("cannot read `{key}`")).because("it is too large")
            );
        }
        Ok(Some(Object { body: stored.body, etag: Some(stored.etag) }))
    }

    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        key_syntax::check(key)?;
        let Some(stored) = self.objects().by_key.get(key).cloned() else { return Ok(None) };
        let end = stored.body.len();
        let place = |position: u64| usize::try_from(position).unwrap_or(end).min(end);
        Ok(Some(stored.body.slice(place(from)..place(from.saturating_add(length)))))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        key_syntax::check(key)?;
        Ok(self.objects().by_key.get(key).map(|stored| stored.meta(key)))
    }

    async fn put(&self, key: &str, body: Body, _: ContentType, condition: Condition) -> Result<Put> {
        key_syntax::check(key)?;
        let passed = self.pass()?;
        let mut objects = self.objects();
        let is_allowed = objects.allows(key, &condition);
        if is_allowed {
            objects.write(key, body.bytes);
        }
        drop(objects);
        self.answered(passed);
        Ok(if is_allowed { Put::Written } else { Put::Refused })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key_syntax::check(key)?;
        let passed = self.pass()?;
        self.objects().by_key.remove(key);
        self.answered(passed);
        Ok(())
    }

    fn origin(&self, object: &ObjectMeta) -> Option<Origin> {
        let (objects, key) = (self.objects.clone(), object.key.clone());
        let read = move || {
            let stored = lock(&objects).by_key.get(&key).cloned()?;
            Some(Object { body: stored.body, etag: Some(stored.etag) })
        };
        Some(Origin { place: Place::Memory(Arc::new(read)), size: object.size, etag: object.etag.clone() })
    }

    async fn copy(&self, from: &Origin, to: &str, kind: ContentType) -> Result<Copied> {
        key_syntax::check(to)?;
        let Place::Memory(read) = &from.place else { return Ok(Copied::Impossible) };
        match read().filter(|object| object.etag == from.etag) {
            Some(object) => {
                self.put(to, object.body.into(), kind, Condition::None).await.map(|_| Copied::Done)
            }
            None => Ok(Copied::Gone),
        }
    }

    fn fenced(self: Arc<Self>, fence: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        Arc::new(Self { objects: self.objects.clone(), fence: Some(fence) })
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        let after = after.map_or("", |Cursor(Position::Key(key) | Position::Token(key))| key);
        Ok(self.objects().page(prefix, after, depth))
    }

    async fn start_multipart(&self, key: &str, _: ContentType) -> Result<Box<dyn Multipart>> {
        key_syntax::check(key)?;
        let mut objects = self.objects();
        objects.writes += 1;
        let upload = Unfinished { key: key.to_owned(), id: objects.writes.to_string() };
        objects.uploads.push(upload.clone());
        drop(objects);
        Ok(Box::new(MemoryMultipart { bucket: self.clone(), upload, parts: Mutex::default() }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let uploads = self.objects().uploads.clone();
        Ok(uploads.into_iter().filter(|upload| upload.key.starts_with(prefix)).collect())
    }

    async fn discard(&self, upload: &Unfinished) -> Result<()> {
        self.objects().uploads.retain(|other| other != upload);
        Ok(())
    }

    async fn exists(&self) -> Result<bool> {
        Ok(true)
    }

    async fn create(&self) -> Result<()> {
        Ok(())
    }

    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        Ok(AnonymousRead::Unsupported("the bucket is in memory".into()))
    }

    fn public_url(&self) -> String {
        "memory:".into()
    }
}

struct MemoryMultipart {
    bucket: MemoryBucket,
    upload: Unfinished,
    parts: Mutex<BTreeMap<u32, Bytes>>,
}

#[async_trait]
impl Multipart for MemoryMultipart {
    async fn part(&self, number: u32, body: Body) -> Result<()> {
        lock(&self.parts).insert(number, body.bytes);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<()> {
        let parts = std::mem::take(&mut *lock(&self.parts));
        if parts.is_empty() || !parts.keys().copied().eq((1..).take(parts.len())) {
            return Err(Error::permanent(
                Area::Bucket,
                format!("cannot finish the upload of `{}`", self.upload.key),
            )
            .because("parts are missing"));
        }
        let whole: Vec<u8> = parts.into_values().flatten().collect();
        self.bucket.objects().write(&self.upload.key, whole.into());
        self.bucket.discard(&self.upload).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.bucket.discard(&self.upload).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::conformance::{self, Traits};

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        conformance::run(Arc::new(MemoryBucket::default()), Traits::default()).await.expect("conformance");
    }
}
