//! The agent's side of being started by a service manager: ready, alive, stopping; and an end when nothing is left.

use anyhow::{Context, Result};
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixHome, samples, versions};
use larder_tests::process::{Child, eventually};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// A socket in a service manager's place, and what came.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, heard: Vec::new() })
    }

    fn heard(&mut self) -> &[String] {
        let mut buffer = [0; 1024];
        while let Ok(size) = self.socket.recv(&mut buffer) {
            self.heard.push(String::from_utf8_lossy(&buffer[..size]).into_owned());
        }
        &self.heard
    }

    fn count(&mut self, message: &str) -> usize {
        self.heard().iter().filter(|heard| *heard == message).count()
    }

    fn agent(&self, larder: &LarderHome, socket: &Path, watchdog: Duration) -> Result<Child> {
        let mut command = larder.command(&["agent", "--exit-when-idle"])?;
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Child::spawn(&command, &larder.dir().join("agent.log"))
    }
}

fn world() -> Result<Option<(NixHome, LarderHome)>> {
    let Some(version) = versions().first().copied() else { return Ok(None) };
    let mut nix = NixHome::new(version)?;
    let mut larder = LarderHome::new(&nix)?;
    larder.use_keys(&[&nix.key_pair("test-1")?])?;
    larder.use_directory(&larder.dir().join("cache"))?;
    larder.run(&["init", "--create"])?;
    larder.install_hook(&mut nix)?;
    Ok(Some((nix, larder)))
}

#[test]
fn an_agent_is_ready_gives_signs_of_life_lingers_and_ends() -> Result<()> {
    let Some((nix, mut larder)) = world()? else { return Ok(()) };
    larder.set("linger", "6")?;
    let socket = larder.dir().join("notify");
    let mut manager = Manager::listen(&socket)?;
    nix.build(&samples::single("activated"))?;
    let mut agent = manager.agent(&larder, &socket, Duration::from_secs(2))?;
    eventually("the agent being ready", SOON, || manager.count("READY=1") == 1)?;
    let incoming = larder.state_dir().join("incoming");
    let work = larder.state_dir().join("work");
    let empty = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_none());
    eventually("the queue being empty", SOON, || empty(&incoming) && empty(&work))?;
    let idle = Instant::now();
    // A second build, while it lingers, is its own: it does not have to be started again.
    std::thread::sleep(Duration::from_secs(2));
    nix.build(&samples::single("while it lingers"))?;
    eventually("the second build being pushed", SOON, || empty(&incoming) && empty(&work))?;
    assert!(agent.try_wait()?.is_none(), "it has not lingered: {}", agent.log());
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    assert!(idle.elapsed() >= Duration::from_secs(7), "it ended after {:?}", idle.elapsed());
    let heard = manager.heard().to_vec();
    assert_eq!(heard.first().map(String::as_str), Some("READY=1"));
    assert_eq!(heard.last().map(String::as_str), Some("STOPPING=1"), "{heard:?}");
    assert_eq!(manager.count("READY=1"), 1, "{heard:?}");
    // A sign in each half of the two seconds, as long as it lived.
    assert!(manager.count("WATCHDOG=1") >= 6, "{heard:?}");
    Ok(())
}

#[test]
fn an_agent_that_is_told_to_stop_says_so_before_it_waits_for_what_is_on_its_way() -> Result<()> {
    let Some((_nix, larder)) = world()? else { return Ok(()) };
    let socket = larder.dir().join("notify");
    let mut manager = Manager::listen(&socket)?;
    let mut agent = manager.agent(&larder, &socket, Duration::from_secs(60))?;
    eventually("the agent being ready", SOON, || manager.count("READY=1") == 1)?;
    agent.signal(Signal::TERM)?;
    assert!(agent.wait(SOON)?.success());
    assert_eq!(manager.heard().last().map(String::as_str), Some("STOPPING=1"));
    Ok(())
}

#[test]
fn an_agent_that_hangs_gives_no_sign_of_life() -> Result<()> {
    let Some((_nix, larder)) = world()? else { return Ok(()) };
    let socket = larder.dir().join("notify");
    let mut manager = Manager::listen(&socket)?;
    let agent = manager.agent(&larder, &socket, Duration::from_secs(2))?;
    eventually("a sign of life", SOON, || manager.count("WATCHDOG=1") > 0)?;
    agent.signal(Signal::STOP)?;
    std::thread::sleep(Duration::from_millis(200));
    let before = manager.count("WATCHDOG=1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(manager.count("WATCHDOG=1"), before, "a stopped process spoke");
    agent.signal(Signal::CONT)?;
    eventually("signs of life again", SOON, || manager.count("WATCHDOG=1") > before)?;
    Ok(())
}

#[test]
fn an_agent_that_cannot_begin_is_never_ready() -> Result<()> {
    let Some((_nix, mut larder)) = world()? else { return Ok(()) };
    larder.unset("signing-key-files")?;
    let socket = larder.dir().join("notify");
    let mut manager = Manager::listen(&socket)?;
    let mut agent = manager.agent(&larder, &socket, Duration::from_secs(2))?;
    let status = agent.wait(SOON)?;
    assert_eq!(status.code(), Some(4), "{}", agent.log());
    assert_eq!(manager.count("READY=1"), 0);
    std::fs::metadata(&socket).context("the socket is gone")?;
    Ok(())
}
