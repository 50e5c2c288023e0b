//! Tests of the client with daemons that send scripted bytes.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread;

use nix_archive::nar::encode_regular;

use super::*;
use crate::store::daemon::handshake::tests::greeting;
use crate::store::daemon::stderr::tests::{error, last};
use crate::store::location::DaemonAddress;

/// A location whose daemon accepts one connection, sends `script`, and then stays silent or closes the connection.
fn scripted(script: Vec<u8>, hang_up: bool) -> (tempfile::TempDir, StoreLocation) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&script).unwrap();
        if hang_up {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        stream.read_to_end(&mut Vec::new()).unwrap_or_default();
    });
    (dir, at(DaemonAddress::Socket(socket)))
}

fn at(daemon: DaemonAddress) -> StoreLocation {
    StoreLocation {
        store_dir: StoreDir::default(),
        real_dir: "/nix/store".into(),
        state_dir: "/nix/var/nix".into(),
        log_dir: "/nix/var/log/nix".into(),
        daemon,
    }
}

fn path(name: &str) -> StorePath {
    StorePath::from_parts([7; 20], name).unwrap()
}

fn info_reply() -> Vec<u8> {
    let mut wire = last();
    write_u64(&mut wire, 1).unwrap();
    write_bytes(&mut wire, path("a.drv").to_string().as_bytes()).unwrap();
    write_bytes(&mut wire, "0f".repeat(32).as_bytes()).unwrap();
    write_strings(&mut wire, &[path("a").to_string(), path("b").to_string()]).unwrap();
    [1234, 456, 1].iter().for_each(|n| write_u64(&mut wire, *n).unwrap());
    write_strings(&mut wire, &["key:c2ln"]).unwrap();
    write_bytes(&mut wire, b"").unwrap();
    wire
}

#[test]
fn path_infos_come_in_the_order_of_the_questions() {
    let mut script = greeting(35);
    let (count, absent) = (1000, [last(), vec![0; 8]].concat());
    for number in 0..count {
        script.extend(if number % 3 == 0 { absent.clone() } else { info_reply() });
    }
    let (_dir, location) = scripted(script, false);
    let mut daemon = Daemon::connect(&location).unwrap();
    let infos = daemon.path_infos(&vec![path("a"); count]).unwrap();
    assert_eq!(infos.len(), count);
    for (number, info) in infos.into_iter().enumerate() {
        assert_eq!(info.is_none(), number % 3 == 0);
        let Some(info) = info else { continue };
        assert_eq!((info.nar_hash, info.nar_size, info.registration_time), ([15; 32], 456, 1234));
        assert_eq!(info.deriver, Some(path("a.drv")));
        assert_eq!(info.references, [path("a"), path("b")].into_iter().collect());
        assert_eq!(info.dependencies().map(|path| path.name()).collect::<Vec<_>>(), ["b"]);
        assert_eq!((info.ultimate, &*info.signatures, info.ca), (true, &["key:c2ln".to_owned()][..], None));
    }
}

#[test]
fn malformed_replies_are_errors_and_break_the_connection() {
    let good = info_reply();
    for at in (0..good.len()).step_by(3) {
        for flip in [1, 0xff] {
            let mut reply = good.clone();
            reply[at] ^= flip;
            let (_dir, location) = scripted([greeting(34), reply].concat(), true);
            let mut daemon = Daemon::connect(&location).unwrap();
            if daemon.path_infos(&[path("a")]).is_err() {
                assert!(daemon.is_broken());
            }
        }
    }
}

#[test]
fn after_an_error_every_call_fails() {
    let script = [greeting(38), error("no such path", &[]), last(), last()].concat();
    let (_dir, location) = scripted(script, false);
    let mut daemon = Daemon::connect(&location).unwrap();
    let first = daemon.derivation_outputs(&path("a.drv")).unwrap_err();
    assert!(first.to_string().contains("-a.drv`: the nix daemon says: no such path"), "{first}");
    let second = daemon.all_valid_paths().unwrap_err();
    assert!(second.to_string().contains("failed earlier"), "{second}");
    assert!(second.hint_text().is_some());
}

