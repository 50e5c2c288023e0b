//! SeaweedFS: master, volume server, filer and S3 gateway in one process.

use super::{ACCESS_KEY, Kind, S3Server, SECRET_KEY};
use crate::need::Requirement;
use crate::ports;
use crate::process::{Child, clean_command};
use anyhow::{Context, Result};
use std::time::Duration;
use tempfile::TempDir;

#[derive(Debug)]
pub(super) struct SeaweedFs {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl SeaweedFs {
    /// Its configuration decides what anonymous clients may do: read the named buckets, or with `open` everything.
    pub(super) fn start(public_buckets: &[&str], open: bool) -> Result<Self> {
        let program = Requirement::SeaweedFs.find().context("SeaweedFS is not provisioned")?;
        let dir = tempfile::tempdir()?;
        let mut actions: Vec<_> = public_buckets.iter().map(|b| format!("Read:{b}")).collect();
        if open {
            actions.extend(["Read", "Write", "List"].map(str::to_owned));
        }
        let config = serde_json::json!({"identities": [
            {"name": "larder", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
             "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "anonymous", "actions": actions},
        ]});
        std::fs::write(dir.path().join("s3.json"), config.to_string())?;
        std::fs::create_dir(dir.path().join("data"))?;
        // The gRPC ports are 10,000 above these.
        let [master, volume, filer, port, iceberg, lance] = std::array::from_fn(|_| ports::free());
        let mut command = clean_command(program);
        command.current_dir(dir.path()).env("HOME", dir.path()).args([
            "server".to_owned(),
            "-dir=data".to_owned(),
            "-ip=127.0.0.1".to_owned(),
            "-ip.bind=127.0.0.1".to_owned(),
            format!("-master.port={master}"),
            "-master.volumeSizeLimitMB=256".to_owned(),
            "-volume.max=400".to_owned(),
            format!("-volume.port={volume}"),
            format!("-volume.publicUrl=127.0.0.1:{volume}"),
            format!("-filer.port={filer}"),
            "-s3".to_owned(),
            format!("-s3.port={port}"),
            format!("-s3.port.iceberg={iceberg}"),
            format!("-s3.port.lance={lance}"),
            "-s3.config=s3.json".to_owned(),
        ]);
        let child = Child::spawn(&command, &dir.path().join("log"))?;
        let mut server = Self { port, child, _dir: dir };
        // It listens before it can store anything.
        let client = server.client();
        let works = || {
            client.create_bucket("harness-probe").is_ok()
                && client.put("harness-probe", "ready", b"ready").is_ok()
                && client.delete("harness-probe", "ready").is_ok()
                && client.send("DELETE", "/harness-probe", &[], &[], b"").is_ok_and(|r| r.status() < 300)
        };
        server.child.wait_until(Duration::from_secs(180), works)?;
        Ok(server)
    }
}

impl S3Server for SeaweedFs {
    fn kind(&self) -> Kind {
        Kind::SeaweedFs
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn honours_if_absent(&self) -> bool {
        true
    }

    fn has_bucket_policies(&self) -> bool {
        false
    }
}
