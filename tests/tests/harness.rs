//! The harness itself, with real Nix and real servers: what the other tests rely on.

use anyhow::Result;
use larder_tests::bigstore::BigStore;
use larder_tests::http;
use larder_tests::nix::{NixHome, NixVersion, samples, versions};
use larder_tests::order;
use larder_tests::process::{Child, Output, clean_command, eventually, run};
use larder_tests::proxy::{Fault, Proxy};
use larder_tests::servers::{self, Directory, Kind, S3Server};
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

/// Installs a hook that notes its environment.
fn noting_hook(nix: &mut NixHome) -> Result<std::path::PathBuf> {
    let log = nix.dir().join("hook.log");
    let hook = nix.dir().join("hook");
    let script =
        format!("#!/bin/sh\necho \"OUT=$OUT_PATHS DRV=$DRV_PATH MARK=$MARK\" >> {}\n", log.display());
    std::fs::write(&hook, script)?;
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
    nix.set_env("MARK", "seen");
    nix.set_conf("post-build-hook", &hook.display().to_string())?;
    Ok(log)
}

#[test]
fn a_hook_runs_in_each_nix_with_and_without_a_daemon() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let log = noting_hook(&mut nix)?;
        for daemon in [false, true] {
            if daemon {
                nix.start_daemon()?;
            }
            let paths = nix.build(&samples::single(&format!("hook-{daemon}")))?;
            let info = nix.path_info(&paths)?.remove(0);
            assert!(info.ultimate && info.path == paths[0] && info.nar_size > 0, "{version}: {info:?}");
            let noted = std::fs::read_to_string(&log)?;
            // Nix 2.8.0 gives its hook no output paths.
            let out = if version == NixVersion::V2_8 { "" } else { paths[0].as_str() };
            let line = format!("OUT={out} DRV={} MARK=seen", info.deriver.unwrap_or_default());
            assert_eq!(noted.lines().last(), Some(line.as_str()), "{version}, daemon: {daemon}");
        }
    }
    Ok(())
}

#[test]
fn a_failing_hook_fails_the_build_and_nothing_hangs() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        nix.set_conf("post-build-hook", "/bin/false")?;
        let output = nix.try_build(&samples::single("fails"))?;
        assert!(!output.status.success() && !output.timed_out, "{version}: {output:?}");
    }
    Ok(())
}

#[test]
fn what_one_store_built_another_substitutes_with_signatures_checked() -> Result<()> {
    for version in versions() {
        let mut nix = NixHome::new(version)?;
        let key = nix.key_pair("harness-1")?;
        let other = nix.key_pair("other-1")?;
        let paths = nix.build(&samples::assorted("substitute"))?;
        nix.sign(&key, &paths)?;
        let cache = Directory::start()?;
        nix.copy_to(&cache.file_url(), &paths)?;

        // In another store, with and without a daemon, of this version and of each other version.
        for daemon in [false, true] {
            let mut twin = nix.twin()?;
            if daemon {
                twin.start_daemon()?;
            }
            let refused = twin.try_substitute(&paths, &cache.public_base(), &other.public)?;
            assert!(!refused.status.success(), "{version}: substituted with another key");
            twin.substitute(&paths, &cache.public_base(), &key.public)?;
            let strip = |home: &NixHome| -> Result<Vec<_>> {
                Ok(home
                    .closure(&paths)?
                    .into_iter()
                    .map(|i| (i.path, i.nar_hash, i.nar_size, i.references))
                    .collect())
            };
            assert_eq!(strip(&twin)?, strip(&nix)?, "{version}");
            for path in &paths {
                assert!(twin.real(path) != nix.real(path) && twin.is_valid(path));
                assert_eq!(twin.hash_contents(path)?, nix.hash_contents(path)?, "{version}: {path}");
            }
        }
        for newer in versions() {
            nix.twin_of(newer)?.substitute(&paths, &cache.public_base(), &key.public)?;
        }
        assert!(nix.verify_cache(&cache.public_base(), &key.public, &paths)?.status.success(), "{version}");
        assert!(
            !nix.verify_cache(&cache.public_base(), &other.public, &paths)?.status.success(),
            "{version}"
        );

        // In the store itself, where the program can run.
        let app = nix.build(&samples::app("substitute"))?;
        assert!(paths.contains(&app[0]));
        let old = nix.retire()?;
        assert!(!nix.is_valid(&app[0]) && old.exists());
        nix.substitute(&app, &cache.public_base(), &key.public)?;
        let hello =
            run(&mut Command::new(format!("{}/bin/hello", app[0])), Duration::from_secs(120))?.ok()?;
        assert_eq!(hello.stdout, "hello from substitute\n");
    }
    Ok(())
}

