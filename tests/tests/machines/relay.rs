//! `larder relay` between real Nix and caches that go away, come back, stand still, or refuse.

use anyhow::{Context, Result, ensure};
use larder_tests::http::{get, request};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::process::{Child, Output, clean_command, eventually, run};
use larder_tests::proxy::{Fault, Proxy};
use larder_tests::servers::{Directory, usual};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// A relay and where it listens.
pub(crate) struct Relay {
    child: Child,
    endpoint: String,
}

impl Relay {
    /// Of these `NAME=URL` words. Its log goes to a file in `dir`.
    fn start(dir: &Path, caches: &[&str]) -> Result<Self> {
        Self::spawn(dir, &command(caches)?)
    }

    /// Started by this command.
    pub(crate) fn spawn(dir: &Path, command: &Command) -> Result<Self> {
        let log = dir.join("relay.log");
        let _ = std::fs::remove_file(&log);
        let mut child = Child::spawn(command, &log)?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        child.wait_until(SOON, || said().contains("listening at "))?;
        let endpoint =
            said().split("listening at ").nth(1).and_then(|rest| rest.lines().next().map(str::to_owned));
        Ok(Self { child, endpoint: endpoint.context("no address")? })
    }

    /// Whether it has told this.
    pub(crate) fn said(&self, words: &str) -> bool {
        self.child.log().contains(words)
    }

    /// Where Nix reads a cache.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.endpoint)
    }
}

/// Starts a relay of these `NAME=URL` words at a port of its own.
pub(crate) fn command(caches: &[&str]) -> Result<Command> {
    let mut command = relay()?;
    command.args(["--listen", "127.0.0.1:0"]).args(caches);
    Ok(command)
}

fn relay() -> Result<Command> {
    let mut command = clean_command(binary("larder")?);
    command.env("LARDER_CONFIG", "/dev/null").arg("relay");
    Ok(command)
}

#[test]
fn a_relay_passes_on_what_a_cache_has() -> Result<()> {
    let servers = usual();
    // Each version at another server.
    for (version, kind) in versions().into_iter().zip(servers.iter().cycle()) {
        let nix = NixHome::new(version)?;
        let key = nix.key_pair("relayed-1")?;
        let server = kind.start_with_bucket("cache")?;
        let mut larder = LarderHome::new(&nix)?;
        larder.use_keys(&[&key])?;
        larder.use_server(&*server, "cache")?;
        larder.run(&["init"])?;
        let built = [nix.build(&samples::app("relayed"))?, nix.build(&samples::big("relayed", 24))?].concat();
        larder.run(&[&["push"][..], &built.iter().map(String::as_str).collect::<Vec<_>>()].concat())?;

        let base = format!("{}/cache", server.endpoint());
        let relay = Relay::start(larder.dir(), &["other=http://127.0.0.1:9", &format!("lan={base}")])?;
        let url = relay.url("lan");
        nix.substitute(&built, &url, &key.public).with_context(|| format!("{version}, {kind:?}"))?;

        // Byte by byte what the server says, in parts as well.
        let text = get(&format!("{url}/{}", narinfo_key(&built[0])))?.ok()?.text();
        assert_eq!(text, get(&format!("{base}/{}", narinfo_key(&built[0])))?.ok()?.text());
        let nar = text.lines().find_map(|line| line.strip_prefix("URL: ")).context("no URL")?;
        let whole = get(&format!("{base}/{nar}"))?.ok()?.body;
        assert_eq!(get(&format!("{url}/{nar}"))?.ok()?.body, whole);
        let part = request("GET", &format!("{url}/{nar}"), &[("Range", "bytes=10-19")], &[])?;
        assert_eq!((part.status(), &part.body[..]), (206, &whole[10..20]), "{kind:?}");
        let head = request("HEAD", &format!("{url}/{nar}"), &[], &[])?;
        assert_eq!(head.head.header("content-length"), Some(&*whole.len().to_string()), "{kind:?}");

        // Nothing but reading, and nothing beside the caches.
        assert_eq!(request("PUT", &format!("{url}/x"), &[], b"x")?.status(), 405);
        assert_eq!(request("DELETE", &format!("{url}/{nar}"), &[], &[])?.status(), 405);
        for path in ["none/nix-cache-info", "lan/../cache/nix-cache-info", "lan", "lan/no-such-file"] {
            assert_eq!(get(&relay.url(path))?.status(), 404, "{path}");
        }
        // One that is away does not concern the other.
        assert_eq!(get(&relay.url("other/x.narinfo"))?.status(), 404);
        let summary = get(&format!("{}/", relay.endpoint))?.text();
        assert!(
            summary.contains(&format!("lan\t{base}\tanswers")) && summary.contains("\taway"),
            "{summary}"
        );
    }
    Ok(())
}

