//! A machine that uses caches: the check of its configuration, the guard, and the steps for removing a cache.

use anyhow::{Context, Result};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, samples, versions};
use larder_tests::process::{Output, clean_command, run};
use larder_tests::servers::Directory;
use std::path::Path;
use std::time::Duration;

use super::modules::project;

const SOON: Duration = Duration::from_secs(120);
const KEY: &str = "cache.lan-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Runs `larder client …` with the `nix.conf` of a directory, without a configuration of larder.
fn client(dir: &Path, args: &[&str]) -> Result<Output> {
    let mut command = clean_command(binary("larder")?);
    command.env("NIX_CONF_DIR", dir).env("HOME", dir).env("LARDER_CONFIG", "/dev/null");
    command.arg("client").args(args);
    run(&mut command, SOON)
}

#[test]
fn a_mistyped_key_is_named_with_its_line() -> Result<()> {
    let table = std::fs::read_to_string(project("nix/tests/keys.json"))?;
    let table: serde_json::Value = serde_json::from_str(&table)?;
    let dir = tempfile::tempdir()?;
    let mut tried = 0;
    for case in table["bad"].as_array().context("no table")? {
        let keys: Vec<_> =
            case["keys"].as_array().into_iter().flatten().filter_map(|key| key.as_str()).collect();
        // A list of words cannot have these as words.
        if keys.iter().any(|key| key.is_empty() || key.contains(' ')) {
            continue;
        }
        let conf = "# one\nsubstituters =\n!include keys.conf\nfallback = true\n";
        std::fs::write(dir.path().join("nix.conf"), conf)?;
        std::fs::write(
            dir.path().join("keys.conf"),
            format!("extra-trusted-public-keys = {}\n", keys.join(" ")),
        )?;
        let output = client(dir.path(), &["--check"])?;
        let says = case["says"].as_str().unwrap_or_default();
        assert_eq!(output.code(), 4, "{case}: {}", output.stderr);
        assert!(
            output.stderr.contains(says) && output.stderr.contains("keys.conf:1"),
            "{case}: {}",
            output.stderr
        );
        assert!(!output.stderr.contains("AAAAAAAAAA"), "a secret key is shown");
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
    Ok(())
}

#[test]
fn the_configuration_of_a_machine_is_checked_and_the_steps_of_removal_are_printed() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let nix = NixHome::new(version)?;
    let server = Directory::start()?;
    let mut larder = LarderHome::new(&nix)?;
    larder.use_keys(&[&nix.key_pair("test-1")?])?;
    larder.use_directory(server.path())?;
    larder.run(&["init"])?;
    let url = server.public_base();
    let dir = tempfile::tempdir()?;
    let write = |text: &str| std::fs::write(dir.path().join("nix.conf"), text);
    let store = nix.store_dir().display().to_string();
    let check = |larder: &LarderHome| {
        let mut command = larder.command(&["client", "--check"])?;
        command
            .env("NIX_CONF_DIR", dir.path())
            .env("LARDER_CONFIG", "/dev/null")
            .env("LARDER_STORE_DIR", &store);
        run(&mut command, SOON)
    };
    write(&format!("substituters = {url}?priority=10\ntrusted-public-keys = {KEY}\n"))?;
    let output = check(&larder)?.ok()?;
    for words in ["`fallback` is not set", "`connect-timeout` is not set", "nix-cache-info is right"] {
        assert!(output.stderr.contains(words), "no `{words}` in: {}", output.stderr);
    }
    write(&format!(
        "substituters = {url}\ntrusted-public-keys = {KEY}\nfallback = true\nconnect-timeout = 3\n"
    ))?;
    assert!(!check(&larder)?.ok()?.stderr.contains("not set"));
    write("substituters = http://127.0.0.1:9 cache.lan:8333\nfallback = true\nconnect-timeout = 3\n")?;
    let output = check(&larder)?;
    assert!(output.code() == 4 && output.stderr.contains("`cache.lan:8333` is no URL"), "{}", output.stderr);
    write("substituters = http://127.0.0.1:9\nfallback = true\nconnect-timeout = 3\n")?;
    let output = check(&larder)?;
    assert!(output.code() == 3 && output.stderr.contains("127.0.0.1:9"), "{}", output.stderr);

    write(&format!(
        "max-jobs = 1\nextra-substituters = {url}/ https://other\ntrusted-public-keys = {KEY}\n"
    ))?;
    let steps = client(dir.path(), &["--remove", "--url", &url])?.ok()?.stdout;
    let at = |words: &str| steps.find(words).with_context(|| format!("no `{words}` in: {steps}"));
    let order = [
        at("nix.conf:2")?,
        at("systemctl restart nix-daemon")?,
        at("nix.conf:3")?,
        at("binary-cache-v*")?,
        at("switch the bucket off")?,
    ];
    assert!(order.is_sorted(), "{steps}");
    let unknown = client(dir.path(), &["--remove", "--url", "http://unknown"])?.ok()?.stdout;
    assert!(unknown.contains("is not in"), "{unknown}");
    Ok(())
}

