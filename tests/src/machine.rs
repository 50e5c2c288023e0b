//! A machine for a test: a real systemd as process 1 in namespaces, on an overlay in memory over the files of this
//! machine. Its only network is its own loopback. For tests of units and of `larder setup`.

use crate::process::{Child, Output, clean_command, eventually, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The script that boots. Its arguments are a directory, a control group, and the command that enters or makes the network.
const BOOT: &str = r#"
set -eu
D=$1
NET=$3
echo $$ > "$2/cgroup.procs"
exec $NET unshare --mount --pid --fork --cgroup --uts --ipc --kill-child bash -euc '
D=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$D"
mkdir "$D/upper" "$D/work" "$D/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/upper,workdir=$D/work" "$D/root"
R=$D/root
mount -t proc proc "$R/proc"
mount -t sysfs -o ro sysfs "$R/sys"
mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs tmpfs "$R/run"
mount -t tmpfs tmpfs "$R/tmp"
mount --rbind /dev "$R/dev"
# Nothing of what this machine starts: only what the test starts.
rm -rf "$R"/etc/systemd/system/*.wants "$R"/etc/systemd/system/larder* "$R/var/lib/larder" "$R/etc/larder" \
  "$R/usr/local/lib/larder" "$R/nix" "$R/etc/nix" "$R"/usr/local/bin/larder*
for unit in systemd-udevd systemd-networkd systemd-logind getty@tty1 systemd-journald-audit systemd-update-utmp; do
  ln -sf /dev/null "$R/etc/systemd/system/$unit.service"
done
for target in getty.target remote-fs.target; do ln -sf /dev/null "$R/etc/systemd/system/$target"; done
echo uninitialized > "$R/etc/machine-id"
ip link set lo up || true
cd "$R"
mkdir old
pivot_root . old
umount -l old
# As a container manager does it: credentials of services come by a mount that spreads.
mount --make-rshared /
exec env -i container=larder-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
' sh "$D"
"#;

/// A booted machine. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    pid: u32,
    group: PathBuf,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Boots a machine, on the loopback of another machine where one is given. `None`, noted as skipped, where this machine
    /// cannot do so.
    pub fn boot(beside: Option<&Self>) -> Result<Option<Self>> {
        if crate::need::need(crate::need::Requirement::Root).is_none() {
            return Ok(None);
        }
        let cannot = |why: &str| {
            crate::need::skip(&format!("no systemd of its own can run here: {why}"));
            Ok(None)
        };
        let hierarchy = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let Some(hierarchy) = hierarchy.into_iter().find(|dir| dir.join("cgroup.procs").exists()) else {
            return cannot("no control groups of version 2");
        };
        if !Path::new("/lib/systemd/systemd").exists() || !Path::new("/usr/bin/unshare").exists() {
            return cannot("systemd or unshare is not installed");
        }
        let dir = tempfile::Builder::new().prefix("larder-machine-").tempdir()?;
        let name = dir.path().file_name().unwrap_or_default();
        let group = hierarchy.join(name);
        if fs::create_dir(&group).is_err() {
            return cannot("no control group can be made");
        }
        let mut command = clean_command("/bin/bash");
        let network = match beside {
            Some(other) => format!("nsenter --net=/proc/{}/ns/net", other.pid),
            None => "unshare --net".to_owned(),
        };
        command.args(["-c", BOOT, "sh"]).arg(dir.path()).arg(&group).arg(network);
        let log = dir.path().with_extension("log");
        let child = Child::spawn(&command, &log)?;
        let mut machine = Self { child, pid: 0, group, _dir: dir };
        let booted = eventually("systemd being up", Duration::from_secs(180), || machine.is_up());
        let said = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        match booted {
            Ok(()) => Ok(Some(machine)),
            Err(_) => cannot(said.lines().last().unwrap_or("it does not come up")),
        }
    }

    fn is_up(&mut self) -> bool {
        // Process 1 of the machine is the child of `unshare`, which the shell has become.
        self.pid = self.init().unwrap_or_default();
        if self.pid == 0 {
            return false;
        }
        self.run(&["systemctl", "is-system-running"])
            .is_ok_and(|output| ["running", "degraded"].contains(&output.stdout.trim()))
    }

    fn init(&self) -> Option<u32> {
        let processes = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        let deeper = walkdir::WalkDir::new(&self.group).into_iter().flatten();
        let deeper = deeper.filter(|entry| entry.file_name() == "cgroup.procs");
        let all = deeper.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect::<String>();
        (processes + &all).lines().filter_map(|line| line.parse().ok()).find(|pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            ids.split_whitespace().count() == 2
                && ids.split_whitespace().last() == Some("1")
                && status.starts_with("Name:\tsystemd\n")
        })
    }

    /// Runs a command on the machine, with success or not.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = clean_command("nsenter");
        command.env("HOME", "/root").current_dir("/");
        command.args(["--target", &self.pid.to_string(), "--all", "--"]).args(words);
        run(&mut command, Duration::from_secs(120))
    }

    /// The same for a line of shell.
    pub fn shell(&self, line: &str) -> Result<Output> {
        self.run(&["/bin/bash", "-c", line])
    }

    /// The path by which this machine reaches a file of the booted machine.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Copies a file to the machine.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.path(to);
        fs::create_dir_all(to.parent().context("no directory")?)?;
        fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let to = self.path(path);
        fs::create_dir_all(to.parent().context("no directory")?)?;
        Ok(fs::write(to, text)?)
    }

    /// Whether a unit is active.
    pub fn is_active(&self, unit: &str) -> bool {
        self.run(&["systemctl", "is-active", "--quiet", unit]).is_ok_and(|output| output.status.success())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of process 1 ends all others.
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.child.kill();
        let groups = walkdir::WalkDir::new(&self.group).contents_first(true).into_iter().flatten();
        let groups: Vec<_> = groups.filter(|entry| entry.file_type().is_dir()).collect();
        for _ in 0..50 {
            groups.iter().for_each(|group| drop(fs::remove_dir(group.path())));
            if !self.group.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
