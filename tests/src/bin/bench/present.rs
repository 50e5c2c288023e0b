//! Paths that are all in the bucket, pushed again by somebody who remembers nothing of that.

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion};
use larder_tests::servers::Kind;

use crate::arena::Arena;
use crate::context::Context;
use crate::cost::in_turns;
use crate::row::Reach::AtLeast;
use crate::row::{MOST_MEMORY, Row, Side};

/// 1,000 paths.
pub(crate) fn run(context: &Context) -> Result<Vec<Row>> {
    let store = context.store(NixVersion::V2_34)?;
    again(context, &store.nix, &store.tiny, "1,000 tiny, all there", 2.0)
}

/// 10,000 paths.
pub(crate) fn run_many(context: &Context) -> Result<Vec<Row>> {
    let nix = NixHome::new(NixVersion::V2_34)?;
    context.say("making 10,000 tiny paths");
    let paths = many(&nix)?;
    again(context, &nix, &paths, "10,000 tiny, all there", 3.0)
}

fn again(context: &Context, nix: &NixHome, paths: &[String], case: &str, reach: f64) -> Result<Vec<Row>> {
    let arena = Arena::new(Kind::MinIo, nix)?;
    let buckets = [arena.bucket("larder")?, arena.bucket("nix")?];
    let push = |who: usize| match who {
        0 => arena.push(&buckets[0], paths),
        _ => arena.copy(&buckets[1], "zstd", paths),
    };
    // So that all is there.
    push(0)?;
    push(1)?;
    let mut costs = in_turns(context.rounds(9), 2, |_, who| Ok(push(who)?.nothing_sent()))?;
    let theirs = Side::new(arena.nix_name("zstd"), costs.remove(1));
    let row = Row::new(format!("{case}, MinIO"), Side::new("larder", costs.remove(0))).against(theirs);
    Ok(vec![row.speed(Some(AtLeast(reach))).cpu(None).peak(MOST_MEMORY)])
}

/// 10,000 files of some 200 bytes that evaluation alone makes; every eighth refers to the two before it.
fn many(nix: &NixHome) -> Result<Vec<String>> {
    let mut paths: Vec<String> = nix.evaluate(MANY)?.split_whitespace().map(str::to_owned).collect();
    paths.sort();
    Ok(paths)
}

const MANY: &str = r#"
let
  tiny = i: builtins.toFile "tiny-${toString i}" ''
    ${if i > 1 && builtins.bitAnd i 7 == 0 then "${builtins.elemAt all (i - 1)} ${builtins.elemAt all (i - 2)}" else ""}
    tiny ${toString i} ${builtins.hashString "sha256" (toString i)} ${builtins.hashString "sha256" "x${toString i}"}
  '';
  all = builtins.genList tiny 10000;
in builtins.concatStringsSep " " all
"#;
