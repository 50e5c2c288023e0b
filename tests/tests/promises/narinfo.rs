//! larder publishes what Nix itself publishes.

use anyhow::{Context, Result};
use larder::format::object_keys::Compression;
use larder::push::progress::Effort;
use larder::push::send::compress::{Compressor, Level, Settings};
use larder_tests::nix::{narinfo_key, samples, versions};
use larder_tests::servers::Directory;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::world::{Target, World, assert_said, field};

/// The fields of a narinfo without those that may differ: URL, file hash, file size, and the bytes of a signature.
fn comparable(narinfo: &str) -> Vec<String> {
    let free = ["URL: ", "FileHash: ", "FileSize: ", "Compression: "];
    let lines = narinfo.lines().filter(|line| !free.iter().any(|name| line.starts_with(name)));
    lines
        .map(|line| {
            line.strip_prefix("Sig: ")
                .map_or(line.to_owned(), |sig| format!("Sig: {}", sig.split(':').next().unwrap_or_default()))
        })
        .collect()
}

#[test]
fn narinfos_and_listings_equal_those_of_nix_copy() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.set("write-listings", "true")?;
        let built = world.nix.build(&samples::assorted(&format!("golden {version}")))?;
        world
            .larder
            .run(&["push"].into_iter().chain(built.iter().map(String::as_str)).collect::<Vec<_>>())?;
        let golden = Directory::start()?;
        let url = format!(
            "{}?secret-key={}&compression=zstd&write-nar-listing=1",
            golden.file_url(),
            world.key.secret_file.display()
        );
        world.nix.copy_to(&url, &built)?;
        let closure = world.nix.closure(&built)?;
        assert!(closure.len() >= 10);
        for info in closure {
            let ours = world.narinfo(&info.path)?.with_context(|| info.path.clone())?;
            let theirs = std::fs::read_to_string(golden.path().join(narinfo_key(&info.path)))?;
            assert_eq!(comparable(&ours), comparable(&theirs), "{version}: {}", info.path);
            // Signatures are deterministic: equal keys and equal fingerprints give equal bytes.
            assert_eq!(field(&ours, "Sig"), field(&theirs, "Sig"), "{version}: {}", info.path);
            let order = |text: &str| {
                text.lines().filter_map(|l| l.split_once(": ").map(|(n, _)| n.to_owned())).collect::<Vec<_>>()
            };
            assert_eq!(order(&ours), order(&theirs), "{version}: the order of fields");
            same_listing(&world, &golden, &info.path)?;
        }
    }
    Ok(())
}

/// Checks that the listing of a path equals that of `nix copy`.
fn same_listing(world: &World, golden: &Directory, path: &str) -> Result<()> {
    let key = narinfo_key(path).replace(".narinfo", ".ls");
    let theirs = std::fs::read(golden.path().join(&key))?;
    let Some(ours) = world.target.get(&key)? else {
        anyhow::bail!("no listing of {path}");
    };
    // No version of Nix compresses listings by default.
    let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
    assert_eq!(parse(&ours)?, parse(&theirs)?, "{path}");
    Ok(())
}

#[test]
fn file_hash_and_size_are_those_of_the_object() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::big("file hash", 20))?;
    world.larder.run(&["push", &built[0]])?;
    let narinfo = world.narinfo(&built[0])?.context("no narinfo")?;
    let nar = world.target.get(field(&narinfo, "URL").unwrap_or_default())?.context("no NAR")?;
    assert_eq!(field(&narinfo, "FileSize"), Some(nar.len().to_string().as_str()));
    let file = world.nix.dir().join("object");
    std::fs::write(&file, &nar)?;
    let file = file.display().to_string();
    let output = larder_tests::process::run(
        &mut world.nix.command("nix-hash", &["--type", "sha256", "--base32", "--flat", &file]),
        std::time::Duration::from_secs(120),
    )?;
    let hash = format!("sha256:{}", output.ok()?.stdout.trim());
    assert_eq!(field(&narinfo, "FileHash"), Some(hash.as_str()));
    Ok(())
}

