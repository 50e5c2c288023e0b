//! An agent whose daemon is silent: it waits for the daemon with a thread that nothing else needs.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::samples;
use larder_tests::process::{Child, clean_command, eventually, run};
use larder_tests::servers::Kind;
use larder_tests::socket::{SocketFault, SocketProxy};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::common::{Ground, Site};

const SOON: Duration = Duration::from_secs(60);
/// How long the daemon is silent. Everything that the test waits for has to happen within this time.
const SILENCE: Duration = Duration::from_secs(120);
const BUCKET: &str = "silent";

/// The chain is long and each request slow, so that a push of it goes on for some 20 seconds after its first narinfo.
#[test]
fn uploads_the_lease_and_signs_of_life_go_on_while_the_daemon_is_silent_for_two_minutes() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(()) };
    let top = ground.nix.build(&samples::chain("silent", 40))?.remove(0);
    let closure = ground.nix.closure(std::slice::from_ref(&top))?.len();
    let mut site = ground.site(BUCKET)?;
    let daemon = ground.nix.daemon().context("no daemon")?.socket().to_owned();
    let socket = site.larder.dir().join("sock");
    let daemon = SocketProxy::start(&socket, &daemon)?;
    site.larder.set_string("daemon-socket", &socket.display().to_string())?;
    site.larder.run(&["queue", "create"])?;
    queue(&ground, &site, &top)?;
    site.proxy.set_latency(Duration::from_millis(200));
    let manager = UnixDatagram::bind(site.larder.dir().join("notify"))?;
    manager.set_nonblocking(true)?;
    let mut agent = agent(&site)?;
    eventually("the first narinfo", SOON, || narinfos(&ground).is_ok_and(|count| count > 0))?;

    daemon.set_fault(|_| Some(SocketFault::StallAfter(0, SILENCE)));
    let connections = daemon.connections();
    let silent = Instant::now();
    // The agent has to ask the daemon for the outputs of this job.
    let derivation =
        format!("{}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent.drv", ground.nix.store_dir().display());
    let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nDeriver: {derivation}\nEnd: \n");
    let state = site.larder.state_dir();
    std::fs::write(state.join("tmp/job"), job)?;
    std::fs::rename(state.join("tmp/job"), state.join("incoming/0000000001-000000000-00000000"))?;
    eventually("the agent asking the daemon", SOON, || daemon.connections() > connections)?;

    let before = narinfos(&ground)?;
    ensure!(before < closure, "the push had ended before the daemon fell silent");
    signs_of_life(&manager);
    let renewed = renewals(&site);
    eventually("the rest of the push", SOON, || narinfos(&ground).is_ok_and(|count| count == closure))?;
    eventually("renewals of the lease", SOON, || renewals(&site) >= renewed + 3)?;
    let mut signs = 0;
    eventually("signs of life", SOON, || {
        signs += signs_of_life(&manager);
        signs >= 3
    })?;
    ensure!(agent.try_wait()?.is_none(), "the agent has ended:\n{}", agent.log());

    let stopped = Instant::now();
    agent.signal(Signal::TERM)?;
    let status = agent.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", agent.log());
    ensure!(stopped.elapsed() < Duration::from_secs(30), "it took {:?} to stop", stopped.elapsed());
    ensure!(silent.elapsed() < SILENCE, "the daemon was no longer silent: {:?}", silent.elapsed());
    let leases = ground.objects(BUCKET)?.into_keys().filter(|key| key.starts_with("larder/writers/")).count();
    ensure!(leases == 0, "a lease is left");

    // Nothing is lost: the next agent settles the job of the closure.
    daemon.clear_fault();
    site.proxy.set_latency(Duration::ZERO);
    site.larder.try_run(&["flush", "--wait", "--timeout", "10"])?;
    let status: serde_json::Value = serde_json::from_str(&site.larder.run(&["status", "--json"])?.stdout)?;
    ensure!(status["queued"]["jobs"] == 1, "{status:#}");
    ensure!(status["waitingForRetry"][0]["path"] == derivation.as_str(), "{status:#}");
    Ok(())
}

/// Queues a path with the real hook.
fn queue(ground: &Ground, site: &Site, path: &str) -> Result<()> {
    let mut hook = clean_command(binary("larder-hook")?);
    hook.envs(ground.nix.client_env()).env("LARDER_CONFIG", site.larder.config_file()).env("OUT_PATHS", path);
    run(&mut hook, SOON)?.ok().map(drop)
}

/// Starts an agent that renews its lease each second and gives a sign of life each second.
fn agent(site: &Site) -> Result<Child> {
    let mut command = site.larder.faulty_command(&["agent", "--drain", "3"], "frequent-renewal")?;
    command.env("NOTIFY_SOCKET", site.larder.dir().join("notify")).env("WATCHDOG_USEC", "4000000");
    Child::spawn(&command, &site.larder.dir().join("agent.log"))
}

fn narinfos(ground: &Ground) -> Result<usize> {
    Ok(ground.objects(BUCKET)?.into_keys().filter(|key| key.ends_with(".narinfo")).count())
}

/// How often the lease has been written.
fn renewals(site: &Site) -> usize {
    let is_lease = |path: &str| path.contains("/larder/writers/");
    let log = site.proxy.log();
    log.iter().filter(|record| record.method == "PUT" && is_lease(&record.path) && record.succeeded()).count()
}

/// How many signs of life have come since the last call.
fn signs_of_life(manager: &UnixDatagram) -> usize {
    let mut buffer = [0; 1024];
    let mut signs = 0;
    while let Ok(size) = manager.recv(&mut buffer) {
        signs += usize::from(&buffer[..size] == b"WATCHDOG=1");
    }
    signs
}
