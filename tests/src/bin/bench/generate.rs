//! Generates store paths for the cases: one large file, or many tiny files.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context as _, Result};
use larder_tests::bigstore::BigStore;
use larder_tests::nix::NixHome;
use walkdir::WalkDir;

/// Builds a path with one file of `bytes` bytes: the files of the realistic store, repeated. One repetition is much larger
/// than the window of a compressor, so the compressor does not find the previous repetition.
pub(crate) fn one_file(nix: &NixHome, store: &BigStore, bytes: u64) -> Result<Vec<String>> {
    let mut list = tempfile::NamedTempFile::new_in(nix.dir())?;
    for path in &store.large {
        for entry in WalkDir::new(store.nix.real(path)).sort_by_file_name() {
            let entry = entry.context("listing the realistic store")?;
            if entry.file_type().is_file() {
                list.write_all(entry.path().as_os_str().as_bytes())?;
                list.write_all(b"\0")?;
            }
        }
    }
    let list = list.path().display();
    nix.build(&format!(
        r#"derivation {{
  name = "huge"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "while xargs -0 cat < {list} 2> /dev/null; do :; done | head -c {bytes} > $out" ];
}}"#
    ))
}

/// Adds `count` files of less than 300 bytes to the store by evaluation alone. Every eighth file refers to the two files before
/// it.
pub(crate) fn tiny_files(nix: &NixHome, count: u32) -> Result<Vec<String>> {
    let expression = format!(
        r#"
let
  tiny = i: builtins.toFile "tiny-${{toString i}}" ''
    ${{if i > 1 && builtins.bitAnd i 7 == 0 then "${{builtins.elemAt all (i - 1)}} ${{builtins.elemAt all (i - 2)}}" else ""}}
    tiny ${{toString i}} ${{builtins.hashString "sha256" (toString i)}} ${{builtins.hashString "sha256" "x${{toString i}}"}}
  '';
  all = builtins.genList tiny {count};
in builtins.concatStringsSep " " all
"#
    );
    let mut paths: Vec<String> = nix.evaluate(&expression)?.split_whitespace().map(str::to_owned).collect();
    paths.sort();
    Ok(paths)
}
