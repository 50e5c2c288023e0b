//! Telling a service manager how the agent is: ready, alive, stopping.
//!
//! The protocol is that of `sd_notify(3)`: datagrams of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names, a
//! leading `@` standing for the NUL of an abstract address. `$WATCHDOG_USEC` is how often, in microseconds, a sign of
//! life is wanted at least; where `$WATCHDOG_PID` is set, by that process alone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Where messages go, and how often one is due. Without a service manager: nowhere, and never.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<(UnixDatagram, OsString)>,
    watchdog: Option<Duration>,
    last: Option<Instant>,
    status: String,
}

impl Service {
    /// What the environment says.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number("WATCHDOG_USEC").filter(|period| ours && *period > 0);
        Self::new(std::env::var_os("NOTIFY_SOCKET"), period.map(Duration::from_micros))
    }

    fn new(address: Option<OsString>, period: Option<Duration>) -> Self {
        let socket = address.filter(|address| !address.is_empty()).and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A manager that does not read must not hold the agent up.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        // Twice as often as it has to be.
        let watchdog = period.filter(|_| socket.is_some()).map(|period| period / 2);
        Self { socket, watchdog, last: None, status: String::new() }
    }

    /// The agent has its queue, and works from now on.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// The agent's loop turns. The time until this is to be called again at the latest.
    pub(super) fn alive(&mut self, queued: usize) -> Option<Duration> {
        let status = match queued {
            0 => "STATUS=nothing is queued".to_owned(),
            1 => "STATUS=1 job is queued".to_owned(),
            count => format!("STATUS={count} jobs are queued"),
        };
        if status != self.status {
            self.send(&status);
            self.status = status;
        }
        let every = self.watchdog?;
        if self.last.is_none_or(|last| last.elapsed() >= every / 2) {
            self.send("WATCHDOG=1");
            self.last = Some(Instant::now());
        }
        Some(every / 2)
    }

    /// The agent ends.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A manager that does not listen is its own trouble.
    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        let _ = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => send_abstract(socket, name, text),
            None => socket.send_to(text.as_bytes(), OsStr::new(address)),
        };
    }
}

#[cfg(target_os = "linux")]
fn send_abstract(socket: &UnixDatagram, name: &[u8], text: &str) -> std::io::Result<usize> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    socket.send_to_addr(text.as_bytes(), &address)
}

#[cfg(not(target_os = "linux"))]
fn send_abstract(_: &UnixDatagram, _: &[u8], _: &str) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (tempfile::TempDir, UnixDatagram, OsString) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (dir, socket, path.into())
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let size = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn a_life_is_told_in_order() {
        let (_dir, socket, address) = listener();
        let mut service = Service::new(Some(address), Some(Duration::from_secs(60)));
        service.ready();
        assert_eq!(service.alive(2), Some(Duration::from_secs(15)));
        // Neither the same status nor a sign of life too early.
        service.alive(2);
        service.alive(0);
        service.stopping();
        for expected in
            ["READY=1", "STATUS=2 jobs are queued", "WATCHDOG=1", "STATUS=nothing is queued", "STOPPING=1"]
        {
            assert_eq!(next(&socket), expected);
        }
    }

    #[test]
    fn without_a_manager_nothing_is_due() {
        assert_eq!(Service::new(None, Some(Duration::from_secs(60))).alive(1), None);
        // One that is gone holds nobody up.
        let mut service = Service::new(Some("/nowhere/at/all".into()), None);
        service.ready();
        assert_eq!(service.alive(1), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_addresses_are_reached() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("larder-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Service::new(Some(format!("@{name}").into()), None).ready();
        assert_eq!(next(&socket), "READY=1");
    }
}