#[test]
fn every_compression_is_read_by_every_nix() -> Result<()> {
    for version in versions() {
        for (compression, level, suffix) in [
            ("zstd", "1", ".nar.zst"),
            ("zstd", "19", ".nar.zst"),
            ("xz", "1", ".nar.xz"),
            ("none", "0", ".nar"),
        ] {
            let mut world = World::new(version, Target::Directory(Directory::start()?))?;
            world.larder.set_string("compression", compression)?;
            world.larder.set("compression-level", level)?;
            let mut built = world.nix.build(&samples::app(&format!("{compression} {level} {version}")))?;
            built.extend(world.nix.build(&samples::big(&format!("{compression} {version}"), 1))?);
            world.larder.run(&["push", &built[0], &built[1]])?;
            let narinfo = world.narinfo(&built[0])?.unwrap_or_default();
            assert_eq!(field(&narinfo, "Compression"), Some(compression));
            assert!(field(&narinfo, "URL").is_some_and(|url| url.ends_with(suffix)));
            let other = world.nix.twin()?;
            other.substitute(&built, &world.target.public_base().unwrap_or_default(), &world.key.public)?;
        }
    }
    Ok(())
}

/// A push may change level, threads and window within a NAR.
#[test]
fn every_nix_reads_a_nar_of_frames_with_different_efforts() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.set_string("compression", "none")?;
        let built = world.nix.build(&samples::big(&format!("frames {version}"), 40))?;
        world.larder.run(&["push", &built[0]])?;
        let narinfo = world.narinfo(&built[0])?.context("no narinfo")?;
        let nar = world.target.get(field(&narinfo, "URL").context("no URL")?)?.context("no NAR")?;
        world.target.put("nar/frames.nar.zst", &frames(&nar)?)?;
        // The signature does not cover these lines.
        let changed = narinfo.lines().filter(|line| !line.starts_with("File")).map(|line| {
            let line = match line.split_once(": ") {
                Some(("URL", _)) => "URL: nar/frames.nar.zst",
                Some(("Compression", _)) => "Compression: zstd",
                _ => line,
            };
            format!("{line}\n")
        });
        world.target.put(&narinfo_key(&built[0]), changed.collect::<String>().as_bytes())?;
        let other = world.nix.twin()?;
        other.substitute(&built, &world.target.public_base().unwrap_or_default(), &world.key.public)?;
    }
    Ok(())
}

fn frames(nar: &[u8]) -> Result<Vec<u8>> {
    let efforts = [(1, 1, None), (1, 1, Some(25)), (3, 2, Some(24)), (6, 1, Some(23)), (1, 2, None)]
        .map(|(level, threads, window_log)| Effort { level, threads, window_log });
    let settings = Settings { compression: Compression::Zstd, level: Level::Adaptive, threads: 2 };
    let mut out = Compressor::new(settings, efforts[0], None, &Arc::default(), Vec::new())?;
    for (piece, effort) in nar.chunks(nar.len() / efforts.len() + 1).zip(efforts) {
        out.change(effort)?;
        out.write_all(piece)?;
    }
    Ok(out.finish()?)
}

#[test]
fn equal_contents_are_stored_once_and_a_nar_is_never_rewritten() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let same = world.nix.build(&samples::equal("equal", 2))?;
    let url = |path: &str| -> Result<String> {
        let narinfo = world.narinfo(path)?.with_context(|| path.to_owned())?;
        Ok(field(&narinfo, "URL").unwrap_or_default().to_owned())
    };
    world.larder.run(&["push", &same[0]])?;
    let nars = |keys: BTreeMap<String, u64>| {
        keys.into_keys().filter(|key| key.starts_with("nar/")).collect::<Vec<_>>()
    };
    let before = nars(world.target.list()?);
    world.larder.run(&["push", &same[1]])?;
    assert_eq!(nars(world.target.list()?), before, "equal contents were sent again");
    assert_eq!(url(&same[0])?, url(&same[1])?);
    world.larder.run(&["push", &same[0], &same[1]])?;
    assert_eq!(nars(world.target.list()?), before);
    // Small NARs of equal contents are sent once within a push.
    let small = world.nix.build(&samples::assorted("equal"))?;
    let mut paths: Vec<_> = small.into_iter().filter(|path| path.contains("-same")).collect();
    world.larder.run(&["push", &paths[0], &paths[1]])?;
    assert_eq!(url(&paths[0])?, url(&paths[1])?);
    paths.extend(same);
    let other = world.nix.twin()?;
    other.substitute(&paths, &world.target.public_base().unwrap_or_default(), &world.key.public)
}

