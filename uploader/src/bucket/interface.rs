//! The operations of a bucket, with their arguments and results.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::error::{Area, Error, Result};
pub use crate::base::file::MAX_SMALL;

/// Is asked about each attempt of a request that changes the bucket, after the attempt was signed and before it is sent.
///
/// A server refuses a signature that has expired. So a process that stops between the question and the sending changes
/// nothing later.
pub trait Fence: Send + Sync + fmt::Debug {
    /// Permits the attempt, and counts it as open. The number is for [`Fence::answered`].
    ///
    /// # Errors
    /// The attempt is not sent, and the error is the result of the call.
    fn pass(&self) -> Result<u64>;

    /// The attempt has been carried out, or never will be. An attempt whose answer leaves that open is never reported.
    fn answered(&self, attempt: u64);
}

/// A store of objects under keys.
///
/// Keys are relative to the prefix of the bucket's address. A key does not start with `/`, and has no empty segment, no
/// segment `.` or `..`, and no control character; other keys are refused with a permanent error. An error means that the
/// state of the object is unknown, never that the object is absent.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// The address of the bucket. Holds no secret.
    fn address(&self) -> String;

    /// A small object with its bytes, or `None` if the object is proven to be absent.
    ///
    /// Fails for an object larger than [`MAX_SMALL`], if the bucket itself is missing, and for every answer that does not
    /// say clearly whether the object exists.
    async fn get(&self, key: &str) -> Result<Option<Object>>;

    /// The bytes of an object from the position `from` on, at most `length` bytes; `None` if the object is proven to be
    /// absent. An object that ends before gives fewer bytes.
    ///
    /// Fails as [`Bucket::get`] does, and for a `length` above [`MAX_SMALL`].
    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>>;

    /// Size and entity tag of an object, or `None` if the object is proven to be absent.
    ///
    /// S3 answers a HEAD without a body. A missing bucket therefore looks like a missing object; [`Bucket::exists`]
    /// distinguishes them.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>>;

    /// Writes a whole object. Readers see the old object or the new object, never a mixture.
    ///
    /// [`Put::Refused`] says that `condition` does not hold. After a lost answer the request is sent again, and the
    /// object that makes the condition fail may be the object that this call wrote. A server without conditional writes
    /// ignores the condition, and the result is [`Put::Written`].
    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put>;

    /// Removes an object. Succeeds if the object is absent.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Removes objects, in any order. Succeeds if they are all absent then. After an error, some of them may be removed.
    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// Where the object is that `object`, the result of [`Bucket::head`], describes. `None` if no other bucket can copy it.
    fn origin(&self, _object: &ObjectMeta) -> Option<Origin> {
        None
    }

    /// Copies an object of this or another bucket, without its bytes passing through this machine, and replaces an existing
    /// object. Readers see it completely or not at all. Nothing but the bytes is taken over: the media type is `kind`.
    ///
    /// The credentials of this bucket must permit to read the origin. After an error the object may be there after all.
    async fn copy(&self, _from: &Origin, _to: &str, _kind: ContentType) -> Result<Copied> {
        Ok(Copied::Impossible)
    }

    /// The versions of an object that a bucket keeps, with its deletion markers, newest first. Empty if the bucket keeps
    /// none. A server that could keep versions and does not may name the object itself as its only version.
    async fn versions(&self, _key: &str) -> Result<Vec<Version>> {
        Ok(Vec::new())
    }

    /// Removes one version of an object, or a deletion marker, for ever. Succeeds if it is absent.
    ///
    /// After [`Bucket::delete`], remove the versions with bytes before the markers: without its newest marker, an object is
    /// back.
    async fn delete_version(&self, key: &str, _id: &str) -> Result<()> {
        let what = format!("cannot delete a version of `{key}` in `{}`", self.address());
        Err(Error::permanent(Area::Bucket, what).because("this bucket keeps no versions"))
    }

    /// The same bucket, whose small writes and deletions ask `fence` at each attempt. Uploads in parts do not ask.
    fn fenced(self: Arc<Self>, fence: Arc<dyn Fence>) -> Arc<dyn Bucket>;

    /// Waits until each change that a [`Fence`] of another process has permitted is carried out, if nothing else bounds the
    /// time of a change. A server bounds it by the age of a signature.
    async fn barrier(&self) -> Result<()> {
        Ok(())
    }

    /// One page of the keys that start with `prefix`, in ascending bytewise order.
    ///
    /// `after` is [`Cursor::after`] a key, or [`ListPage::next`] of the previous page.
    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage>;

    /// Begins a multipart upload. The object is not visible before [`Multipart::complete`].
    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>>;

    /// Multipart uploads below `prefix` that were begun and not ended. The list may be incomplete. It is empty if the bucket
    /// removes unfinished uploads itself.
    async fn unfinished(&self, _prefix: &str) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    /// Removes the parts of an unfinished upload. Succeeds if the upload does not exist any more.
    async fn discard(&self, _upload: &Unfinished) -> Result<()> {
        Ok(())
    }

    /// Whether the bucket itself exists.
    async fn exists(&self) -> Result<bool>;

    /// Creates the bucket. Succeeds if the bucket exists and has the same owner.
    async fn create(&self) -> Result<()>;

    /// Lets everybody read the objects below the prefix, and distinguish a missing object from a forbidden object.
    ///
    /// On S3 the distinction needs `s3:ListBucket`, which cannot be limited to a prefix: afterwards everybody can list the
    /// names of all objects of the bucket. An existing policy is extended, not replaced.
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead>;

    /// The default URL of the objects for readers without credentials, without a slash at its end.
    fn public_url(&self) -> String;
}

