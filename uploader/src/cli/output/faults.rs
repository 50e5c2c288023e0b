//! Shows the faults of a bucket, for people and as JSON lines.

use std::collections::BTreeMap;

use serde_json::json;

use super::quantity::{count, size};
use super::terminal::data;
use crate::upkeep::verify::{Fault, Kind, Severity};

/// The number of faults of each kind that are shown, unless all are wanted.
const SHOWN: usize = 10;

/// Prints faults by their kinds, the worst first.
pub(in crate::cli) fn show_faults(faults: &[Fault], all: bool) {
    let mut by_kind: BTreeMap<Kind, Vec<&Fault>> = BTreeMap::new();
    faults.iter().for_each(|fault| by_kind.entry(fault.kind).or_default().push(fault));
    for (kind, faults) in by_kind {
        let bytes: u64 = faults.iter().map(|fault| fault.bytes).sum();
        let bytes = if bytes > 0 { format!(" ({})", size(bytes)) } else { String::new() };
        let number = match kind {
            Kind::CacheInfo | Kind::Marker => String::new(),
            _ => format!(": {}", faults.len()),
        };
        data(&format!("{}{number}{bytes}", kind.title()));
        let shown = if all { faults.len() } else { SHOWN };
        for fault in faults.iter().take(shown) {
            data(&format!("  {}", line(fault)));
        }
        if faults.len() > shown {
            data(&format!("  … and {} more (`--all` shows them)", faults.len() - shown));
        }
        if kind.severity() != Severity::Information {
            data(&format!("  for clients: {}", kind.consequence()));
            data(&format!("  remedy: {}", kind.remedy()));
        }
    }
}

fn line(fault: &Fault) -> String {
    let mut line = fault.object.clone();
    if !fault.text.is_empty() {
        line += &format!(": {}", fault.text);
    }
    if fault.affected > 0 {
        line += &format!(" ({} above it)", count(fault.affected, "path"));
    }
    line
}

/// Prints a fault as a JSON line.
pub(in crate::cli) fn fault_as_json(fault: &Fault) {
    let Fault { kind, object, text, affected, bytes } = fault;
    let line = json!({
        "type": "fault",
        "kind": kind.name(),
        "severity": kind.severity().word(),
        "object": object,
        "text": text,
        "affected": affected,
        "bytes": bytes,
        "consequence": kind.consequence(),
        "remedy": kind.remedy(),
    });
    data(&line.to_string());
}
