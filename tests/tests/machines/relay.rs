//! `larder relay` between real Nix and caches that go away, come back, stand still, or refuse.

use anyhow::{Context, Result, ensure};
use larder_tests::http::{get, request};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{KeyPair, NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::process::{Child, Output, at_once, clean_command, eventually, run};
use larder_tests::proxy::{Fault, Proxy};
use larder_tests::servers::{Directory, usual};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);
/// Narinfos of paths that no cache here has.
const X: &str = "00000000000000000000000000000000.narinfo";
const Y: &str = "11111111111111111111111111111111.narinfo";

/// A running relay and its address.
pub(crate) struct Relay {
    child: Child,
    endpoint: String,
}

impl Relay {
    /// Starts a relay of these `NAME=URL` words, at a port of its own. Its log goes to a file in `dir`.
    fn start(dir: &Path, caches: &[&str]) -> Result<Self> {
        Self::spawn(dir, &command(caches)?)
    }

    /// Starts a relay by this command. Its log goes to a file in `dir`.
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

    /// Whether the log has these words.
    pub(crate) fn said(&self, words: &str) -> bool {
        self.child.log().contains(words)
    }

    /// The URL under which Nix reads a cache.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.endpoint)
    }
}

/// The command that starts a relay of these `NAME=URL` words at a port of its own.
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

        // The relay's answers are the server's, byte by byte, for parts of files as well.
        let text = get(&format!("{url}/{}", narinfo_key(&built[0])))?.ok()?.text();
        assert_eq!(text, get(&format!("{base}/{}", narinfo_key(&built[0])))?.ok()?.text());
        let nar = text.lines().find_map(|line| line.strip_prefix("URL: ")).context("no URL")?;
        let whole = get(&format!("{base}/{nar}"))?.ok()?.body;
        assert_eq!(get(&format!("{url}/{nar}"))?.ok()?.body, whole);
        let part = request("GET", &format!("{url}/{nar}"), &[("Range", "bytes=10-19")], &[])?;
        assert_eq!((part.status(), &part.body[..]), (206, &whole[10..20]), "{kind:?}");
        let head = request("HEAD", &format!("{url}/{nar}"), &[], &[])?;
        assert_eq!(head.head.header("content-length"), Some(&*whole.len().to_string()), "{kind:?}");

        // A relay serves only reads, and only its caches.
        assert_eq!(request("PUT", &format!("{url}/x"), &[], b"x")?.status(), 405);
        assert_eq!(request("DELETE", &format!("{url}/{nar}"), &[], &[])?.status(), 405);
        for path in ["none/nix-cache-info", "lan/../cache/nix-cache-info", "lan", "lan/nar/no-such-file"] {
            assert_eq!(get(&relay.url(path))?.status(), 404, "{path}");
        }
        // A cache that is away does not disturb the other.
        assert_eq!(get(&relay.url(&format!("other/{X}")))?.status(), 404);
        let summary = get(&format!("{}/", relay.endpoint))?.text();
        assert!(
            summary.contains(&format!("lan\t{base}\tcan be reached")) && summary.contains("\tunavailable"),
            "{summary}"
        );
    }
    Ok(())
}

/// A machine that reads a cache through a relay, with a proxy between the two. The cache has one path, the machine's store
/// is empty.
struct Home {
    path: String,
    relay: Relay,
    proxy: Proxy,
    nix: NixHome,
    _server: Directory,
    _larder: LarderHome,
}

/// A store, a key, and a larder with a prepared bucket behind a web server.
fn prepared(version: NixVersion) -> Result<(NixHome, KeyPair, Directory, LarderHome)> {
    let nix = NixHome::new(version)?;
    let key = nix.key_pair("relayed-1")?;
    let server = Directory::start()?;
    let mut larder = LarderHome::new(&nix)?;
    larder.use_keys(&[&key])?;
    larder.use_directory(server.path())?;
    larder.run(&["init"])?;
    Ok((nix, key, server, larder))
}