#[test]
fn samples_have_the_described_paths_and_references() -> Result<()> {
    for version in versions() {
        let nix = NixHome::new(version)?;
        let paths = nix.build(&samples::assorted("samples"))?;
        assert_eq!(paths.len(), 8, "{paths:?}");
        let infos = nix.closure(&paths)?;
        let named =
            |name: &str| infos.iter().find(|i| i.path.ends_with(&format!("-{name}"))).cloned().expect(name);
        assert!(named("lib").references.contains(&named("lib").path), "{version}: no self-reference");
        assert_eq!(named("same1").nar_hash, named("same2").nar_hash);
        assert!(named("fixed").ca.is_some_and(|ca| ca.starts_with("fixed:sha256:")));
        let multi = named("multi-dev");
        assert_eq!(multi.references, [named("multi").path]);
        assert!(nix.is_valid(&multi.path));
        assert_eq!(nix.build(&samples::tiny("samples", 5))?.len(), 5);
        let chain = nix.build(&samples::chain("samples", 10))?;
        assert_eq!(nix.closure(&chain)?.len(), 10);
        let big = nix.build(&samples::big("samples", 3))?;
        assert_eq!(nix.path_info(&big)?[0].nar_size, (3 << 20) + 112);
        let ca = nix.build(&samples::content_addressed("samples"))?;
        assert!(nix.path_info(&ca)?[0].ca.is_some(), "{version}");
        assert!(!nix.try_build(&samples::failing("samples"))?.status.success());
        assert_eq!(nix.instantiate(&samples::single("other"))?.len(), 1);
    }
    Ok(())
}

#[test]
fn stores_can_be_corrupted_collected_and_given_unsigned_paths() -> Result<()> {
    for version in versions() {
        let nix = NixHome::new(version)?;
        let paths = nix.build(&samples::app("spoilt"))?;
        let twin = nix.twin()?;
        twin.import_unsigned(&nix, &paths)?;
        let info = twin.path_info(&paths)?.remove(0);
        assert!(!info.ultimate && info.signatures.is_empty(), "{version}: {info:?}");

        let verify =
            |home: &NixHome| home.nix_store(&["--verify-path", &paths[0]]).map(|o| o.status.success());
        assert!(verify(&nix)?);
        nix.corrupt(&paths[0])?;
        assert!(!verify(&nix)?, "{version}: the corruption is not seen");
        nix.gc()?;
        assert!(!nix.is_valid(&paths[0]), "{version}: not collected");
    }
    Ok(())
}

