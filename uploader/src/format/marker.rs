//! The contents of larder's own objects in a bucket. `docs/bucket.md` describes how writers use them.
//!
//! - `larder/format.json`, the marker, tells writers the format of the bucket.
//! - `larder/writers/<id>.json` is the lease of a running writer.
//! - `larder/reservations/<NarHash>` reserves a NAR for the writer that is sending it.

use serde::{Deserialize, Serialize};

/// The format that this version of larder writes.
pub const VERSION: u32 = 1;

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
            VERSION => Ok(format),
            other => Err(format!(
                "the bucket has format {other}, but this version of larder supports only format {VERSION}"
            )),
        }
    }
}

impl Format {
    /// The version of a marker that another version of larder wrote; `None` for a marker of this version, and for one that
    /// cannot be read.
    pub fn other_version(bytes: &[u8]) -> Option<u32> {
        serde_json::from_slice::<Self>(bytes)
            .ok()
            .map(|format| format.version)
            .filter(|other| *other != VERSION)
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
        assert!(Format::check(br#"{"version":2,"written_by":"x"}"#).unwrap_err().contains("format 2"));
        assert!(Format::check(b"").is_err());
    }
}