impl Home {
    fn with(version: NixVersion, expression: &str) -> Result<Self> {
        let (mut nix, key, server, larder) = prepared(version)?;
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
    at_once(versions(), away_and_back).map(drop)
}

fn away_and_back(version: NixVersion) -> Result<()> {
    let Home { path, relay, mut proxy, mut nix, _server, _larder } =
        Home::with(version, &samples::single("at home"))?;
    let substituted = |nix: &NixHome| -> Result<bool> {
        // A directory of its own, because Nix remembers which narinfos are missing.
        let memory = tempfile::tempdir()?;
        let mut command = nix.command("nix-store", &["-r", "--max-jobs", "0", &path]);
        command.env("XDG_CACHE_HOME", memory.path());
        Ok(run(&mut command, SOON)?.status.success())
    };
    assert!(substituted(&nix)?, "{version}: {}", relay.child.log());

    // While the cache is away, Nix asks for each build of a chain, and gets no error.
    nix.retire()?;
    proxy.switch_off();
    let chain = |nix: &NixHome, tag: &str| {
        nix.try_build(&samples::chain(tag, 4))?.ok().with_context(|| version.to_string())
    };
    let output = chain(&nix, "on the way")?;
    assert!(!output.stderr.contains("disabl") && !output.stderr.contains("unable"), "{}", output.stderr);
    assert!(!substituted(&nix)?, "{version}");
    assert_eq!(relay.child.log().matches("lan is unavailable").count(), 1, "{}", relay.child.log());
    // The control is a chain of builds that asks no cache.
    nix.set_conf("substituters", "")?;
    let control = chain(&nix, "without a cache")?.took;
    let limit = control * 4 + Duration::from_secs(10);
    assert!(output.took < limit, "{version}: {:?}, and {control:?} without a cache", output.took);
    nix.set_conf("substituters", &relay.url("lan"))?;

    proxy.switch_on()?;
    eventually("the cache being used again", SOON, || substituted(&nix).unwrap_or(false))?;
    assert_eq!(relay.child.log().matches("lan answers again").count(), 1, "{}", relay.child.log());
    Ok(())
}

#[test]
fn a_path_whose_download_breaks_off_is_built() -> Result<()> {
    for version in versions() {
        let Home { path, relay, proxy, nix, _server, _larder } =
            Home::with(version, &samples::big("half", 8))?;
        // The cache goes away in the middle of the NAR, and stays away.
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
        assert!(
            nix.is_valid(&path) && relay.said("lan does not give `/nar/"),
            "{version}: {}",
            output.stderr
        );
        assert!(!relay.said("unavailable"), "{version}: {}", relay.child.log());
        let cut = proxy.log().iter().any(|record| record.fault == Some(Fault::CutResponse));
        assert!(cut, "{version}: the NAR was not asked for");
    }
    Ok(())
}

/// Starts a server that answers each request with a text, and keeps connections open.
fn scripted(answer: &'static str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|size| size > 0) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
    Ok(format!("http://{address}"))
}

#[test]
fn answers_that_would_fail_a_build_become_not_found() -> Result<()> {
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
        assert_eq!(get(&relay.url(&format!("{name}/{X}")))?.status(), 404, "{name}");
    }
    let log = relay.child.log();
    for (name, reason) in [
        ("refuses", "(status 401)"),
        ("strange", "(status 418)"),
        ("fails", "(status 500)"),
        ("busy", "(status 503)"),
        ("babbles", ""),
    ] {
        let words = format!("{name} does not give `/{X}` {reason}");
        assert!(log.contains(&words), "no `{words}` in: {log}");
    }
    // A server that answers is not away, whatever it answers.
    assert!(!log.contains("unavailable"), "{log}");
    assert!(!log.contains("forbids"), "a bucket that cannot be listed says so of what is missing: {log}");
    let moved = scripted("HTTP/1.1 307 Temporary Redirect\r\nLocation: /b/x\r\nContent-Length: 0\r\n\r\n")?;
    let elsewhere = Relay::start(dir.path(), &[&format!("moved={moved}/a")])?;
    let answer = request("HEAD", &elsewhere.url("moved/nar/x"), &[], &[])?;
    assert_eq!((answer.status(), answer.head.header("location")), (307, Some(&*format!("{moved}/b/x"))));
    // The file that Nix reads first is there even so.
    let info = get(&relay.url("fails/nix-cache-info"))?.ok()?.text();
    assert_eq!(info, "WantMassQuery: 1\nPriority: 30\n");
    Ok(())
}

/// One path of a cache is rotten in each of these ways. Nix builds that path and reads the other path from the cache, which
/// is not unavailable.
#[test]
fn a_rotten_object_hides_only_itself() -> Result<()> {
    at_once(versions(), rotten).map(drop)
}