fn conforms(kind: Kind) -> Result<()> {
    let server = kind.start(&["pub"])?;
    let client = server.client();
    server.make_public_bucket("pub")?;
    client.create_bucket("private")?;
    let body: Vec<u8> = (0..300_000_u32).map(|i| (i * 7) as u8).collect();
    for bucket in ["pub", "private"] {
        client.put(bucket, "nar/a b+c.nar", &body)?;
        client.put(bucket, "x.narinfo", b"x")?;
        assert_eq!(client.get(bucket, "nar/a b+c.nar")?.as_deref(), Some(body.as_slice()));
        assert_eq!(client.get(bucket, "none")?, None);
        let mut keys = client.list(bucket, "")?;
        keys.sort();
        assert_eq!(keys, [("nar/a b+c.nar".to_owned(), 300_000), ("x.narinfo".to_owned(), 1)]);
        assert_eq!(client.list(bucket, "nar/")?.len(), 1);
    }

    // Writing and listing need the key, reading the public bucket does not.
    let base = server.public_base("pub").expect("a server of the tests can be read anonymously");
    assert_eq!(http::get(&format!("{base}/x.narinfo"))?.ok()?.text(), "x");
    assert_eq!(http::get(&format!("{base}/none.narinfo"))?.status(), server.anonymous_missing());
    if let Some(private) = server.public_base("private").filter(|p| *p != base) {
        assert_eq!(http::get(&format!("{private}/x.narinfo"))?.status(), 403);
    }
    let unsigned = http::request("PUT", &format!("{}/pub/y", server.endpoint()), &[], b"y")?;
    assert_eq!(unsigned.status(), 403, "an unsigned PUT");
    let mut wrong = server.client();
    wrong.secret_key = "wrong".repeat(8);
    assert!(wrong.put("pub", "y", b"y").is_err(), "a PUT with a wrong key");
    assert_eq!(client.get("pub", "y")?, None);

    let again = client.send("PUT", "/pub/x.narinfo", &[], &[("If-None-Match", "*")], b"other")?;
    assert_eq!(again.status() == 412, server.honours_if_absent(), "If-None-Match: {}", again.status());

    // Through the proxy: the client signs for its address.
    let proxy = Proxy::start(&server.endpoint())?;
    let mut through = server.client();
    through.endpoint = proxy.endpoint();
    through.put("pub", "z.narinfo", b"URL: nar/z\nReferences: \n")?;
    assert!(through.get("pub", "z.narinfo")?.is_some());
    let log = proxy.log();
    assert_eq!((log.len(), log[0].path.as_str(), log[0].status), (2, "/pub/z.narinfo", 200));
    assert!(log[0].body.starts_with(b"URL") && log[0].end < Some(log[1].start));
    assert_eq!(
        order::check(&log, "/pub", &HashSet::new(), &HashSet::new()).violations.len(),
        1,
        "the checker finds no violation"
    );

    client.delete("pub", "x.narinfo")?;
    assert_eq!(client.get("pub", "x.narinfo")?, None);
    // A second server beside the first.
    let second = kind.start_with_bucket("pub")?;
    assert!(second.endpoint() != server.endpoint() && second.client().list("pub", "")?.is_empty());
    Ok(())
}

#[test]
fn minio_has_the_described_traits() -> Result<()> {
    if Kind::MinIo.is_here() { conforms(Kind::MinIo) } else { Ok(()) }
}

#[test]
fn seaweedfs_has_the_described_traits() -> Result<()> {
    if Kind::SeaweedFs.is_here() { conforms(Kind::SeaweedFs) } else { Ok(()) }
}

#[test]
fn s3s_fs_has_the_described_traits() -> Result<()> {
    conforms(Kind::S3sFs)
}

#[test]
fn servers_asked_for_by_flag_have_the_described_traits() -> Result<()> {
    servers::by_flag().into_iter().try_for_each(conforms)
}

/// A server behind a proxy, and a file to upload to a bucket of it.
struct Network {
    server: Box<dyn S3Server>,
    proxy: Proxy,
    dir: tempfile::TempDir,
    /// The URL of the bucket.
    url: String,
    /// The path of a file of 3 MiB.
    body: String,
}

impl Network {
    fn new() -> Result<Self> {
        let server = Kind::S3sFs.start_with_bucket("pub")?;
        let proxy = Proxy::start(&server.endpoint())?;
        let dir = tempfile::tempdir()?;
        let body = dir.path().join("body");
        std::fs::write(&body, vec![7; 3 << 20])?;
        let url = format!("{}/pub", proxy.endpoint());
        Ok(Self { server, proxy, url, body: body.display().to_string(), dir })
    }

