//! Pushes paths that the bucket has already, with empty caches of the client.

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::interleave;
use crate::generate;
use crate::row::Target::AtLeast;
use crate::row::{MEMORY_LIMIT, Row, Side};
use crate::testbed::Testbed;

/// Pushes 1,000 paths.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    push_again(context, &store.nix, &store.tiny, "1,000 tiny, all there", 3.0)
}

/// Pushes 10,000 paths.
pub(crate) fn run_many(context: &Context) -> Result<Vec<Row>> {
    let nix = NixHome::new(NixVersion::V2_34)?;
    context.say("generating 10,000 tiny paths");
    let paths = generate::tiny_files(&nix, 10_000)?;
    push_again(context, &nix, &paths, "10,000 tiny, all there", 5.0)
}

fn push_again(
    context: &Context,
    nix: &NixHome,
    paths: &[String],
    case: &str,
    target: f64,
) -> Result<Vec<Row>> {
    let testbed = Testbed::new(Kind::MinIo, nix)?;
    let buckets = [testbed.bucket("larder")?, testbed.bucket("nix")?];
    let push = |which: usize| match which {
        0 => testbed.push(&buckets[0], paths),
        _ => testbed.copy(&buckets[1], "zstd", paths),
    };
    // After these pushes, the buckets have all paths.
    push(0)?;
    push(1)?;
    let mut costs = interleave(context.rounds(9), 2, |_, which| Ok(push(which)?.nothing_sent()))?;
    let theirs = Side::new(testbed.nix_name("zstd"), costs.remove(1));
    let row = Row::new(format!("{case}, MinIO"), Side::new("larder", costs.remove(0))).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(target))).cpu(None).peak(MEMORY_LIMIT)])
}
