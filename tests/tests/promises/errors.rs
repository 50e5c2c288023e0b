//! Each mistake has a clear message and an exit code, and nothing is lost.

use anyhow::Result;
use larder_tests::nix::{samples, versions};
use larder_tests::servers::Directory;
use std::os::unix::fs::PermissionsExt;

use super::world::{Target, World, assert_said};

#[test]
fn wrong_credentials_are_named_and_jobs_stay_queued() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::single("credentials"))?;
    world.larder.use_credentials("AKAKAKAKAKAKAKAKAKAK", "PLANTEDSECRETPLANTEDSECRET")?;
    let flushed = world.larder.try_run(&["flush", "--wait"])?;
    assert_said(&flushed, 5, &["error:", "hint:", "secret key"]);
    assert!(!format!("{}{}", flushed.stdout, flushed.stderr).contains("PLANTEDSECRET"));
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 5, &["SignatureDoesNotMatch"]);
    assert_said(&world.larder.try_run(&["init"])?, 5, &["hint:"]);
    world.larder.use_credentials("NOSUCHKEYNOSUCHKEY00", "x")?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 5, &["hint:"]);
    assert_eq!(world.status()?["queued"]["jobs"], 1);
    let Target::Server(server) = &world.target else { return Ok(()) };
    world.larder.use_credentials(&server.access_key(), &server.secret_key())?;
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)
}

#[test]
fn without_credentials_the_message_names_the_ways_to_give_some() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.unset("credentials-file")?;
    let built = world.nix.build(&samples::single("none"))?;
    assert_said(
        &world.larder.try_run(&["push", &built[0]])?,
        5,
        &["credentials", "hint:", "AWS_ACCESS_KEY_ID"],
    );
    world.larder.set_string("credentials-file", "/nonexistent/file")?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 5, &["/nonexistent/file"]);
    Ok(())
}

#[test]
fn without_a_bucket_the_message_names_the_way_to_create_it() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("bucket"))?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    let endpoint = server.endpoint();
    world.larder.set_string("bucket", &format!("s3://absent?endpoint={endpoint}"))?;
    world.larder.set_string("public-url", &format!("{endpoint}/absent"))?;
    for command in [&["push", &built[0]][..], &["init"]] {
        assert_said(&world.larder.try_run(command)?, 7, &["hint:", "larder init --create"]);
    }
    let created = world.larder.run(&["init", "--create"])?;
    assert!(created.stderr.contains("ready"), "{}", created.stderr);
    world.larder.run(&["push", &built[0]])?;
    Ok(())
}

#[test]
fn a_bucket_without_init_is_told_from_one_with_init() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("ready"))?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    server.client().delete(super::world::BUCKET, "larder/format.json")?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 7, &["larder init"]);
    server.client().put(
        super::world::BUCKET,
        "larder/format.json",
        b"{\"version\":99,\"written_by\":\"x\"}",
    )?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 7, &["format 99"]);
    assert_said(&world.larder.try_run(&["init"])?, 7, &["format 99"]);
    Ok(())
}

#[test]
fn another_store_directory_is_refused() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    world.target.put("nix-cache-info", b"StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 5\n")?;
    let built = world.nix.build(&samples::single("other store"))?;
    for command in [&["push", &built[0]][..], &["init"]] {
        assert_said(&world.larder.try_run(command)?, 7, &["/gnu/store", "hint:"]);
    }
    Ok(())
}

#[test]
fn init_detects_credentials_that_may_not_list() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let Target::Server(server) = &world.target else { return Ok(()) };
    // The proxy answers ListBucket as S3 does for such credentials.
    let proxy = larder_tests::proxy::Proxy::start(&server.endpoint())?;
    proxy.set_fault(|record| {
        let listing = record.method == "GET" && record.query.contains("list-type=2");
        listing.then_some(larder_tests::proxy::Fault::Status(403))
    });
    world.larder.use_server_at(&**server, &proxy.endpoint(), super::world::BUCKET)?;
    assert_said(&world.larder.try_run(&["init"])?, 7, &["cannot list", "ListBucket"]);
    proxy.set_fault(|record| {
        let missing = record.path.ends_with("00000000000000000000000000000000.narinfo");
        missing.then_some(larder_tests::proxy::Fault::Status(403))
    });
    assert_said(&world.larder.try_run(&["init"])?, 7, &["ListBucket"]);
    Ok(())
}

