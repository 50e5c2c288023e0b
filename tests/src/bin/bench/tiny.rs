//! Pushes 1,000 tiny new paths. The number of requests determines the cost.

use std::fs;

use anyhow::{Context as _, Result};
use larder_tests::nix::NixVersion;
use larder_tests::servers::Kind;
use tempfile::NamedTempFile;

use crate::context::Context;
use crate::cost::interleave;
use crate::row::Target::AtLeast;
use crate::row::{MEMORY_LIMIT, Row, Side};
use crate::testbed::Testbed;

/// Pushes to MinIO.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    compare(context, Kind::MinIo, "MinIO", 2.1)
}

/// Pushes to SeaweedFS.
pub(crate) fn run_seaweedfs(context: &Context) -> Result<Vec<Row>> {
    compare(context, Kind::SeaweedFs, "SeaweedFS", 2.4)
}

fn compare(context: &Context, kind: Kind, server: &str, target: f64) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(kind, &store.nix)?;
    let objects = NamedTempFile::new()?;
    let mut costs = interleave(context.rounds(5), 3, |round, which| {
        let bucket = testbed.bucket(["larder", "nix", "raw"][which])?;
        match which {
            0 => {
                let cost = testbed.push(&bucket, &store.tiny)?;
                if round == 0 {
                    fs::write(objects.path(), object_sizes(&testbed, &bucket)?)?;
                }
                Ok(cost)
            }
            1 => testbed.copy(&bucket, "zstd", &store.tiny),
            _ => testbed.raw_put(&bucket, objects.path()),
        }
    })?;
    let raw =
        Side::new("raw client, one LIST and 2,000 PUTs", costs.pop().context("the raw client has no costs")?);
    let nix = Side::new(testbed.nix_name("zstd"), costs.pop().context("`nix copy` has no costs")?);
    let larder = Side::new("larder", costs.pop().context("larder has no costs")?);
    let case = format!("1,000 tiny, {server}");
    let row = Row::new(&case, larder.clone()).against(nix).speed(Some(AtLeast(target)));
    Ok(vec![
        row.sent(None).cpu(None).peak(MEMORY_LIMIT),
        Row::new(format!("{case}, limit"), larder).against(raw).speed(Some(AtLeast(0.8))).cpu(None),
    ])
}

/// The keys and sizes of the objects of a push in the format of the raw client: first NARs, then narinfos.
fn object_sizes(testbed: &Testbed, bucket: &str) -> Result<String> {
    let listed = testbed.server.client().list(bucket, "")?;
    let (nars, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(key, _)| key.starts_with("nar/"));
    let narinfos = others.into_iter().filter(|(key, _)| key.ends_with(".narinfo"));
    Ok(nars.into_iter().chain(narinfos).map(|(key, size)| format!("{key} {size}\n")).collect())
}
