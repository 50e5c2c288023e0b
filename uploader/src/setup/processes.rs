//! Processes that may know larder's hook: a process of Nix reads the configuration when it starts, and runs the hook of that
//! time until it ends.

use std::io::ErrorKind;
use std::path::Path;

use super::paths::hook_file;

/// The libraries of Nix and of Lix. A program that has one of them reads Nix's configuration and may build.
const LIBRARIES: [&str; 2] = ["libnixstore", "liblixstore"];
/// The process namespace of a machine that is not a container.
const WHOLE_MACHINE: &str = "pid:[4026531836]";

/// A process: its id, and its start time in ticks since the machine's start. The start time tells it from a later process
/// with the same id.
pub(super) type Process = (u32, u64);

/// What a look at all processes has found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The processes that may know the hook.
    pub(super) may_know: Vec<Process>,
    /// What could not be looked at, for people.
    pub(super) unseen: Vec<String>,
}

/// Looks at all processes but this one.
pub(super) fn look() -> Look {
    let mut look = Look::default();
    let own = std::process::id();
    match std::fs::read_dir("/proc") {
        Ok(entries) => {
            let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            for id in ids.filter(|id| *id != own) {
                match (start_time(id), may_know(id)) {
                    (Some(start), Ok(true)) => look.may_know.push((id, start)),
                    (Some(_), Err(_)) => look.unseen.push(format!("the process {}", describe(id))),
                    _ => {}
                }
            }
        }
        Err(error) => look.unseen.push(format!("all processes ({error})")),
    }
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    if namespace.is_ok_and(|namespace| namespace.as_os_str() != WHOLE_MACHINE) {
        look.unseen.push("processes outside of this container".to_owned());
    }
    look
}

/// Those of the `processes` that still run, for people.
pub(super) fn still_running(processes: &[Process]) -> Vec<String> {
    let runs = |process: &&Process| start_time(process.0) == Some(process.1);
    processes.iter().filter(runs).map(|(id, _)| describe(*id)).collect()
}

/// The id of a process and its name.
fn describe(id: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    format!("{id} {}", name.trim().escape_debug())
}

/// Whether a process may know the hook: it is a program of Nix, it has a library of Nix, or the hook is in its arguments
/// or its environment.
fn may_know(id: u32) -> std::io::Result<bool> {
    let proc = Path::new("/proc").join(id.to_string());
    let read = |name: &str| match std::fs::read(proc.join(name)) {
        // A process that has ended, and a process of the kernel, which has no memory of its own.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) || is_gone(&error) => Ok(Vec::new()),
        read => read,
    };
    let is_nix = |name: &str| name.starts_with("nix") || name.starts_with("lix");
    if is_nix(&String::from_utf8_lossy(&read("comm")?)) {
        return Ok(true);
    }
    match std::fs::read_link(proc.join("exe")) {
        Ok(exe) if exe.file_name().is_some_and(|name| is_nix(&name.to_string_lossy())) => return Ok(true),
        Err(error) if error.kind() != ErrorKind::NotFound && !is_gone(&error) => return Err(error),
        _ => {}
    }
    let hooks = [hook_file(false), hook_file(true)];
    for name in ["cmdline", "environ"] {
        let bytes = read(name)?;
        if hooks.iter().any(|hook| contains(&bytes, hook)) {
            return Ok(true);
        }
    }
    let maps = read("maps")?;
    Ok(LIBRARIES.iter().any(|library| contains(&maps, library)))
}

/// Whether an error of a file below `/proc` means that the process has ended.
fn is_gone(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// The start time of a process that has not ended: field 22 of `stat` in proc(5).
fn start_time(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The process name is in parentheses, and may itself contain parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let is_zombie = fields.next() == Some("Z");
    if is_zombie { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that runs until it is killed.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(command: &mut Command) -> Self {
            Self(command.arg("1000").spawn().unwrap())
        }

        fn is_in(&self, processes: &[Process]) -> bool {
            processes.iter().any(|(id, _)| *id == self.0.id())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn processes_of_nix_and_processes_with_the_hook_in_their_environment_may_know_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let program = dir.path().join(name);
            std::fs::copy("/bin/sleep", &program).unwrap();
            program
        };
        let other = Sleeper::start(&mut Command::new("/bin/sleep"));
        let build = Sleeper::start(&mut Command::new(program("nix-build")));
        let config = format!("post-build-hook = {}", hook_file(false));
        let shell = Sleeper::start(Command::new(program("other")).env("NIX_CONFIG", config));
        // As a user who starts `nix` under another name.
        let line = "exec -a larder-test /bin/sleep \"$0\" \"$1\"";
        let mut command = Command::new("/bin/bash");
        let renamed = Sleeper::start(command.env("X", hook_file(true)).args(["-c", line, "1000"]));
        let found = look().may_know;
        assert!(build.is_in(&found) && shell.is_in(&found) && renamed.is_in(&found), "{found:?}");
        assert!(!other.is_in(&found), "{found:?}");
        let known = |sleeper: &Sleeper| {
            let own: Vec<_> = found.iter().copied().filter(|(id, _)| *id == sleeper.0.id()).collect();
            still_running(&own)
        };
        assert_eq!(known(&build), [format!("{} nix-build", build.0.id())]);
        let (id, own) = (build.0.id(), found.iter().copied().find(|(id, _)| *id == build.0.id()));
        drop(build);
        assert!(still_running(own.as_slice()).is_empty(), "{id} has ended");
    }
}
