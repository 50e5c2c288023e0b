//! Children that never outlive the tests, and commands that never hang.
//!
//! Every child leads a process group of its own. A [`Child`] is killed with its group when it is dropped. When the test
//! process itself is killed, a watcher inside the group sees its end of a pipe close and kills the group.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Kills the group when stdin, held open by the test process, is closed; then becomes the program.
const WATCHED: &str =
    r#"exec 3<&0; (exec <&3 3<&- >/dev/null 2>&1; read x; kill -KILL 0) & exec "$@" </dev/null 3<&-"#;

/// A running child and its process group.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    name: String,
    log: PathBuf,
    status: Option<ExitStatus>,
    killed: bool,
}

impl Child {
    /// Starts a long-running command; its output goes to `log`.
    pub fn spawn(command: &Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {log:?}"))?;
        let mut watched = Command::new("/bin/sh");
        watched.arg("-c").arg(WATCHED).arg("sh").arg(command.get_program()).args(command.get_args());
        copy_context(command, &mut watched);
        let inner = watched
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { inner, name, log: log.to_owned(), status: None, killed: false })
    }

    /// The process id, which is also the id of the group.
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.inner.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for the end; an error after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} (pid {}) still runs after {timeout:?}\n{}", self.name, self.pid(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the process alone, as `kill` or a service manager would.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status.is_none() {
            rustix::process::kill_process(Pid::from_child(&self.inner), signal)?;
        }
        Ok(())
    }

    /// `kill -9` of the whole group, and waits for the process.
    pub fn kill(&mut self) {
        // No other group gets this id while the watcher lives.
        if !std::mem::replace(&mut self.killed, true) {
            let _ = kill_process_group(Pid::from_child(&self.inner), Signal::KILL);
        }
        if self.status.is_none() {
            self.status = self.inner.wait().ok();
        }
    }

    /// The output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the output.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Polls until `ready` says so; an error when the child ends first or `timeout` has passed.
    pub fn wait_until(&mut self, timeout: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + timeout;
        while !ready() {
            if let Some(status) = self.try_wait()? {
                bail!("{} ended with {status} before it was ready\n{}", self.name, self.log_tail());
            }
            if Instant::now() > end {
                bail!("{} is not ready after {timeout:?}\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The result of a finished command.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
    /// Whether it was killed at its time limit.
    pub timed_out: bool,
}

impl Output {
    /// The exit code; -1 for a death by signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The output itself when the command succeeded, else an error that shows everything.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let how = match (self.timed_out, self.status.signal()) {
            (true, _) => format!("was killed after {:?}", self.took),
            (_, Some(signal)) => format!("died of signal {signal}"),
            _ => format!("exited with {}", self.code()),
        };
        bail!("`{}` {how}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.stdout, self.stderr)
    }

    /// The non-empty lines of stdout.
    pub fn lines(&self) -> Vec<String> {
        self.stdout.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
    }
}

/// Runs a command to its end, at most for `timeout`, and then kills the rest of its group. Stdin is empty.
///
/// Output goes through files, so a grandchild that keeps them open does not make this hang.
pub fn run(command: &mut Command, timeout: Duration) -> Result<Output> {
    run_with_input(command, b"", timeout)
}

/// [`run`], with something on stdin.
pub fn run_with_input(command: &mut Command, input: &[u8], timeout: Duration) -> Result<Output> {
    use std::io::Write;
    let (mut stdin, mut stdout, mut stderr) =
        (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let start = Instant::now();
    let mut child = command
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let pid = Pid::from_child(&child);
    let mut timed_out = false;
    let mut pause = Duration::from_micros(500);
    // The child is not reaped here, so that no other group gets its id before the rest of the group is killed.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(pid), look)?.is_none() {
        if !timed_out && start.elapsed() > timeout {
            timed_out = true;
            let _ = kill_process_group(pid, Signal::KILL);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    let took = start.elapsed();
    let text = |file: &mut File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    Ok(Output { command: describe(command), status, stdout, stderr, took, timed_out })
}

/// Polls until `condition` holds; an error that names `what` after `timeout`.
pub fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + timeout;
    while !condition() {
        if Instant::now() > end {
            bail!("not within {timeout:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Does something with several things at the same time; returns the results in the order of the things. For work that
/// waits most of its time.
///
/// # Errors
/// The first error, or that a thread panicked.
pub fn at_once<T: Send, R: Send>(things: Vec<T>, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = things.into_iter().map(|thing| scope.spawn(move || work(thing))).collect();
        let results: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        results.into_iter().map(|result| result.map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
    })
}

/// Whether all threads of a process are stopped by a signal.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.contains(") T ")
    })
}

/// Kills the processes whose environment has `variable=value`: a value that only children of the tests have, such as a
/// path below a temporary directory. For daemons whose children leave their group.
pub fn kill_marked(variable: &str, value: &Path) {
    let marker = [variable.as_bytes(), b"=", value.as_os_str().as_encoded_bytes()].concat();
    let me = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if pid != me
            && environment.split(|b| *b == 0).any(|v| v == marker)
            && let Some(pid) = Pid::from_raw(pid as i32)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Copies environment and directory. A [`Command`] does not show whether its environment was cleared, so
/// [`clean_command`] leaves a mark.
fn copy_context(from: &Command, to: &mut Command) {
    if from.get_envs().any(|(k, v)| k == CLEARED && v.is_some()) {
        to.env_clear();
    }
    for (key, value) in from.get_envs() {
        match value {
            Some(value) => to.env(key, value),
            None => to.env_remove(key),
        };
    }
    if let Some(dir) = from.get_current_dir() {
        to.current_dir(dir);
    }
}

const CLEARED: &str = "LARDER_TEST_CLEAN_ENV";

/// A command with an environment of only `PATH`, `LANG` and a mark for [`Child::spawn`].
pub fn clean_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(CLEARED, "1")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LANG", "C.UTF-8");
    command
}
