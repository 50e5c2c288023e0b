//! The conformance suite, for each kind of bucket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use larder::bucket::conformance::{Traits, run};
use larder::bucket::{Condition, ContentType, Copied, Fence, Options, open};
use larder_tests::servers::{Directory, Kind, by_flag};

use super::world::BUCKET;

/// Permits everything.
#[derive(Debug)]
struct Open;

impl Fence for Open {
    fn pass(&self) -> larder::base::error::Result<u64> {
        Ok(0)
    }

    fn answered(&self, _: u64) {}
}

fn conforms(address: &str, credentials: Option<(&str, &str)>, traits: Traits) -> Result<()> {
    conforms_with(address, credentials, traits, false)
}

/// Runs the suite. With `expiring`, the changes have a fence, and signatures with an expiry of their own.
fn conforms_with(
    address: &str,
    credentials: Option<(&str, &str)>,
    traits: Traits,
    expiring: bool,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("credentials");
    // A large object of the suite is copied in parts.
    let mut options =
        Options { copied_at_once: 5 << 20, expiring_signatures: Some(expiring), ..Options::default() };
    if let Some((access_key, secret_key)) = credentials {
        std::fs::write(
            &file,
            format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"),
        )?;
        options.credentials_file = Some(file);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let bucket = open(address, &options).await?;
        let bucket = if expiring { bucket.fenced(Arc::new(Open)) } else { bucket };
        run(bucket, traits).await.map_err(|error| anyhow!("{address}: {error}"))
    })
}

fn server_conforms(kind: Kind) -> Result<()> {
    server_with(kind, false, false)?;
    server_with(kind, false, true)
}

fn server_with(kind: Kind, keeps_versions: bool, expiring: bool) -> Result<()> {
    if !kind.is_here() {
        return Ok(());
    }
    let server = kind.start_with_bucket(BUCKET)?;
    let address =
        format!("s3://{BUCKET}/some prefix?endpoint={}&region={}", server.endpoint(), server.region())
            .replace(' ', "%20");
    if keeps_versions {
        let enabled = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let reply =
            server.client().send("PUT", &format!("/{BUCKET}"), &[("versioning", "")], &[], enabled)?;
        ensure!(reply.status() == 200, "{reply:?}");
    }
    let traits = Traits {
        keeps_versions,
        honours_if_absent: server.honours_if_absent(),
        honours_if_match: matches!(kind, Kind::MinIo | Kind::S3sFs),
        folders_are_missing: kind != Kind::S3sFs,
        sorts_across_folders: kind != Kind::SeaweedFs,
        ..Traits::default()
    };
    let credentials = (&*server.access_key(), &*server.secret_key());
    conforms_with(&address, Some(credentials), traits, expiring)
}

/// Copies between prefixes and between buckets of a server.
fn server_copies(kind: Kind) -> Result<()> {
    if !kind.is_here() {
        return Ok(());
    }
    let server = kind.start_with_bucket(BUCKET)?;
    server.client().create_bucket("staging")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("credentials");
    std::fs::write(&file, format!("{}\n{}\n", server.access_key(), server.secret_key()))?;
    let options = Options { credentials_file: Some(file), ..Options::default() };
    let place = format!("endpoint={}&region={}", server.endpoint(), server.region());
    let elsewhere = format!("s3://staging?endpoint=http://127.0.0.1:1&region={}", server.region());
    tokio::runtime::Runtime::new()?.block_on(async {
        let target = open(&format!("s3://{BUCKET}/main?{place}"), &options).await?;
        for from in [format!("s3://{BUCKET}/pr%201?{place}"), format!("s3://staging?{place}")] {
            let source = open(&from, &options).await?;
            source.put("nar/a b", from.clone().into(), ContentType::Text, Condition::None).await?;
            let found = source.head("nar/a b").await?.context("no object")?;
            let origin = source.origin(&found).context("no origin")?;
            ensure!(target.copy(&origin, "nar/c", ContentType::Nar).await? == Copied::Done);
            ensure!(target.get("nar/c").await?.context("no copy")?.body == from);
            let kind = server.client().send("HEAD", &format!("/{BUCKET}/main/nar/c"), &[], &[], b"")?;
            ensure!(kind.head.header("content-type") == Some(ContentType::Nar.as_str()), "{kind:?}");
            let other = open(&elsewhere, &options).await?.origin(&found).context("no origin")?;
            ensure!(target.copy(&other, "nar/d", ContentType::Nar).await? == Copied::Impossible);
        }
        Ok(())
    })
}

#[test]
fn minio_copies_between_buckets() -> Result<()> {
    server_copies(Kind::MinIo)
}

#[test]
fn seaweedfs_copies_between_buckets() -> Result<()> {
    server_copies(Kind::SeaweedFs)
}

/// The protocol of collections relies on this. Garage does not keep it: larder finds that out.
fn server_refuses_old_signatures(kind: Kind) -> Result<()> {
    if !kind.is_here() {
        return Ok(());
    }
    let (server, key) = (kind.start_with_bucket(BUCKET)?, "stays");
    let client = server.client();
    let keys = b"<Delete><Object><Key>stays</Key></Object></Delete>";
    let (object, bucket) = (format!("/{BUCKET}/{key}"), format!("/{BUCKET}"));
    for (method, path, query, headers, body) in [
        ("PUT", &object, &[][..], &[][..], &b"two"[..]),
        ("DELETE", &object, &[], &[], b""),
        ("POST", &bucket, &[("delete", "")], &[("content-md5", "ondAAJuaMXvjhyjoO/r30g==")], keys),
    ] {
        client.put(BUCKET, key, b"one")?;
        let old = SystemTime::now() - Duration::from_secs(16 * 60);
        let reply = client.send_signed_at(old, method, path, query, headers, body)?;
        ensure!(reply.status() == 403, "{method}: {reply:?}");
        ensure!(client.get(BUCKET, key)?.as_deref() == Some(b"one"), "{method}");
        client.send(method, path, query, headers, body)?.ok().context("a new signature")?;
        ensure!(client.get(BUCKET, key)?.as_deref() != Some(b"one"), "{method}");
    }
    Ok(())
}

#[test]
fn minio_refuses_old_signatures() -> Result<()> {
    server_refuses_old_signatures(Kind::MinIo)
}

#[test]
fn seaweedfs_refuses_old_signatures() -> Result<()> {
    server_refuses_old_signatures(Kind::SeaweedFs)
}

#[test]
fn a_directory_conforms() -> Result<()> {
    conforms(&Directory::start()?.file_url(), None, Traits::default())
}

#[test]
fn minio_conforms() -> Result<()> {
    server_conforms(Kind::MinIo)
}

#[test]
fn minio_with_versions_conforms() -> Result<()> {
    server_with(Kind::MinIo, true, false)
}

#[test]
fn seaweedfs_with_versions_conforms() -> Result<()> {
    server_with(Kind::SeaweedFs, true, false)
}

#[test]
fn seaweedfs_conforms() -> Result<()> {
    server_conforms(Kind::SeaweedFs)
}

#[test]
fn s3s_conforms() -> Result<()> {
    server_conforms(Kind::S3sFs)
}

#[test]
fn the_servers_asked_for_by_flag_conform() -> Result<()> {
    by_flag().into_iter().try_for_each(server_conforms)
}
