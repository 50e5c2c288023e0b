//! What a cache that is away costs a client, by real Nix of each version: the build has to succeed all the same.
//!
//! The table that this prints (`cargo test --test machines absent -- --nocapture`) stands in docs/clients.md.

use anyhow::{Context, Result};
use larder_tests::http::get;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixHome, NixVersion, samples, versions};
use larder_tests::process::{Output, clean_command, eventually, run};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::relay::{self, Relay};

/// How many derivations are built, each of the one before.
const LENGTH: u32 = 4;
/// Longer than any build here may take.
const LIMIT: Duration = Duration::from_secs(120);
/// What a cache that is away may add to such a build, with the settings that larder gives.
const SLOWER: Duration = Duration::from_secs(60);
/// The same where `larder relay` stands between.
const SLOWER_RELAYED: Duration = Duration::from_secs(25);

/// How a cache is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Nobody listens.
    Refused,
    /// Connections are not answered.
    BlackHole,
    /// Connections are taken, and nothing is said.
    Silent,
    /// The host's name is not known.
    Nameless,
    /// Every answer is a 500.
    Errors,
    /// The narinfos are there, the NARs are not.
    NoNars,
}

impl Away {
    const ALL: [Self; 6] =
        [Self::Refused, Self::BlackHole, Self::Silent, Self::Nameless, Self::Errors, Self::NoNars];

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::BlackHole => "packets dropped",
            Self::Silent => "connected, no answer",
            Self::Nameless => "name not resolved",
            Self::Errors => "status 500",
            Self::NoNars => "narinfos without NARs",
        }
    }
}

const GOOD: u8 = 0;
const ERRORS: u8 = 1;
const NO_NARS: u8 = 2;
const SILENT: u8 = 3;

/// A static cache that misbehaves on request.
struct Cache {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cache {
    /// At a loopback address of one's own, so that nobody takes the port while it is away.
    fn start(directory: &Path, host: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let (mode, stop) = (Arc::new(AtomicU8::new(GOOD)), Arc::new(AtomicBool::new(false)));
        let (shared, ended, directory) = (mode.clone(), stop.clone(), directory.to_owned());
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let kept = open.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(stream.try_clone());
                let (mode, directory) = (shared.clone(), directory.clone());
                std::thread::spawn(move || answer(stream, &mode, &directory));
            }
        });
        Ok(Self { address, mode, stop, open, thread: Some(thread) })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends listening, and the connections that stand.
    fn refuse(&mut self) {
        self.deafen();
        self.cut();
    }

    /// Ends the connections that stand: one that is kept would go on as before.
    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends listening.
    fn deafen(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(self.address);
            let _ = thread.join();
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn answer(mut stream: TcpStream, mode: &AtomicU8, directory: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let key = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let file = std::fs::read(directory.join(&key)).ok();
        let (status, body) = match (mode.load(Ordering::SeqCst), file) {
            (SILENT, _) => {
                std::thread::sleep(LIMIT);
                return Ok(());
            }
            (ERRORS, _) => ("500 Internal Server Error", Vec::new()),
            (NO_NARS, Some(_)) if key.starts_with("nar/") => ("404 Not Found", Vec::new()),
            (_, Some(body)) => ("200 OK", body),
            (_, None) => ("404 Not Found", Vec::new()),
        };
        let head = request.starts_with("HEAD");
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if !head {
            stream.write_all(&body)?;
        }
        stream.flush()?;
    }
    Ok(())
}

/// Listens at an address without ever taking a connection, with so short a queue that it is full at once.
fn black_hole(address: SocketAddr) -> Result<(rustix::fd::OwnedFd, Vec<TcpStream>)> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    // A process that is just being started by another thread may hold the port for a moment.
    eventually("the port being free", Duration::from_secs(10), || bind(&listener, &address).is_ok())?;
    listen(&listener, 0)?;
    let fill = |_| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    Ok((listener, (0..8).filter_map(fill).collect()))
}

/// A store that has pushed a chain, the directory with it, and a public key.
fn pushed(version: NixVersion) -> Result<(NixHome, PathBuf, String)> {
    let mut nix = NixHome::new(version)?;
    nix.set_timeout(LIMIT);
    let mut larder = LarderHome::new(&nix)?;
    let key = nix.key_pair("absent-1")?;
    larder.use_keys(&[&key])?;
    let directory = nix.dir().join("cache");
    larder.use_directory(&directory)?;
    larder.run(&["init", "--create"])?;
    let built = nix.build(&samples::chain("absent", LENGTH))?;
    larder.run(&[&["push"][..], &built.iter().map(String::as_str).collect::<Vec<_>>()].concat())?;
    Ok((nix, directory, key.public))
}

