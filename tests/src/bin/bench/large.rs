//! The realistic store, 73 packages of 1.7 GB of NAR together, on the loopback.

use anyhow::Result;
use larder_tests::bigstore::BigStore;
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::{Cost, in_turns, measure};
use crate::raw;
use crate::row::Reach::{AtLeast, AtMost};
use crate::row::{MOST_MEMORY, Row, Side};

/// Against today's Nix.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let (ours, theirs) = arena.against_nix(context.rounds(5), "zstd", &store.large)?;
    let row = Row::new("large, MinIO on the loopback", ours).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(1.3))).sent(Some(AtMost(1.15))).cpu(Some(AtMost(0.8))).peak(MOST_MEMORY)])
}

/// Against Debian 12's Nix, each on that Nix's own store of the same packages.
pub(crate) fn run_old(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_8)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let (ours, theirs) = arena.against_nix(context.rounds(3), "zstd", &store.large)?;
    let row = Row::new("large, Nix 2.8's store, MinIO on the loopback", ours).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(1.8))).sent(None).cpu(None).peak(MOST_MEMORY)])
}

/// Against what the machine can do.
pub(crate) fn run_limits(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let mut infos = store.nix.path_info(&store.large)?;
    // The largest first, so that none is left alone at the end.
    infos.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
    let paths: Vec<_> = infos.into_iter().map(|info| info.path).collect();
    let names = ["raw client, zstd -1", "raw client, zstd -3", "zstd -1 -T2", "zstd -3 -T2"];
    let mut costs = in_turns(context.rounds(5), 1 + names.len(), |_, who| {
        let bucket = arena.bucket("any")?;
        let cost = match who {
            0 => arena.push(&bucket, &paths),
            1 => arena.raw_push(&bucket, 1, &paths),
            2 => arena.raw_push(&bucket, 3, &paths),
            3 => measure(&mut raw::compress(1, 2, arena.real(&paths))?),
            _ => measure(&mut raw::compress(3, 2, arena.real(&paths))?),
        }?;
        arena.empty(&bucket)?;
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

/// Some of the packages against what `nix copy` does unless it is told otherwise. That takes minutes, so there is one
/// round, and only larder is warmed up.
pub(crate) fn run_xz(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let some = about(&store, 120_000_000)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let mut costs = in_turns(context.rounds(1), 2, |round, who| match (round, who) {
        (_, 0) => arena.push(&arena.bucket("larder")?, &some),
        (0, _) => Ok(Cost::wall(0.0)),
        _ => arena.copy(&arena.bucket("nix")?, "xz", &some),
    })?;
    let theirs = Side::new(arena.nix_name("xz"), costs.remove(1));
    let row =
        Row::new("at most 120 MB, each with its default compression", Side::new("larder", costs.remove(0)));
    Ok(vec![row.against(theirs).speed(Some(AtLeast(8.0))).sent(None).cpu(None).peak(MOST_MEMORY)])
}

/// Some packages that refer to no others, of at most so many bytes together.
fn about(store: &BigStore, bytes: u64) -> Result<Vec<String>> {
    let mut infos = store.nix.path_info(&store.large)?;
    infos.retain(|info| info.references.is_empty());
    infos.sort_by_key(|info| info.nar_size);
    let (mut sum, mut some) = (0, Vec::new());
    for info in infos {
        if sum + info.nar_size <= bytes {
            sum += info.nar_size;
            some.push(info.path);
        }
    }
    Ok(some)
}
