//! Servers to push to and to read from. Each listens on the loopback, on ports that are chosen at its start, keeps its data
//! in a temporary directory and ends when it is dropped. Several may run at the same time.

mod ceph;
mod directory;
mod garage;
mod minio;
mod s3s_fs;
mod seaweedfs;

pub use directory::{Directory, FileServer};

use crate::need::{Requirement, need};
use crate::s3::Client;
use anyhow::Result;
use std::fmt;

/// The access key of every server.
pub const ACCESS_KEY: &str = "AKAKAKAKAKAKAKAKAKAK";
/// The secret key of every server.
pub const SECRET_KEY: &str = "SKSKSKSKSKSKSKSKSKSKSKSKSKSKSKSKSKSKSKSK";

/// A running S3 server that checks signatures (SigV4).
pub trait S3Server: fmt::Debug + Send + Sync {
    /// The kind of the server.
    fn kind(&self) -> Kind;

    /// `http://HOST:PORT`
    fn endpoint(&self) -> String;

    /// Its access key.
    fn access_key(&self) -> String {
        ACCESS_KEY.to_owned()
    }

    /// Its secret key.
    fn secret_key(&self) -> String {
        SECRET_KEY.to_owned()
    }

    /// The region to sign for.
    fn region(&self) -> String {
        "us-east-1".to_owned()
    }

    /// The URL below which anyone may read a bucket's objects, once it is public.
    fn public_base(&self, bucket: &str) -> Option<String> {
        Some(format!("{}/{bucket}", self.endpoint()))
    }

    /// Whether `If-None-Match: *` on a PUT keeps an existing object (412).
    fn honours_if_absent(&self) -> bool;

    /// Whether `PutBucketPolicy` can make a bucket public.
    fn has_bucket_policies(&self) -> bool;

    /// The status of an anonymous GET of a missing key in a public bucket.
    fn anonymous_missing(&self) -> u16 {
        404
    }

    /// Restarts the server with other keys, and without the old ones. Only MinIO can do this.
    fn rotate(&mut self, _access_key: &str, _secret_key: &str) -> Result<()> {
        anyhow::bail!("{:?} keeps its keys", self.kind())
    }

    /// Creates a bucket that anyone may read. On SeaweedFS and `s3s-fs` only a bucket that was named at the start can be made public.
    fn make_public_bucket(&self, bucket: &str) -> Result<()> {
        self.client().create_bucket(bucket)?;
        if self.has_bucket_policies() {
            self.client().allow_anonymous_read(bucket)?;
        }
        Ok(())
    }

    /// Creates a bucket that anyone may list, read and write. The server must be one of [`Kind::start_open`].
    fn make_open_bucket(&self, bucket: &str) -> Result<()> {
        self.client().create_bucket(bucket)?;
        if self.has_bucket_policies() {
            self.client().allow_anonymous_write(bucket)?;
        }
        Ok(())
    }

    /// A client with the server's key, independent of larder.
    fn client(&self) -> Client {
        let (access_key, secret_key) = (self.access_key(), self.secret_key());
        Client { endpoint: self.endpoint(), access_key, secret_key, region: self.region() }
    }
}

/// The servers that the tests know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MinIO, archived but the most common; ready in half a second.
    MinIo,
    /// SeaweedFS; ready in some 5 seconds.
    SeaweedFs,
    /// `s3s-fs` inside the test process.
    S3sFs,
    /// Garage, by flag.
    Garage,
    /// Ceph RGW, by flag.
    CephRgw,
}

impl Kind {
    /// The requirement, if there is one.
    pub fn requirement(self) -> Option<Requirement> {
        match self {
            Self::MinIo => Some(Requirement::MinIo),
            Self::SeaweedFs => Some(Requirement::SeaweedFs),
            Self::S3sFs => None,
            Self::Garage => Some(Requirement::Garage),
            Self::CephRgw => Some(Requirement::Ceph),
        }
    }

    /// Whether this machine has it. A missing server is noted as skipped.
    pub fn is_here(self) -> bool {
        self.requirement().is_none_or(|r| need(r).is_some())
    }

    /// Starts a server. Where the configuration of the server decides who may read, anyone may read the objects of
    /// `public_buckets` once these are created. On other servers [`S3Server::make_public_bucket`] decides.
    pub fn start(self, public_buckets: &[&str]) -> Result<Box<dyn S3Server>> {
        Ok(match self {
            Self::MinIo => Box::new(minio::MinIo::start()?),
            Self::SeaweedFs => Box::new(seaweedfs::SeaweedFs::start(public_buckets, false)?),
            Self::S3sFs => Box::new(s3s_fs::S3sFs::start(public_buckets)?),
            Self::Garage => Box::new(garage::Garage::start()?),
            Self::CephRgw => Box::new(ceph::CephRgw::start()?),
        })
    }

    /// Starts a server on which [`S3Server::make_open_bucket`] works: MinIO or SeaweedFS. For clients that cannot sign, such
    /// as `nix copy` to an `http://` address.
    pub fn start_open(self) -> Result<Box<dyn S3Server>> {
        Ok(match self {
            Self::SeaweedFs => Box::new(seaweedfs::SeaweedFs::start(&[], true)?),
            other => other.start(&[])?,
        })
    }

    /// Starts a server and creates a public bucket.
    pub fn start_with_bucket(self, bucket: &str) -> Result<Box<dyn S3Server>> {
        let server = self.start(&[bucket])?;
        server.make_public_bucket(bucket)?;
        Ok(server)
    }
}

/// The servers of every run, as far as this machine has them.
pub fn usual() -> Vec<Kind> {
    [Kind::MinIo, Kind::SeaweedFs, Kind::S3sFs].into_iter().filter(|k| k.is_here()).collect()
}

/// The servers that `LARDER_TEST_SERVERS=garage,ceph` names.
pub fn by_flag() -> Vec<Kind> {
    let asked = std::env::var("LARDER_TEST_SERVERS").unwrap_or_default();
    let kinds = asked.split(',').map(str::trim).filter(|n| !n.is_empty()).filter_map(|name| match name {
        "garage" => Some(Kind::Garage),
        "ceph" => Some(Kind::CephRgw),
        "minio" | "seaweedfs" | "s3s" => None,
        other => panic!("LARDER_TEST_SERVERS: no server `{other}` (garage, ceph)"),
    });
    kinds.filter(|k| k.is_here()).collect()
}

/// [`usual`] and [`by_flag`].
pub fn all() -> Vec<Kind> {
    let mut kinds = usual();
    kinds.extend(by_flag());
    kinds
}
