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
    console: u16,
    access_key: String,
    secret_key: String,
    child: Option<Child>,
    dir: TempDir,
}

impl MinIo {
    pub(super) fn start() -> Result<Self> {
        let mut server = Self {
            port: ports::free(),
            // Without this port, MinIO chooses any free port for a moment: the port of this server or of another test.
            console: ports::free(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            child: None,
            dir: tempfile::tempdir()?,
        };
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> Result<()> {
        let program = Requirement::MinIo.find().context("MinIO is not provisioned")?;
        let mut command = clean_command(program);
        command
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{}", self.port)])
            .args(["--console-address", &format!("127.0.0.1:{}", self.console)])
            .arg(self.dir.path().join("data"));
        command.env("MINIO_ROOT_USER", &self.access_key).env("MINIO_ROOT_PASSWORD", &self.secret_key);
        // Without a region, MinIO accepts requests that are signed for any region.
        command.env("MINIO_REGION", "us-east-1");
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("HOME", self.dir.path());
        // The former server ends before.
        self.child = None;
        let mut child = Child::spawn(&command, &self.dir.path().join("log"))?;
        // `/minio/health/ready` succeeds while requests are still refused: 503, XMinioServerNotInitialized.
        let client = self.client();
        let works = || client.send("GET", "/", &[], &[], b"").is_ok_and(|r| r.status() == 200);
        child.wait_until(Duration::from_secs(180), works)?;
        self.child = Some(child);
        Ok(())
    }
}

impl S3Server for MinIo {
    fn kind(&self) -> Kind {
        Kind::MinIo
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn access_key(&self) -> String {
        self.access_key.clone()
    }

    fn secret_key(&self) -> String {
        self.secret_key.clone()
    }

    fn rotate(&mut self, access_key: &str, secret_key: &str) -> Result<()> {
        (self.access_key, self.secret_key) = (access_key.to_owned(), secret_key.to_owned());
        self.run()
    }

    fn honours_if_absent(&self) -> bool {
        true
    }

    fn has_bucket_policies(&self) -> bool {
        true
    }
}
