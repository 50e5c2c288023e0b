//! The modules evaluate, set their options, and refuse harmful configurations.
//!
//! They are evaluated with the small evaluator in `nix/tests/mini-lib.nix`, and where `NIXPKGS_LIB` has the path of
//! `lib` in nixpkgs, with that as well.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::nix::{NixVersion, versions};
use larder_tests::process::{Output, clean_command, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

/// A file of the project.
pub(crate) fn project(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// Evaluates strictly to JSON, with a home and a state directory of its own.
fn evaluate(version: NixVersion, args: &[&str]) -> Result<Output> {
    let dir = tempfile::tempdir()?;
    let mut command = clean_command(version.bin_dir().join("nix-instantiate"));
    command.env("HOME", dir.path()).env("NIX_STATE_DIR", dir.path()).env("NIX_CONF_DIR", dir.path());
    command.args(["--eval", "--strict", "--json", "--show-trace"]).args(args);
    run(&mut command, SOON)
}

/// All cases of `nix/tests/cases.nix`, by each available evaluator.
fn evaluated(version: NixVersion) -> Result<Vec<Value>> {
    let mut libs = vec!["null".to_owned()];
    match std::env::var("NIXPKGS_LIB") {
        Ok(path) if !path.is_empty() => libs.push(format!("\"{path}\"")),
        _ => larder_tests::need::skip(
            "the modules were evaluated by the tests' own evaluator alone: NIXPKGS_LIB is not set",
        ),
    }
    let file = project("nix/tests/evaluate.nix").display().to_string();
    libs.iter()
        .map(|lib| {
            let output = evaluate(version, &[&file, "--arg", "nixpkgsLib", lib])?.ok()?;
            let value: Value = serde_json::from_str(&output.stdout)?;
            eprintln!("evaluated by Nix {version} with {}", value["lib"]);
            Ok(value)
        })
        .collect()
}

/// The configuration of a case, by the small evaluator.
pub(crate) fn case(name: &str) -> Result<Option<Value>> {
    let Some(version) = versions().last().copied() else { return Ok(None) };
    let file = project("nix/tests/evaluate.nix").display().to_string();
    let output = evaluate(version, &[&file, "--arg", "nixpkgsLib", "null"])?.ok()?;
    let value: Value = serde_json::from_str(&output.stdout)?;
    Ok(Some(value["cases"][name]["config"].clone()))
}

/// A module in a file, by the small evaluator, under `document`.
pub(crate) fn evaluate_with(version: NixVersion, document: &str) -> Result<Value> {
    let file = project("nix/tests/evaluate.nix").display().to_string();
    let output = evaluate(version, &[&file, "--arg", "document", document])?.ok()?;
    Ok(serde_json::from_str(&output.stdout)?)
}

/// The text of the configuration of larder in a case: of the file, or of the derivation that checks the file.
pub(crate) fn config_text(source: &Value) -> String {
    let source = source.as_str().unwrap_or_default();
    let text = source.split_once("text:larder-config.toml:").map_or(source, |(_, text)| text);
    text.split(" config check").next().unwrap_or_default().to_owned()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Cases, JSON pointers into their configurations, and values.
const HOLDS: &[(&str, &str, &str)] = &[
    ("nothing", "/systemd/services", "{}"),
    ("nothing", "/nix/settings/substituters", "[]"),
    ("pushes", "/nix/settings/post-build-hook", "/package/bin/larder-hook"),
    ("pushes", "/nix/settings/extra-allowed-users", r#"["larder"]"#),
    // The default stays: every user is allowed.
    ("pushes", "/nix/settings/allowed-users", r#"["*"]"#),
    ("pushes", "/systemd/services/larder-agent/serviceConfig/Type", "notify"),
    ("pushes", "/systemd/services/larder-agent/unitConfig/StartLimitIntervalSec", "0"),
    ("pushes", "/systemd/paths/larder-agent/pathConfig/DirectoryNotEmpty", "/var/lib/larder/incoming"),
    ("pushes", "/systemd/services/larder-agent/serviceConfig/LoadCredential/0", "key-0:/etc/larder/key.sec"),
    ("pushes", "/systemd/timers/larder-catch-up/timerConfig/OnCalendar", "daily"),
    ("pushes", "/systemd/timers/larder-recheck/timerConfig/OnCalendar", "daily"),
    ("pushes", "/systemd/timers/larder-recheck/wantedBy", r#"["timers.target"]"#),
    (
        "pushes",
        "/systemd/services/larder-recheck/serviceConfig/LoadCredential/0",
        "key-0:/etc/larder/key.sec",
    ),
    ("pushes", "/systemd/services/larder-recheck/serviceConfig/ExecStart", "/package/bin/larder recheck"),
    ("pushes", "/users/users/larder/isSystemUser", "true"),
    ("directory", "/systemd/services/larder-agent/serviceConfig/Environment/1", "null"),
    ("pushes", "/systemd/timers/larder-collect", "null"),
    ("keeper", "/systemd/timers/larder-collect/timerConfig/OnCalendar", "weekly"),
    (
        "keeper",
        "/systemd/services/larder-collect/serviceConfig/ExecStart",
        "/package/bin/larder collect --yes",
    ),
    ("keeper", "/systemd/services/larder-verify/serviceConfig/CacheDirectory", "larder"),
    ("no-hook", "/nix/settings/post-build-hook", "/some/other-hook"),
    ("no-hook", "/systemd/services/larder-catch-up", "null"),
    ("no-hook", "/systemd/timers/larder-recheck", "null"),
    ("substitutes", "/nix/settings/substituters", r#"["http://cache.lan:8333/nix-cache"]"#),
    ("substitutes", "/nix/settings/fallback", "true"),
    ("substitutes", "/nix/settings/connect-timeout", "3"),
    ("substitutes", "/nix/extraOptions", ""),
    // A setting of the administrator has priority.
    ("first", "/nix/settings/connect-timeout", "7"),
    ("first", "/nix/settings/substituters/0", "s3://nix-cache?endpoint=http://cache.lan:8333&priority=10"),
    ("travels", "/nix/settings/substituters", "[]"),
    ("travels", "/nix/extraOptions", "!include /run/larder/substituters.conf\n"),
    ("relayed", "/nix/settings/substituters", r#"["http://127.0.0.1:8391/lan?priority=10"]"#),
    ("relayed", "/systemd/sockets/larder-relay/socketConfig/ListenStream", "127.0.0.1:8391"),
    (
        "relayed",
        "/systemd/services/larder-relay/serviceConfig/ExecStart",
        "/package/bin/larder relay --exit-when-idle 300 'lan=http://cache.lan:8333/nix%%20cache?x=y'",
    ),
    ("seaweedfs", "/networking/firewall/interfaces/eth0/allowedTCPPorts", "[8333]"),
    ("garage", "/garage/settings/replication_factor", "3"),
    ("garage", "/garage/settings/s3_web/bind_addr", "192.168.1.10:8334"),
    ("mac", "/nix/settings/post-build-hook", "/package/bin/larder-hook"),
    ("mac", "/launchd/daemons/larder-recheck/serviceConfig/ProgramArguments/1", "recheck"),
    ("user", "/systemd/user/timers/larder-recheck/Timer/OnCalendar", "daily"),
    ("mac", "/launchd/daemons/larder-agent/serviceConfig/HardResourceLimits/Core", "0"),
    ("relayed", "/systemd/services/larder-relay/serviceConfig/LimitCORE", "0"),
    ("user", "/systemd/user/services/larder-agent/Service/LimitCORE", "0"),
    ("user", "/systemd/user/services/larder-catch-up/Service/LimitCORE", "0"),
    ("user", "/systemd/user/services/larder-recheck/Service/LimitCORE", "0"),
    (
        "mac",
        "/launchd/daemons/larder-agent/serviceConfig/QueueDirectories",
        r#"["/var/lib/larder/incoming"]"#,
    ),
    (
        "user",
        "/systemd/user/paths/larder-agent/Path/DirectoryNotEmpty",
        "/home/u/.local/state/larder/incoming",
    ),
];

/// Cases that are refused, and words of their messages.
const REFUSED: &[(&str, &[&str])] = &[
    ("no-bucket", &["settings.bucket is not set", "s3://"]),
    ("no-key", &["signingKeyFiles is empty", "larder key generate"]),
    ("key-in-store", &["signingKeyFiles", "store", "only root reads"]),
    ("credentials-in-store", &["credentialsFile", "store"]),
    ("other-state-dir", &["state-dir", "mount"]),
    ("bad-upstream-key", &["unusable public keys", "`nonsense…`"]),
    ("no-nix", &["nix.enable"]),
    ("relayed-and-guarded", &["relay.enable and guard.enable", "one of them"]),
    ("relayed-by-a-bad-name", &["part of a URL"]),
    ("relayed-from-s3", &["relay.enable = false"]),
    ("other-hook", &["/some/other-hook", "chainedHook", "installHook = false"]),
    ("other-hook-in-text", &["nix.extraOptions", "chainedHook"]),
    ("bad-key", &["`cache.lan-1:…`", "32 bytes"]),
    ("two-values", &["two different public keys are named `cache.lan-1`"]),
    ("bad-url", &["`cache.lan:8333/nix-cache` is no URL"]),
    ("no-public-key", &["publicKeys"]),
    ("mac-without-bucket", &["settings.bucket is not set"]),
];

#[test]
fn every_case_has_its_configuration_or_its_error_message() -> Result<()> {
    for version in versions() {
        for all in evaluated(version)? {
            let by = format!("Nix {version}, {}", all["lib"]);
            for (case, pointer, expected) in HOLDS {
                let config = &all["cases"][case]["config"];
                ensure!(config.is_object(), "{by}: `{case}` was refused: {}", all["cases"][case]["failed"]);
                let found = config.pointer(pointer).map_or_else(|| "null".to_owned(), text);
                assert_eq!(found, *expected, "{by}: {case}{pointer}");
            }
            for (case, words) in REFUSED {
                let failed = all["cases"][case]["failed"].as_array().cloned().unwrap_or_default();
                assert_eq!(failed.len(), 1, "{by}: {case}: {failed:?}");
                let message = text(&failed[0]);
                for word in *words {
                    assert!(message.contains(word), "{by}: {case}: no `{word}` in: {message}");
                }
            }
            let named = HOLDS.iter().map(|(case, ..)| *case).chain(REFUSED.iter().map(|(case, _)| *case));
            let named: std::collections::BTreeSet<_> = named.chain(["chained"]).collect();
            for case in all["cases"].as_object().context("no cases")?.keys() {
                assert!(named.contains(case.as_str()), "no test looks at the case `{case}`");
            }
            let hook = text(&all["cases"]["chained"]["config"]["nix"]["settings"]["post-build-hook"]);
            assert!(
                hook.contains("exec /package/bin/larder-hook --then '/run/current-system/sw/bin/my hook'"),
                "{by}: {hook}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_modules_accept_and_refuse_keys_and_urls_as_the_table_says() -> Result<()> {
    for version in versions() {
        for all in evaluated(version)? {
            for (index, faults) in all["keys"]["good"].as_array().context("no table")?.iter().enumerate() {
                assert_eq!(faults.as_array().map(Vec::len), Some(0), "good keys {index}: {faults}");
            }
            for case in all["keys"]["bad"].as_array().context("no table")? {
                let says = case["says"].as_str().unwrap_or_default();
                let faults = case["faults"].as_array().cloned().unwrap_or_default();
                assert!(faults.len() == 1 && text(&faults[0]).contains(says), "{case}");
                // A message must not have a secret key.
                assert!(!text(&faults[0]).contains("AAAAAAAAAA"), "{case}");
            }
            for fault in all["urls"]["good"].as_array().context("no table")? {
                assert!(fault.is_null(), "{fault}");
            }
            for case in all["urls"]["bad"].as_array().context("no table")? {
                let says = case["says"].as_str().unwrap_or_default();
                assert!(text(&case["fault"]).contains(says), "{case}");
            }
        }
    }
    Ok(())
}

#[test]
fn larder_accepts_the_generated_configuration() -> Result<()> {
    for (case_name, pointer) in [
        ("pushes", "/environment/etc/larder~1config.toml/source"),
        ("directory", "/environment/etc/larder~1config.toml/source"),
        ("mac", "/environment/etc/larder~1config.toml/source"),
        ("user", "/xdg/configFile/larder~1config.toml/source"),
    ] {
        let Some(config) = case(case_name)? else { return Ok(()) };
        let source = config.pointer(pointer).context("no configuration")?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("config.toml");
        let check = |text: &str| -> Result<Output> {
            std::fs::write(&file, text)?;
            let mut command = clean_command(binary("larder")?);
            command.arg("--config").arg(&file).args(["config", "check", "--values-only"]);
            run(&mut command, SOON)
        };
        let text = config_text(source);
        let shown = check(&text)?.ok()?.stdout;
        assert!(shown.contains(r#"signing-key-files = ["/etc/larder/key.sec"]"#), "{case_name}: {shown}");
        // The build refuses a mistyped key and a value of the wrong kind.
        let refused = check(&format!("{text}max-nar-sise = \"1 GiB\"\n"))?;
        assert_eq!(refused.code(), 4, "{}", refused.stderr);
        assert!(refused.stderr.contains("max-nar-size"), "no remedy: {}", refused.stderr);
        assert_eq!(check(&format!("{text}priority = \"high\"\n"))?.code(), 4);
    }
    Ok(())
}

#[test]
fn flake_package_and_virtual_machines_evaluate_with_stubs() -> Result<()> {
    let file = project("nix/tests/outputs.nix").display().to_string();
    for version in versions() {
        let output = evaluate(version, &[&file])?.ok()?;
        let value: Value = serde_json::from_str(&output.stdout)?;
        let systems = ["aarch64-darwin", "aarch64-linux", "x86_64-darwin", "x86_64-linux"];
        for output in ["packages", "checks", "devShells", "formatter"] {
            let found: Vec<_> =
                value["flake"][output].as_object().context("no systems")?.keys().cloned().collect();
            assert_eq!(found, systems, "{output}");
        }
        assert_eq!(text(&value["flake"]["nixosModules"]), r#"["bucket","client","default","larder"]"#);
        assert_eq!(value["package"]["pname"], "larder");
        assert_eq!(value["package"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(value["package"]["mainProgram"], "larder");
        assert_eq!(value["package"]["missing"], serde_json::json!([]), "files that the package names");
        assert_eq!(value["machines"]["nodes"], serde_json::json!(["bucket", "builder", "other"]));
        // The script of the virtual machines is Python.
        let script = text(&value["machines"]["script"]);
        let mut python = clean_command("python3");
        python.args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &script]);
        match run(&mut python, SOON) {
            Ok(output) => drop(output.ok()?),
            Err(_) => larder_tests::need::skip("no python3 to parse the machines' script with"),
        }
    }
    Ok(())
}
