//! What a set-up has made, so that it can be taken back: nothing else is ever removed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The record of a set-up, kept beside the programs that it installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Of this format: 1.
    pub version: u32,
    /// Files with the SHA-256 of what was written, in hexadecimal.
    pub files: BTreeMap<String, String>,
    /// Links with where they lead.
    pub links: BTreeMap<String, String>,
    /// Directories, longest path last.
    pub directories: BTreeSet<String>,
    /// Files of others that have lines of ours.
    pub edited: BTreeSet<String>,
    /// Whether the user is of our making.
    pub user: bool,
    /// Processes of the daemon that still knew the hook when it was taken out: id and start time.
    #[serde(default)]
    pub workers: Vec<(u32, u64)>,
}

impl Manifest {
    /// Reads one; `None` where it is none of this version.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|manifest| manifest.version == 1)
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// The digest that stands for a file's contents.
    pub fn digest(contents: &[u8]) -> String {
        Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