#[test]
fn an_existing_narinfo_gains_signatures_and_loses_nothing() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("signatures"))?;
    world.larder.run(&["push", &built[0]])?;
    let before = world.narinfo(&built[0])?.unwrap_or_default();
    let second = world.nix.key_pair("second-1")?;
    world.larder.use_keys(&[&second])?;
    world.larder.run(&["push", &built[0]])?;
    let after = world.narinfo(&built[0])?.unwrap_or_default();
    let names = |text: &str| {
        text.lines()
            .filter_map(|l| Some(l.strip_prefix("Sig: ")?.split(':').next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&before), ["test-1"]);
    assert_eq!(names(&after), ["test-1", "second-1"]);
    assert!(before.lines().all(|line| after.contains(line)), "{before}\n{after}");
    let base = world.target.public_base().unwrap_or_default();
    for key in [&world.key, &second] {
        world.nix.twin()?.substitute(&built, &base, &key.public)?;
    }
    // Both keys at once, on a new path.
    world.larder.use_keys(&[&world.key, &second])?;
    let other = world.nix.build(&samples::single("two keys"))?;
    world.larder.run(&["push", &other[0]])?;
    assert_eq!(names(&world.narinfo(&other[0])?.unwrap_or_default()), ["second-1", "test-1"]);
    Ok(())
}

#[test]
fn a_bucket_that_nix_copy_filled_is_adopted() -> Result<()> {
    for version in versions() {
        let directory = Directory::start()?;
        let nix = larder_tests::nix::NixHome::new(version)?;
        let built = nix.build(&samples::app(&format!("adopted {version}")))?;
        nix.copy_to(&directory.file_url(), &built)?;
        let info = std::fs::read(directory.path().join("nix-cache-info"))?;
        let mut larder = larder_tests::larder::LarderHome::new(&nix)?;
        let key = nix.key_pair("test-1")?;
        larder.use_keys(&[&key])?;
        larder.use_directory(directory.path())?;
        larder.set_string("public-url", &directory.public_base())?;
        larder.run(&["init"])?;
        assert_eq!(
            std::fs::read(directory.path().join("nix-cache-info"))?,
            info,
            "nix-cache-info was changed"
        );
        let unsigned = nix.twin()?.try_substitute(&built, &directory.public_base(), &key.public)?;
        assert!(!unsigned.status.success(), "it was signed before");
        let pushed = larder.run(&["push", &built[0]])?;
        assert!(pushed.stderr.contains("3 signed"), "{}", pushed.stderr);
        nix.twin()?.substitute(&built, &directory.public_base(), &key.public)?;
        let objects = walkdir::WalkDir::new(directory.path().join("nar")).into_iter().count();
        assert_eq!(objects, 4, "the existing NARs were not used");
    }
    Ok(())
}

/// A text file whose references are so many files with long names, each 244 bytes in a narinfo. Nix evaluates it, and
/// builds nothing.
fn with_many_references(tag: &str, count: u32) -> String {
    format!(
        r#"let
             name = i: builtins.substring 0 211 ("${{toString i}}-{tag}-" + builtins.concatStringsSep "" (builtins.genList (_: "long-name-") 30));
             files = builtins.genList (i: builtins.toFile (name i) "x") {count};
           in builtins.toFile "many" (builtins.concatStringsSep "\n" files)"#
    )
}

#[test]
fn a_path_with_too_many_references_for_a_narinfo_is_parked_and_the_others_are_pushed() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let many = world.nix.evaluate(&with_many_references("many", 4500))?;
    let words = ["failed", "-many", "4500 references", "larger than 1048576 bytes"];
    assert_said(&world.larder.try_run(&["push", &many])?, 3, &words);
    assert!(world.narinfo(&many)?.is_none(), "the narinfo is visible");
    // All files have equal contents, so they share one NAR. Nothing of the large path was sent.
    let keys = world.target.list()?;
    assert_eq!(keys.keys().filter(|key| key.ends_with(".narinfo")).count(), 4500);
    let nars = keys.iter().filter(|(key, _)| key.starts_with("nar/"));
    assert!(nars.map(|(_, size)| *size).max().is_some_and(|size| size < 10_000), "the NAR was sent");
    // A queued path is parked at once.
    world.larder.run(&["queue", "create"])?;
    let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nPath: {many}\nEnd: \n");
    std::fs::write(world.larder.state_dir().join("incoming/0000000001-000000000-00000000"), job)?;
    assert_said(&world.larder.try_run(&["flush", "--wait"])?, 3, &["parked", "4500 references"]);
    Ok(())
}

#[test]
fn a_path_with_thousands_of_references_is_published_and_read_back() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let many = world.nix.evaluate(&with_many_references("fewer", 4200))?;
    world.larder.run(&["push", &many])?;
    assert!(world.narinfo(&many)?.is_some_and(|narinfo| narinfo.len() > 1_020_000));
    // It is compared with the path in the store, and found complete.
    world.larder.run(&["push", "--check", &many])?;
    Ok(())
}