    /// Runs curl, which signs its requests.
    fn curl(&self, args: &[&str]) -> Result<Output> {
        let mut command = clean_command("curl");
        command.args(["-sS", "--fail", "--max-time", "120", "--noproxy", "*"]);
        command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        command
            .args(["-u", &format!("{}:{}", self.server.access_key(), self.server.secret_key())])
            .args(args);
        run(&mut command, SOON)
    }

    fn upload(&self, key: &str) -> Result<Output> {
        self.curl(&["-T", &self.body, &format!("{}/{key}", self.url)])
    }
}

#[test]
fn the_proxy_forwards_and_logs_the_requests_of_curl() -> Result<()> {
    let network = Network::new()?;
    // Several requests over one connection: a PUT that waits for 100 Continue, a HEAD, a GET.
    let (big, get) = (format!("{}/big", network.url), format!("{}/out", network.dir.path().display()));
    network.curl(&["-H", "Expect: 100-continue", "-T", &network.body, &big])?.ok()?;
    network.curl(&["-I", &big, "--next", "-sS", "--fail", "-o", &get, &big])?.ok()?;
    assert_eq!(std::fs::read(&get)?, std::fs::read(&network.body)?);
    // A chunked request reaches the server as such. The server may accept it or not.
    let small = network.dir.path().join("small");
    std::fs::write(&small, "small")?;
    let chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T", &small.display().to_string()];
    let chunked = network.curl(&[&chunked[..], &[&format!("{}/chunked", network.url)]].concat())?;
    let log = network.proxy.log();
    let methods: Vec<_> = log.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(methods, ["PUT", "HEAD", "GET", "PUT"]);
    assert!(log.iter().take(3).all(|r| r.succeeded()));
    assert_eq!((log[0].body_len, log[0].header("expect")), (3 << 20, Some("100-continue")));
    // A server may refuse a request without a length before its body has come.
    assert_eq!(log[3].status < 300, chunked.status.success());
    assert!(log[3].status >= 400 || log[3].body == b"small");
    assert!(log.windows(2).all(|w| w[0].end < Some(w[1].start)), "one after the other");
    Ok(())
}

#[test]
fn the_proxy_fails_as_it_is_asked_to() -> Result<()> {
    let mut network = Network::new()?;
    let big = format!("{}/big", network.url);
    network.upload("big")?.ok()?;
    network.proxy.switch_off();
    assert_eq!(network.curl(&[&big])?.code(), 7, "curl could connect");
    network.proxy.switch_on()?;
    network.curl(&["-I", &big])?.ok()?;
    network.proxy.set_latency(Duration::from_millis(300));
    assert!(network.curl(&["-I", &big])?.ok()?.took > Duration::from_millis(300));
    network.proxy.set_latency(Duration::ZERO);

    network.proxy.set_fault(|r| (r.method == "PUT").then_some(Fault::Status(503)));
    assert!(network.upload("refused")?.stderr.contains("503"));
    network.proxy.set_fault(|_| Some(Fault::Drop));
    assert_eq!(network.curl(&[&big])?.code(), 52, "an empty reply");
    network.proxy.set_fault(|r| (r.method == "PUT").then_some(Fault::LoseResponse));
    assert_eq!(network.upload("lost")?.code(), 52);
    assert!(network.proxy.log().last().is_some_and(|r| r.succeeded()), "the log has no success");
    network.proxy.clear_fault();
    let client = network.server.client();
    assert_eq!(client.get("pub", "lost")?.map(|b| b.len()), Some(3 << 20));
    assert_eq!(client.get("pub", "refused")?, None);
    network.proxy.clear_log();
    assert!(network.proxy.log().is_empty());
    Ok(())
}

