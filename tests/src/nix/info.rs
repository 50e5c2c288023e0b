//! The output of `nix path-info --json`, in one form for all versions.

use super::{NixHome, NixVersion};
use anyhow::{Context, Result};
use serde_json::Value;

/// The path info of a store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The full store path.
    pub path: String,
    /// `sha256-…` (base64).
    pub nar_hash: String,
    /// Size of the NAR.
    pub nar_size: u64,
    /// Full store paths, sorted.
    pub references: Vec<String>,
    /// The derivation, if known.
    pub deriver: Option<String>,
    /// Its signatures.
    pub signatures: Vec<String>,
    /// Whether the path was built in this store.
    pub ultimate: bool,
    /// The content address, if the path has one.
    pub ca: Option<String>,
}

impl NixHome {
    /// The path infos of paths (not of their closures).
    pub fn path_info(&self, paths: &[String]) -> Result<Vec<PathInfo>> {
        self.path_info_with(&[], paths)
    }

    /// The closures of paths, each path once.
    pub fn closure(&self, paths: &[String]) -> Result<Vec<PathInfo>> {
        self.path_info_with(&["-r"], paths)
    }

    fn path_info_with(&self, flags: &[&str], paths: &[String]) -> Result<Vec<PathInfo>> {
        let mut args = vec!["path-info", "--json"];
        if self.version() >= NixVersion::V2_34 {
            args.extend(["--json-format", "1"]);
        }
        args.extend(flags);
        args.extend(paths.iter().map(String::as_str));
        let output = self.nix(&args)?.ok()?;
        let value: Value = serde_json::from_str(&output.stdout).context("output of nix path-info --json")?;
        let mut infos = match &value {
            Value::Array(items) => {
                items.iter().map(|v| read(v["path"].as_str(), v)).collect::<Result<Vec<_>>>()?
            }
            Value::Object(items) => {
                items.iter().map(|(k, v)| read(Some(k), v)).collect::<Result<Vec<_>>>()?
            }
            _ => anyhow::bail!("nix path-info --json: {value}"),
        };
        infos.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(infos)
    }
}

fn read(path: Option<&str>, value: &Value) -> Result<PathInfo> {
    let path = path.context("path info without path")?.to_owned();
    let strings = |name: &str| -> Vec<String> {
        value[name].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut references = strings("references");
    references.sort();
    Ok(PathInfo {
        nar_hash: value["narHash"].as_str().with_context(|| format!("{path} is not valid"))?.to_owned(),
        nar_size: value["narSize"].as_u64().context("narSize")?,
        references,
        deriver: value["deriver"].as_str().map(str::to_owned),
        signatures: strings("signatures"),
        ultimate: value["ultimate"].as_bool().unwrap_or(false),
        ca: value["ca"].as_str().map(str::to_owned),
        path,
    })
}

/// The hash part of a store path, by which a binary cache names it.
pub fn hash_part(path: &str) -> &str {
    &path.rsplit('/').next().unwrap_or_default()[..32]
}

/// Key of a store path's narinfo.
pub fn narinfo_key(path: &str) -> String {
    format!("{}.narinfo", hash_part(path))
}
