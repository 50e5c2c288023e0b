//! Planning a backfill of 100,000 paths, 90,000 of which are in the bucket: a generated store behind a daemon of our
//! own, on the same processors as everything else.

use anyhow::Result;
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::nix::KeyPair;
use larder_tests::proxy::Proxy;
use larder_tests::servers::Kind;
use larder_tests::synthetic::SyntheticStore;

use crate::context::Context;
use crate::cost::measure;
use crate::row::Reach::AtMost;
use crate::row::{MOST_MEMORY, Row, Side};

const PATHS: usize = 100_000;
const THERE: usize = 90_000;

/// From the start of the process to the plan.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
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
    context.say("filling a bucket with 90,000 narinfos");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let address = format!("s3://cache?endpoint={}&region={}", server.endpoint(), server.region());
    let credentials_file = Some(larder.dir().join("credentials"));
    let bucket = runtime.block_on(open(&address, &Options { credentials_file, ..Options::default() }))?;
    runtime.block_on(store.fill(&*bucket, &[key], THERE, false))?;
    let plan = ["push", "--all", "--dry-run", "--json"];
    let costs =
        (0..context.rounds(3)).map(|_| measure(&mut larder.command(&plan)?)).collect::<Result<Vec<_>>>()?;
    let proxy = Proxy::start(&server.endpoint())?;
    larder.use_server_at(&*server, &proxy.endpoint(), "cache")?;
    measure(&mut larder.command(&plan)?)?;
    let log = proxy.log();
    let pages = log.iter().filter(|record| record.query.contains("list-type")).count();
    let row =
        Row::new(format!("planning {PATHS} paths, {THERE} of them there, MinIO"), Side::new("larder", costs));
    let wall = row.ours.wall().map_or(f64::NAN, |wall| wall.median);
    let row = row.figure("time", wall, "s", Some(AtMost(10.0))).peak(MOST_MEMORY);
    let row = row.figure("pages of listings", pages as f64, "", None);
    Ok(vec![row.figure("other requests", (log.len() - pages) as f64, "", Some(AtMost(20.0)))])
}
