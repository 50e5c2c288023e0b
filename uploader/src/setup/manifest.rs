//! The record of a set-up. A removal deletes only what the record names.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::change::{Change, Tree};
use super::paths::MANIFEST;
use crate::base::error::{Area, Error, Result};
use crate::base::hex::hex;

/// The record of a set-up. The machine keeps it as a JSON file beside the installed programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The version of this format: 1.
    pub version: u32,
    /// Files, each with the SHA-256 of the contents that the set-up wrote, in hexadecimal.
    pub files: BTreeMap<String, String>,
    /// Links, each with its target.
    pub links: BTreeMap<String, String>,
    /// Directories. A directory comes before the directories in it.
    pub directories: BTreeSet<String>,
    /// Files of other owners that have a block of larder.
    pub edited: BTreeSet<String>,
    /// Whether the set-up created the user.
    pub user: bool,
    /// Processes that may have known the hook when it was removed: process id and start time in ticks.
    #[serde(default)]
    pub workers: Vec<(u32, u64)>,
}

impl Manifest {
    /// Reads the record of a machine. A machine without a set-up has an empty record.
    pub fn load(tree: &Tree) -> Result<Self> {
        let Some(text) = tree.read_text(MANIFEST)? else { return Ok(Self { version: 1, ..Self::default() }) };
        Self::parse(&text).ok_or_else(|| {
            let text = format!("`{MANIFEST}` is not a record that this version can read");
            Error::permanent(Area::Config, text).hint("use the version of larder that set this machine up")
        })
    }

    /// Writes the record to a machine.
    pub fn store(&self, tree: &Tree) -> Result<()> {
        let (path, after) = (MANIFEST.into(), self.to_json().into());
        tree.make(&Change::File { path, before: None, after, mode: 0o644 })
    }

    /// Reads a record; `None` if the text is not a record of this version.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|manifest| manifest.version == 1)
    }

    /// The text of the record.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// The digest of contents, as in [`Manifest::files`].
    pub fn digest(contents: &[u8]) -> String {
        hex(&Sha256::digest(contents))
    }
}
