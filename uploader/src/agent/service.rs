//! Reports the agent's state to a service manager: ready, alive, stopping.
//!
//! The protocol is that of `sd_notify(3)`: datagrams of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names; a
//! leading `@` stands for the NUL byte of an abstract address. `$WATCHDOG_USEC` is the longest time between two signs of
//! life, in microseconds; where `$WATCHDOG_PID` is set, it concerns that process alone.
//!
//! The crate `sd-notify` (0.5) does not replace this code. It connects to the path that `$NOTIFY_SOCKET` has, so it
//! reaches no abstract address, and its socket blocks: a manager that does not read would halt the agent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::keeper::QueueState;
use super::pulse::Pulse;

/// The service manager's socket, and how often it expects a sign of life. Without a manager, nothing is sent.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<(UnixDatagram, OsString)>,
    watchdog: Option<Duration>,
    last: Option<Instant>,
    status: String,
    /// The messages that the manager's socket had no room for, the oldest first.
    unsent: VecDeque<String>,
}

/// How soon a message is sent again that the manager's socket had no room for.
const AGAIN: Duration = Duration::from_millis(100);

impl Service {
    /// The service manager that the environment names.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number("WATCHDOG_USEC").filter(|period| ours && *period > 0);
        Self::new(std::env::var_os("NOTIFY_SOCKET"), period.map(Duration::from_micros))
    }

    pub(super) fn new(address: Option<OsString>, period: Option<Duration>) -> Self {
        let socket = address.filter(|address| !address.is_empty()).and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A manager that does not read must not halt the agent.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        // Twice as often as the manager demands.
        let watchdog = period.filter(|_| socket.is_some()).map(|period| period / 2);
        Self { socket, watchdog, ..Self::default() }
    }

    /// Reports that the agent has its queue and works from now on.
    pub(super) fn ready(&mut self) {
        self.report("READY=1".into());
    }

    /// Gives signs of life for ever, except while the agent is stuck. Reports the number of queued jobs as soon as it is
    /// known, and whenever it changes.
    pub(super) async fn give_signs_of_life(
        &mut self,
        mut state: watch::Receiver<QueueState>,
        pulse: &Pulse,
    ) -> Infallible {
        loop {
            let QueueState { jobs, is_complete, .. } = *state.borrow_and_update();
            let wait = self.alive(is_complete.then_some(jobs), pulse.is_alive());
            let next_sign = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let change = async {
                // Without a sender, nothing changes any more.
                if state.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! { () = next_sign => {}, () = change => {} }
        }
    }

    /// Reports the number of queued jobs, if it is known. Gives a sign of life if it is due and the agent `is_alive`.
    /// Returns the longest time until the next call.
    fn alive(&mut self, queued: Option<usize>, is_alive: bool) -> Option<Duration> {
        let status = queued.map(|queued| match queued {
            0 => "STATUS=nothing is queued".to_owned(),
            1 => "STATUS=1 job is queued".to_owned(),
            count => format!("STATUS={count} jobs are queued"),
        });
        if let Some(status) = status.filter(|status| *status != self.status) {
            // A status that has not arrived is out of date now.
            self.unsent.retain(|text| *text != self.status);
            self.report(status.clone());
            self.status = status;
        }
        let everything_arrived = self.send_unsent();
        let again = (!everything_arrived).then_some(AGAIN);
        let Some(every) = self.watchdog else { return again };
        let is_due = is_alive && self.last.is_none_or(|last| last.elapsed() >= every / 2);
        if is_due && everything_arrived && self.send("WATCHDOG=1") {
            self.last = Some(Instant::now());
        }
        Some(again.unwrap_or(every / 2))
    }

    /// Reports that the agent ends.
    pub(super) fn stopping(&mut self) {
        self.report("STOPPING=1".into());
    }

    /// Ends when all messages have arrived.
    pub(super) async fn arrived(&mut self) {
        while !self.send_unsent() {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Sends a message after those that have not arrived yet.
    fn report(&mut self, text: String) {
        self.unsent.push_back(text);
        self.send_unsent();
    }

    /// Sends the messages that have not arrived yet. Returns whether none is left.
    fn send_unsent(&mut self) -> bool {
        while self.unsent.front().is_some_and(|text| self.send(text)) {
            self.unsent.pop_front();
        }
        self.unsent.is_empty()
    }

    /// Sends a message. Returns `false` if the manager's socket has no room for the message now. Another error concerns
    /// the manager alone.
    fn send(&self, text: &str) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        let sent = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => send_abstract(socket, name, text),
            None => socket.send_to(text.as_bytes(), OsStr::new(address)),
        };
        !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(target_os = "linux")]
fn send_abstract(socket: &UnixDatagram, name: &[u8], text: &str) -> io::Result<usize> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    socket.send_to_addr(text.as_bytes(), &address)
}