fn rotten(version: NixVersion) -> Result<()> {
    let (mut nix, key, server, larder) = prepared(version)?;
    let (bad, good) = (samples::big("rotten", 2), samples::single("sound"));
    let paths = [nix.build(&bad)?.remove(0), nix.build(&good)?.remove(0)];
    larder.run(&["push", &paths[0], &paths[1]])?;
    let narinfo = narinfo_key(&paths[0]);
    let nar = std::fs::read_to_string(server.path().join(&narinfo))?;
    let nar = nar.lines().find_map(|line| line.strip_prefix("URL: ")).context("no URL")?.to_owned();
    let proxy = Proxy::start(&server.public_base())?;
    let relay = Relay::start(larder.dir(), &[&format!("lan={}", proxy.endpoint())])?;
    for rotten in [&narinfo, &nar] {
        let file = server.path().join(rotten);
        let whole = std::fs::read(&file)?;
        for fault in [Some(Fault::Status(500)), Some(Fault::CutResponse), Some(Fault::Drop), None] {
            nix.retire()?;
            for (name, value) in [
                ("substituters", &*relay.url("lan")),
                ("trusted-public-keys", &key.public),
                ("fallback", "true"),
                ("download-attempts", "2"),
            ] {
                nix.set_conf(name, value)?;
            }
            let name = format!("/{rotten}");
            proxy.set_fault(move |record| fault.filter(|_| record.path == name));
            // Without a fault of the network, the file itself is garbage.
            std::fs::write(&file, if fault.is_some() { &whole[..] } else { b"garbage" })?;
            let case = || format!("{version}, {rotten}, {fault:?}: {}", relay.child.log());
            let memory = tempfile::tempdir()?;
            let build = |expression: &str, more: &[&str]| -> Result<Output> {
                let mut command = nix.build_command(expression, more)?;
                command.env("XDG_CACHE_HOME", memory.path());
                run(&mut command, SOON)?.ok().with_context(case)
            };
            build(&bad, &[])?;
            build(&good, &["--max-jobs", "0"])?;
            assert!(paths.iter().all(|path| nix.is_valid(path)), "{}", case());
            assert!(!relay.said("unavailable"), "{}", case());
        }
        std::fs::write(&file, whole)?;
    }
    Ok(())
}

#[test]
fn what_no_cache_has_is_not_asked_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Directory::start()?;
    let proxy = Proxy::start(&server.public_base())?;
    let relay = Relay::start(dir.path(), &[&format!("lan={}", proxy.endpoint())])?;
    for path in [
        "",
        "?list-type=2",
        "index.html",
        "nar",
        "nix-cache-info?list-type=2",
        "nar/x.nar?versionId=1",
        "nar/%2e%2e/x",
        "larder/format.json",
        &format!("nar/{}", "a".repeat(300)),
        &"a/".repeat(3000),
    ] {
        assert_eq!(get(&relay.url(&format!("lan/{path}")))?.status(), 404, "{path}");
    }
    assert_eq!(proxy.log().len(), 0, "{:?}", proxy.log());
    assert_eq!(get(&relay.url("lan/log/a.drv"))?.status(), 404);
    assert_eq!(proxy.log().len(), 1, "a path that a cache may have was not asked for");
    // A page of the web reaches the relay under the name of the page.
    let port = relay.endpoint.rsplit(':').next().unwrap_or_default();
    for host in [format!("evil.example:{port}"), "evil.example".into(), "10.0.0.1".into()] {
        for path in ["", "lan/log/a.drv"] {
            let url = format!("{}/{path}", relay.endpoint);
            assert_eq!(with_host(&url, &host)?, 421, "{host}, {path}");
        }
    }
    for host in [format!("localhost:{port}"), format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(with_host(&relay.endpoint, &host)?, 200, "{host}");
    }
    assert_eq!(proxy.log().len(), 1, "{:?}", proxy.log());
    Ok(())
}

/// The status of the answer to a request with this `Host`.
fn with_host(url: &str, host: &str) -> Result<u16> {
    let (address, path) =
        url.trim_start_matches("http://").split_once('/').unwrap_or((url.trim_start_matches("http://"), ""));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.split(' ').nth(1).context("no status")?.parse().context("no status")
}

