//! A recording proxy in front of an S3 server, and a network that can fail.
//!
//! The proxy forwards bytes as they come, the `Host` header included: a client signs for the proxy's address and the
//! server checks the same header, so signatures stay valid. The log has the start of each request (its head has come)
//! and its end (the server's **complete** response has come; the end is noted before the client gets the last of the
//! response) in one order. So when a client begins a request because another has been answered, the log shows that.

mod forward;
mod record;
mod rounds;

pub use crate::fault::Fault;
pub use record::Record;

use crate::gate::Gate;
use crate::ports;
use anyhow::{Context, Result};
use rounds::Rounds;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type FaultRule = Box<dyn FnMut(&Record) -> Option<Fault> + Send>;
type HoldRule = Box<dyn Fn(&Record) -> bool + Send>;

struct State {
    upstream: String,
    started: Instant,
    log: Mutex<Vec<Record>>,
    sequence: AtomicU64,
    stopping: AtomicBool,
    latency_us: AtomicU64,
    /// By how many seconds the `Date` of each response is moved into the future.
    ahead: AtomicU64,
    fault: Mutex<Option<FaultRule>>,
    hold: Mutex<Option<(HoldRule, Gate)>>,
    rounds: Mutex<Option<Arc<Rounds>>>,
    streams: Mutex<Vec<(u64, TcpStream)>>,
}

/// A running proxy.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({} -> {})", self.address, self.state.upstream)
    }
}

impl Proxy {
    /// Starts a proxy in front of `http://HOST:PORT`.
    pub fn start(endpoint: &str) -> Result<Self> {
        let (host, _) = crate::http::split_url(endpoint)?;
        let state = Arc::new(State {
            upstream: host.to_owned(),
            started: Instant::now(),
            log: Mutex::default(),
            sequence: AtomicU64::default(),
            stopping: AtomicBool::default(),
            latency_us: AtomicU64::default(),
            ahead: AtomicU64::default(),
            fault: Mutex::default(),
            hold: Mutex::default(),
            rounds: Mutex::default(),
            streams: Mutex::default(),
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let mut proxy = Self { state, address, acceptor: None };
        proxy.switch_on()?;
        Ok(proxy)
    }

    /// The proxy's `http://HOST:PORT`, which never changes.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accepts connections (again).
    pub fn switch_on(&mut self) -> Result<()> {
        if self.acceptor.is_none() {
            let listener = ports::listen(self.address.port())
                .with_context(|| format!("listening on {}", self.address))?;
            self.state.stopping.store(false, Ordering::SeqCst);
            let state = self.state.clone();
            self.acceptor = Some(std::thread::spawn(move || accept(&listener, &state)));
        }
        Ok(())
    }

    /// Refuses connections and cuts the open ones.
    pub fn switch_off(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            self.state.stopping.store(true, Ordering::SeqCst);
            // Wakes the acceptor.
            let _ = TcpStream::connect(self.address);
            let _ = acceptor.join();
            for (_, stream) in lock(&self.state.streams).drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Delays each request by this.
    pub fn set_latency(&self, latency: Duration) {
        self.state.latency_us.store(latency.as_micros() as u64, Ordering::SeqCst);
    }

    /// Moves the `Date` of each response from now on into the future: for the client, all objects of the server become
    /// older by this time.
    pub fn set_server_ahead(&self, time: Duration) {
        self.state.ahead.store(time.as_secs(), Ordering::SeqCst);
    }

    /// Asks a rule about each request from now on.
    pub fn set_fault(&self, rule: impl FnMut(&Record) -> Option<Fault> + Send + 'static) {
        *lock(&self.state.fault) = Some(Box::new(rule));
    }

    /// Forwards all requests without faults from now on.
    pub fn clear_fault(&self) {
        *lock(&self.state.fault) = None;
    }

    /// Holds each request that the rule names until the returned gate is opened. The latest rule counts.
    pub fn hold(&self, rule: impl Fn(&Record) -> bool + Send + 'static) -> Gate {
        let gate = Gate::default();
        *lock(&self.state.hold) = Some((Box::new(rule), gate.clone()));
        gate
    }

    /// Collects requests from now on until none has come for this long, and lets them through together. The rule of
    /// [`Proxy::set_fault`] is asked when a request comes.
    pub fn set_rounds(&self, quiet: Duration) {
        *lock(&self.state.rounds) = Some(Arc::new(Rounds::new(quiet)));
    }

    /// Lets each request through by itself from now on.
    pub fn clear_rounds(&self) {
        *lock(&self.state.rounds) = None;
    }

    /// The requests so far, by their start.
    pub fn log(&self) -> Vec<Record> {
        lock(&self.state.log).clone()
    }

    /// Counts the requests so far of which `rule` holds.
    pub fn count(&self, rule: impl Fn(&Record) -> bool) -> usize {
        lock(&self.state.log).iter().filter(|record| rule(record)).count()
    }

    /// A handle by which a rule of the proxy can count requests.
    pub fn counter(&self) -> Counter {
        Counter(Arc::downgrade(&self.state))
    }

    /// Forgets the requests so far (only while none runs).
    pub fn clear_log(&self) {
        lock(&self.state.log).clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// Counts requests of a proxy that may be gone.
#[derive(Clone)]
pub struct Counter(std::sync::Weak<State>);

impl Counter {
    /// Counts the requests so far of which `rule` holds.
    pub fn count(&self, rule: impl Fn(&Record) -> bool) -> usize {
        let Some(state) = self.0.upgrade() else { return 0 };
        lock(&state.log).iter().filter(|record| rule(record)).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for (id, stream) in listener.incoming().enumerate() {
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let id = state.sequence.load(Ordering::SeqCst) << 20 | id as u64;
        if let Ok(handle) = stream.try_clone() {
            lock(&state.streams).push((id, handle));
        }
        let state = state.clone();
        std::thread::spawn(move || {
            // An error ends the connection, and the log shows a request without an end.
            let _ = forward::serve(&stream, &state);
            let _ = stream.shutdown(Shutdown::Both);
            lock(&state.streams).retain(|(other, _)| *other != id);
        });
    }
}
