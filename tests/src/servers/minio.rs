//! MinIO.

use super::{ACCESS_KEY, Kind, S3Server, SECRET_KEY};
use crate::need::Requirement;
use crate::ports;
use crate::process::{Child, clean_command};
use anyhow::{Context, Result};
use std::time::Duration;
use tempfile::TempDir;

#[derive(Debug)]
pub(super) struct MinIo {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl MinIo {
    pub(super) fn start() -> Result<Self> {
        let program = Requirement::MinIo.find().context("MinIO is not provisioned")?;
        let dir = tempfile::tempdir()?;
        let port = ports::free();
        let mut command = clean_command(program);
        command
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            // Without this flag, MinIO chooses any free port for a moment: the port of this server or of another test.
            .args(["--console-address", &format!("127.0.0.1:{}", ports::free())])
            .arg(dir.path().join("data"));
        command.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
        // Without a region, MinIO accepts requests that are signed for any region.
        command.env("MINIO_REGION", "us-east-1");
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("HOME", dir.path());
        let child = Child::spawn(&command, &dir.path().join("log"))?;
        let mut server = Self { port, child, _dir: dir };
        // `/minio/health/ready` succeeds while requests are still refused: 503, XMinioServerNotInitialized.
        let client = server.client();
        let works = || client.send("GET", "/", &[], &[], b"").is_ok_and(|r| r.status() == 200);
        server.child.wait_until(Duration::from_secs(180), works)?;
        Ok(server)
    }
}

impl S3Server for MinIo {
    fn kind(&self) -> Kind {
        Kind::MinIo
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn honours_if_absent(&self) -> bool {
        true
    }

    fn has_bucket_policies(&self) -> bool {
        true
    }
}
