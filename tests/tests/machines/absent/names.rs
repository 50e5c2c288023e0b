//! A host name that is known for a while, in a namespace of the command's own.

use anyhow::Result;
use larder_tests::process::clean_command;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A name that is known where a file says so, and nowhere else.
pub(super) const NAME: &str = "cache.larder.invalid";

/// Runs a command in a namespace of its own, after the shell line `before`.
pub(super) fn apart(command: &Command, namespace: &str, before: &str) -> Command {
    let mut apart = clean_command("unshare");
    apart.args([namespace, "--", "/bin/sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
    apart.arg(command.get_program()).args(command.get_args());
    apart.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        apart.current_dir(dir);
    }
    apart
}

/// The files by which a command knows [`NAME`].
pub(super) struct Names {
    hosts: PathBuf,
    resolver: PathBuf,
}

impl Names {
    pub(super) fn new(dir: &Path, host: &str) -> Result<Self> {
        let names = Self { hosts: dir.join("hosts"), resolver: dir.join("resolv.conf") };
        std::fs::write(&names.hosts, format!("{host} {NAME}\n"))?;
        // No name server listens at the only address.
        std::fs::write(&names.resolver, "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")?;
        Ok(names)
    }

    /// The command, in a namespace where the name is known.
    pub(super) fn known_to(&self, command: &Command) -> Command {
        let mount = |file: &Path, to: &str| format!("mount --bind {} {to}", file.display());
        let mounts = [mount(&self.hosts, "/etc/hosts"), mount(&self.resolver, "/etc/resolv.conf")];
        apart(command, "--mount", &mounts.join(" && "))
    }

    /// Makes the name unknown. The file is mounted, so it is changed in place.
    pub(super) fn forget(&self) -> Result<()> {
        Ok(std::fs::write(&self.hosts, "")?)
    }
}