#[test]
fn the_proxy_holds_requests_until_the_gate_is_open() -> Result<()> {
    let network = Network::new()?;
    let gate = network.proxy.hold(|record| record.method == "PUT");
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| network.upload("held"));
        gate.wait_for(1, SOON)?;
        // Other requests pass.
        assert_eq!(network.curl(&[&format!("{}/held", network.url)])?.code(), 22, "the upload was not held");
        gate.open();
        upload.join().map_err(|_| anyhow::anyhow!("curl panicked"))??.ok()
    })?;
    assert_eq!(network.server.client().get("pub", "held")?.map(|b| b.len()), Some(3 << 20));
    Ok(())
}

#[test]
fn an_upload_that_is_cut_off_has_no_end_in_the_log() -> Result<()> {
    let server = Kind::S3sFs.start_with_bucket("pub")?;
    let proxy = Proxy::start(&server.endpoint())?;
    let mut command = clean_command("curl");
    command.args([
        "-sS",
        "--max-time",
        "1",
        "--limit-rate",
        "10k",
        "-T",
        "/bin/bash",
        &format!("{}/pub/cut", proxy.endpoint()),
    ]);
    command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    command.args(["-u", &format!("{}:{}", server.access_key(), server.secret_key())]);
    assert_eq!(run(&mut command, SOON)?.code(), 28);
    eventually("the end of the connection", SOON, || proxy.log().iter().all(|r| r.body_len > 0))?;
    assert!(proxy.log().iter().all(|r| !r.succeeded()));
    assert_eq!(server.client().get("pub", "cut")?, None);
    Ok(())
}

#[test]
fn the_file_server_serves_ranges_and_nothing_outside() -> Result<()> {
    let directory = Directory::start()?;
    std::fs::write(directory.path().join("a b"), "0123456789")?;
    let base = directory.public_base();
    assert_eq!(http::get(&format!("{base}/a%20b"))?.ok()?.text(), "0123456789");
    let part = http::request("GET", &format!("{base}/a%20b"), &[("Range", "bytes=3-5")], b"")?;
    assert_eq!((part.status(), part.text().as_str()), (206, "345"));
    assert_eq!(http::get(&format!("{base}/../../../etc/passwd"))?.status(), 404);
    assert_eq!(http::get(&format!("{base}/none"))?.status(), 404);
    assert_eq!(http::request("PUT", &format!("{base}/x"), &[], b"x")?.status(), 405);
    Ok(())
}

#[test]
fn commands_never_hang_and_children_never_outlive() -> Result<()> {
    let mut sleeper = Command::new("/bin/sh");
    // The grandchild keeps stdout open for much longer than the limit.
    let output = run(sleeper.args(["-c", "sleep 1000 & echo $!; exit 3"]), SOON)?;
    assert!(output.code() == 3 && !output.timed_out);
    let gone = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    eventually("the end of the grandchild", SOON, || gone(output.stdout.trim()))?;

    let output = run(Command::new("/bin/sleep").arg("1000"), Duration::from_millis(200))?;
    assert!(output.timed_out && output.ok().is_err());

    let dir = tempfile::tempdir()?;
    let mut command = clean_command("/bin/sh");
    command.args(["-c", "sleep 1000 & echo $!; wait"]);
    let mut child = Child::spawn(&command, &dir.path().join("log"))?;
    eventually("the start of the child", SOON, || child.log().ends_with('\n'))?;
    let pid = child.log().trim().to_owned();
    assert!(!gone(&pid) && child.try_wait()?.is_none());
    drop(child);
    eventually("the end of the group", SOON, || gone(&pid))?;
    Ok(())
}

#[test]
fn the_realistic_store_is_large_and_connected() -> Result<()> {
    for version in versions() {
        let Some(big) = BigStore::get(version)? else { return Ok(()) };
        assert!(big.large.len() >= 60 && big.tiny.len() == 1000);
        assert!(big.nar_size(&big.large)? > 1_000_000_000);
        let references: usize = big.nix.path_info(&big.large)?.iter().map(|i| i.references.len()).sum();
        assert!(references > 100, "only {references} references");
    }
    Ok(())
}