/// A machine that reads a cache through a relay, with a network between the two; the cache has one path, the machine
/// has nothing.
struct Home {
    path: String,
    relay: Relay,
    proxy: Proxy,
    nix: NixHome,
    _server: Directory,
    _larder: LarderHome,
}

impl Home {
    fn with(version: NixVersion, expression: &str) -> Result<Self> {
        let mut nix = NixHome::new(version)?;
        let key = nix.key_pair("relayed-1")?;
        let server = Directory::start()?;
        let mut larder = LarderHome::new(&nix)?;
        larder.use_keys(&[&key])?;
        larder.use_directory(server.path())?;
        larder.run(&["init"])?;
        let path = nix.build(expression)?.remove(0);
        larder.run(&["push", &path])?;
        let proxy = Proxy::start(&server.public_base())?;
        let relay = Relay::start(larder.dir(), &[&format!("lan={}", proxy.endpoint())])?;
        nix.retire()?;
        nix.set_conf("substituters", &relay.url("lan"))?;
        nix.set_conf("trusted-public-keys", &key.public)?;
        nix.set_conf("fallback", "true")?;
        Ok(Self { path, relay, proxy, nix, _server: server, _larder: larder })
    }
}

#[test]
fn a_cache_that_goes_away_and_comes_back_needs_no_restart() -> Result<()> {
    // They wait most of the time: all at once.
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            versions().into_iter().map(|version| scope.spawn(move || away_and_back(version))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?)
    })
}

fn away_and_back(version: NixVersion) -> Result<()> {
    let Home { path, relay, mut proxy, mut nix, _server, _larder } =
        Home::with(version, &samples::single("at home"))?;
    let substituted = |nix: &NixHome| -> Result<bool> {
        // Nix remembers what was missing; it is not what is asked here.
        let memory = tempfile::tempdir()?;
        let mut command = nix.command("nix-store", &["-r", "--max-jobs", "0", &path]);
        command.env("XDG_CACHE_HOME", memory.path());
        Ok(run(&mut command, SOON)?.status.success())
    };
    assert!(substituted(&nix)?, "{version}: {}", relay.child.log());

    // Away: a chain of builds, of which each asks. Nix has no error to tell of.
    nix.retire()?;
    proxy.switch_off();
    let begun = Instant::now();
    let output =
        nix.try_build(&samples::chain("on the way", 4))?.ok().with_context(|| version.to_string())?;
    assert!(!output.stderr.contains("disabl") && !output.stderr.contains("unable"), "{}", output.stderr);
    assert!(!substituted(&nix)?, "{version}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{version}: {:?}", begun.elapsed());
    assert_eq!(relay.child.log().matches("lan is unavailable").count(), 1, "{}", relay.child.log());

    proxy.switch_on()?;
    eventually("the cache being used again", SOON, || substituted(&nix).unwrap_or(false))?;
    assert_eq!(relay.child.log().matches("lan answers again").count(), 1, "{}", relay.child.log());
    Ok(())
}

#[test]
fn what_breaks_off_because_its_cache_goes_is_built() -> Result<()> {
    for version in versions() {
        let Home { path, relay, proxy, nix, _server, _larder } =
            Home::with(version, &samples::big("half", 8))?;
        // In the middle of the NAR, and then for good.
        let mut gone = false;
        proxy.set_fault(move |record| {
            let fault = if gone {
                Some(Fault::Drop)
            } else {
                record.path.contains("nar/").then_some(Fault::CutResponse)
            };
            gone |= fault.is_some();
            fault
        });
        let output = nix.try_build(&samples::big("half", 8))?.ok().with_context(|| version.to_string())?;
        assert_eq!(output.stdout.trim(), path);
        assert!(nix.is_valid(&path) && relay.said("lan is unavailable"), "{version}: {}", output.stderr);
        let cut = proxy.log().iter().any(|record| record.fault == Some(Fault::CutResponse));
        assert!(cut, "{version}: the NAR was not asked for");
    }
    Ok(())
}

/// Answers each connection's first request with a text, and keeps it open.
fn scripted(answer: &'static str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut stream: TcpStream = stream;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(answer.as_bytes());
            open.push(stream);
        }
    });
    Ok(format!("http://{address}"))
}

