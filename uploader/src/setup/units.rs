//! systemd's units. `nix/units.json` has them for this module and for the NixOS module.

use serde_json::{Map, Value};

use super::change::Tree;
use super::paths::{AGENT_UNIT, CATCH_UP_UNIT, COLLECT_UNIT, RECHECK_UNIT, SOCKET_DIR, VERIFY_UNIT};
use crate::base::error::Result;
use crate::config::Config;
use crate::config::config_keys::{BUCKET, CREDENTIALS_FILE, SIGNING_KEY_FILES};

/// The names and texts of all units, which run the programs in the directory `bin`. `service_lines` are pairs of a
/// unit's name and a line for its `[Service]` section.
pub(super) fn render(bin: &str, service_lines: &[(&str, String)]) -> Vec<(String, String)> {
    let file = units_file();
    let (sandbox, units) = (object(&file["sandbox"]), object(&file["units"]));
    let text = |name: &str, body: &Value| {
        let mut text =
            String::from("# Made by `larder setup`, which replaces it; changes go to a drop-in.\n");
        for section in ["Unit", "Service", "Path", "Timer", "Install"] {
            let Some(own) = body[section].as_object() else { continue };
            text += &format!("\n[{section}]\n");
            let is_service = section == "Service";
            let mut settings = if is_service { sandbox.clone() } else { Map::new() };
            settings.extend(own.clone());
            text += &settings.iter().map(|(key, value)| lines(key, value, bin)).collect::<String>();
            let more = service_lines.iter().filter(|(unit, _)| is_service && *unit == name);
            more.for_each(|(_, line)| text += &format!("{line}\n"));
        }
        text
    };
    units.iter().map(|(name, body)| (name.clone(), text(name, body))).collect()
}

/// The lines of a setting: one line for each value.
fn lines(key: &str, value: &Value, bin: &str) -> String {
    let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let text = |value: &Value| value.as_str().unwrap_or_default().replace("@bin@", bin);
    values.iter().map(|value| format!("{key}={}\n", text(value))).collect()
}

/// The target that wants a unit. An optional unit is installed, and a person enables it on the one machine that looks after the
/// bucket.
pub(super) fn wanted_by(name: &str) -> Option<String> {
    let unit = &units_file()["units"][name];
    let target = unit["Install"]["WantedBy"].as_str().map(str::to_owned);
    target.filter(|_| unit["optional"] != true)
}

fn units_file() -> Value {
    serde_json::from_str(include_str!("../../../nix/units.json")).unwrap_or_default()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// The lines for `[Service]` sections that depend on the machine and the configuration, each with the unit's name.
///
/// systemd passes the secrets to the services that need them, so only root needs to read their files. If only a group may
/// reach Nix's daemon, as on Debian, the services get that group.
pub(super) fn service_lines(tree: &Tree, config: &Config) -> Result<Vec<(&'static str, String)>> {
    let keys = config.get(SIGNING_KEY_FILES);
    let load = |(index, file)| format!("LoadCredential=key-{index}:{file}");
    let mut secrets: Vec<_> = keys.iter().enumerate().map(load).collect();
    let names: Vec<_> = (0..keys.len()).map(|index| format!("%d/key-{index}")).collect();
    secrets.push(format!("Environment=\"LARDER_SIGNING_KEY_FILES={}\"", names.join(" ")));
    if let Some(file) = config.get(CREDENTIALS_FILE) {
        secrets.push(format!("LoadCredential=credentials:{}", file.display()));
        secrets.push("Environment=LARDER_CREDENTIALS_FILE=%d/credentials".into());
    }
    let with_secrets = [AGENT_UNIT, RECHECK_UNIT, VERIFY_UNIT, COLLECT_UNIT];
    let mut lines: Vec<_> = with_secrets
        .into_iter()
        .flat_map(|unit| secrets.iter().map(move |line| (unit, line.clone())))
        .collect();
    let bucket = config.get(BUCKET);
    if let Some(directory) = bucket.as_deref().and_then(|bucket| bucket.strip_prefix("file://")) {
        let directory = directory.split('?').next().unwrap_or_default();
        lines.extend([AGENT_UNIT, COLLECT_UNIT].map(|unit| (unit, format!("ReadWritePaths={directory}"))));
    }
    if let Some(group) = tree.exclusive_group(SOCKET_DIR)? {
        let services = [AGENT_UNIT, CATCH_UP_UNIT, RECHECK_UNIT, VERIFY_UNIT];
        lines.extend(services.map(|unit| (unit, format!("SupplementaryGroups={group}"))));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_programs_sandbox_and_lines_of_the_machine() {
        let units = render("/opt/bin", &[("larder-agent.service", "LoadCredential=key-0:/k".into())]);
        assert_eq!(units.len(), 12);
        let agent = &units.iter().find(|(name, _)| name == "larder-agent.service").unwrap().1;
        for line in [
            "ExecStart=/opt/bin/larder agent --exit-when-idle",
            "LoadCredential=key-0:/k",
            "ProtectSystem=strict",
            "ConditionDirectoryNotEmpty=|/var/lib/larder/work",
            "WantedBy=multi-user.target",
        ] {
            assert!(agent.lines().any(|other| other == line), "no `{line}` in\n{agent}");
        }
        for (name, text) in units.iter().filter(|(name, _)| name.ends_with(".service")) {
            assert!(text.contains("\nLimitCORE=0\n"), "{name} can write core dumps");
        }
        assert!(units.iter().all(|(_, text)| !text.contains('@') || text.contains("@system-service")));
        assert_eq!(wanted_by("larder-agent.path").as_deref(), Some("multi-user.target"));
        assert_eq!(wanted_by("larder-catch-up.service"), None);
        assert_eq!(wanted_by("larder-collect.timer"), None, "a person enables it on one machine");
        assert_eq!(wanted_by("larder-recheck.timer").as_deref(), Some("timers.target"));
    }
}
