//! How cost grows with bytes, with paths and with latency. `tests/plots` draws the rows that this case leaves in a
//! table's JSON: of each it takes the case, up to the first colon, and the figure `at`.

use std::time::Duration;

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;
use larder_tests::wire::Wire;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::Cost;
use crate::row::{MOST_MEMORY, Row, Side};
use crate::wire;

/// What takes longer than this is not measured at the next size.
const TOO_LONG: f64 = 30.0;

/// All three.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let mut rows = bytes(context)?;
    rows.extend(paths(context)?);
    rows.extend(latency(context)?);
    Ok(rows)
}

/// One NAR of so many bytes.
fn bytes(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let trees: Vec<_> = store.large.iter().map(|path| store.nix.real(path).display().to_string()).collect();
    [64_u64, 256, 1024, 4096]
        .into_iter()
        .map(|mib| {
            context.say(&format!("growth: one NAR of {mib} MiB"));
            let mut nix = NixHome::new(NixVersion::V2_34)?;
            nix.set_timeout(Duration::from_secs(600));
            let built = nix.build(&one_file(&trees.join(" "), mib << 20))?;
            let arena = Arena::new(Kind::MinIo, &nix)?;
            let costs = times(context, |_| {
                let bucket = arena.bucket("larder")?;
                let cost = arena.push(&bucket, &built)?;
                arena.empty(&bucket)?;
                Ok(cost)
            })?;
            let row =
                Row::new(format!("growth with bytes: one NAR of {mib} MiB"), Side::new("larder", costs));
            Ok(row.figure("at", (mib << 20) as f64, "bytes", None).peak(MOST_MEMORY))
        })
        .collect()
}

/// So many tiny paths, new and then all there.
fn paths(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in [100_u32, 1000, 5000] {
        context.say(&format!("growth: {count} paths"));
        let nix = NixHome::new(NixVersion::V2_34)?;
        let paths: Vec<_> = nix.evaluate(&tiny(count))?.split_whitespace().map(str::to_owned).collect();
        let arena = Arena::new(Kind::MinIo, &nix)?;
        let mut bucket = String::new();
        let new = times(context, |_| {
            bucket = arena.bucket("larder")?;
            arena.push(&bucket, &paths)
        })?;
        let present = times(context, |_| Ok(arena.push(&bucket, &paths)?.nothing_sent()))?;
        for (what, costs) in [("new", new), ("present", present)] {
            let row = Row::new(format!("growth with {what} paths: {count} tiny"), Side::new("larder", costs));
            rows.push(row.figure("at", f64::from(count), "paths", None).peak(MOST_MEMORY));
        }
    }
    Ok(rows)
}

/// So many milliseconds added to each round trip.
fn latency(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    let arena = Arena::new(Kind::MinIo, &store.nix)?;
    let (mut rows, mut longest) = (Vec::new(), 0.0);
    for ms in [0_u32, 10, 25, 50, 100] {
        context.say(&format!("growth: {ms} ms"));
        let wire = Wire::start(&arena.server.endpoint(), None, Duration::from_millis(ms.into()))?;
        let costs = times(context, |_| wire::push(&arena, &wire, &arena.bucket("larder")?, &store.tiny))?;
        let row = Row::new(format!("growth with latency: {ms} ms"), Side::new("larder", costs));
        let row = row.figure("at", f64::from(ms), "ms", None);
        rows.push(if longest < TOO_LONG {
            let cost = wire::copy(&arena, &store, &wire, &arena.bucket("nix")?, &store.tiny)?;
            longest = cost.wall;
            row.against(Side::new(arena.nix_name("zstd"), vec![cost])).speed(None)
        } else {
            row
        });
    }
    Ok(rows)
}

/// As often as the case is to be run.
fn times(context: &Context, run: impl FnMut(usize) -> Result<Cost>) -> Result<Vec<Cost>> {
    (0..context.rounds(2)).map(run).collect()
}

/// The files of trees, over and over, so many bytes of them.
fn one_file(trees: &str, bytes: u64) -> String {
    format!(
        r#"derivation {{
  name = "huge"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "while find {trees} -type f -exec cat {{}} + 2> /dev/null; do :; done | head -c {bytes} > $out" ];
}}"#
    )
}

/// Files that evaluation alone makes; every eighth refers to the two before it.
fn tiny(count: u32) -> String {
    format!(
        r#"
let
  tiny = i: builtins.toFile "tiny-${{toString i}}" ''
    ${{if i > 1 && builtins.bitAnd i 7 == 0 then "${{builtins.elemAt all (i - 1)}} ${{builtins.elemAt all (i - 2)}}" else ""}}
    tiny ${{toString i}} ${{builtins.hashString "sha256" (toString i)}}
  '';
  all = builtins.genList tiny {count};
in builtins.concatStringsSep " " all
"#
    )
}