#[cfg(not(target_os = "linux"))]
fn send_abstract(_: &UnixDatagram, _: &[u8], _: &str) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
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
    fn messages_come_in_order() {
        let (_dir, socket, address) = listener();
        let mut service = Service::new(Some(address), Some(Duration::from_secs(60)));
        service.ready();
        assert_eq!(service.alive(Some(2), true), Some(Duration::from_secs(15)));
        // The status has not changed, and no sign of life is due.
        service.alive(Some(2), true);
        service.alive(Some(0), true);
        service.stopping();
        for expected in
            ["READY=1", "STATUS=2 jobs are queued", "WATCHDOG=1", "STATUS=nothing is queued", "STOPPING=1"]
        {
            assert_eq!(next(&socket), expected);
        }
    }

    /// Fills the socket at `address` until it has no room. Returns the number of messages.
    fn fill(address: &OsString) -> usize {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        let full = |count: &usize| filler.send_to(b"FILLER=1", address).is_err() || *count > 100_000;
        (0..).find(full).unwrap()
    }

    fn empty(socket: &UnixDatagram, count: usize) {
        (0..count).for_each(|_| assert_eq!(next(socket), "FILLER=1"));
    }

    #[test]
    fn messages_are_sent_again_until_the_socket_has_room() {
        let (_dir, socket, address) = listener();
        let mut service = Service::new(Some(address.clone()), Some(Duration::from_secs(60)));
        let count = fill(&address);
        service.ready();
        assert_eq!(service.alive(None, true), Some(AGAIN));
        assert_eq!(service.alive(Some(1), true), Some(AGAIN));
        // Only the last status is of interest.
        assert_eq!(service.alive(Some(2), true), Some(AGAIN));
        empty(&socket, count);
        assert_eq!(service.alive(Some(2), true), Some(Duration::from_secs(15)));
        for expected in ["READY=1", "STATUS=2 jobs are queued", "WATCHDOG=1"] {
            assert_eq!(next(&socket), expected);
        }
    }

    #[tokio::test]
    async fn the_end_is_reported_when_the_socket_has_room_again() {
        let (_dir, socket, address) = listener();
        let mut service = Service::new(Some(address.clone()), None);
        let count = fill(&address);
        service.stopping();
        let reader = tokio::task::spawn_blocking(move || {
            empty(&socket, count);
            next(&socket)
        });
        service.arrived().await;
        assert_eq!(reader.await.unwrap(), "STOPPING=1");
    }

    #[test]
    fn a_stuck_agent_gives_no_sign_of_life() {
        let (_dir, socket, address) = listener();
        let mut service = Service::new(Some(address), Some(Duration::from_secs(60)));
        assert_eq!(service.alive(Some(1), false), Some(Duration::from_secs(15)));
        service.alive(Some(2), true);
        for expected in ["STATUS=1 job is queued", "STATUS=2 jobs are queued", "WATCHDOG=1"] {
            assert_eq!(next(&socket), expected);
        }
    }

    #[test]
    fn without_a_manager_nothing_is_due() {
        assert_eq!(Service::new(None, Some(Duration::from_secs(60))).alive(Some(1), true), None);
        // A manager that is gone does not halt the agent.
        let mut service = Service::new(Some("/nowhere/at/all".into()), None);
        service.ready();
        assert_eq!(service.alive(Some(1), true), None);
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
