//! What pins and rules keep, and why. The bucket is a directory, whose files' times are set back as the days pass.

use anyhow::{Context, Result, ensure};
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::year::{Generation, Year, let_pass, publish};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A directory as a bucket with the generations of the first day, 40 days ago, and a larder without a store.
fn house() -> Result<(TempDir, LarderHome, Vec<Generation>)> {
    let (directory, mut larder) = (tempfile::tempdir()?, LarderHome::bare()?);
    let (key, file) = (SecretKey::generate("pins-1")?, larder.dir().join("pins.sec"));
    larder::config::key_files::write_secret_key(&key, &file)?;
    larder.set("signing-key-files", &format!("[{:?}]", file.display().to_string()))?;
    larder.set_string("daemon-socket", "/nonexistent/socket")?;
    larder.use_directory(directory.path())?;
    larder.run(&["init", "--private"])?;
    let generations = Year::new(7).next_day();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut known = HashSet::new();
    runtime.block_on(async {
        let bucket = open(&format!("file://{}", directory.path().display()), &Options::default()).await?;
        for generation in &generations {
            publish(&*bucket, &key, &generation.closure, &mut known).await?;
        }
        anyhow::Ok(())
    })?;
    let_pass(directory.path(), DAY * 40)?;
    Ok((directory, larder, generations))
}

fn why(larder: &LarderHome, path: &str, rules: &[&str]) -> Result<Value> {
    let output = larder.run(&[&["why", path, "--json"], rules].concat())?;
    serde_json::from_str(output.stdout.trim()).context("`larder why --json` prints one object")
}

#[test]
fn why_names_the_pin_and_the_referrers() -> Result<()> {
    let (_directory, larder, generations) = house()?;
    let generation = generations.first().context("a generation")?;
    let system = generation.system.to_absolute_path();
    let base = generation.closure.first().context("a path")?.info.path.to_absolute_path();
    let answer = why(&larder, &base, &[])?;
    ensure!(answer["reason"] == "no-rule" && answer["mayGo"] == false, "{answer}");
    let answer = why(&larder, &base, &["--keep-within", "30d"])?;
    ensure!(answer["reason"] == "old" && answer["mayGo"] == true, "{answer}");
    let since = answer["mayGoForSeconds"].as_u64().context("a time")?;
    ensure!((10 * 86_400..10 * 86_400 + 3600).contains(&since), "{answer}");
    ensure!(why(&larder, &base, &["--keep-within", "50d"])?["reason"] == "keep-within");
    larder.run(&["pin", "system/one", &system])?;
    let answer = why(&larder, &base, &["--keep-within", "30d"])?;
    ensure!(answer["reason"] == "pin" && answer["pin"] == "system/one", "{answer}");
    let through = answer["through"].as_array().context("a chain")?;
    ensure!(through.first() == Some(&Value::from(generation.system.to_basename().to_string())), "{answer}");
    ensure!(through.len() > 1, "{answer}");
    larder.run(&["unpin", "system/one"])?;
    ensure!(why(&larder, &base, &["--keep-within", "30d"])?["mayGo"] == true);
    let absent = larder.try_run(&["why", "/nix/store/00000000000000000000000000000000-x"])?;
    ensure!(absent.status.code() == Some(3), "{absent:?}");
    Ok(())
}

#[test]
fn downloads_in_an_access_log_count() -> Result<()> {
    let (_directory, larder, generations) = house()?;
    let system = &generations.first().context("a generation")?.system;
    let hash = system.to_basename().split('-').next().context("a hash")?.to_owned();
    let log = larder.dir().join("access.log");
    let line =
        "::1 - - [01/Jan/2999:00:00:00 +0000] \"GET /HASH.narinfo HTTP/1.1\" 200 9 \"-\" \"Nix\"\nrubbish\n";
    fs::write(&log, line.replace("HASH", &hash))?;
    let rules = ["--keep-within", "30d", "--access-log", log.to_str().context("a path")?];
    let answer = why(&larder, &system.to_absolute_path(), &rules)?;
    ensure!(answer["mayGo"] == false && answer["neededBy"] == "downloaded", "{answer}");
    Ok(())
}

#[test]
fn a_pin_that_cannot_be_read_ends_the_decision() -> Result<()> {
    let (directory, larder, generations) = house()?;
    let system = generations.first().context("a generation")?.system.to_absolute_path();
    let id = larder.run(&["pin", "a", &system])?.stdout.trim().to_owned();
    fs::write(directory.path().join(format!("larder/pins/a/{id}.json")), "{\"paths\":[],\"later\":1}")?;
    let output = larder.try_run(&["why", &system])?;
    ensure!(
        output.status.code() == Some(7) && output.stderr.contains("cannot understand the pin"),
        "{output:?}"
    );
    Ok(())
}
