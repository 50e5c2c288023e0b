//! Shows a repair, for people and as JSON lines.

use serde_json::json;

use super::terminal::data;
use crate::upkeep::inventory::Catalog;
use crate::upkeep::repair::{How, Mending, Plan, Source, TakeBack, Way};

/// Renders a repair.
pub(in crate::cli) struct Repairs<'a> {
    json: bool,
    sources: &'a [Source],
}

impl<'a> Repairs<'a> {
    /// A renderer of a repair with these sources.
    pub(in crate::cli) fn new(json: bool, sources: &'a [Source]) -> Self {
        Self { json, sources }
    }

    /// Prints how a path would be mended.
    pub(in crate::cli) fn plan(&self, plan: &Plan) {
        let patient = &plan.examined.patient;
        let ways: Vec<_> = plan.ways.iter().map(|way| self.way(way)).collect();
        if self.json {
            let (words, texts): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
            let line = json!({
                "type": "plan",
                "path": patient.name(),
                "kind": patient.kind.name(),
                "fault": patient.text,
                "ways": words,
                "reason": if texts.is_empty() { Some(&plan.reason) } else { None },
            });
            return data(&line.to_string());
        }
        let fault = if patient.text.is_empty() { patient.kind.name() } else { &patient.text };
        let remedy = match ways.first() {
            Some((_, text)) => text.clone(),
            None => format!("cannot be mended: {}", plan.reason),
        };
        data(&format!("{}: {fault}", patient.name()));
        data(&format!("  {remedy}"));
    }

    /// The word for a way, and the way for people.
    fn way(&self, way: &Way) -> (&'static str, String) {
        let source = |number: &usize| self.sources.get(*number).map_or_else(String::new, Source::name);
        match way {
            Way::NarInBucket(key) => ("nar-in-bucket", format!("its narinfo will name `{key}`")),
            Way::NarInStore => ("nar-in-store", "its NAR will be sent from the local store".into()),
            Way::NarElsewhere(number) => {
                ("nar-elsewhere", format!("its NAR will be sent from `{}`", source(number)))
            }
            Way::Push => ("push", "it will be pushed from the local store".into()),
            Way::Fetch(number) => ("fetch", format!("it will be taken from `{}`", source(number))),
        }
    }

    /// Prints what became of a path.
    pub(in crate::cli) fn mending(&self, plan: &Plan, mending: &Mending) {
        let patient = &plan.examined.patient;
        let (how, text) = match mending {
            Mending::Mended(how) => (Some(word(how)), format!("mended: {}", told(how))),
            Mending::Left(reason) => (None, format!("not mended: {reason}")),
        };
        if self.json {
            let reason = match mending {
                Mending::Left(reason) => Some(reason),
                Mending::Mended(_) => None,
            };
            let line = json!({
                "type": "repair",
                "path": patient.name(),
                "kind": patient.kind.name(),
                "result": if how.is_some() { "mended" } else { "left" },
                "how": how,
                "reason": reason,
            });
            return data(&line.to_string());
        }
        data(&format!("{}: {text}", patient.name()));
    }

    /// Prints what would be taken back.
    pub(in crate::cli) fn take_back(&self, catalog: &Catalog, taken: &TakeBack) {
        for id in &taken.go {
            let path = catalog.basename(*id);
            match self.json {
                true => data(&json!({ "type": "take-back", "path": path, "stays": null }).to_string()),
                false => data(&format!("to be taken back: {path}")),
            }
        }
        for (id, reason) in &taken.stay {
            let path = catalog.basename(*id);
            match self.json {
                true => data(&json!({ "type": "take-back", "path": path, "stays": reason }).to_string()),
                false => data(&format!("stays broken: {path}: {reason}")),
            }
        }
    }
}

fn word(how: &How) -> &'static str {
    match how {
        How::NarInBucket(_) => "nar-in-bucket",
        How::NarFromStore => "nar-from-store",
        How::NarFrom(_) => "nar-from-source",
        How::Pushed => "pushed",
        How::Fetched => "fetched",
        How::ByAnother => "by-another-writer",
    }
}

fn told(how: &How) -> String {
    match how {
        How::NarInBucket(key) => format!("its narinfo names `{key}`"),
        How::NarFromStore => "its NAR was sent from the local store".into(),
        How::NarFrom(source) => format!("its NAR was sent from `{source}`"),
        How::Pushed => "it was pushed from the local store".into(),
        How::Fetched => "it was taken from another cache".into(),
        How::ByAnother => "another writer has mended it".into(),
    }
}
