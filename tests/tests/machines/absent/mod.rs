//! What a cache that is away costs a client, with real Nix of each version: the build must succeed all the same.
//!
//! docs/clients.md has the table that this prints (`cargo test --locked --test machines absent -- --nocapture`).

mod cache;
mod names;

use anyhow::{Context, Result};
use cache::{BlackHole, Cache};
use larder_tests::http::get;
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixHome, NixVersion, samples, versions};
use larder_tests::process::{Output, at_once, run};
use names::{NAME, Names, apart};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::relay::{self, Relay};

/// How many derivations are built, each from the one before.
const LENGTH: u32 = 4;
/// Longer than any build here may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How much longer such a build may take with a cache that is away, with the settings that larder gives.
const SLOWER: Duration = Duration::from_secs(60);
/// The same through `larder relay`.
const SLOWER_RELAYED: Duration = Duration::from_secs(25);
/// How much slower a machine may be during a measurement than during the control of the same row.
const NOISE: u32 = 4;

/// The ways in which a cache is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Nobody listens.
    Refused,
    /// Connections are not answered.
    BlackHole,
    /// Connections are taken, and requests are not answered.
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

    /// Whether a build waits so long that measurements are made at the same time.
    fn takes_long(self) -> bool {
        matches!(self, Self::BlackHole | Self::Silent)
    }
}

/// A store that has pushed a chain, the directory to which it was pushed, and the public key.
struct Pushed {
    nix: NixHome,
    directory: PathBuf,
    public: String,
}

fn pushed(version: NixVersion) -> Result<Pushed> {
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
    Ok(Pushed { nix, directory, public: key.public })
}

/// The settings that `larder client` and the module give.
const OURS: &[(&str, &str)] = &[
    ("fallback", "true"),
    ("connect-timeout", "3"),
    ("stalled-download-timeout", "15"),
    ("download-attempts", "3"),
];

/// How a client reads the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It has never used the cache before.
    New,
    /// It has used the cache before.
    Known,
    /// It has used the cache before, and reads it through `larder relay`.
    Relayed,
    /// As `Known`, with the defaults of Nix.
    Defaults,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Known => "known",
            Self::Relayed => "relayed",
            Self::Defaults => "defaults",
        }
    }
}

/// A cache, and how a client reaches it.
struct Setting {
    away: Away,
    cache: Cache,
    names: Names,
    relay: Option<Relay>,
    /// The directory in which Nix remembers caches.
    memory: tempfile::TempDir,
    /// Fills the queue of an address that drops packets.
    hole: Option<BlackHole>,
}

impl Setting {
    /// Starts the cache and configures an empty store for it.
    fn new(pushed: &mut Pushed, away: Away, client: Client) -> Result<Self> {
        let nix = &mut pushed.nix;
        let version = versions().iter().position(|version| *version == nix.version()).unwrap_or_default();
        let host = format!("127.{}.{}.{}", 10 + version, 10 + away as u8, 10 + client as u8);
        let cache = Cache::start(&pushed.directory, &host)?;
        let names = Names::new(nix.dir(), &host)?;
        let nameless = away == Away::Nameless;
        let url = if nameless { cache.url().replace(&host, NAME) } else { cache.url() };
        let relay = if client == Client::Relayed {
            let command = relay::command(&[&format!("lan={url}")])?;
            Some(Relay::spawn(nix.dir(), &if nameless { names.known_to(&command) } else { command })?)
        } else {
            None
        };
        nix.retire()?;
        nix.set_conf("substituters", &relay.as_ref().map_or(url, |relay| relay.url("lan")))?;
        nix.set_conf("trusted-public-keys", &pushed.public)?;
        for (name, value) in OURS {
            if client == Client::Defaults { nix.unset_conf(name)? } else { nix.set_conf(name, value)? }
        }
        let memory = tempfile::tempdir_in(nix.dir())?;
        let setting = Self { away, cache, names, relay, memory, hole: None };
        if client != Client::New {
            setting.let_nix_meet_the_cache(nix)?;
        }
        Ok(setting)
    }

    /// Whether Nix itself looks up a name.
    fn nix_resolves(&self) -> bool {
        self.away == Away::Nameless && self.relay.is_none()
    }

    /// Lets Nix remember nix-cache-info, and nothing of the paths of the chain.
    fn let_nix_meet_the_cache(&self, nix: &NixHome) -> Result<()> {
        let mut ask = nix.command("nix-store", &["-r", "--dry-run"]);
        ask.arg(nix.store_dir().join("00000000000000000000000000000000-unknown"));
        ask.env("XDG_CACHE_HOME", self.memory.path());
        run(&mut if self.nix_resolves() { self.names.known_to(&ask) } else { ask }, LIMIT)?;
        anyhow::ensure!(self.memory.path().join("nix").exists(), "Nix remembers nothing");
        Ok(())
    }

