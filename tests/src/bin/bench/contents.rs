//! The verification of the contents of NARs: the realistic store in a directory and on MinIO, against `zstd -d` and a
//! program that hashes, over the same objects, one pipe for each core.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use larder_tests::larder::LarderHome;
use larder_tests::nix::NixVersion;
use larder_tests::process::clean_command;
use larder_tests::servers::Kind;

use crate::context::Context;
use crate::cost::{Cost, interleave, measure};
use crate::row::Target::AtLeast;
use crate::row::{Row, Side};
use crate::testbed::Testbed;

/// The name of the bucket.
const BUCKET: &str = "contents";
/// The programs that hash. The one of Debian uses no instructions of the processor for SHA-256; the other one does.
const HASHERS: [&str; 2] = ["sha256sum", "openssl dgst -sha256"];

/// Measures `verify --data`.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let testbed = Testbed::new(Kind::MinIo, &store.nix)?;
    testbed.server.make_open_bucket(BUCKET)?;
    let on_server = testbed.larder(BUCKET)?;
    let directory = tempfile::tempdir()?;
    let in_directory = testbed.larder_in(directory.path())?;
    let mut push = vec!["push"];
    push.extend(store.large.iter().map(String::as_str));
    for larder in [&in_directory, &on_server] {
        larder.run(&push)?;
    }
    let mut costs = interleave(context.rounds(5), 2 + HASHERS.len(), |_, which| match which {
        0 => verify(&in_directory),
        1 => verify(&on_server),
        which => measure(&mut pipes(directory.path(), in_directory.dir(), HASHERS[which - 2])?),
    })?;
    let pipes = costs.split_off(2);
    let mut rows = Vec::new();
    for (place, ours) in ["a directory", "MinIO"].into_iter().zip(costs) {
        for (hasher, theirs) in HASHERS.into_iter().zip(&pipes) {
            let row = Row::new(format!("verify --data, 1.7 GB, {place}"), Side::new("larder", ours.clone()));
            let row = row.against(Side::new(format!("zstd -d | {hasher}, files"), theirs.clone()));
            rows.push(row.speed(Some(AtLeast(0.9))).cpu(None).peak(None));
        }
    }
    Ok(rows)
}

/// Verifies a bucket without records of earlier runs.
fn verify(larder: &LarderHome) -> Result<Cost> {
    let cache = tempfile::tempdir()?;
    measure(larder.command(&["verify", "--data"])?.env("XDG_CACHE_HOME", cache.path()))
}

/// A pipe for each core over the NARs in a directory, the largest first. Their list is written into `place`.
fn pipes(bucket: &Path, place: &Path, hasher: &str) -> Result<Command> {
    let nars = std::fs::read_dir(bucket.join("nar"))?;
    let sized = nars.map(|nar| nar.and_then(|nar| Ok((nar.metadata()?.len(), nar.path()))));
    let mut sized = sized.collect::<Result<Vec<_>, _>>()?;
    ensure!(!sized.is_empty(), "no NAR in {}", bucket.display());
    sized.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let names = sized.iter().map(|(_, path)| path.to_str().context("a name that is no text"));
    let list = place.join("nars");
    std::fs::write(&list, names.collect::<Result<Vec<_>>>()?.join("\n"))?;
    let cores = std::thread::available_parallelism()?;
    let mut command = clean_command("/bin/sh");
    let script = format!(r#"exec xargs -P {cores} -n 1 sh -c 'zstd -dc "$0" | {hasher}' < "$0""#);
    command.arg("-ec").arg(script).arg(list);
    Ok(command)
}