#[test]
fn a_silent_daemon_is_given_up() {
    let (_dir, location) = scripted(greeting(37), false);
    let mut daemon = Daemon::connect_with(&location, Some(Duration::from_secs(1))).unwrap();
    let error = daemon.all_valid_paths().unwrap_err();
    assert!(error.to_string().contains("was silent for 1 s"), "{error}");
    assert_eq!(error.retry(), Retry::Transient);
}

#[test]
fn a_nar_is_read_exactly_to_its_end() {
    let mut nar = Vec::new();
    encode_regular(&mut nar, &vec![b'x'; 100_001], false).unwrap();
    let script = [greeting(38), last(), nar.clone(), last(), 0u64.to_le_bytes().to_vec()].concat();
    let (_dir, location) = scripted(script, false);
    let mut daemon = Daemon::connect(&location).unwrap();
    let mut out = Vec::new();
    assert_eq!(daemon.nar_from_path(&path("a"), &mut out).unwrap(), nar.len() as u64);
    assert_eq!(out, nar);
    assert!(daemon.all_valid_paths().unwrap().is_empty());
}

#[test]
fn an_error_inside_a_nar_is_reported_as_the_daemons_error() {
    let mut nar = Vec::new();
    encode_regular(&mut nar, b"x", false).unwrap();
    for end in [0, 24, 40] {
        let script = [greeting(38), last(), nar[..end].to_vec(), error("it vanished", &[])].concat();
        let (_dir, location) = scripted(script, false);
        let mut daemon = Daemon::connect(&location).unwrap();
        let error = daemon.nar_from_path(&path("a"), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("says: it vanished"), "{error}");
        assert!(daemon.is_broken());
    }
}

#[test]
fn a_sink_that_fails_is_named_as_the_cause() {
    let mut nar = Vec::new();
    encode_regular(&mut nar, &[b'x'; 1000], false).unwrap();
    let (_dir, location) = scripted([greeting(38), last(), nar].concat(), false);
    let mut daemon = Daemon::connect(&location).unwrap();
    let error = daemon.nar_from_path(&path("a"), &mut [0; 64].as_mut_slice()).unwrap_err();
    assert!(error.to_string().starts_with("cannot pass on the NAR"), "{error}");
    assert!(daemon.is_broken());
}

#[test]
fn errors_say_why_the_connection_failed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let told = |daemon: DaemonAddress| {
        let error = Daemon::connect(&at(daemon)).err().unwrap();
        format!("{error} ({})", error.hint_text().unwrap_or_default())
    };
    assert!(told(DaemonAddress::Socket(socket.clone())).contains("no such socket"));
    drop(UnixListener::bind(&socket).unwrap());
    assert!(told(DaemonAddress::Socket(socket)).contains("nothing listens"));

    let (_dir, location) = scripted(Vec::new(), true);
    let text = told(location.daemon);
    assert!(text.contains("closed the connection") && text.contains("allowed-users"), "{text}");

    let (_dir, location) = scripted(greeting(33), true);
    let text = told(location.daemon);
    assert!(text.contains("protocol 1.33") && text.contains("nix 2.8"), "{text}");
}

#[test]
fn errors_contain_the_output_of_the_program() {
    // larder runs a daemon only for a store that exists.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    std::fs::write(dir.path().join("db/db.sqlite"), "").unwrap();
    let at =
        |daemon| StoreLocation { real_dir: dir.path().into(), state_dir: dir.path().into(), ..at(daemon) };
    let run = |script: &str| {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let env = vec![("WORD".to_owned(), "database".to_owned())];
        let location = at(DaemonAddress::Stdio { program: "/bin/sh".into(), args, env });
        Daemon::connect_with(&location, Some(Duration::from_secs(60))).err().unwrap().to_string()
    };
    let told = run("printf '\\033[31merror:\\033[0m the %s is locked' $WORD >&2; exit 1");
    assert!(told.ends_with(": the database is locked"), "{told}");
    let location = at(DaemonAddress::Stdio { program: "/nonexistent".into(), args: vec![], env: vec![] });
    assert!(Daemon::connect(&location).err().unwrap().to_string().contains("/nonexistent"));
}