#[test]
fn what_nix_would_stumble_over_is_absent() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let answers = [
        ("refuses", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
        ("strange", "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n"),
        ("forbids", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        ("fails", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        ("busy", "HTTP/1.1 503 SlowDown\r\nContent-Length: 0\r\n\r\n"),
        ("babbles", "no HTTP at all\r\n\r\n"),
    ];
    let words = answers
        .iter()
        .map(|(name, answer)| Ok(format!("{name}={}", scripted(answer)?)))
        .collect::<Result<Vec<_>>>()?;
    let relay = Relay::start(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (name, _) in answers {
        assert_eq!(get(&relay.url(&format!("{name}/x.narinfo")))?.status(), 404, "{name}");
    }
    let log = relay.child.log();
    for words in [
        "refuses refuses `/x.narinfo` with status 401",
        "strange refuses",
        "fails is unavailable",
        "busy is unavailable",
        "babbles is unavailable",
    ] {
        assert!(log.contains(words), "no `{words}` in: {log}");
    }
    assert!(!log.contains("forbids"), "a bucket that cannot be listed says so of what is missing: {log}");
    let moved = scripted("HTTP/1.1 307 Temporary Redirect\r\nLocation: /b/x\r\nContent-Length: 0\r\n\r\n")?;
    let elsewhere = Relay::start(dir.path(), &[&format!("moved={moved}/a")])?;
    let answer = request("HEAD", &elsewhere.url("moved/x"), &[], &[])?;
    assert_eq!((answer.status(), answer.head.header("location")), (307, Some(&*format!("{moved}/b/x"))));
    // What a client reads first is there even so.
    let info = get(&relay.url("fails/nix-cache-info"))?.ok()?.text();
    assert_eq!(info, "WantMassQuery: 1\nPriority: 30\n");
    Ok(())
}

#[test]
fn an_answer_that_stands_still_is_cut_off() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = scripted("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let silent_word = format!("silent=http://{}", silent.local_addr()?);
    let relay = Relay::start(dir.path(), &[&format!("slow={server}"), &silent_word])?;
    std::thread::scope(|scope| -> Result<()> {
        let head_only = scope.spawn(|| -> Result<_> {
            let begun = Instant::now();
            Ok((get(&relay.url("silent/x.narinfo"))?.status(), begun.elapsed()))
        });
        let begun = Instant::now();
        assert!(get(&relay.url("slow/nar/x")).is_err(), "a part of an answer is taken for the whole");
        let took = begun.elapsed();
        assert!((10..40).contains(&took.as_secs()), "{took:?}");
        let (status, took) = head_only.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        assert_eq!(status, 404);
        assert!((5..30).contains(&took.as_secs()), "{took:?}");
        // Nobody waits for it now.
        let begun = Instant::now();
        assert_eq!(get(&relay.url("silent/y.narinfo"))?.status(), 404);
        assert!(begun.elapsed() < Duration::from_secs(3));
        Ok(())
    })
}

/// Started as a service manager does it: the socket is the standard input.
fn activated(listener: &TcpListener, words: &[&str]) -> Result<std::process::Child> {
    let mut command = relay()?;
    let socket = std::os::fd::OwnedFd::from(listener.try_clone()?);
    command.args(words).stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

#[test]
fn a_relay_that_is_not_used_ends_and_loses_no_request() -> Result<()> {
    let server = Directory::start()?;
    std::fs::write(server.path().join("nix-cache-info"), "StoreDir: /nix/store\n")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/lan/nix-cache-info", listener.local_addr()?);
    let lan = format!("lan={}", server.public_base());
    let words = ["--exit-when-idle", "2", &lan];
    // Waits in the socket until there is somebody.
    let early = std::thread::spawn({
        let url = url.clone();
        move || get(&url).map(|answer| answer.status())
    });
    std::thread::sleep(Duration::from_millis(300));
    let mut child = activated(&listener, &words)?;
    let begun = Instant::now();
    assert_eq!(early.join().map_err(|_| anyhow::anyhow!("panicked"))??, 200);
    // A connection that stays open is no work.
    let _open = TcpStream::connect(listener.local_addr()?)?;
    let mut status = None;
    eventually("its end", SOON, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(begun.elapsed() >= Duration::from_secs(2), "it did not linger");
    let mut again = activated(&listener, &words)?;
    assert_eq!(get(&url)?.status(), 200);
    again.kill()?;
    again.wait()?;
    Ok(())
}

fn refused(args: &[&str]) -> Result<Output> {
    let mut command = relay()?;
    run(command.args(args), SOON)
}

#[test]
fn a_relay_that_cannot_serve_says_why() -> Result<()> {
    for (args, code, says) in [
        (&["lan=http://c/b"][..], 2, "--listen 127.0.0.1:8390"),
        (&["--listen", "127.0.0.1:0", "http://c/b"], 2, "NAME=http"),
        (&["--listen", "127.0.0.1:0", "lan=s3://b"], 2, "neither an `http`"),
        (&["--listen", "here", "lan=http://c"], 2, "--listen"),
        (&["--listen", "192.0.2.1:8390", "lan=http://c"], 1, "cannot listen at `192.0.2.1:8390`"),
        (&[], 2, "NAME=URL"),
    ] {
        let output = refused(args)?;
        assert_eq!(output.code(), code, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{args:?}: {}", output.stderr);
    }
    Ok(())
}