#[test]
fn a_wrong_region_is_named() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let Target::Server(server) = &world.target else { return Ok(()) };
    let built = world.nix.build(&samples::single("region"))?;
    let bucket = format!("s3://{}?endpoint={}&region=eu-nowhere-7", super::world::BUCKET, server.endpoint());
    world.larder.set_string("bucket", &bucket)?;
    for command in [&["push", &built[0]][..], &["init"]] {
        assert_said(&world.larder.try_run(command)?, 7, &["region", "us-east-1"]);
    }
    Ok(())
}

#[test]
fn a_prefix_with_odd_characters_works() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("prefix"))?;
    let Target::Server(server) = &world.target else { return Ok(()) };
    for prefix in ["a%20b/c+d", "%C3%BCml%C3%A4ut", "x=y&z".replace('&', "%26").as_str(), "deep/er/still"] {
        let endpoint = server.endpoint();
        world
            .larder
            .set_string("bucket", &format!("s3://{}/{prefix}?endpoint={endpoint}", super::world::BUCKET))?;
        world.larder.unset("public-url")?;
        world.larder.run(&["init"])?;
        world.larder.run(&["push", &built[0]])?;
        let shown = world.larder.run(&["client"])?;
        let url = shown
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("extra-substituters = "))
            .unwrap_or_default();
        world.larder.run(&["client", "--check", &built[0]])?;
        world.nix.twin()?.substitute(&built, url, &world.key.public)?;
    }
    Ok(())
}

#[test]
fn malformed_and_world_readable_key_files_are_named() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("keys"))?;
    let file = world.larder.dir().join("bad.sec");
    for (text, word) in [
        ("", "colon"),
        ("name:PLANTED!!!", "base64"),
        (world.key.public.as_str(), "public key"),
        ("x:AAAA", "64 bytes"),
    ] {
        std::fs::write(&file, text)?;
        world.larder.set("signing-key-files", &format!("[{:?}]", file.display().to_string()))?;
        let output = world.larder.try_run(&["push", &built[0]])?;
        assert_said(&output, 4, &["bad.sec", word, "hint:"]);
        assert!(!output.stderr.contains("PLANTED"), "{}", output.stderr);
    }
    world.larder.set("signing-key-files", "[\"/nonexistent\"]")?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 4, &["/nonexistent", "larder key generate"]);
    world.larder.unset("signing-key-files")?;
    assert_said(&world.larder.try_run(&["push", &built[0]])?, 4, &["no signing key", "larder key generate"]);
    std::fs::set_permissions(&world.key.secret_file, std::fs::Permissions::from_mode(0o644))?;
    world.larder.use_keys(&[&world.key])?;
    let output = world.larder.run(&["push", &built[0]])?;
    assert!(output.stderr.contains("warning:") && output.stderr.contains("chmod 600"), "{}", output.stderr);
    Ok(())
}

#[test]
fn keys_that_larder_generates_are_nix_keys_and_are_never_replaced() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let file = world.larder.dir().join("made.sec");
    let name = file.display().to_string();
    let made = world.larder.run(&["key", "generate", "made-1", "--output", &name])?;
    let public = made.stdout.trim().to_owned();
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert_said(
        &world.larder.try_run(&["key", "generate", "made-1", "--output", &name])?,
        1,
        &["the file exists already", "hint:"],
    );
    let mut convert = world.nix.command("nix", &["key", "convert-secret-to-public"]);
    let by_nix = larder_tests::process::run_with_input(
        &mut convert,
        &std::fs::read(&file)?,
        std::time::Duration::from_secs(120),
    )?;
    assert_eq!(by_nix.ok()?.stdout.trim(), public);
    let built = world.nix.build(&samples::single("made"))?;
    let pair = larder_tests::nix::KeyPair { secret_file: file, public: public.clone() };
    world.larder.use_keys(&[&pair])?;
    world.larder.run(&["push", &built[0]])?;
    world.nix.twin()?.substitute(&built, &world.target.public_base().unwrap_or_default(), &public)
}

