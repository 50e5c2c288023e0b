//! The command line as a user sees it.

use anyhow::Result;
use larder_tests::larder::LarderHome;
use larder_tests::nix::samples;

use super::world::{World, assert_said};

/// Files with mistakes, each with the key that names it and what the message says.
const WRONG_FILES: [(&str, &str, &str); 7] = [
    ("credentials-file", "", "credentials file"),
    ("credentials-file", "AWS_ACCESS_KEY_ID=AKPLANTED", "no secret key"),
    ("credentials-file", "[other]\n[more]\n", "no section `[default]`"),
    ("ca-file", "", "no certificate"),
    ("ca-file", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "CA file"),
    ("signing-key-files", "", "colon"),
    ("signing-key-files", "name:PLANTED!!!", "base64"),
];

#[test]
fn the_check_of_the_configuration_finds_mistakes_in_files_and_sends_nothing() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let directory = world.target.public_base().unwrap_or_default();
    let file = world.larder.dir().join("wrong");
    let name = file.display().to_string();
    // Nothing listens at this endpoint.
    world.larder.set_string("bucket", "s3://cache?endpoint=http://127.0.0.1:9")?;
    world.larder.use_credentials("AKAKAKAKAKAKAKAKAKAK", "PLANTEDSECRETPLANTEDSECRET")?;
    world.larder.run(&["config", "check"])?;
    let set = |larder: &LarderHome, key: &str, value: &str| {
        larder.try_run(&["--set", &format!("{key}={value}"), "config", "check"])
    };
    for (key, text, word) in WRONG_FILES {
        std::fs::write(&file, text)?;
        let output = set(&world.larder, key, &name)?;
        assert_said(&output, 4, &[&name, word]);
        assert!(!output.stderr.contains("PLANTED"), "{}", output.stderr);
        let elsewhere = world.larder.dir().display().to_string();
        for other in ["/nonexistent/file", &elsewhere] {
            assert_said(&set(&world.larder, key, other)?, 4, &[other]);
        }
        let values = format!("{key}={name}");
        world.larder.run(&["--set", &values, "config", "check", "--values-only"])?;
    }
    assert_said(&set(&world.larder, "public-url", "cache.example.org")?, 4, &["`public-url`"]);
    assert_said(&set(&world.larder, "bucket", &directory)?, 4, &[]);

    // A check names all mistakes, also with a directory, which needs no credentials.
    for bucket in ["s3://cache?endpoint=http://127.0.0.1:9", "file:///srv/cache"] {
        world.larder.set_string("bucket", bucket)?;
        world.larder.set_string("credentials-file", "/nonexistent/first")?;
        world.larder.set("signing-key-files", "[\"/nonexistent/second\"]")?;
        let output = set(&world.larder, "ca-file", "/nonexistent/third")?;
        assert_said(&output, 4, &["nonexistent/first", "nonexistent/second", "nonexistent/third"]);
        assert_eq!(output.stderr.matches("error:").count(), 3, "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn values_and_errors_name_the_flag_that_the_user_gave() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let key = format!("signing-key-files={}", world.key.secret_file.display());
    let shown = world.larder.run(&["--set", &key, "--state-dir", "/x", "config", "check"])?;
    assert!(shown.stdout.contains("# --set signing-key-files"), "{}", shown.stdout);
    assert!(shown.stdout.contains("state-dir = \"/x\"  # --state-dir"), "{}", shown.stdout);
    let wrong = world.larder.try_run(&["--set", "jobs=many", "status"])?;
    assert_said(&wrong, 4, &["`--set jobs`", "the value is a whole number, for example `4`"]);
    assert_said(&world.larder.try_run(&["--set", "=4", "status"])?, 2, &["KEY=VALUE"]);
    Ok(())
}

#[test]
fn a_relative_directory_of_the_queue_keeps_its_paths_from_garbage_collection() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("relative"))?.remove(0);
    world.larder.run(&["--state-dir", "queue", "catch-up", "--all"])?;
    assert!(world.larder.dir().join("queue/incoming").is_dir());
    world.nix.gc()?;
    assert!(world.nix.is_valid(&built));
    Ok(())
}

#[test]
fn a_wrong_number_of_seconds_is_told_in_plain_words() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    for args in [
        &["agent", "--drain", "soon"][..],
        &["flush", "--wait", "--timeout", "1.5"],
        &["relay", "--exit-when-idle", "-", "a=http://127.0.0.1:9"],
    ] {
        assert_said(&world.larder.try_run(args)?, 2, &["a whole number of seconds"]);
    }
    Ok(())
}

#[test]
fn counts_have_their_nouns_in_the_right_number() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    world.larder.run(&["queue", "create"])?;
    world.nix.build(&samples::single("one"))?;
    assert_said(&world.larder.try_run(&["catch-up", "--all", "-n"])?, 0, &["would queue 1 path\n"]);
    assert_said(&world.larder.try_run(&["catch-up", "--all"])?, 0, &["queued 1 path;"]);
    let late = world.larder.try_run(&["flush", "--wait", "--timeout", "0"])?;
    assert_said(&late, 1, &["1 queued build not pushed in time"]);
    world.larder.run(&["flush", "--wait"])?;
    let status = world.larder.run(&["status"])?.stdout;
    assert!(status.contains("1 path so far"), "{status}");
    Ok(())
}