#[test]
fn idle_connections_and_large_heads_lock_nobody_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Directory::start()?;
    std::fs::write(server.path().join("nix-cache-info"), "StoreDir: /nix/store\nPriority: 7\n")?;
    let relay = command(&[&format!("lan={}", server.public_base())])?;
    let mut limited = clean_command("sh");
    limited.args(["-c", "ulimit -n 600; exec \"$0\" \"$@\""]).arg(relay.get_program()).args(relay.get_args());
    limited.env("LARDER_CONFIG", "/dev/null");
    let relay = Relay::spawn(dir.path(), &limited)?;
    let address = relay.endpoint.trim_start_matches("http://").to_owned();
    // More connections than the relay may have open files, some with the beginning of a request.
    let idle = (0..600)
        .map(|index| {
            let mut stream = TcpStream::connect(&address)?;
            if index % 2 == 0 {
                stream.write_all(b"GET /lan/nix-ca")?;
            }
            Ok(stream)
        })
        .collect::<Result<Vec<_>>>()?;
    let text = get(&relay.url("lan/nix-cache-info"))?.ok()?.text();
    assert!(text.contains("Priority: 7"), "the relay did not ask the cache: {text}");
    // The oldest of them were closed by then, and the newer ones were not: their time is not over.
    let closed = |mut stream: &TcpStream| -> Result<bool> {
        stream.set_nonblocking(true)?;
        let read = stream.read(&mut [0]).map_err(|error| error.kind());
        Ok(read != Err(std::io::ErrorKind::WouldBlock))
    };
    let closed = idle.iter().map(closed).collect::<Result<Vec<_>>>()?;
    assert!(closed[..300].iter().all(|closed| *closed), "not the oldest were closed: {closed:?}");
    assert!(!closed[400..].contains(&true), "connections were closed that are not the oldest: {closed:?}");
    assert!(!relay.said("unavailable"), "{}", relay.child.log());
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(SOON))?;
    let _ = write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "a".repeat(20_000));
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, b"HTTP/1.1 431");
    Ok(())
}

/// Starts a server that takes connections and never answers; its URL and the number of connections so far.
fn silent() -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let connections = Arc::<AtomicUsize>::default();
    let count = connections.clone();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            open.push(stream);
        }
    });
    Ok((url, connections))
}

/// Neither server ever goes on with its answer: each request below ends only because the relay gives up.
#[test]
fn an_answer_that_stands_still_is_cut_off() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let slow = scripted("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
    let (silent, connections) = silent()?;
    let relay = Relay::start(dir.path(), &[&format!("slow={slow}"), &format!("silent={silent}")])?;
    let begun = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let head_only = scope.spawn(|| -> Result<()> {
            assert_eq!(get(&relay.url(&format!("silent/{X}")))?.status(), 404);
            assert!(begun.elapsed() >= Duration::from_secs(5), "given up after {:?}", begun.elapsed());
            // The next request does not wait: the relay does not ask the silent cache.
            assert_eq!(connections.load(Ordering::SeqCst), 1);
            assert_eq!(get(&relay.url(&format!("silent/{Y}")))?.status(), 404);
            assert_eq!(connections.load(Ordering::SeqCst), 1);
            Ok(())
        });
        assert!(get(&relay.url("slow/nar/x")).is_err(), "a part of an answer is taken for the whole");
        assert!(begun.elapsed() >= Duration::from_secs(10), "cut off after {:?}", begun.elapsed());
        head_only.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })
}

/// Starts a relay as a service manager does: its standard input is the socket.
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
    // A request waits in the socket until a relay takes it.
    let mut early = TcpStream::connect(listener.local_addr()?)?;
    early.write_all(b"GET /lan/nix-cache-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    early.set_read_timeout(Some(SOON))?;
    let begun = Instant::now();
    let mut child = activated(&listener, &words)?;
    let mut answer = String::new();
    early.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // An open connection without a request does not keep the relay from ending.
    let _open = TcpStream::connect(listener.local_addr()?)?;
    let mut status = None;
    eventually("the end of the relay", SOON, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(begun.elapsed() >= Duration::from_secs(2), "the relay did not linger");
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
        (&["--listen", "127.0.0.1:0", "lan=s3://b"], 2, "neither `http` nor `https`"),
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
