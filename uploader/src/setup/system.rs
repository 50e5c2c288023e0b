//! Users, units and processes of this machine. For a machine below another root, these operations do nothing.

use std::path::Path;
use std::process::Command;

use larder_hook::queue::Layout;

use super::change::Tree;
use super::paths::{
    AGENT_UNIT, CATCH_UP_UNIT, COLLECT_UNIT, OPTIONAL_TIMERS, RECHECK_UNIT, STARTED_UNITS, STATE_DIR,
    UNIT_DIR, USER, VERIFY_UNIT,
};
use super::processes::{self, Look, Process};
use super::users::{has_user, look_up_user};
use crate::base::error::{Area, Error, Result};

/// Nix's daemon. A restart makes it read its configuration.
const DAEMON_UNIT: &str = "nix-daemon.service";

/// The system beside the files of a set-up.
#[derive(Debug)]
pub struct System {
    is_this_machine: bool,
    has_systemd: bool,
    /// What is left to do by hand, for people.
    pub left: Vec<String>,
}

impl System {
    /// The system that the files belong to.
    pub fn of(tree: &Tree) -> Self {
        let is_this_machine = tree.is_this_machine();
        // The test of sd_booted(3).
        let has_systemd = is_this_machine && Path::new("/run/systemd/system").is_dir();
        Self { is_this_machine, has_systemd, left: Vec::new() }
    }

    /// Fails unless the process may change the system.
    pub fn require_root(&self) -> Result<()> {
        if self.is_this_machine && !rustix::process::geteuid().is_root() {
            let text = "`larder setup --yes` changes the machine";
            return Err(Error::permanent(Area::Usage, text).hint("run it as root"));
        }
        Ok(())
    }

    /// Whether the agent's user is missing.
    pub fn needs_user(&self) -> bool {
        self.is_this_machine && !has_user(USER)
    }

    /// Creates the agent's user.
    pub(super) fn add_user(&self) -> Result<()> {
        let arguments = ["--system", "--user-group", "--home-dir", STATE_DIR, "--no-create-home"];
        run("useradd", &[&arguments[..], &["--shell", "/usr/sbin/nologin", USER]].concat())
    }

    /// Deletes the agent's user.
    pub(super) fn remove_user(&self) -> Result<()> {
        if !self.is_this_machine {
            return Ok(());
        }
        run("userdel", &[USER])
    }

    /// Whether the machine has a queue.
    pub(super) fn has_queue(&self) -> bool {
        self.is_this_machine && Path::new(STATE_DIR).exists()
    }

    /// Creates the queue for the agent's user, or corrects the owners and modes of an existing queue.
    pub fn make_queue(&self) -> Result<()> {
        if self.is_this_machine {
            let owner = look_up_user(USER)?;
            Layout::create(Path::new(STATE_DIR), Some(owner)).map_err(crate::base::queue_error::in_queue)?;
        }
        Ok(())
    }

    /// Deletes the queue.
    pub(super) fn remove_queue(&self) -> Result<()> {
        if !self.is_this_machine {
            return Ok(());
        }
        match std::fs::remove_dir_all(STATE_DIR) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::permanent(Area::General, format!("cannot remove `{STATE_DIR}`")).because(error))
            }
            _ => Ok(()),
        }
    }

    /// Starts the units, and restarts an agent that runs.
    pub(super) fn start(&mut self) -> Result<()> {
        self.reload()?;
        self.systemctl(&[&["start"][..], &STARTED_UNITS].concat())?;
        self.systemctl(&["try-restart", AGENT_UNIT])
    }

    /// Stops all installed units.
    pub(super) fn stop(&mut self) -> Result<()> {
        let services = [AGENT_UNIT, CATCH_UP_UNIT, RECHECK_UNIT, VERIFY_UNIT, COLLECT_UNIT];
        let mut units = [&STARTED_UNITS[..], &OPTIONAL_TIMERS, &services].concat();
        units.retain(|unit| Path::new(UNIT_DIR).join(unit).exists());
        if units.is_empty() { Ok(()) } else { self.systemctl(&[&["stop"][..], &units].concat()) }
    }

    /// Makes systemd read its units again.
    pub(super) fn reload(&mut self) -> Result<()> {
        self.systemctl(&["daemon-reload"])
    }

    /// Restarts Nix's daemon if it runs.
    pub(super) fn restart_daemon(&mut self) -> Result<()> {
        self.systemctl(&["try-restart", DAEMON_UNIT])
    }

    fn systemctl(&mut self, arguments: &[&str]) -> Result<()> {
        if self.has_systemd {
            return run("systemctl", arguments);
        }
        if self.is_this_machine {
            let command = arguments.join(" ");
            self.left.push(format!("systemd does not run here; run this yourself: systemctl {command}"));
        }
        Ok(())
    }

    /// The processes that may know larder's hook now. Notes in [`System::left`] what could not be looked at.
    pub(super) fn hook_users(&mut self) -> Vec<Process> {
        if !self.is_this_machine {
            return Vec::new();
        }
        let Look { may_know, unseen } = processes::look();
        for unseen in unseen {
            let text = format!("larder cannot see {unseen}: make sure that no Nix from before runs there");
            if !self.left.contains(&text) {
                self.left.push(text);
            }
        }
        may_know
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let failed = || Error::permanent(Area::General, format!("`{program} {}` failed", arguments.join(" ")));
    let output = Command::new(program).args(arguments).output().map_err(|error| failed().because(error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed()
        .because(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        .hint("correct the cause and run the same command again; it does not repeat finished steps"))
}
