//! What every bucket can do, and the values that pass in and out.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::error::Result;
pub use crate::base::file::MAX_SMALL;

/// A place where objects live under keys.
///
/// Keys are relative to the prefix of the bucket's address: `nar/…`, never starting with `/`, without empty, `.` or
/// `..` segments and without control characters; others are refused with a permanent error. An error means that the
/// state of the object is unknown, never that it is absent.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// The address as Nix writes it. Holds no secret.
    fn address(&self) -> String;

    /// The whole of a small object, or `None` where it is proven to be absent.
    ///
    /// Fails for an object larger than [`MAX_SMALL`], when the bucket itself is missing, and for every answer that
    /// does not say plainly whether the object is there.
    async fn get(&self, key: &str) -> Result<Option<Object>>;

    /// Size and entity tag of an object, or `None` where it is proven to be absent.
    ///
    /// S3 answers a HEAD without a body, so that a missing bucket looks like a missing object here; [`Bucket::exists`]
    /// tells them apart.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>>;

    /// Writes a whole object; readers see the old one or the new one, never a mixture.
    ///
    /// [`Put::Refused`] says that `condition` does not hold. When an answer got lost and the request was sent again,
    /// the object that stands in the way may be the one that this very call wrote. A server that knows no conditional
    /// writes ignores the condition and answers [`Put::Written`].
    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put>;

    /// Removes an object; one that is absent already is no error.
    async fn delete(&self, key: &str) -> Result<()>;

    /// One page of the keys that start with `prefix`, ascending bytewise.
    ///
    /// `after` is [`Cursor::after`] a key, or [`ListPage::next`] of the page before.
    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage>;

    /// Begins an object that is sent in parts; nothing is visible before [`Multipart::complete`].
    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>>;

    /// Uploads in parts below `prefix` that were begun and not ended: some of many, and none where the bucket removes
    /// by itself what is left behind.
    async fn unfinished(&self, _prefix: &str) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    /// Removes what was sent of such an upload; one that is gone already is no error.
    async fn discard(&self, _upload: &Unfinished) -> Result<()> {
        Ok(())
    }

    /// Whether the bucket itself exists.
    async fn exists(&self) -> Result<bool>;

    /// Makes the bucket; one that exists already, and is ours, is no error.
    async fn create(&self) -> Result<()>;

    /// Lets everybody read the objects under the prefix, and tell a missing object from a forbidden one.
    ///
    /// On S3 the second needs `s3:ListBucket`, which has no useful limit to a prefix: the names of all objects of the
    /// bucket can be listed afterwards. A policy that stands is extended, not replaced.
    async fn allow_anonymous_read(&self) -> Result<AnonymousRead>;

    /// The URL below which a reader without credentials would look by default, without a slash at its end.
    fn public_url(&self) -> String;
}

/// An object that is being sent in parts.
///
/// Dropped without [`complete`](Multipart::complete) or [`abort`](Multipart::abort), nothing becomes visible, but the
/// parts may stay at the server until it cleans up.
#[async_trait]
pub trait Multipart: Send + Sync {
    /// Sends one part; parts count from 1, may be sent concurrently and in any order.
    ///
    /// S3 wants all but the last to have at least 5 MiB. After an error the part may be sent again.
    async fn part(&self, number: u32, body: Body) -> Result<()>;

    /// Makes the object visible, replacing one that stands. Refuses when the parts are not `1..=n` without a gap.
    ///
    /// After an error of the class [`Unknown`](crate::base::error::Retry::Unknown) or
    /// [`Transient`](crate::base::error::Retry::Transient) the object may be visible after all.
    async fn complete(self: Box<Self>) -> Result<()>;

    /// Gives up and removes what was sent.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// An upload in parts that was begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The key that it is for, relative to the prefix of the address.
    pub key: String,
    /// What the server knows it by.
    pub id: String,
}

/// Bytes to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// Their SHA-256 where it is known already, so that it need not be computed again to sign them. A server refuses
    /// bytes that have another.
    pub sha256: Option<[u8; 32]>,
}

impl<B: Into<Bytes>> From<B> for Body {
    /// Without a hash.
    fn from(bytes: B) -> Self {
        Self { bytes: bytes.into(), sha256: None }
    }
}

/// A small object with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub body: Bytes,
    /// What [`Condition::IfMatch`] takes; a server may not tell.
    pub etag: Option<String>,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, relative to the prefix of the address.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// What [`Condition::IfMatch`] takes; a server may not tell.
    pub etag: Option<String>,
}

/// The media type that an object is stored with.
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
}

impl ContentType {
    /// As the `Content-Type` header has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NarInfo => "text/x-nix-narinfo",
            Self::Nar => "application/x-nix-nar",
            Self::CacheInfo => "text/x-nix-cache-info",
            Self::Json => "application/json",
            Self::Text => "text/plain",
        }
    }
}

/// When a write may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// Only where no object stands.
    IfAbsent,
    /// Only over the object with this entity tag.
    IfMatch(String),
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object stands.
    Written,
    /// The condition does not hold; nothing was written by the request that was refused.
    Refused,
}

/// How far a listing descends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All keys with the prefix.
    Flat,
    /// Keys without a further `/` after the prefix; what lies deeper is summed up in [`ListPage::folders`].
    OneLevel,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Position);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// After this key, which is relative to the prefix of the address.
    Key(String),
    /// Where the server said.
    Token(String),
}

impl Cursor {
    /// Everything after `key`, without `key` itself.
    pub fn after(key: impl Into<String>) -> Self {
        Self(Position::Key(key.into()))
    }
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, ascending by key. May be empty although more pages follow.
    pub objects: Vec<ObjectMeta>,
    /// With [`Depth::OneLevel`]: what lies deeper, each ending in `/`. One may appear on two pages.
    pub folders: Vec<String>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<Cursor>,
}

/// How an attempt to open a bucket to readers without credentials ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousRead {
    /// Everybody can read.
    Granted,
    /// This server has no means that larder can use; the reason says why.
    Unsupported(String),
}
