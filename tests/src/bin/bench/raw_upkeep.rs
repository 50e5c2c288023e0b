//! The raw client for the upkeep of a bucket: it lists a bucket, reads every narinfo, or writes every narinfo again, and
//! judges nothing.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use larder::bucket::{Options, open};
use larder_tests::s3::hex;
use larder_tests::servers::S3Server;
use sha2::{Digest, Sha256};

use crate::raw::{self, BucketConnection, in_parallel};

/// The number of connections for narinfos.
const CONNECTIONS: usize = 32;

/// What the raw client does with a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Lists all keys.
    List,
    /// Lists all keys, and reads each narinfo.
    Read,
    /// Lists all keys, reads each narinfo, and writes it again.
    Rewrite,
    /// Deletes the victims, a thousand with each request.
    Delete,
    /// The same by larder's code.
    DeleteByLarder,
}

/// The prefix of the keys of the objects that are deleted.
pub(crate) const VICTIMS: &str = "victims/";
/// The number of requests for deletions at the same time, as in larder.
const BATCHES: usize = 4;

impl Work {
    const ALL: [Self; 5] = [Self::List, Self::Read, Self::Rewrite, Self::Delete, Self::DeleteByLarder];

    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Rewrite => "rewrite",
            Self::Delete => "delete",
            Self::DeleteByLarder => "delete-by-larder",
        }
    }

    /// The command that does this work with a bucket.
    pub(crate) fn command(self, server: &dyn S3Server, bucket: &str) -> Result<Command> {
        let mut command = raw::with_bucket(server, bucket)?;
        command.arg(self.name());
        Ok(command)
    }

    /// Does the work with this name.
    pub(crate) fn run(name: &str) -> Result<()> {
        let Some(work) = Self::ALL.into_iter().find(|work| work.name() == name) else {
            bail!("the raw client does not know the work `{name}`");
        };
        let mut keys = Vec::new();
        BucketConnection::from_environment()?.list_all(|key| {
            if key.ends_with(".narinfo") || key.starts_with(VICTIMS) {
                keys.push(key.to_owned());
            }
        })?;
        keys.retain(|key| key.starts_with(VICTIMS) == matches!(work, Self::Delete | Self::DeleteByLarder));
        match work {
            Self::List => Ok(()),
            Self::Read => in_parallel(CONNECTIONS, &keys, |bucket, key| bucket.get(key).map(drop)),
            Self::Rewrite => in_parallel(CONNECTIONS, &keys, |bucket, key| {
                let body = bucket.get(key)?;
                bucket.put(key, &body)
            }),
            Self::Delete => {
                let batches: Vec<_> = keys.chunks(1000).collect();
                in_parallel(BATCHES, &batches, |bucket, keys| bucket.delete_all(keys))
            }
            Self::DeleteByLarder => delete_by_larder(&keys),
        }
    }
}

fn delete_by_larder(keys: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let bucket = open(&raw::address_from_environment()?, &Options::default()).await?;
        Ok(bucket.delete_many(keys).await?)
    })
}

impl BucketConnection {
    /// Calls `found` with each key of the bucket.
    fn list_all(&mut self, mut found: impl FnMut(&str)) -> Result<()> {
        let (path, empty_hash) = (format!("/{}", self.bucket), hex(&Sha256::digest(b"")));
        let mut query = "list-type=2".to_owned();
        loop {
            let text = String::from_utf8(self.connection.send("GET", &path, &query, &empty_hash, b"")?)?;
            text.split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split_once("</Key>"))
                .for_each(|(key, _)| found(key));
            if !text.contains("<IsTruncated>true") {
                return Ok(());
            }
            let token = text.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<'));
            let (token, _) = token.context("a truncated listing without a token")?;
            query = format!("continuation-token={}&list-type=2", larder_tests::http::encode_query(token));
        }
    }

    fn delete_all(&mut self, keys: &[String]) -> Result<()> {
        let objects: String = keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
        let body = format!("<Delete><Quiet>true</Quiet>{objects}</Delete>");
        let (path, hash) = (format!("/{}", self.bucket), hex(&Sha256::digest(&body)));
        let answer = self.connection.send("POST", &path, "delete=", &hash, body.as_bytes())?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(!answer.contains("<Error>"), "{answer}");
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        let path = format!("/{}/{key}", self.bucket);
        self.connection.send("GET", &path, "", &hex(&Sha256::digest(b"")), b"")
    }
}