/// A multipart upload in progress.
///
/// If it is dropped without [`complete`](Multipart::complete) or [`abort`](Multipart::abort), no object becomes visible, but
/// the parts may stay on the server until it removes them.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Sends one part. Part numbers start at 1. Parts may be sent concurrently and in any order.
    ///
    /// S3 requires at least 5 MiB for each part except the last. After an error the part may be sent again.
    async fn part(&self, number: u32, body: Body) -> Result<()>;

    /// Makes the object visible and replaces an existing object. Fails unless the part numbers are `1..=n` without a gap.
    ///
    /// After an error of the class [`Unknown`](crate::base::error::Retry::Unknown) or
    /// [`Transient`](crate::base::error::Retry::Transient) the object may be visible after all.
    async fn complete(self: Box<Self>) -> Result<()>;

    /// Ends the upload and removes its parts.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// A multipart upload that was begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The key of the object, relative to the prefix of the address.
    pub key: String,
    /// The server's identifier of the upload.
    pub id: String,
}

/// Bytes to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// The SHA-256 of the bytes, if it is known already: then it is not computed again for the signature. A server refuses
    /// bytes with another hash.
    pub sha256: Option<[u8; 32]>,
}

impl<B: Into<Bytes>> From<B> for Body {
    /// A body without a known hash.
    fn from(bytes: B) -> Self {
        Self { bytes: bytes.into(), sha256: None }
    }
}

/// A small object with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub body: Bytes,
    /// The entity tag for [`Condition::IfMatch`], if the server gives one.
    pub etag: Option<String>,
}

/// A version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The server's identifier of the version.
    pub id: String,
    /// Whether it says that the object was deleted, and holds no bytes.
    pub is_marker: bool,
    /// The size in bytes.
    pub size: u64,
}

/// Where an object is that another bucket can copy.
#[derive(Clone)]
pub struct Origin {
    pub(super) place: Place,
    pub(super) size: u64,
    /// Another object than the one with this entity tag is not copied, if the server honours conditions of copies.
    pub(super) etag: Option<String>,
}

#[derive(Clone)]
pub(super) enum Place {
    /// On a server.
    Server {
        /// The server.
        endpoint: Option<String>,
        region: String,
        bucket: String,
        /// The full key.
        key: String,
    },
    /// In a directory.
    File {
        /// The directory of the bucket.
        root: PathBuf,
        key: String,
    },
    /// In memory: reads the object.
    #[cfg(test)]
    Memory(Arc<dyn Fn() -> Option<Object> + Send + Sync>),
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server { bucket, key, .. } => write!(f, "Origin({bucket}/{key})"),
            Place::File { root, key } => write!(f, "Origin({}/{key})", root.display()),
            #[cfg(test)]
            Place::Memory(_) => f.write_str("Origin(memory)"),
        }
    }
}

/// The outcome of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The object was copied.
    Done,
    /// The origin is not there any more, or is another object by now. Nothing was copied.
    Gone,
    /// The origin is on another server, or the server cannot copy. Nothing was copied: send the bytes.
    Impossible,
}

/// The properties of an object that are known without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, relative to the prefix of the address.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// The entity tag for [`Condition::IfMatch`], if the server gives one.
    pub etag: Option<String>,
    /// The time since the object was last written. The clock of the bucket tells both ends of this time: the clock of
    /// this machine may be wrong. `None` if the server does not tell. Only a listing tells it for a directory.
    pub age: Option<Duration>,
}

impl ObjectMeta {
    /// The age of an object that was written at `modified`, at the time `now`, by one clock. Servers round the two times
    /// differently, so a time in the future is an age of zero.
    pub(super) fn age(now: Option<SystemTime>, modified: Option<SystemTime>) -> Option<Duration> {
        Some(now?.duration_since(modified?).unwrap_or_default())
    }
}

/// The media type of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// A narinfo.
    NarInfo,
    /// A NAR, compressed or not.
    Nar,
    /// `nix-cache-info`.
    CacheInfo,
    /// JSON: listings, realisations, larder's own objects.
    Json,
    /// Plain text: build logs.
    Text,
    /// Bytes that only larder reads.
    Binary,
}

impl ContentType {
    /// The value of the `Content-Type` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NarInfo => "text/x-nix-narinfo",
            Self::Nar => "application/x-nix-nar",
            Self::CacheInfo => "text/x-nix-cache-info",
            Self::Json => "application/json",
            Self::Text => "text/plain",
            Self::Binary => "application/octet-stream",
        }
    }
}

/// The condition of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// The write always happens.
    #[default]
    None,
    /// The write happens only if no object exists under the key.
    IfAbsent,
    /// The write happens only if the existing object has this entity tag.
    IfMatch(String),
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Written,
    /// The condition does not hold. The refused request wrote nothing.
    Refused,
}

/// The depth of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All keys with the prefix.
    Flat,
    /// Keys without a further `/` after the prefix. [`ListPage::folders`] sums up the deeper keys.
    OneLevel,
}

/// The position where a listing continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Position);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// After this key, relative to the prefix of the address.
    Key(String),
    /// At the position that this token of the bucket names.
    Token(String),
}

impl Cursor {
    /// The position after `key`. The listing does not contain `key` itself.
    pub fn after(key: impl Into<String>) -> Self {
        Self(Position::Key(key.into()))
    }
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects in ascending order of their keys. May be empty although more pages follow.
    pub objects: Vec<ObjectMeta>,
    /// With [`Depth::OneLevel`]: the prefixes of deeper keys, each ending in `/`. A folder may appear on two pages.
    pub folders: Vec<String>,
    /// The position of the next page; `None` after the last page.
    pub next: Option<Cursor>,
}

/// The outcome of an attempt to grant access without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousRead {
    /// Everybody can read.
    Granted,
    /// The server has no suitable mechanism; the text gives the reason.
    Unsupported(String),
}
