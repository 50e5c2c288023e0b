//! What a set-up does with this machine besides its files: users, services, the daemon. Below another root: nothing.

use std::path::Path;
use std::process::Command;

use larder_hook::queue::Layout;

use crate::base::error::{Area, Error, Result};
use crate::cli::queue::look_up;
use crate::setup::{STARTED, STATE_DIR, Tree, USER};

/// Restarted so that it reads its configuration.
const DAEMON: &str = "nix-daemon.service";

/// This machine, or none.
#[derive(Debug)]
pub(super) struct System {
    here: bool,
    systemd: bool,
    /// What is left to do by hand.
    pub(super) left: Vec<String>,
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(super) fn has_user(name: &str) -> bool {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().any(|line| line.split(':').next() == Some(name))
}

impl System {
    pub(super) fn of(tree: &Tree) -> Self {
        let here = tree.is_this_machine();
        // As sd_booted(3) has it.
        Self { here, systemd: here && Path::new("/run/systemd/system").is_dir(), left: Vec::new() }
    }

    pub(super) fn add_user(&self) -> Result<()> {
        let arguments = ["--system", "--user-group", "--home-dir", STATE_DIR, "--no-create-home"];
        run("useradd", &[&arguments[..], &["--shell", "/usr/sbin/nologin", USER]].concat())
    }

    pub(super) fn remove_user(&self) -> Result<()> {
        run("userdel", &[USER])
    }

    pub(super) fn make_queue(&self) -> Result<()> {
        if self.here {
            Layout::create(Path::new(STATE_DIR), Some(look_up(USER)?)).map_err(crate::agent::in_queue)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        self.reload()?;
        self.systemctl(&[&["start"][..], &STARTED].concat())?;
        self.systemctl(&["try-restart", "larder-agent.service"])
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        let units = [&STARTED[..], &["larder-agent.service", "larder-catch-up.service"]].concat();
        let units: Vec<_> =
            units.into_iter().filter(|unit| Path::new("/etc/systemd/system").join(unit).exists()).collect();
        if units.is_empty() { Ok(()) } else { self.systemctl(&[&["stop"][..], &units].concat()) }
    }

    pub(super) fn reload(&mut self) -> Result<()> {
        self.systemctl(&["daemon-reload"])
    }

    pub(super) fn restart_daemon(&mut self) -> Result<()> {
        self.systemctl(&["try-restart", DAEMON])
    }

    fn systemctl(&mut self, arguments: &[&str]) -> Result<()> {
        if self.systemd {
            return run("systemctl", arguments);
        }
        if self.here {
            self.left
                .push(format!("systemd does not run here; left to do: systemctl {}", arguments.join(" ")));
        }
        Ok(())
    }

    /// The processes of nix-daemon: id and start time.
    pub(super) fn workers(&self) -> Vec<(u32, u64)> {
        if !self.here {
            return Vec::new();
        }
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter_map(|id: u32| Some((id, started(id)?))).collect()
    }

    /// Those of `workers` that live still.
    pub(super) fn still_running(&self, workers: &[(u32, u64)]) -> Vec<u32> {
        workers.iter().filter(|(id, at)| started(*id) == Some(*at)).map(|(id, _)| *id).collect()
    }
}

/// When a process of nix-daemon started, in ticks since the machine did: proc(5), `stat`, field 22.
fn started(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name stands in parentheses, and may hold any.
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1;
    let mut fields = rest.split(' ');
    let zombie = fields.next() == Some("Z");
    (name == "nix-daemon" && !zombie).then(|| fields.nth(18)?.parse().ok())?
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let failed = || Error::permanent(Area::General, format!("`{program} {}` failed", arguments.join(" ")));
    let output = Command::new(program).args(arguments).output().map_err(|error| failed().because(error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed()
        .because(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        .hint("correct that and run the same command again; what is done already is not done again"))
}
