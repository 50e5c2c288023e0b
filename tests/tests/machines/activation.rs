//! How the agent behaves under a service manager: it says that it is ready, that it is alive and that it stops, and it
//! ends when nothing is left to do.

use anyhow::{Context, Result};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, samples, versions};
use larder_tests::process::{Child, clean_command, eventually, is_stopped, run};
use rustix::process::Signal;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);
const LINGER: Duration = Duration::from_secs(4);

/// The notification socket of a service manager, and the messages that came.
///
/// A thread reads the socket all the time: the kernel holds back only `net.unix.max_dgram_qlen` messages, and an agent
/// drops those beyond.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    messages: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let (from, to) = (socket.try_clone()?, messages.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(size @ 1..) = from.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..size]).into_owned();
                to.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
        });
        Ok(Self { path: path.to_owned(), socket, messages, reader: Some(reader) })
    }

    /// The messages that came before this call.
    fn messages(&self) -> Result<Vec<String>> {
        const MARK: &str = "mark of the test";
        UnixDatagram::unbound()?.send_to(MARK.as_bytes(), &self.path)?;
        let messages = || self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        eventually("the manager reading its socket", SOON, || messages().iter().any(|m| m == MARK))?;
        messages().retain(|message| message != MARK);
        Ok(messages().clone())
    }

    fn count(&self, message: &str) -> Result<usize> {
        Ok(self.messages()?.iter().filter(|m| *m == message).count())
    }

    fn wait_for(&self, message: &str) -> Result<()> {
        eventually(message, SOON, || self.count(message).is_ok_and(|count| count > 0))
    }

    fn agent(&self, larder: &LarderHome, watchdog: Duration) -> Result<Child> {
        let mut command = larder.command(&["agent", "--exit-when-idle"])?;
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Child::spawn(&command, &larder.dir().join("agent.log"))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Ends the reader's `recv`.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.reader.take().map(JoinHandle::join);
    }
}

fn world() -> Result<Option<(NixHome, LarderHome, Manager)>> {
    let Some(version) = versions().first().copied() else { return Ok(None) };
    let nix = NixHome::new(version)?;
    let mut larder = LarderHome::new(&nix)?;
    larder.use_keys(&[&nix.key_pair("test-1")?])?;
    larder.use_directory(&larder.dir().join("cache"))?;
    larder.set("linger", &LINGER.as_secs().to_string())?;
    larder.run(&["init", "--create"])?;
    let manager = Manager::listen(&larder.dir().join("notify"))?;
    Ok(Some((nix, larder, manager)))
}

/// Queues a path by the hook, without a build.
fn queue(larder: &LarderHome, path: &str) -> Result<()> {
    let mut hook = clean_command(binary("larder-hook")?);
    hook.env("LARDER_CONFIG", larder.config_file()).env("OUT_PATHS", path);
    run(&mut hook, SOON)?.ok().map(drop)
}

fn is_queue_empty(larder: &LarderHome) -> bool {
    ["incoming", "work"].into_iter().all(|place| {
        std::fs::read_dir(larder.state_dir().join(place)).is_ok_and(|mut dir| dir.next().is_none())
    })
}

#[test]
fn an_agent_says_that_it_is_ready_and_alive_lingers_after_each_job_and_ends() -> Result<()> {
    let Some((nix, larder, manager)) = world()? else { return Ok(()) };
    let first = nix.build(&samples::single("first"))?.remove(0);
    let second = nix.build(&samples::single("second"))?.remove(0);
    queue(&larder, &first)?;
    let mut agent = manager.agent(&larder, Duration::from_secs(2))?;
    manager.wait_for("READY=1")?;
    eventually("the first path being pushed", SOON, || is_queue_empty(&larder))?;
    std::thread::sleep(LINGER / 4);
    // The same agent pushes a path that is queued while it lingers, and lingers again after it.
    let queued = Instant::now();
    queue(&larder, &second)?;
    eventually("the second path being pushed", SOON, || is_queue_empty(&larder))?;
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    assert!(queued.elapsed() >= LINGER, "the agent ended after {:?}", queued.elapsed());
    let messages = manager.messages()?;
    assert_eq!(messages.first().map(String::as_str), Some("READY=1"), "{messages:?}");
    assert_eq!(messages.last().map(String::as_str), Some("STOPPING=1"), "{messages:?}");
    assert_eq!(manager.count("READY=1")?, 1, "{messages:?}");
    // At least one sign of life in each half of the watchdog's two seconds.
    let alive = LINGER + LINGER / 4;
    assert!(manager.count("WATCHDOG=1")? as u64 >= alive.as_secs(), "{messages:?}");
    Ok(())
}

#[test]
fn an_agent_that_is_asked_to_stop_says_so() -> Result<()> {
    let Some((_nix, mut larder, manager)) = world()? else { return Ok(()) };
    larder.set("linger", "600")?;
    let mut agent = manager.agent(&larder, Duration::from_secs(60))?;
    manager.wait_for("READY=1")?;
    agent.signal(Signal::TERM)?;
    assert!(agent.wait(SOON)?.success());
    assert_eq!(manager.messages()?.last().map(String::as_str), Some("STOPPING=1"));
    Ok(())
}

#[test]
fn an_agent_that_hangs_gives_no_sign_of_life() -> Result<()> {
    const WATCHDOG: Duration = Duration::from_secs(1);
    let Some((_nix, mut larder, manager)) = world()? else { return Ok(()) };
    larder.set("linger", "600")?;
    let agent = manager.agent(&larder, WATCHDOG)?;
    manager.wait_for("WATCHDOG=1")?;
    agent.signal(Signal::STOP)?;
    eventually("the agent being stopped", SOON, || is_stopped(agent.pid()))?;
    let before = manager.count("WATCHDOG=1")?;
    std::thread::sleep(WATCHDOG * 2);
    assert_eq!(manager.count("WATCHDOG=1")?, before, "a stopped process sent a sign of life");
    agent.signal(Signal::CONT)?;
    let is_alive = || manager.count("WATCHDOG=1").is_ok_and(|count| count > before);
    eventually("signs of life again", SOON, is_alive)
}

#[test]
fn an_agent_that_cannot_begin_is_never_ready() -> Result<()> {
    let Some((_nix, mut larder, manager)) = world()? else { return Ok(()) };
    larder.unset("signing-key-files")?;
    let mut agent = manager.agent(&larder, Duration::from_secs(2))?;
    let status = agent.wait(SOON)?;
    assert_eq!(status.code(), Some(4), "{}", agent.log());
    assert_eq!(manager.count("READY=1")?, 0);
    std::fs::metadata(&manager.path).context("the socket is gone")?;
    Ok(())
}
