//! Many paths: larder reads from the bucket only what a listing cannot show.

use anyhow::{Context, Result, ensure};
use larder_tests::nix::{narinfo_key, samples};
use larder_tests::process::run_with_input;
use larder_tests::proxy::{Proxy, Record};
use larder_tests::servers::{Directory, Kind, S3Server};
use larder_tests::synthetic::SyntheticStore;
use std::time::Duration;

use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;

use super::order::behind_proxy;
use super::world::{BUCKET, Target, World, field};

/// The numbers of narinfos that were read, and of listings of the top level, in a log.
fn questions(log: &[Record]) -> (usize, usize) {
    let gets = log.iter().filter(|one| one.method == "GET");
    let narinfos = gets.clone().filter(|one| one.path.ends_with(".narinfo")).count();
    (narinfos, gets.filter(|one| one.query.contains("delimiter=")).count())
}

fn push<'a>(flags: &[&'a str], paths: &'a [String]) -> Vec<&'a str> {
    [&["push"], flags].concat().into_iter().chain(paths.iter().map(String::as_str)).collect()
}

fn signers(narinfo: &str) -> Vec<&str> {
    let signatures = narinfo.lines().filter_map(|line| line.strip_prefix("Sig: "));
    signatures.filter_map(|signature| signature.split(':').next()).collect()
}

#[test]
fn many_present_paths_cost_a_listing_and_a_sample() -> Result<()> {
    let Some((world, proxy)) = behind_proxy()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("present", 100))?;
    world.larder.run(&push(&[], &built))?;
    proxy.clear_log();
    let again = world.larder.run(&push(&["--json"], &built))?;
    assert!(again.stdout.contains("\"present\":100"), "{}", again.stdout.lines().last().unwrap_or_default());
    // A sample is read. A listing of narinfos and a listing of NARs show the others.
    let log = proxy.log();
    assert_eq!(questions(&log), (16, 1));
    // Besides: the session begins and ends, looks at the collections, asks whether the server takes old signatures, and records
    // what was asked for.
    assert!(log.len() <= 16 + 2 + 10, "{} requests", log.len());
    proxy.clear_log();
    world.larder.run(&push(&["--check"], &built))?;
    assert_eq!(questions(&proxy.log()).0, 100);
    Ok(())
}

#[test]
fn a_second_key_signs_many_present_paths() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("second key", 100))?;
    world.larder.run(&push(&[], &built))?;
    let second = world.nix.key_pair("second-1")?;
    world.larder.use_keys(&[&world.key, &second])?;
    let pushed = world.larder.run(&push(&[], &built))?;
    assert!(pushed.stderr.contains("100 signed"), "{}", pushed.stderr);
    for path in &built {
        let narinfo = world.narinfo(path)?.unwrap_or_default();
        assert_eq!(signers(&narinfo).len(), 2, "{narinfo}");
    }
    Ok(())
}

#[test]
fn a_replaced_key_signs_many_paths_although_narinfo_sizes_do_not_show_it() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("rotated key", 100))?;
    world.larder.run(&push(&[], &built))?;
    let rotated = world.nix.key_pair("test-2")?;
    world.larder.use_keys(&[&rotated])?;
    let pushed = world.larder.run(&push(&[], &built))?;
    assert!(pushed.stderr.contains("100 signed"), "{}", pushed.stderr);
    for path in &built {
        let narinfo = world.narinfo(path)?.unwrap_or_default();
        assert!(signers(&narinfo).contains(&"test-1") && signers(&narinfo).contains(&"test-2"), "{narinfo}");
    }
    Ok(())
}

#[test]
fn a_path_among_many_that_lacks_its_signature_gets_it() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("lacking", 100))?;
    world.larder.run(&push(&[], &built))?;
    let whole = world.narinfo(&built[42])?.context("no narinfo")?;
    let lacking: String =
        whole.lines().filter(|line| !line.starts_with("Sig: ")).map(|line| format!("{line}\n")).collect();
    ensure!(lacking.len() < whole.len());
    world.target.put(&narinfo_key(&built[42]), lacking.as_bytes())?;
    let pushed = world.larder.run(&push(&[], &built))?;
    assert!(pushed.stderr.contains("1 signed"), "{}", pushed.stderr);
    assert_eq!(world.narinfo(&built[42])?, Some(whole));
    Ok(())
}

