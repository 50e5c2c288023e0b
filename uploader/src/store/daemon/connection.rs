//! The connection to the daemon: a socket, or the pipes of a child process.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::plain_text::plain;
use crate::base::error::{Area, Cause, Error, Result};
use crate::base::lock::lock;
use crate::store::location::DaemonAddress;

/// The number of bytes that larder keeps from the end of a child's standard error.
const COMPLAINT: usize = 4096;

/// The time that a child may take to end after its input is closed.
const CHILD_END: Duration = Duration::from_secs(2);

/// An open connection. Reading fails with `TimedOut` or `WouldBlock` when the daemon is silent for too long.
pub(crate) struct Connection {
    pub(crate) from: BufReader<UnixStream>,
    pub(crate) to: BufWriter<Box<dyn Write + Send>>,
    child: Option<StdioChild>,
}

impl Connection {
    /// Opens a connection. `timeout` limits the wait for each piece of a reply.
    pub(crate) fn open(address: &DaemonAddress, timeout: Option<Duration>) -> Result<Self> {
        match address {
            DaemonAddress::Socket(path) => {
                let open = || {
                    let stream = UnixStream::connect(path)?;
                    stream.set_write_timeout(timeout)?;
                    Self::new(stream.try_clone()?, Box::new(stream), None, timeout)
                };
                open().map_err(|error| socket_error(path, error))
            }
            DaemonAddress::Stdio { program, args, env } => {
                Self::spawn(program, args, env, timeout).map_err(|error| {
                    let what = format!("cannot run the nix daemon `{}`", program.display());
                    Error::permanent(Area::Store, what).because(error)
                })
            }
        }
    }

    /// A connection over an open stream.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(stream: UnixStream, timeout: Option<Duration>) -> io::Result<Self> {
        Self::new(stream.try_clone()?, Box::new(stream), None, timeout)
    }

    fn new(
        from: UnixStream,
        to: Box<dyn Write + Send>,
        child: Option<StdioChild>,
        timeout: Option<Duration>,
    ) -> io::Result<Self> {
        from.set_read_timeout(timeout)?;
        // The writer collects several requests; the buffer of the reader holds many replies.
        let (from, to) = (BufReader::with_capacity(64 << 10, from), BufWriter::with_capacity(8 << 10, to));
        Ok(Self { from, to, child })
    }

    fn spawn(
        program: &PathBuf,
        args: &[String],
        env: &[(String, String)],
        timeout: Option<Duration>,
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .env_remove("NIX_REMOTE") // otherwise the child would connect to a daemon, possibly itself
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0) // larder handles an interrupt from the terminal, not the child
            .spawn()?;
        let missing = || io::Error::other("no pipe");
        let input = child.stdin.take().ok_or_else(missing)?;
        let mut output = child.stdout.take().ok_or_else(missing)?;
        let mut errors = child.stderr.take().ok_or_else(missing)?;
        // The child gets pipes because it may use splice(2). A pipe has no read timeout, so a thread copies the output
        // of the child into a socket.
        let (from, relay) = UnixStream::pair()?;
        let complaint = Arc::new(Mutex::new(Vec::new()));
        let tail = Arc::clone(&complaint);
        let listener = thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = errors.read(&mut piece) {
                let mut tail = lock(&tail);
                tail.extend_from_slice(&piece[..length]);
                let excess = tail.len().saturating_sub(COMPLAINT);
                tail.drain(..excess);
            }
        });
        thread::spawn(move || {
            // When one side closes, the other side notices because this thread drops both ends.
            drop(io::copy(&mut output, &mut &relay));
        });
        let child = StdioChild { child, complaint, listener: Some(listener) };
        Self::new(from, Box::new(input), Some(child), timeout)
    }

    /// The text that a child wrote to its standard error before it ended; `None` for a socket.
    pub(crate) fn complaint(&mut self) -> Option<String> {
        self.child.as_mut().and_then(StdioChild::complaint)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.child.is_some() {
            // The input of the child must close before larder waits for the child. An empty buffer replaces the old
            // buffer, which is not flushed: no more requests may be sent.
            let nowhere: Box<dyn Write + Send> = Box::new(io::sink());
            let _ = std::mem::replace(&mut self.to, BufWriter::new(nowhere)).into_parts();
            self.from.get_ref().shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
}

struct StdioChild {
    child: Child,
    complaint: Arc<Mutex<Vec<u8>>>,
    listener: Option<JoinHandle<()>>,
}

impl StdioChild {
    fn ended_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return true,
                Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
                _ => return false,
            }
        }
    }

    fn complaint(&mut self) -> Option<String> {
        if !self.ended_within(Duration::from_millis(500)) {
            return None;
        }
        // A process that the child started may keep the standard error open, so the wait is short.
        let end = Instant::now() + Duration::from_millis(200);
        while self.listener.as_ref().is_some_and(|listener| !listener.is_finished()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        let complaint = lock(&self.complaint);
        let text = plain(&String::from_utf8_lossy(&complaint));
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for StdioChild {
    fn drop(&mut self) {
        if !self.ended_within(CHILD_END) {
            // The child may have ended in the meantime.
            self.child.kill().unwrap_or_default();
            drop(self.child.wait());
        }
    }
}

fn socket_error(path: &Path, error: io::Error) -> Error {
    let what = format!("cannot connect to the nix daemon at `{}`", path.display());
    let (base, cause, hint): (_, Cause, _) = match error.kind() {
        io::ErrorKind::NotFound => (
            Error::transient(Area::Store, what),
            "there is no such socket".into(),
            "check whether nix-daemon runs: `systemctl status nix-daemon.socket`",
        ),
        io::ErrorKind::ConnectionRefused => (
            Error::transient(Area::Store, what),
            "nothing listens on this socket".into(),
            "check whether nix-daemon runs: `systemctl status nix-daemon.socket`",
        ),
        io::ErrorKind::PermissionDenied => (
            Error::permanent(Area::Store, what),
            error.into(),
            "check the permissions of the socket's directory, and `allowed-users` in nix.conf",
        ),
        _ => (Error::transient(Area::Store, what), error.into(), "check whether nix-daemon runs"),
    };
    base.because(cause).hint(hint)
}
