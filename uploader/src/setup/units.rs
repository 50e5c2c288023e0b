//! systemd's units, from the one file that the NixOS module takes them from, too.

use serde_json::{Map, Value};

/// Names and texts of all units, with programs below `bin`. `more` are lines for the `[Service]` of the unit
/// that stands before each.
pub(super) fn render(bin: &str, more: &[(&str, String)]) -> Vec<(String, String)> {
    let file: Map<String, Value> =
        serde_json::from_str(include_str!("../../../nix/units.json")).unwrap_or_default();
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let sandbox = object(&file["sandbox"]);
    let units = object(&file["units"]);
    units
        .iter()
        .map(|(name, body)| {
            let mut text =
                String::from("# Made by `larder setup`, which replaces it; changes go to a drop-in.\n");
            for section in ["Unit", "Service", "Path", "Timer", "Install"] {
                let Some(own) = body[section].as_object() else { continue };
                let mut lines = if section == "Service" { sandbox.clone() } else { Map::new() };
                lines.extend(own.clone());
                text += &format!("\n[{section}]\n");
                for (key, value) in &lines {
                    for one in value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]) {
                        text +=
                            &format!("{key}={}\n", one.as_str().unwrap_or_default().replace("@bin@", bin));
                    }
                }
                let own = more.iter().filter(|(unit, _)| section == "Service" && unit == name);
                own.for_each(|(_, line)| text += &format!("{line}\n"));
            }
            (name.clone(), text)
        })
        .collect()
}

/// The target that wants a unit.
pub(super) fn wanted_by(name: &str) -> Option<String> {
    let file: Value = serde_json::from_str(include_str!("../../../nix/units.json")).ok()?;
    file["units"][name]["Install"]["WantedBy"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_whole() {
        let units = render("/opt/bin", &[("larder-agent.service", "LoadCredential=key-0:/k".into())]);
        assert_eq!(units.len(), 6);
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
        assert!(units.iter().all(|(_, text)| !text.contains('@') || text.contains("@system-service")));
        assert_eq!(wanted_by("larder-agent.path").as_deref(), Some("multi-user.target"));
        assert_eq!(wanted_by("larder-catch-up.service"), None);
    }
}