#[test]
fn the_guard_lists_only_reachable_caches() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let server = Directory::start()?;
        let key = nix.key_pair("guard-1")?;
        let mut larder = LarderHome::new(&nix)?;
        larder.use_keys(&[&key])?;
        larder.use_directory(server.path())?;
        larder.run(&["init"])?;
        let built = nix.build(&samples::single("guarded"))?;
        larder.run(&["push", &built[0]])?;
        nix.retire()?;
        nix.set_conf("trusted-public-keys", &key.public)?;
        nix.set_conf("fallback", "true")?;
        let fragment = nix.conf_dir().join("substituters.conf");
        let conf = nix.conf_dir().join("nix.conf");
        let text = std::fs::read_to_string(&conf)?.replace("substituters = \n", "")
            + "substituters =\n!include substituters.conf\n";
        std::fs::write(&conf, text)?;

        let (url, away) = (server.public_base(), "http://127.0.0.1:9/none");
        let guard = |url: &str| -> Result<String> {
            let [file, verdict] =
                [&fragment, &nix.dir().join("verdict")].map(|file| file.display().to_string());
            let urls = ["--url", url, "--url", away];
            let probe = client(nix.dir(), &[&["--probe", &verdict], &urls[..]].concat())?.ok()?;
            let guard = ["--guard", &file, "--verdict", &verdict];
            let guard = client(nix.dir(), &[&guard[..], &urls].concat())?.ok()?;
            Ok(probe.stderr + &guard.stderr)
        };
        let substituted =
            || Ok::<_, anyhow::Error>(nix.nix_store(&["-r", "--max-jobs", "0", &built[0]])?.status.success());
        assert!(!substituted()?, "{version}: without the fragment there is no cache");
        let said = guard(&url)?;
        assert!(said.contains("1 of 2 caches") && said.contains("127.0.0.1:9"), "{said}");
        assert_eq!(std::fs::read_to_string(&fragment)?, format!("extra-substituters = {url}\n"));
        let before = std::fs::metadata(&fragment)?.modified()?;
        guard(&url)?;
        assert_eq!(std::fs::metadata(&fragment)?.modified()?, before, "written although nothing changed");
        assert!(substituted()?, "{version}: the fragment is not read");
        // The cache is gone: the fragment names no cache, and Nix asks none.
        drop(server);
        guard(&url)?;
        assert_eq!(std::fs::read_to_string(&fragment)?, "# No cache can be reached.\n");
        let output = nix.try_build(&samples::single("away"))?.ok()?;
        assert!(!output.stderr.contains("127.0.0.1"), "{version}: {}", output.stderr);
    }
    Ok(())
}

#[test]
fn the_guard_takes_two_words_from_the_probe_and_asks_no_cache() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [file, verdict] = ["fragment", "verdict"].map(|name| dir.path().join(name).display().to_string());
    // A cache that would be noticed if the guard asked it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}", listener.local_addr()?);
    let guard = || client(dir.path(), &["--guard", &file, "--verdict", &verdict, "--url", &url]);
    assert_eq!(guard()?.code(), 1, "without a verdict");
    for (text, taken) in [
        ("reachable\n", true),
        ("extra-substituters = http://evil\n", false),
        ("reachable\nreachable\n", false),
        ("reachable", false),
        ("unreachable\n", true),
    ] {
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&verdict, text)?;
        let output = guard()?;
        assert_eq!(output.code() == 0, taken, "{text:?}: {}", output.stderr);
        let after = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(before != after, taken, "{text:?}: {after}");
        assert!(!after.contains("evil"), "{after}");
    }
    let asked = listener.accept().map_err(|error| error.kind()).err();
    assert_eq!(asked, Some(std::io::ErrorKind::WouldBlock), "the guard asked the cache");
    // A probe that ends without a verdict leaves no earlier verdict.
    let probe = client(dir.path(), &["--probe", &verdict, "--url", "http://127.0.0.1:9"])?.ok()?;
    assert!(probe.stderr.contains("cannot be reached"), "{}", probe.stderr);
    assert_eq!(std::fs::read_to_string(&verdict)?, "unreachable\n");
    Ok(())
}

