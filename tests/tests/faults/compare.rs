//! The contents of a bucket without what differs from push to push: keys of NARs, file hashes and file sizes.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

use super::common::Ground;

/// The contents of a bucket in a form that can be compared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Narinfos and listings, without the fields that may differ.
    pub(crate) objects: BTreeMap<String, String>,
    /// The hashes of the NARs.
    pub(crate) nars: BTreeSet<String>,
}

impl Contents {
    /// Reads a bucket.
    ///
    /// # Errors
    /// When a narinfo names a NAR that is missing, or that has another size than the narinfo says.
    pub(crate) fn read(ground: &Ground, bucket: &str) -> Result<Self> {
        let keys = ground.objects(bucket)?;
        let client = ground.server.client();
        let mut contents = Self { objects: BTreeMap::new(), nars: BTreeSet::new() };
        for key in keys.keys() {
            if let Some(nar) = key.strip_prefix("nar/") {
                contents.nars.insert(nar.split('-').next().unwrap_or_default().to_owned());
                continue;
            }
            if key.starts_with("larder/") {
                continue;
            }
            let text = client.get(bucket, key)?.with_context(|| format!("{key} is gone"))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            if key.ends_with(".narinfo") {
                let url = field("URL: ").with_context(|| format!("{key} has no URL"))?;
                let size = keys.get(url).with_context(|| format!("{key} names {url}, which is not there"))?;
                if let Some(said) = field("FileSize: ") {
                    ensure!(said.parse() == Ok(*size), "{key} says {said} bytes, {url} has {size}");
                }
                let other = ["URL: ", "FileHash: ", "FileSize: "];
                let same = text.lines().filter(|line| !other.iter().any(|name| line.starts_with(name)));
                let same: Vec<_> = same.collect();
                contents.objects.insert(key.clone(), same.join("\n"));
            } else {
                contents.objects.insert(key.clone(), text);
            }
        }
        Ok(contents)
    }
}
