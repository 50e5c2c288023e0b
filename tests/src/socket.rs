//! A socket between larder and a nix-daemon, which forwards everything or applies faults.

use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A fault of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketFault {
    /// Close it after this number of bytes from the daemon.
    CutAfter(u64),
    /// Change the byte at this place of the bytes from the daemon.
    Garble(u64),
    /// After this number of bytes from the daemon, forward nothing for this time.
    StallAfter(u64, Duration),
    /// Close it at once.
    Refuse,
}

type Rule = Box<dyn FnMut(usize) -> Option<SocketFault> + Send>;

#[derive(Default)]
struct State {
    rule: Mutex<Option<Rule>>,
    connections: Mutex<usize>,
    stopping: AtomicBool,
}

/// The running socket. Dropping it removes it.
pub struct SocketProxy {
    path: PathBuf,
    state: Arc<State>,
}

impl std::fmt::Debug for SocketProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocketProxy({})", self.path.display())
    }
}

impl SocketProxy {
    /// Listens at `path`, and forwards to `daemon`.
    pub fn start(path: &Path, daemon: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))?;
        let state = Arc::new(State::default());
        let (shared, daemon) = (state.clone(), daemon.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let number = {
                    let mut count = lock(&shared.connections);
                    *count += 1;
                    *count - 1
                };
                let fault = lock(&shared.rule).as_mut().and_then(|rule| rule(number));
                let daemon = daemon.clone();
                // An error ends the connection.
                thread::spawn(move || serve(&client, &daemon, fault));
            }
        });
        Ok(Self { path: path.to_owned(), state })
    }

    /// Asks a rule about each connection from now on. Connections are counted from 0.
    pub fn set_fault(&self, rule: impl FnMut(usize) -> Option<SocketFault> + Send + 'static) {
        *lock(&self.state.rule) = Some(Box::new(rule));
    }

    /// Forwards all connections without faults from now on.
    pub fn clear_fault(&self) {
        *lock(&self.state.rule) = None;
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        *lock(&self.state.connections)
    }
}

impl Drop for SocketProxy {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: &UnixStream, daemon: &Path, fault: Option<SocketFault>) -> io::Result<()> {
    if fault == Some(SocketFault::Refuse) {
        return client.shutdown(Shutdown::Both);
    }
    let server = UnixStream::connect(daemon)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (client, &server);
            let _ = io::copy(&mut from, &mut to);
            let _ = server.shutdown(Shutdown::Write);
        });
        let result = answers(&server, client, fault);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        result
    })
}

fn answers(mut from: &UnixStream, mut to: &UnixStream, fault: Option<SocketFault>) -> io::Result<()> {
    let (mut passed, mut buffer) = (0_u64, vec![0; 16 << 10]);
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let (bytes, end) = (&mut buffer[..length], passed + length as u64);
        let within = |at: u64| (passed..end).contains(&at).then(|| (at - passed) as usize);
        match fault {
            Some(SocketFault::CutAfter(at)) if at < end => {
                return to.write_all(&bytes[..at.saturating_sub(passed) as usize]);
            }
            Some(SocketFault::Garble(at)) => within(at).into_iter().for_each(|at| bytes[at] ^= 0x55),
            Some(SocketFault::StallAfter(at, time)) if within(at).is_some() => thread::sleep(time),
            _ => {}
        }
        to.write_all(bytes)?;
        passed = end;
    }
}
