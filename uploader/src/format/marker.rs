//! `larder/format.json`, which tells writers the bucket's format, and `larder/writers/<id>.json`, the lease of a
//! running writer; a collector relies on both, see `ARCHITECTURE.md`. And `larder/reservations/<NarHash>`, for a NAR
//! that a writer is sending.

use serde::{Deserialize, Serialize};

/// The format that this version writes.
pub const VERSION: u32 = 1;

/// The contents of `larder/format.json`.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Format {
    /// The version of the bucket's layout.
    pub version: u32,
    /// Who wrote the marker, for people.
    pub written_by: String,
    /// Whether the server was found to refuse a conditional PUT whose condition does not hold. Where it is not known
    /// to, writers look once more before they write.
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

    /// The object's bytes.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    /// Reads the marker; an error for what is no marker or one that this version may not write under.
    pub fn check(bytes: &[u8]) -> Result<Self, String> {
        let format: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not readable: {error}"))?;
        match format.version {
            VERSION => Ok(format),
            other => Err(format!("the bucket has format {other}, this larder knows format {VERSION}")),
        }
    }
}

/// The contents of a lease.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Lease {
    /// When the writer began, in seconds since 1970, before its first presence check.
    pub since: u64,
    /// When it last renewed the lease.
    pub renewed: u64,
    /// The version of the writer.
    pub version: String,
}

impl Lease {
    /// The object's bytes.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

/// The contents of a reservation of a NAR.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reservation {
    /// The writer's id, as in the key of its lease.
    pub writer: String,
}

impl Reservation {
    /// The object's bytes.
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
