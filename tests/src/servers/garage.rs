//! Garage: a single node. It has no bucket policies; anonymous readers use its website endpoint.

use super::{Kind, S3Server};
use crate::need::Requirement;
use crate::ports;
use crate::process::{Child, clean_command, run};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Garage requires this form of keys.
const ACCESS_KEY: &str = "GKabababababababababababab";
const SECRET_KEY: &str = "abababababababababababababababababababababababababababababababab";

#[derive(Debug)]
pub(super) struct Garage {
    port: u16,
    web_port: u16,
    program: PathBuf,
    child: Child,
    dir: TempDir,
}

impl Garage {
    pub(super) fn start() -> Result<Self> {
        let program = Requirement::Garage.find().context("Garage is not provisioned")?;
        let dir = tempfile::tempdir()?;
        let [port, web_port, rpc_port] = std::array::from_fn(|_| ports::free());
        let path = dir.path().display();
        let config = format!(
            r#"metadata_dir = "{path}/meta"
data_dir = "{path}/data"
db_engine = "sqlite"
metadata_fsync = false
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{SECRET_KEY}"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{port}"
root_domain = ".s3.invalid"

[s3_web]
bind_addr = "127.0.0.1:{web_port}"
root_domain = ".web.invalid"
index = "index.html"
"#
        );
        std::fs::write(dir.path().join("garage.toml"), config)?;
        let mut command = clean_command(&program);
        command.current_dir(dir.path()).env("GARAGE_CONFIG_FILE", dir.path().join("garage.toml"));
        command.args(["server", "--single-node", "--default-access-key"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY).env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY);
        let child = Child::spawn(&command, &dir.path().join("log"))?;
        let mut server = Self { port, web_port, program, child, dir };
        let client = server.client();
        let works = || client.send("GET", "/", &[], &[], b"").is_ok_and(|r| r.status() == 200);
        server.child.wait_until(Duration::from_secs(180), works)?;
        server.admin(&["key", "allow", "--create-bucket", ACCESS_KEY])?;
        Ok(server)
    }

    fn admin(&self, args: &[&str]) -> Result<()> {
        let mut command = clean_command(&self.program);
        command.arg("-c").arg(self.dir.path().join("garage.toml")).args(args);
        run(&mut command, Duration::from_secs(30))?.ok()?;
        Ok(())
    }
}

impl S3Server for Garage {
    fn kind(&self) -> Kind {
        Kind::Garage
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn access_key(&self) -> String {
        ACCESS_KEY.to_owned()
    }

    fn secret_key(&self) -> String {
        SECRET_KEY.to_owned()
    }

    fn region(&self) -> String {
        "garage".to_owned()
    }

    /// The website endpoint finds a bucket by the host name, and the public bucket has the alias `localhost`. So only one
    /// bucket can be public.
    fn public_base(&self, _bucket: &str) -> Option<String> {
        Some(format!("http://localhost:{}", self.web_port))
    }

    fn honours_if_absent(&self) -> bool {
        false
    }

    fn has_bucket_policies(&self) -> bool {
        false
    }

    fn make_public_bucket(&self, bucket: &str) -> Result<()> {
        // A bucket that is created through S3 has a name only for the key that created it.
        self.admin(&["bucket", "create", bucket])?;
        self.admin(&["bucket", "allow", "--read", "--write", "--owner", bucket, "--key", ACCESS_KEY])?;
        self.admin(&["bucket", "alias", bucket, "localhost"])?;
        self.admin(&["bucket", "website", "--allow", bucket])
    }
}
