//! Plans a push of 100,000 paths, of which the bucket has 90,000. The store is generated, and a simulated daemon answers
//! for it. Both share the processors with larder.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::nix::KeyPair;
use larder_tests::proxy::Proxy;
use larder_tests::servers::{Kind, S3Server};
use larder_tests::synthetic::SyntheticStore;

use crate::context::Context;
use crate::cost::measure;
use crate::row::Target::AtMost;
use crate::row::{MEMORY_LIMIT, Row, Side};

/// The number of paths in the store.
const PATHS: usize = 100_000;
/// The number of paths in the bucket.
const PRESENT: usize = 90_000;

/// Measures the time from the start of the process to the plan.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let mut planning = Planning::prepare(context)?;
    let costs =
        (0..context.rounds(3)).map(|_| measure(&mut planning.plan(None)?)).collect::<Result<Vec<_>>>()?;
    let proxy = Proxy::start(&planning.server.endpoint())?;
    planning.larder.use_server_at(&*planning.server, &proxy.endpoint(), "cache")?;
    measure(&mut planning.plan(None)?)?;
    let log = proxy.log();
    let pages = log.iter().filter(|record| record.query.contains("list-type")).count();
    let row = Row::new(
        format!("planning {PATHS} paths, {PRESENT} of them there, MinIO"),
        Side::new("larder", costs),
    );
    let wall = row.ours.median_wall();
    let row = row.figure("time", wall, "s", Some(AtMost(10.0))).peak(MEMORY_LIMIT);
    let row = row.figure("pages of listings", pages as f64, "", None);
    Ok(vec![row.figure("other requests", (log.len() - pages) as f64, "", Some(AtMost(20.0)))])
}

/// A store of 100,000 paths, and a bucket that has 90,000 of them.
pub(crate) struct Planning {
    larder: LarderHome,
    server: Box<dyn S3Server>,
    _store: SyntheticStore,
}

impl Planning {
    /// Generates the store and fills the bucket. This takes minutes.
    pub(crate) fn prepare(context: &Context) -> Result<Self> {
        let server = Kind::MinIo.start(&[])?;
        server.client().create_bucket("cache")?;
        let store = SyntheticStore::start(PATHS)?;
        let mut larder = store.larder()?;
        let key = SecretKey::generate("bench-1")?;
        let secret_file = larder.dir().join("bench.sec");
        larder::config::key_files::write_secret_key(&key, &secret_file)?;
        larder.use_keys(&[&KeyPair { secret_file, public: key.public_text() }])?;
        larder.use_server(&*server, "cache")?;
        larder.run(&["init", "--private"])?;
        context.say("filling a bucket with 90,000 paths");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let address = format!("s3://cache?endpoint={}&region={}", server.endpoint(), server.region());
        let credentials_file = Some(larder.dir().join("credentials"));
        let bucket = runtime.block_on(open(&address, &Options { credentials_file, ..Options::default() }))?;
        runtime.block_on(store.fill(&*bucket, &[key], PRESENT))?;
        Ok(Self { larder, server, _store: store })
    }

    /// The command that plans, with this build of larder or with the build `program`.
    pub(crate) fn plan(&self, program: Option<&Path>) -> Result<Command> {
        let plan = ["push", "--all", "--dry-run", "--json"];
        match program {
            Some(program) => Ok(self.larder.command_of(program, &plan)),
            None => self.larder.command(&plan),
        }
    }
}
