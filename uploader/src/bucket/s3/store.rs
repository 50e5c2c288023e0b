//! Buckets on S3-compatible servers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::connection::{Connection, Options};
use super::multipart::{self, S3Multipart};
use super::{bucket, copying, deletion, listing, objects, policy, versions};
use crate::base::error::Result;
use crate::bucket::address::S3Address;
use crate::bucket::interface::{
    AnonymousRead, Body, Bucket, Condition, ContentType, Copied, Cursor, Depth, Fence, ListPage, Multipart,
    Object, ObjectMeta, Origin, Put, Unfinished, Version,
};
use crate::bucket::key_syntax;

/// A bucket on an S3-compatible server. A clone is cheap and shares the connections.
#[derive(Clone)]
pub struct S3Bucket {
    connection: Arc<Connection>,
}

impl S3Bucket {
    /// Prepares requests to the bucket at `address`. Reads configuration files, but sends nothing.
    ///
    /// Fails if the files that `options` names cannot be used. The first operation reports missing credentials.
    pub async fn open(address: S3Address, options: &Options) -> Result<Self> {
        Ok(Self { connection: Arc::new(Connection::open(address, options).await?) })
    }
}

#[async_trait]
impl Bucket for S3Bucket {
    fn address(&self) -> String {
        self.connection.address.to_string()
    }

    async fn get(&self, key: &str) -> Result<Option<Object>> {
        key_syntax::check(key)?;
        objects::get(&self.connection, key).await
    }

    async fn get_part(&self, key: &str, from: u64, length: u64) -> Result<Option<Bytes>> {
        key_syntax::check(key)?;
        objects::get_part(&self.connection, key, from, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>> {
        key_syntax::check(key)?;
        objects::head(&self.connection, key).await
    }

    async fn put(&self, key: &str, body: Body, kind: ContentType, condition: Condition) -> Result<Put> {
        key_syntax::check(key)?;
        objects::put(&self.connection, key, body, kind, condition).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        key_syntax::check(key)?;
        objects::delete(&self.connection, key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| key_syntax::check(key))?;
        deletion::delete_many(&self.connection, keys).await
    }

    fn origin(&self, object: &ObjectMeta) -> Option<Origin> {
        key_syntax::check(&object.key).ok()?;
        Some(copying::origin(&self.connection, object))
    }

    async fn copy(&self, from: &Origin, to: &str, kind: ContentType) -> Result<Copied> {
        key_syntax::check(to)?;
        copying::copy(&self.connection, from, to, kind).await
    }

    async fn versions(&self, key: &str) -> Result<Vec<Version>> {
        key_syntax::check(key)?;
        versions::list(&self.connection, key).await
    }

    async fn delete_version(&self, key: &str, id: &str) -> Result<()> {
        key_syntax::check(key)?;
        versions::delete(&self.connection, key, id).await
    }

    fn fenced(self: Arc<Self>, fence: Arc<dyn Fence>) -> Arc<dyn Bucket> {
        Arc::new(Self { connection: Arc::new(self.connection.fenced(Some(fence))) })
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, depth: Depth) -> Result<ListPage> {
        listing::list(&self.connection, prefix, after, depth).await
    }

    async fn start_multipart(&self, key: &str, kind: ContentType) -> Result<Box<dyn Multipart>> {
        key_syntax::check(key)?;
        let connection = Arc::new(self.connection.fenced(None));
        Ok(Box::new(S3Multipart::start(connection, key, kind).await?))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        multipart::unfinished(&self.connection, prefix).await
    }

    async fn discard(&self, upload: &Unfinished) -> Result<()> {
        multipart::abort(&self.connection, &upload.key, &upload.id).await
    }

    async fn exists(&self) -> Result<bool> {
        bucket::exists(&self.connection).await
    }

    async fn create(&self) -> Result<()> {
        bucket::create(&self.connection).await
    }

    async fn allow_anonymous_read(&self) -> Result<AnonymousRead> {
        policy::allow_anonymous_read(&self.connection).await
    }

    fn public_url(&self) -> String {
        self.connection.address.public_url(&self.connection.region)
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Bucket").field(&self.address()).finish()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