    /// Makes the cache go away.
    fn leave(&mut self) -> Result<()> {
        match self.away {
            Away::Refused => self.cache.refuse(),
            Away::BlackHole => {
                // Nothing comes on open connections either.
                self.cache.mode.store(cache::SILENT, Ordering::SeqCst);
                self.cache.deafen();
                self.hole = Some(cache::black_hole(self.cache.address).context("no black hole")?);
            }
            Away::Silent => self.cache.mode.store(cache::SILENT, Ordering::SeqCst),
            Away::Errors => self.cache.mode.store(cache::ERRORS, Ordering::SeqCst),
            Away::NoNars => self.cache.mode.store(cache::NO_NARS, Ordering::SeqCst),
            Away::Nameless => {
                self.names.forget()?;
                self.cache.cut();
            }
        }
        Ok(())
    }
}

/// Builds the chain in an empty store with a cache that is away.
fn measure(pushed: &mut Pushed, away: Away, client: Client) -> Result<Output> {
    let mut setting = Setting::new(pushed, away, client)?;
    setting.leave()?;
    let mut build = pushed.nix.build_command(&samples::chain("absent", LENGTH), &[])?;
    build.env("XDG_CACHE_HOME", setting.memory.path());
    // Without a network there is no name server to ask.
    let output =
        run(&mut if setting.nix_resolves() { apart(&build, "--net", "true") } else { build }, LIMIT)?;
    if let Some(relay) = setting.relay.filter(|_| away != Away::NoNars) {
        // A server that answers with errors is not away.
        let says = if away == Away::Errors { "lan does not give" } else { "lan is unavailable" };
        anyhow::ensure!(relay.said(says), "{}: the relay has not noticed", away.name());
    }
    Ok(output)
}

/// The time of the same build without a cache.
fn control(pushed: &mut Pushed) -> Result<Duration> {
    pushed.nix.retire()?;
    pushed.nix.set_conf("substituters", "")?;
    let mut build = pushed.nix.build_command(&samples::chain("absent", LENGTH), &[])?;
    Ok(run(&mut build, LIMIT)?.ok()?.took)
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

/// The measurements of a row, and the control.
fn measurements(version: NixVersion, away: Away) -> Result<(Vec<(Client, Output)>, Duration)> {
    use Client::{Defaults, Known, New, Relayed};
    if away.takes_long() {
        // With the defaults of Nix some versions wait without end; the settings are for that.
        let one = |client| -> Result<_> {
            let mut pushed = pushed(version)?;
            Ok(((client, measure(&mut pushed, away, client)?), control(&mut pushed)?))
        };
        let all = at_once(vec![New, Known, Relayed], one)?;
        let base = all.iter().map(|(_, base)| *base).max().unwrap_or_default();
        return Ok((all.into_iter().map(|(measured, _)| measured).collect(), base));
    }
    let mut pushed = pushed(version)?;
    let mut outputs = Vec::new();
    for client in [New, Known, Relayed, Defaults] {
        if away != Away::Nameless || client != Defaults {
            outputs.push((client, measure(&mut pushed, away, client)?));
        }
    }
    Ok((outputs, control(&mut pushed)?))
}

/// One row of the table, and what is wrong with it.
fn row(version: NixVersion, away: Away) -> Result<(String, Vec<String>)> {
    let (outputs, base) = measurements(version, away)?;
    let cell = |client| {
        let output = outputs.iter().find(|(other, _)| *other == client);
        output.map_or_else(|| "–".to_owned(), |(_, output)| shown(output, base))
    };
    let cells = [Client::New, Client::Known, Client::Relayed, Client::Defaults].map(cell).join(" | ");
    let row = format!("| {version} | {} | {cells} |", away.name());
    let mut wrong = Vec::new();
    for (client, output) in outputs.iter().filter(|(client, _)| *client != Client::Defaults) {
        let slower = if *client == Client::Relayed { SLOWER_RELAYED } else { SLOWER };
        // Nix 2.8.0 ends with an exception in spite of `fallback` when a cache that it knows is away.
        let its_own = version == NixVersion::V2_8 && *client == Client::Known && away != Away::NoNars;
        if !its_own && !output.status.success() || output.took > base * NOISE + slower {
            let took = shown(output, base);
            wrong.push(format!(
                "Nix {version}, {}, {}: {took}\n{}",
                away.name(),
                client.name(),
                output.stderr
            ));
        }
    }
    Ok((row, wrong))
}

#[test]
fn a_cache_that_is_away_makes_builds_slower_and_fails_none() -> Result<()> {
    if larder_tests::need::need(larder_tests::need::Requirement::Root).is_none() {
        return Ok(());
    }
    // All rows are measured at the same time, because each waits most of the time.
    let rows = versions().into_iter().rev().flat_map(|version| Away::ALL.map(|away| (version, away)));
    let rows = at_once(rows.collect(), |(version, away)| row(version, away))?;
    eprintln!(
        "| Nix | the cache | new to it | known to it | by a relay | known, Nix's defaults |\n|---|---|---|---|---|---|"
    );
    let mut wrong = Vec::new();
    for (row, more) in rows {
        eprintln!("{row}");
        wrong.extend(more);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_cache_of_these_tests_serves_paths() -> Result<()> {
    let Some(version) = versions().last().copied() else { return Ok(()) };
    let Pushed { mut nix, directory, public } = pushed(version)?;
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
