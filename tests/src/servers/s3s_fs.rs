//! `s3s-fs` on a thread of the test process: it checks signatures and keeps objects as files.

use super::{ACCESS_KEY, Kind, S3Server, SECRET_KEY};
use crate::ports;
use anyhow::{Context, Result, anyhow};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

#[derive(Debug)]
pub(super) struct S3sFs {
    port: u16,
    runtime: Option<Runtime>,
    _dir: TempDir,
}

/// Anyone may GET and HEAD objects of the public buckets.
struct Access {
    public: Vec<String>,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let reads = matches!(cx.s3_op().name(), "GetObject" | "HeadObject");
        let is_public = cx.s3_path().get_bucket_name().is_some_and(|b| self.public.iter().any(|p| p == b));
        if cx.credentials().is_some() || (reads && is_public) {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Signature is required"))
    }
}

impl S3sFs {
    pub(super) fn start(public_buckets: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let files = s3s_fs::FileSystem::new(dir.path()).map_err(|e| anyhow!("s3s-fs: {e:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        builder.set_access(Access { public: public_buckets.iter().map(|&b| b.to_owned()).collect() });
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let port = ports::free();
        let listener = ports::listen(port).context("s3s-fs: listening")?;
        listener.set_nonblocking(true)?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        runtime.spawn(async move {
            let http = Builder::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Ok(Self { port, runtime: Some(runtime), _dir: dir })
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Server for S3sFs {
    fn kind(&self) -> Kind {
        Kind::S3sFs
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
