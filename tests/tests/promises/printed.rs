//! Nothing that others wrote controls the terminal of the person who runs larder, or hides a part of a log.

use anyhow::{Context, Result};
use larder_tests::http::{Framing, Head, read_body};
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixHome, narinfo_key, samples, versions};
use larder_tests::process::{Output, run};
use larder_tests::servers::Directory;
use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
/// A word, and characters that erase the screen, colour and hide text, and turn its direction.
const EVIL: &str = "EVIL\u{1b}[2J\u{9b}8m\u{7f}\u{202e}\u{2066}\u{200b}";

/// Requires that the word arrived, and that the other characters did not.
fn assert_plain(what: &str, text: &str) {
    assert!(text.contains("EVIL"), "{what}: the text of others is not shown: {text}");
    let raw = |c: char| (c.is_control() && c != '\n' && c != '\t') || EVIL[4..].contains(c) && !c.is_ascii();
    assert!(!text.contains(raw), "{what}: {text:?}");
}

fn assert_output(what: &str, output: &Output) {
    assert_plain(what, &format!("{}{}", output.stdout, output.stderr));
}

/// Starts a server that refuses each request as S3 does, with such a message.
fn refusing_server() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut from = BufReader::new(stream.try_clone()?);
                while let Some(head) = Head::read(&mut from)? {
                    if !matches!(head.request_framing(), Framing::Length(0)) {
                        read_body(&mut from, head.request_framing(), &mut |_| Ok(()), &mut |_| {})?;
                    }
                    let code = format!("Odd{EVIL}");
                    let body = format!("<Error><Code>{code}</Code><Message>no {EVIL}</Message></Error>");
                    write!(
                        stream,
                        "HTTP/1.1 400 EVIL\r\nx-amz-request-id: EVIL\u{9b}8m\u{202e}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    )?;
                    if head.word(0) != "HEAD" {
                        stream.write_all(body.as_bytes())?;
                    }
                }
                Ok(())
            });
        }
    });
    Ok(endpoint)
}

struct Home {
    larder: LarderHome,
    nix: NixHome,
}

impl Home {
    fn new() -> Result<Option<Self>> {
        let Some(version) = versions().first().copied() else { return Ok(None) };
        let nix = NixHome::new(version)?;
        let mut larder = LarderHome::new(&nix)?;
        larder.use_keys(&[&nix.key_pair("printed-1")?])?;
        Ok(Some(Self { larder, nix }))
    }
}

#[test]
fn the_answers_of_a_server_control_no_terminal() -> Result<()> {
    let Some(Home { mut larder, mut nix }) = Home::new()? else { return Ok(()) };
    let endpoint = refusing_server()?;
    larder.set_string("bucket", &format!("s3://bucket?endpoint={endpoint}"))?;
    larder.use_credentials("someone", "PLANTEDSECRET")?;
    larder.install_hook(&mut nix)?;
    let built = nix.build(&samples::single("printed"))?.remove(0);
    for args in [&["push", &built][..], &["push", "--json", &built], &["init"], &["flush", "--wait"]] {
        assert_output(&format!("{args:?}"), &larder.try_run(args)?);
    }
    // The agent tries for as long as it runs, so it is stopped when it has said why.
    let mut agent = larder.agent(&[])?;
    agent
        .wait_until(SOON, || {
            std::fs::read_to_string(larder.dir().join("agent.log")).is_ok_and(|log| log.contains("EVIL"))
        })
        .with_context(|| agent.log())?;
    agent.kill();
    assert_plain("the log of the agent", &agent.log());
    for args in [&["status"][..], &["status", "--json"]] {
        assert_output(&format!("{args:?}"), &larder.run(args)?);
    }
    // The files of the queue that a person may read.
    let summary = std::fs::read_to_string(larder.state_dir().join("state/summary.json"))?;
    assert_plain("the summary", &summary);
    Ok(())
}

#[test]
fn the_contents_of_a_cache_control_no_terminal() -> Result<()> {
    let Some(Home { mut larder, nix }) = Home::new()? else { return Ok(()) };
    let server = Directory::start()?;
    larder.use_directory(server.path())?;
    larder.run(&["init"])?;
    let built = nix.build(&samples::single("printed"))?.remove(0);
    larder.run(&["push", &built])?;
    let url = server.public_base();
    let check = ["client", "--check", "--url", &url, &built];
    larder.set_env("NIX_CONF_DIR", &larder.dir().join("conf").display().to_string());
    larder.run(&check)?;
    let narinfo = server.path().join(narinfo_key(&built));
    let text = std::fs::read_to_string(&narinfo)?;
    let signature =
        text.lines().find_map(|line| line.strip_prefix("Sig: ")).context("no signature")?.to_owned();
    let url_line = text.lines().find(|line| line.starts_with("URL: ")).context("no URL")?.to_owned();
    for changed in [
        text.replace(&signature, &format!("{EVIL}{signature}")),
        text.replace(&url_line, &format!("URL: nar/{EVIL}")),
        text.replace("NarHash: ", &format!("NarHash: {EVIL}")),
    ] {
        std::fs::write(&narinfo, changed)?;
        assert_output("a narinfo", &larder.try_run(&check)?);
    }
    std::fs::write(server.path().join("nix-cache-info"), format!("StoreDir: /{EVIL}\nPriority: 1\n"))?;
    for args in [&["push", &built][..], &["init"], &check] {
        assert_output(&format!("{args:?}"), &larder.try_run(args)?);
    }
    Ok(())
}

#[test]
fn files_and_daemons_of_others_control_no_terminal() -> Result<()> {
    let Some(Home { mut larder, nix }) = Home::new()? else { return Ok(()) };
    let conf = larder.dir().join("conf");
    std::fs::create_dir(&conf)?;
    std::fs::write(conf.join("nix.conf"), format!("substituters = {EVIL}://x\n"))?;
    larder.set_env("NIX_CONF_DIR", &conf.display().to_string());
    assert_output("nix.conf", &larder.try_run(&["client", "--check"])?);

    larder.run(&["queue", "create"])?;
    let path = nix.build(&samples::single("printed"))?.remove(0);
    let parked = larder.state_dir().join("parked").join(path.rsplit('/').next().unwrap_or_default());
    std::fs::write(
        &parked,
        format!(
            "Larder-Job: 1\nOrigin: hook\nCreated: 7\nPath: {path}\nAttempts: 3 0 {path} {EVIL}\nEnd: \n"
        ),
    )?;
    std::fs::write(larder.state_dir().join(format!("incoming/{EVIL}")), format!("{EVIL}\n"))?;
    std::fs::write(
        larder.state_dir().join("state/summary.json"),
        serde_json::json!({ "lastError": EVIL }).to_string(),
    )?;
    for args in [&["status"][..], &["status", "--json"]] {
        assert_output(&format!("{args:?}"), &larder.run(args)?);
    }
    // An error with a line of its own does not look like a line of larder.
    let daemon = larder.dir().join("daemon");
    std::fs::write(&daemon, format!("#!/bin/sh\nprintf '%s\\n' 'error: {EVIL}' >&2\nexit 1\n"))?;
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755))?;
    larder.unset("daemon-socket")?;
    larder.set_string("nix-daemon", &daemon.display().to_string())?;
    assert_output("a daemon", &run(&mut larder.command(&["catch-up"])?, SOON)?);
    Ok(())
}