/// What `larder client` and the module set.
const OURS: &[(&str, &str)] = &[
    ("fallback", "true"),
    ("connect-timeout", "3"),
    ("stalled-download-timeout", "15"),
    ("download-attempts", "3"),
];

/// A name that is known where a file says so, and nowhere else.
const NAME: &str = "cache.larder.invalid";

/// A command in a namespace of its own, after something was done there.
fn apart(command: &Command, namespace: &str, before: &str) -> Command {
    let mut apart = clean_command("unshare");
    apart.args([namespace, "--", "/bin/sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
    apart.arg(command.get_program()).args(command.get_args());
    apart.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        apart.current_dir(dir);
    }
    apart
}

/// Where [`NAME`] is known, for a while.
struct Names {
    hosts: PathBuf,
    resolver: PathBuf,
}

impl Names {
    fn new(dir: &Path, host: &str) -> Result<Self> {
        let names = Self { hosts: dir.join("hosts"), resolver: dir.join("resolv.conf") };
        std::fs::write(&names.hosts, format!("{host} {NAME}\n"))?;
        // Nobody answers there, and nobody else is asked.
        std::fs::write(&names.resolver, "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")?;
        Ok(names)
    }

    /// The command where the name is known.
    fn known_to(&self, command: &Command) -> Command {
        let mount = |file: &Path, to: &str| format!("mount --bind {} {to}", file.display());
        let mounts = [mount(&self.hosts, "/etc/hosts"), mount(&self.resolver, "/etc/resolv.conf")];
        apart(command, "--mount", &mounts.join(" && "))
    }

    /// In place: the file that is mounted is this one.
    fn forget(&self) -> Result<()> {
        Ok(std::fs::write(&self.hosts, "")?)
    }
}

/// How a client reads the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It never has before.
    New,
    /// It has used it before.
    Known,
    /// It has, and reads it through `larder relay`.
    Relayed,
}

/// Builds the chain in an empty store with a cache that is away.
fn measure(
    (nix, directory, public): &mut (NixHome, PathBuf, String),
    away: Away,
    client: Client,
    settings: &[(&str, &str)],
) -> Result<Output> {
    let host = format!("127.0.0.{}", 10 + away as u8);
    let mut cache = Cache::start(directory, &host)?;
    let nameless = away == Away::Nameless;
    let url = if nameless { cache.url().replace(&host, NAME) } else { cache.url() };
    let names = Names::new(nix.dir(), &host)?;
    let relay = match client {
        Client::Relayed => {
            let command = relay::command(&[&format!("lan={url}")])?;
            Some(Relay::spawn(nix.dir(), &if nameless { names.known_to(&command) } else { command })?)
        }
        _ => None,
    };
    nix.retire()?;
    nix.set_conf("substituters", &relay.as_ref().map_or(url, |relay| relay.url("lan")))?;
    nix.set_conf("trusted-public-keys", public)?;
    OURS.iter().try_for_each(|(name, _)| nix.unset_conf(name))?;
    settings.iter().try_for_each(|(name, value)| nix.set_conf(name, value))?;
    let memory = tempfile::tempdir_in(nix.dir())?;
    let memory = memory.path().to_owned();
    // Whether it is Nix itself that looks for the name.
    let looks = nameless && relay.is_none();
    if client != Client::New {
        // What it remembers is nix-cache-info alone: of these paths it has not asked before.
        let mut ask = nix.command("nix-store", &["-r", "--dry-run"]);
        ask.arg(nix.store_dir().join("00000000000000000000000000000000-unknown"));
        ask.env("XDG_CACHE_HOME", &memory);
        run(&mut if looks { names.known_to(&ask) } else { ask }, LIMIT)?;
        anyhow::ensure!(memory.join("nix").exists(), "nothing is remembered");
    }
    let mut held = None;
    match away {
        Away::Refused => cache.refuse(),
        Away::BlackHole => {
            // Nor does anything come on a connection that was there before.
            cache.mode.store(SILENT, Ordering::SeqCst);
            cache.deafen();
            held = Some(black_hole(cache.address).context("no black hole")?);
        }
        Away::Silent => cache.mode.store(SILENT, Ordering::SeqCst),
        Away::Errors => cache.mode.store(ERRORS, Ordering::SeqCst),
        Away::NoNars => cache.mode.store(NO_NARS, Ordering::SeqCst),
        Away::Nameless => {
            names.forget()?;
            cache.cut();
        }
    }
    let mut build = nix.build_command(&samples::chain("absent", LENGTH), &[])?;
    build.env("XDG_CACHE_HOME", &memory);
    // Without a network there is nobody to ask for a name, and nobody is asked.
    let output = run(&mut if looks { apart(&build, "--net", "true") } else { build }, LIMIT)?;
    drop(held);
    if let Some(relay) = relay.filter(|_| away != Away::NoNars) {
        anyhow::ensure!(relay.said("lan is unavailable"), "{}: the relay has noticed nothing", away.name());
    }
    Ok(output)
}

