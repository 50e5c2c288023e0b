//! The units that the NixOS module renders, checked by systemd.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::process::{clean_command, run};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::modules::case;

const SOON: Duration = Duration::from_secs(120);
/// The highest exposure level that `systemd-analyze security` may find in a unit.
const EXPOSURE: f64 = 1.5;

fn lines(section: &str, values: &Map<String, Value>) -> String {
    let mut text = format!("[{section}]\n");
    for (name, value) in values {
        let list = match value {
            Value::Array(list) => list.clone(),
            other => vec![other.clone()],
        };
        for one in list {
            let value = one.as_str().map_or_else(|| one.to_string(), str::to_owned);
            text += &format!("{name}={value}\n");
        }
    }
    text
}

/// Writes the units of a case as NixOS does, with the programs of this build; returns their paths.
pub(crate) fn render(name: &str, dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    let Some(config) = case(name)? else { return Ok(None) };
    let bin = binary("larder")?.parent().context("no directory")?.display().to_string();
    let mut files = Vec::new();
    for (kind, suffix, section) in [
        ("services", "service", "Service"),
        ("paths", "path", "Path"),
        ("timers", "timer", "Timer"),
        ("sockets", "socket", "Socket"),
    ] {
        for (unit, body) in config["systemd"][kind].as_object().context("no units")? {
            let key = format!("{}Config", section.to_lowercase());
            let part = |name: &str| body[name].as_object().cloned().unwrap_or_default();
            let text = lines("Unit", &part("unitConfig")) + &lines(section, &part(&key));
            let file = dir.join(format!("{unit}.{suffix}"));
            std::fs::write(&file, text.replace("/package/bin", &bin))?;
            files.push(file);
        }
    }
    Ok(Some(files))
}

fn analyze() -> Option<&'static str> {
    let found = Path::new("/usr/bin/systemd-analyze").exists();
    if !found {
        larder_tests::need::skip("no systemd-analyze here");
    }
    found.then_some("/usr/bin/systemd-analyze")
}

/// Checks that systemd reports nothing about the units, and rates the services as confined.
pub(crate) fn verify_and_judge(files: &[PathBuf]) -> Result<()> {
    let Some(analyze) = analyze() else { return Ok(()) };
    let mut verify = clean_command(analyze);
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).args(files);
    let output = run(&mut verify, SOON)?.ok()?;
    assert_eq!(output.stderr, "", "systemd reports something");
    for file in files.iter().filter(|file| file.extension().is_some_and(|suffix| suffix == "service")) {
        let mut security = clean_command(analyze);
        security.args(["security", "--offline=true", "--no-pager"]).arg(file);
        let output = run(&mut security, SOON)?.ok()?;
        let exposure = output
            .stdout
            .lines()
            .find_map(|line| line.split_once("exposure level for ")?.1.split_whitespace().nth(1))
            .with_context(|| format!("no exposure in: {}", output.stdout))?
            .parse::<f64>()?;
        assert!(exposure <= EXPOSURE, "{}: {exposure}\n{}", file.display(), output.stdout);
        eprintln!("{}: {exposure}", file.display());
    }
    Ok(())
}

#[test]
fn systemd_accepts_the_module_units_and_rates_them_confined() -> Result<()> {
    for (name, count) in [("pushes", 8), ("directory", 8), ("relayed", 2), ("travels", 3)] {
        let dir = tempfile::tempdir()?;
        let Some(files) = render(name, dir.path())? else { return Ok(()) };
        ensure!(files.len() >= count, "units are missing: {files:?}");
        verify_and_judge(&files)?;
    }
    Ok(())
}

#[test]
fn an_unknown_setting_in_a_unit_is_detected() -> Result<()> {
    let Some(analyze) = analyze() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("wrong.service");
    std::fs::write(&file, "[Service]\nExecStart=/bin/true\nProtectSystemm=strict\n")?;
    let mut verify = clean_command(analyze);
    verify.args(["verify", "--man=no"]).arg(&file);
    assert!(run(&mut verify, SOON)?.stderr.contains("ProtectSystemm"));
    Ok(())
}
