//! Describes the machine of a run, and the versions of the compared programs.

use std::fs;
use std::process::Command;

use anyhow::Result;
use larder_tests::cache;
use larder_tests::nix::{NixVersion, versions};
use serde_json::{Value, json};

/// A machine and the versions of programs.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// The load average of the last minute at the start of the run. Above 0.5, other programs disturb the run.
    load: f64,
    larder: String,
    nix: Vec<String>,
    minio: Option<String>,
    seaweedfs: Option<String>,
}

impl Machine {
    /// Reads the properties of this machine.
    pub(crate) fn detect() -> Result<Self> {
        let field = |file: &str, name: &str| -> Option<String> {
            let text = fs::read_to_string(file).ok()?;
            let (_, value) =
                text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
            Some(value.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: memory.trim_end_matches(" kB").parse().unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN),
            larder: commit(),
            nix: versions().into_iter().filter_map(NixVersion::full).collect(),
            minio: cache::version("minio"),
            seaweedfs: cache::version("seaweedfs"),
        })
    }

    /// The machine and the versions in two lines.
    pub(crate) fn text(&self) -> String {
        let or_none = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
        format!(
            "{}, {} cores, {:.1} GiB, Linux {}, load {:.2}\nlarder {}; Nix {}; MinIO {}; SeaweedFS {}\n",
            self.cpu,
            self.cores,
            self.memory_mib as f64 / 1024.0,
            self.kernel,
            self.load,
            self.larder,
            self.nix.join(", "),
            or_none(&self.minio),
            or_none(&self.seaweedfs)
        )
    }

    /// The machine and the versions as JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu, "cores": self.cores, "memory_mib": self.memory_mib, "kernel": self.kernel,
            "load": self.load, "larder": self.larder, "nix": self.nix, "minio": self.minio,
            "seaweedfs": self.seaweedfs,
        })
    }
}

/// The commit of the source, with a `+` if the working tree has changes.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"]))
    {
        (Some(commit), Some(changes)) => format!("{commit}{}", if changes.is_empty() { "" } else { "+" }),
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    }
}