#[test]
fn a_url_that_does_not_serve_the_bucket_or_other_machines_is_named() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let nix = NixHome::new(version)?;
    let server = Directory::start()?;
    let mut larder = LarderHome::new(&nix)?;
    larder.use_keys(&[&nix.key_pair("test-1")?])?;
    let bucket = server.path().join("team/caches");
    std::fs::create_dir_all(&bucket)?;
    larder.use_directory(&bucket)?;
    let right = format!("{}/team/caches", server.public_base());
    larder.set_string("public-url", &right)?;
    larder.set_env("NIX_CONF_DIR", "/nonexistent");
    let init = larder.run(&["init"])?.stderr;
    let shown = larder.run(&["client"])?;
    for said in [&init, &shown.stderr] {
        assert!(said.contains("works only on this machine") && said.contains("public-url"), "{said}");
    }
    assert!(shown.stdout.contains(&right), "{}", shown.stdout);
    larder.run(&["client", "--check"])?;
    let base = server.public_base();
    for (wrong, says) in [
        (base.clone(), "`public-url` lacks the prefix `team/caches`"),
        (format!("{base}/team"), "`public-url` lacks the prefix `caches`"),
        (format!("{base}/team/other"), "a cache is at"),
    ] {
        larder.set_string("public-url", &wrong)?;
        for (args, code) in [(&["init"][..], 3), (&["client", "--check"], 7)] {
            let output = larder.try_run(args)?;
            let hint = format!("set `public-url` to `{right}`");
            assert_eq!(output.code(), code, "{args:?}: {}", output.stderr);
            assert!(output.stderr.contains(says) && output.stderr.contains(&hint), "{}", output.stderr);
            assert!(!output.stderr.contains("policy"), "{}", output.stderr);
        }
    }
    let url = ["client", "--public-key", KEY, "--url"];
    let plain = larder.run(&[&url[..], &["http://cache.lan:8333/c"]].concat())?.stderr;
    assert!(plain.contains("is not encrypted"), "{plain}");
    let tls = larder.run(&[&url[..], &["https://cache.lan/c"]].concat())?.stderr;
    assert!(!tls.contains("warning"), "{tls}");
    Ok(())
}

#[test]
fn the_user_of_the_agent_is_added_to_allowed_users() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if larder_tests::need::need(larder_tests::need::Requirement::Root).is_none() {
        return Ok(());
    }
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let mut larder = LarderHome::new(&nix)?;
        for dir in [nix.dir(), larder.dir(), &nix.dir().join("home")] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        }
        larder.run(&["queue", "create", "--owner", "65534:65534"])?;
        let built = nix.build(&samples::single("seen by another"))?.remove(0);
        // The first as an administrator may set it, the second as the module and `larder setup` do.
        for (extra, lets_in) in [(None, false), (Some("nobody"), true)] {
            nix.set_conf("allowed-users", "root")?;
            if let Some(user) = extra {
                nix.set_conf("extra-allowed-users", user)?;
            }
            nix.start_daemon()?;
            larder.follow(&nix)?;
            let catch_up = larder.command(&["catch-up", "--all", "--dry-run"])?;
            let mut command = clean_command("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            command.arg(catch_up.get_program()).args(catch_up.get_args());
            command.envs(catch_up.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let output = run(&mut command, SOON)?;
            assert_eq!(output.status.success(), lets_in, "{version}: {}", output.stderr);
            assert_eq!(output.stdout.contains(&built), lets_in, "{version}: {}", output.stdout);
        }
    }
    Ok(())
}