#[test]
fn many_paths_that_nix_copy_wrote_are_signed() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("copied", 100))?;
    let Target::Directory(directory) = &world.target else { return Ok(()) };
    world.nix.copy_to(&directory.file_url(), &built)?;
    let pushed = world.larder.run(&push(&[], &built))?;
    assert!(pushed.stderr.contains("100 signed"), "{}", pushed.stderr);
    for path in &built {
        let narinfo = world.narinfo(path)?.unwrap_or_default();
        assert!(field(&narinfo, "Sig").is_some_and(|sig| sig.starts_with("test-1:")), "{narinfo}");
    }
    Ok(())
}

/// Generates a signing key; its file, and the key itself for filling a bucket.
fn secret(dir: &std::path::Path) -> Result<(larder_tests::nix::KeyPair, Vec<SecretKey>)> {
    let key = SecretKey::generate("test-1")?;
    let file = dir.join("key.sec");
    larder::config::key_files::write_secret_key(&key, &file)?;
    Ok((larder_tests::nix::KeyPair { secret_file: file, public: key.public_text() }, vec![key]))
}

#[test]
fn a_backfill_of_thousands_lists_by_pages_and_pushes_the_missing_paths() -> Result<()> {
    const PATHS: usize = 2000;
    const THERE: usize = 1900;
    if !Kind::MinIo.is_here() {
        return Ok(());
    }
    let server = Kind::MinIo.start_with_bucket(BUCKET)?;
    let store = SyntheticStore::start(PATHS)?;
    let mut larder = store.larder()?;
    let (key, keys) = secret(larder.dir())?;
    larder.use_keys(&[&key])?;
    larder.use_server(&*server, BUCKET)?;
    larder.run(&["init"])?;
    fill(&store, &*server, &larder, &keys, THERE)?;
    let proxy = Proxy::start(&server.endpoint())?;
    larder.use_server_at(&*server, &proxy.endpoint(), BUCKET)?;
    let input = store.paths().collect::<Vec<_>>().join("\n");
    let run = |flags: &[&str]| {
        let args = [&["push", "--stdin"], flags].concat();
        run_with_input(&mut larder.command(&args)?, input.as_bytes(), Duration::from_secs(120))?.ok()
    };
    let planned = run(&["--dry-run"])?;
    assert_eq!(planned.lines().len(), PATHS - THERE, "{}", planned.stderr);
    let log = proxy.log();
    let (_, pages) = questions(&log);
    assert!((2..=6).contains(&pages), "{pages} pages");
    // The sample, as many pages of NARs, and the beginning and the end of the session.
    assert!(log.len() - pages <= 16 + 6 + 10, "{} other requests", log.len() - pages);
    store.write_files(THERE..PATHS)?;
    let pushed = run(&["--json"])?;
    assert!(pushed.stdout.contains("\"present\":1900,\"pushed\":100"), "{}", pushed.stderr);
    let narinfos = server.client().list(BUCKET, "")?.into_iter().filter(|(key, _)| key.ends_with(".narinfo"));
    assert_eq!(narinfos.count(), PATHS);
    Ok(())
}

#[test]
fn every_protocol_version_carries_a_large_closure() -> Result<()> {
    for minor in [34, 35, 37, 38] {
        let store = SyntheticStore::speaking(500, minor)?;
        let directory = Directory::start()?;
        let mut larder = store.larder()?;
        larder.use_keys(&[&secret(larder.dir())?.0])?;
        larder.use_directory(directory.path())?;
        larder.set_string("public-url", &directory.public_base())?;
        larder.run(&["init"])?;
        let last = store.paths().next_back().unwrap_or_default();
        store.write_files(0..500)?;
        larder.run(&["push", &last])?;
        let all = larder.run(&["push", "--all", "--json"])?;
        assert!(all.stdout.contains("\"failed\":0"), "1.{minor}: {}", all.stderr);
        let narinfos = std::fs::read_dir(directory.path())?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".narinfo"));
        assert_eq!(narinfos.count(), 500, "1.{minor}");
    }
    Ok(())
}

/// Fills the bucket through the client of larder, which other tests compare with independent clients.
fn fill(
    store: &SyntheticStore,
    server: &dyn S3Server,
    larder: &larder_tests::larder::LarderHome,
    keys: &[SecretKey],
    count: usize,
) -> Result<()> {
    let address = format!("s3://{BUCKET}?endpoint={}&region={}", server.endpoint(), server.region());
    let options = Options { credentials_file: Some(larder.dir().join("credentials")), ..Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bucket = runtime.block_on(open(&address, &options))?;
    runtime.block_on(store.fill(&*bucket, keys, count))
}