#[test]
fn configuration_mistakes_name_the_key_and_the_way_out() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.set("buckett", "'x'")?;
    assert_said(&world.larder.try_run(&["status"])?, 4, &["buckett", "did you mean `bucket`"]);
    world.larder.unset("buckett")?;
    world.larder.set("jobs", "'many'")?;
    assert_said(&world.larder.try_run(&["status"])?, 4, &["`jobs`", "whole number"]);
    world.larder.unset("jobs")?;
    world.larder.set_env("LARDER_COMPRESSION", "brotli");
    assert_said(&world.larder.try_run(&["config", "check"])?, 4, &["brotli", "zstd"]);
    world.larder.set_env("LARDER_COMPRESSION", "xz");
    world.larder.set_env("LARDER_JOB", "3");
    assert_said(&world.larder.try_run(&["config", "check"])?, 0, &["LARDER_JOB"]);
    let shown = world.larder.run(&["config", "check"])?.stdout;
    assert!(shown.contains("compression = \"xz\"  # LARDER_COMPRESSION"), "{shown}");
    assert!(!shown.contains(std::fs::read_to_string(&world.key.secret_file)?.trim()));
    assert_said(&world.larder.try_run(&["pusch"])?, 2, &["push"]);
    assert_said(&world.larder.try_run(&["push"])?, 2, &["no paths"]);
    world.larder.set_string("bucket", "s3://b?endpint=http://127.0.0.1:1")?;
    assert_said(&world.larder.try_run(&["config", "check"])?, 4, &["endpint", "`endpoint`"]);
    Ok(())
}

#[test]
fn arguments_that_are_no_store_paths_are_named() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    assert_said(&world.larder.try_run(&["push", "/etc/passwd"])?, 2, &["/etc/passwd"]);
    let absent = format!("{}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent", world.nix.store_dir().display());
    assert_said(&world.larder.try_run(&["push", &absent])?, 6, &["is not in the store"]);
    assert_said(&world.larder.try_run(&["retry", &absent])?, 1, &[]);
    Ok(())
}

#[test]
fn a_client_check_says_what_is_wrong() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("client"))?;
    let check = |args: &[&str]| world.larder.try_run(&[&["client", "--check"], args].concat());
    assert_said(&check(&[])?, 0, &["nix-cache-info is right"]);
    assert_said(&check(&[&built[0]])?, 7, &["404", "larder status"]);
    world.larder.run(&["push", &built[0]])?;
    assert_said(&check(&[&built[0]])?, 0, &["signed"]);
    let stranger = world.nix.key_pair("stranger-1")?;
    assert_said(
        &check(&["--public-key", &stranger.public, &built[0]])?,
        7,
        &["no signature by `stranger-1`", "test-1"],
    );
    assert_said(&check(&["--public-key", "x:AAAA"])?, 4, &["public key"]);
    assert_said(&check(&["--url", "http://127.0.0.1:9"])?, 7, &["refused"]);
    Ok(())
}

#[test]
fn a_path_that_is_nested_deeper_than_newer_nix_accepts_is_parked_with_the_place() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.install_hook(&mut world.nix)?;
        let deep = |levels: u32| {
            format!(
                r#"derivation {{ name = "deep"; system = builtins.currentSystem; builder = "/bin/sh";
                     PATH = "/usr/bin:/bin"; args = [ "-ec" ''
                       d=$out; for i in $(seq 1 {levels}); do d=$d/level-$i; done; mkdir -p $d; echo {version} > $d/file
                     '' ]; }}"#
            )
        };
        let accepted = world.nix.build(&deep(62))?;
        world.larder.run(&["flush", "--wait"])?;
        world.nix.twin()?.substitute(
            &accepted,
            &world.target.public_base().unwrap_or_default(),
            &world.key.public,
        )?;
        let built = world.nix.try_build(&deep(63))?;
        // Newer versions do not build such a path.
        if !built.status.success() {
            assert!(built.stderr.contains("depth"), "{version}: {}", built.stderr);
            continue;
        }
        let words = ["parked", "level-1/level-2/level-3/…/file", "64 levels", "Nix 2.34 and later refuse"];
        assert_said(&world.larder.try_run(&["flush", "--wait"])?, 3, &words);
        assert!(world.narinfo(&built.lines()[0])?.is_none());
    }
    Ok(())
}
