//! A nix-daemon with a socket of its own.

use crate::process::{Child, kill_marked};
use anyhow::Result;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Marks the workers of the daemon, which leave its process group, in their environment.
const MARK: &str = "LARDER_TEST_DAEMON";

/// A running nix-daemon. Dropping it kills it, its workers, and hooks that they run.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `nix-daemon` with a prepared environment and waits for its socket.
    ///
    /// `NIX_REMOTE` must name the store itself. Without it, with a socket path and without a state directory, a daemon
    /// connects to itself without end.
    pub(super) fn start(mut command: Command, socket: &Path, log: &Path) -> Result<Self> {
        command.env("NIX_DAEMON_SOCKET_PATH", socket).env(MARK, socket).current_dir("/");
        let _ = std::fs::remove_file(socket);
        let mut daemon = Self { child: Child::spawn(&command, log)?, socket: socket.to_owned() };
        daemon.child.wait_until(Duration::from_secs(180), || UnixStream::connect(socket).is_ok())?;
        Ok(daemon)
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn child(&self) -> &Child {
        &self.child
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill();
        kill_marked(MARK, &self.socket);
    }
}
