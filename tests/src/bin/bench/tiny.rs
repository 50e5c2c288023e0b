//! 1,000 tiny new paths, where only requests count.

use std::fs;

use anyhow::{Context as _, Result};
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;
use tempfile::NamedTempFile;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::in_turns;
use crate::row::Reach::AtLeast;
use crate::row::{MOST_MEMORY, Row, Side};

/// On MinIO.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    on(context, Kind::MinIo, "MinIO", 2.1)
}

/// On SeaweedFS.
pub(crate) fn run_seaweedfs(context: &Context) -> Result<Vec<Row>> {
    on(context, Kind::SeaweedFs, "SeaweedFS", 2.4)
}

fn on(context: &Context, kind: Kind, server: &str, reach: f64) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(kind, &store.nix)?;
    let parcels = NamedTempFile::new()?;
    let mut costs = in_turns(context.rounds(5), 3, |round, who| {
        let bucket = arena.bucket(["larder", "nix", "raw"][who])?;
        match who {
            0 => {
                let cost = arena.push(&bucket, &store.tiny)?;
                if round == 0 {
                    fs::write(parcels.path(), sizes(&arena, &bucket)?)?;
                }
                Ok(cost)
            }
            1 => arena.copy(&bucket, "zstd", &store.tiny),
            _ => arena.raw_put(&bucket, parcels.path()),
        }
    })?;
    let raw = Side::new("raw client, one LIST and 2,000 PUTs", costs.pop().context("raw")?);
    let nix = Side::new(arena.nix_name("zstd"), costs.pop().context("nix")?);
    let larder = Side::new("larder", costs.pop().context("larder")?);
    let case = format!("1,000 tiny, {server}");
    let row = Row::new(&case, larder.clone()).against(nix).speed(Some(AtLeast(reach)));
    Ok(vec![
        row.sent(None).cpu(None).peak(MOST_MEMORY),
        Row::new(format!("{case}, limit"), larder).against(raw).speed(Some(AtLeast(0.8))).cpu(None),
    ])
}

/// What a push has put, as the raw client wants to be told: NARs, then narinfos, with their sizes.
fn sizes(arena: &Arena, bucket: &str) -> Result<String> {
    let objects = arena.server.client().list(bucket, "")?;
    let (nars, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(key, _)| key.starts_with("nar/"));
    let narinfos = others.into_iter().filter(|(key, _)| key.ends_with(".narinfo"));
    Ok(nars.into_iter().chain(narinfos).map(|(key, size)| format!("{key} {size}\n")).collect())
}