fn shown(output: &Output, base: Duration) -> String {
    if output.timed_out {
        return format!("> {} s", LIMIT.as_secs());
    }
    let slower = output.took.saturating_sub(base).as_secs_f64();
    if output.status.success() {
        format!("+{slower:.1} s")
    } else {
        format!("**fails** after {:.1} s", output.took.as_secs_f64())
    }
}

/// One row of the table, and what is wrong with it.
fn row(version: NixVersion, away: Away, base: Duration) -> Result<(String, Vec<String>)> {
    let mut pusher = pushed(version)?;
    let mut by = |client| measure(&mut pusher, away, client, OURS);
    let (new, known, relayed) = (by(Client::New)?, by(Client::Known)?, by(Client::Relayed)?);
    // Unbounded in some versions; it is what the settings are for.
    let endless = matches!(away, Away::BlackHole | Away::Silent | Away::Nameless);
    let defaults = if endless { None } else { Some(measure(&mut pusher, away, Client::Known, &[])?) };
    let row = format!(
        "| {version} | {} | {} | {} | {} | {} |",
        away.name(),
        shown(&new, base),
        shown(&known, base),
        shown(&relayed, base),
        defaults.as_ref().map_or_else(|| "–".to_owned(), |output| shown(output, base))
    );
    let mut wrong = Vec::new();
    for (output, what, slower) in
        [(&new, "new", SLOWER), (&known, "known", SLOWER), (&relayed, "relayed", SLOWER_RELAYED)]
    {
        // Nix 2.8.0 by itself ends with an exception in spite of `fallback` when a cache that it knows is away.
        let its_own = version == NixVersion::V2_8 && what == "known" && away != Away::NoNars;
        if !its_own && !output.status.success() || output.took > base + slower {
            let took = shown(output, base);
            wrong.push(format!("Nix {version}, {}, {what}: {took}\n{}", away.name(), output.stderr));
        }
    }
    Ok((row, wrong))
}

#[test]
fn a_cache_that_is_away_makes_builds_slower_and_fails_none() -> Result<()> {
    if larder_tests::need::need(larder_tests::need::Requirement::Root).is_none() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    eprintln!(
        "| Nix | the cache | new to it | known to it | by a relay | known, Nix's defaults |\n|---|---|---|---|---|---|"
    );
    for version in versions().into_iter().rev() {
        let mut alone = pushed(version)?;
        alone.0.retire()?;
        let base =
            run(&mut alone.0.build_command(&samples::chain("absent", LENGTH), &[])?, LIMIT)?.ok()?.took;
        // They wait most of the time: all at once.
        let rows: Vec<_> = std::thread::scope(|scope| {
            let threads = Away::ALL.map(|away| scope.spawn(move || row(version, away, base)));
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for row in rows {
            let (row, more) = row.map_err(|_| anyhow::anyhow!("a measurement panicked"))??;
            eprintln!("{row}");
            wrong.extend(more);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_caches_of_these_tests_serve_when_they_are_there() -> Result<()> {
    let Some(version) = versions().last().copied() else { return Ok(()) };
    let (mut nix, directory, public) = pushed(version)?;
    let cache = Cache::start(&directory, "127.0.0.1")?;
    assert_eq!(get(&format!("{}/nix-cache-info", cache.url()))?.status(), 200);
    nix.retire()?;
    let paths: Vec<String> = std::fs::read_dir(&directory)?
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .filter_map(|text| Some(text.lines().next()?.strip_prefix("StorePath: ")?.to_owned()))
        .collect();
    assert_eq!(paths.len(), LENGTH as usize);
    nix.substitute(&paths, &cache.url(), &public)
}
