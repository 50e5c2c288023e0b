//! The contents of larder's own objects in a bucket. `docs/bucket.md` describes how writers use them.
//!
//! - `larder/format.json`, the marker, tells writers the format of the bucket.
//! - `larder/writers/<id>.json` is the lease of a running writer.
//! - `larder/reservations/<NarHash>` reserves a NAR for the writer that is sending it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format that this version of larder writes.
pub const VERSION: u32 = 2;
/// The oldest format that this version of larder uses. Buckets of format 1 are not collected: programs of that format may
/// write into them, which know no collections.
const OLDEST: u32 = 1;

/// The contents of `larder/format.json`.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Format {
    /// The version of the layout of the bucket.
    pub version: u32,
    /// The program that wrote the marker. Only people read this field.
    pub written_by: String,
    /// Whether `larder init` found that the server refuses a conditional PUT whose condition does not hold. Otherwise,
    /// writers look for the object immediately before they write it.
    #[serde(default)]
    pub conditional_writes: bool,
}

impl Format {
    /// The marker of this version.
    pub fn current(conditional_writes: bool) -> Self {
        Self {
            conditional_writes,
            version: VERSION,
            written_by: format!("larder {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// The contents of the object.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// Parses the marker. The error says why this version of larder must not write into the bucket.
    pub fn check(bytes: &[u8]) -> Result<Self, String> {
        let format: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
        match format.version {
            OLDEST..=VERSION => Ok(format),
            other => Err(format!(
                "the bucket has format {other}, but this version of larder supports only the formats {OLDEST} to {VERSION}"
            )),
        }
    }
}

impl Format {
    /// The version of a marker that this version of larder does not support; `None` for a marker that it does, and for one that
    /// cannot be read.
    pub fn other_version(bytes: &[u8]) -> Option<u32> {
        serde_json::from_slice::<Self>(bytes)
            .ok()
            .map(|format| format.version)
            .filter(|other| !(OLDEST..=VERSION).contains(other))
    }

    /// Whether the bucket may be collected: all its writers know collections.
    pub fn can_be_collected(&self) -> bool {
        self.version >= 2
    }
}

/// The contents of a lease.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Lease {
    /// The time when the writer began, before its first query of the bucket, in seconds since 1970.
    pub since: u64,
    /// The time of the last renewal, in seconds since 1970.
    pub renewed: u64,
    /// The version of larder that the writer runs.
    pub version: String,
    /// Signatures of the [fingerprint](Lease::fingerprint) by the signing keys of the writer. They show to other writers
    /// who the writer is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// A number that no two attempts to write the lease share. Writers of format 1 write none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
    /// What the process is.
    #[serde(default)]
    pub role: Role,
    /// For each open collection, the stage that the process has acknowledged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acknowledged: BTreeMap<String, Stage>,
}

/// What a process with a lease is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It writes.
    #[default]
    Writer,
    /// It deletes.
    Collector,
}

/// A stage of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// `condemned` is in the bucket.
    Condemned,
    /// `closing` is in the bucket.
    Closing,
    /// `final` is in the bucket.
    Final,
}

impl Lease {
    /// The text that the writer with this id signs. A signature stays valid when the lease is renewed.
    pub fn fingerprint(id: &str, since: u64) -> String {
        format!("larder-lease;1;{id};{since}")
    }

    /// The contents of the object.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

/// The contents of a reservation of a NAR.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reservation {
    /// The id of the writer, as in the key of its lease.
    pub writer: String,
}

impl Reservation {
    /// The contents of the object.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

fn to_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_is_refused() {
        assert_eq!(Format::check(Format::current(true).to_json().as_bytes()), Ok(Format::current(true)));
        assert!(!Format::check(br#"{"version":1,"written_by":"x"}"#).unwrap().conditional_writes);
        assert!(!Format::check(br#"{"version":1,"written_by":"x"}"#).unwrap().can_be_collected());
        assert!(Format::check(br#"{"version":2,"written_by":"x"}"#).unwrap().can_be_collected());
        assert!(Format::check(br#"{"version":3,"written_by":"x"}"#).unwrap_err().contains("format 3"));
        assert!(Format::check(b"").is_err());
    }
}
