//! The raw client for the upkeep of a bucket: it lists a bucket, reads every narinfo, or writes every narinfo again, and
//! judges nothing.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
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
}

impl Work {
    const ALL: [Self; 3] = [Self::List, Self::Read, Self::Rewrite];

    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Rewrite => "rewrite",
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
            if key.ends_with(".narinfo") {
                keys.push(key.to_owned());
            }
        })?;
        match work {
            Self::List => Ok(()),
            Self::Read => in_parallel(CONNECTIONS, &keys, |bucket, key| bucket.get(key).map(drop)),
            Self::Rewrite => in_parallel(CONNECTIONS, &keys, |bucket, key| {
                let body = bucket.get(key)?;
                bucket.put(key, &body)
            }),
        }
    }
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

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        let path = format!("/{}/{key}", self.bucket);
        self.connection.send("GET", &path, "", &hex(&Sha256::digest(b"")), b"")
    }
}
