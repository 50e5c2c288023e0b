//! Pushes the realistic store over the loopback: 73 packages, together 1.7 GB of NAR.

use anyhow::Result;
use larder_tests::bigstore::BigStore;
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::{Cost, interleave, measure};
use crate::raw;
use crate::row::Target::{AtLeast, AtMost};
use crate::row::{MEMORY_LIMIT, Row, Side};
use crate::testbed::Testbed;

/// Compares with the newest Nix.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let (ours, theirs) = testbed.against_nix(context.rounds(5), "zstd", &store.large)?;
    let row = Row::new("large, MinIO on the loopback", ours).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(1.3))).sent(Some(AtMost(1.15))).cpu(Some(AtMost(0.8))).peak(MEMORY_LIMIT)])
}

/// Compares with the Nix of Debian 12, on a store of the same packages that this Nix has built.
pub(crate) fn run_old(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_8)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let (ours, theirs) = testbed.against_nix(context.rounds(3), "zstd", &store.large)?;
    let row = Row::new("large, Nix 2.8's store, MinIO on the loopback", ours).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(1.8))).sent(None).cpu(None).peak(MEMORY_LIMIT)])
}

/// Compares with the limits of the machine: the raw client, and a compressor alone.
pub(crate) fn run_limits(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let mut infos = store.nix.path_info(&store.large)?;
    // With the largest path first, all cores work until the end.
    infos.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
    let paths: Vec<_> = infos.into_iter().map(|info| info.path).collect();
    let names = ["raw client, zstd -1", "raw client, zstd -3", "zstd -1 -T2", "zstd -3 -T2"];
    let mut costs = interleave(context.rounds(5), 1 + names.len(), |_, which| {
        let bucket = testbed.bucket("limits")?;
        let cost = match which {
            0 => testbed.push(&bucket, &paths),
            1 => testbed.raw_push(&bucket, 1, &paths),
            2 => testbed.raw_push(&bucket, 3, &paths),
            3 => measure(&mut raw::compress(1, 2, testbed.real(&paths))?),
            _ => measure(&mut raw::compress(3, 2, testbed.real(&paths))?),
        }?;
        testbed.empty(&bucket)?;
        Ok(cost)
    })?;
    let limits = costs.split_off(1);
    let ours = Side::new("larder", costs.remove(0));
    let row = |name: &str, limit: Vec<Cost>| {
        let row = Row::new(format!("large, limit: {name}"), ours.clone()).against(Side::new(name, limit));
        row.speed(None).sent(None).cpu(None)
    };
    Ok(names.into_iter().zip(limits).map(|(name, limit)| row(name, limit)).collect())
}

/// Compares with the default compression of `nix copy`, xz, on some of the packages. `nix copy` takes minutes, so it has
/// one round and no round to warm the caches up.
pub(crate) fn run_xz(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let paths = small_packages(&store, 120_000_000)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    let mut costs = interleave(context.rounds(1), 2, |round, which| match (round, which) {
        (_, 0) => testbed.push(&testbed.bucket("larder")?, &paths),
        (0, _) => Ok(Cost::wall(0.0)),
        _ => testbed.copy(&testbed.bucket("nix")?, "xz", &paths),
    })?;
    let theirs = Side::new(testbed.nix_name("xz"), costs.remove(1));
    let row =
        Row::new("at most 120 MB, each with its default compression", Side::new("larder", costs.remove(0)));
    Ok(vec![row.against(theirs).speed(Some(AtLeast(8.0))).sent(None).cpu(None).peak(MEMORY_LIMIT)])
}

/// Packages without references, from the smallest, with at most `bytes` bytes of NAR together.
fn small_packages(store: &BigStore, bytes: u64) -> Result<Vec<String>> {
    let mut infos = store.nix.path_info(&store.large)?;
    infos.retain(|info| info.references.is_empty());
    infos.sort_by_key(|info| info.nar_size);
    let (mut sum, mut paths) = (0, Vec::new());
    for info in infos {
        if sum + info.nar_size <= bytes {
            sum += info.nar_size;
            paths.push(info.path);
        }
    }
    Ok(paths)
}
