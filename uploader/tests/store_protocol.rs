//! Tests of the store module with real versions of Nix, over the socket of a daemon and over `nix-daemon --stdio`.
//!
//! `LARDER_TEST_NIX_BIN` names the `bin` directories of the Nix versions, separated by colons. By default, the tests use
//! the Nix on PATH. Without Nix, the tests say that they are skipped, or fail if `LARDER_TESTS_REQUIRE=1`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use larder::format::listing::ListingWriter;
use larder::store::{
    Daemon, DaemonAddress, HashingWriter, LogEncoding, StoreLocation, StoreOptions, StorePath, closure, dump,
    find_build_log,
};
use serde_json::Value;

const EXPRESSION: &str = r#"
let
  make = name: script: attrs: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/bin:/usr/bin";
  } // attrs);
in rec {
  text = builtins.toFile "text" "content-addressed";
  leaf = make "leaf" "echo built; echo leaf > $out" { };
  itself = make "itself" ''
    mkdir -p $out/sub/none; echo $out > $out/me; ln -s me $out/link; : > $out/empty
    echo '#!/bin/sh' > $out/sub/run; chmod +x $out/sub/run; echo ${leaf} > $out/sub/leaf
    i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i + 1)); done > $out/sub/long'' { };
  two = make "two" "echo ${itself} > $out; echo $out > $dev" { outputs = [ "out" "dev" ]; };
  top = make "top" "echo ${two.dev} ${text} > $out" { };
}
"#;

/// A private store with the daemon of one Nix version.
struct Lab {
    dir: tempfile::TempDir,
    bin: PathBuf,
    daemon: Option<Child>,
    top: StorePath,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

impl Lab {
    fn new(bin: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Without its state directory, a daemon may connect to itself.
        ["store", "var", "log", "etc", "home"]
            .iter()
            .for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
        let conf =
            "experimental-features = nix-command\nsubstituters =\nbuild-users-group =\nsandbox = false\n";
        fs::write(dir.path().join("etc/nix.conf"), conf).unwrap();
        fs::write(dir.path().join("lab.nix"), EXPRESSION).unwrap();
        let top = StorePath::from_parts([0; 20], "unset").unwrap();
        let mut lab = Self { dir, bin: bin.to_owned(), daemon: None, top };
        let expression = lab.at("lab.nix");
        let built = lab.run(
            "nix-build",
            &[expression.as_os_str(), "-A".as_ref(), "top".as_ref(), "--no-out-link".as_ref()],
        );
        lab.top = lab.path(&built);
        let daemon = lab
            .command("nix-daemon")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        lab.daemon = Some(daemon);
        let end = Instant::now() + Duration::from_secs(120);
        // The socket file exists a moment before the daemon listens.
        while std::os::unix::net::UnixStream::connect(lab.at("socket")).is_err() {
            assert!(Instant::now() < end, "nix-daemon does not listen");
            sleep(Duration::from_millis(20));
        }
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("PATH", format!("{}:/bin:/usr/bin", self.bin.display()));
        command.env("HOME", self.at("home")).env("NIX_CONF_DIR", self.at("etc"));
        command.env("NIX_STORE_DIR", self.at("store")).env("NIX_STATE_DIR", self.at("var"));
        command.env("NIX_LOG_DIR", self.at("log")).env("NIX_DAEMON_SOCKET_PATH", self.at("socket"));
        command.current_dir("/");
        command
    }

    fn run<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn query(&self, what: &str, path: &StorePath) -> String {
        self.run("nix-store", &["--query", what, &self.full(path)])
    }

    fn path(&self, text: &str) -> StorePath {
        StorePath::from_basename(text.rsplit('/').next().unwrap().as_bytes()).unwrap()
    }

    fn paths(&self, text: &str) -> BTreeSet<StorePath> {
        text.lines().map(|line| self.path(line)).collect()
    }

    fn full(&self, path: &StorePath) -> String {
        self.at("store").join(path.to_basename()).to_str().unwrap().to_owned()
    }

    /// The locations of the store with the socket of the daemon, and with a program.
    fn locations(&self) -> [StoreLocation; 2] {
        let options = StoreOptions {
            store_dir: Some(self.at("store").to_str().unwrap().to_owned()),
            state_dir: Some(self.at("var")),
            log_dir: Some(self.at("log")),
            daemon: Some(DaemonAddress::Socket(self.at("socket"))),
            ..StoreOptions::default()
        };
        let socket = StoreLocation::detect(&options).unwrap();
        let mut program = socket.clone();
        program.daemon = socket.stdio(self.bin.join("nix-daemon"));
        let DaemonAddress::Stdio { env, .. } = &mut program.daemon else { unreachable!() };
        env.push(("NIX_CONF_DIR".into(), self.at("etc").to_str().unwrap().into()));
        [socket, program]
    }

    fn closure_of_top(&self) -> BTreeSet<StorePath> {
        self.paths(&self.query("--requisites", &self.top))
    }
}

/// Runs a test with each version of Nix, over both connections to its daemon.
fn with_each_nix(test: impl Fn(&Lab, &StoreLocation)) {
    let bins: Vec<PathBuf> = match std::env::var_os("LARDER_TEST_NIX_BIN") {
        Some(bins) => std::env::split_paths(&bins).collect(),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).find(|dir| dir.join("nix-daemon").is_file()).into_iter().collect()
        }
    };
    if bins.is_empty() {
        assert!(std::env::var_os("LARDER_TESTS_REQUIRE").is_none_or(|value| value != "1"), "there is no nix");
        println!("skipped: there is no nix");
    }
    for bin in bins {
        let lab = Lab::new(&bin);
        for location in lab.locations() {
            test(&lab, &location);
        }
    }
}

fn absent() -> StorePath {
    StorePath::from_parts([9; 20], "absent").unwrap()
}

#[test]
fn path_infos_are_those_of_nix() {
    with_each_nix(|lab, location| {
        let key = lab.at("key");
        if !key.exists() {
            let public = lab.at("public");
            let args =
                ["--generate-binary-cache-key", "lab-1", key.to_str().unwrap(), public.to_str().unwrap()];
            lab.run("nix-store", &args);
        }
        lab.run("nix", &["store", "sign", "--key-file", key.to_str().unwrap(), "-r", &lab.full(&lab.top)]);
        let mut daemon = Daemon::connect(location).unwrap();
        assert!(daemon.server().nix_version.starts_with('2'), "{:?}", daemon.server());

        let mut paths: Vec<StorePath> = lab.closure_of_top().into_iter().collect();
        paths.push(absent());
        let mut infos = daemon.path_infos(&paths).unwrap();
        assert_eq!(infos.pop(), Some(None));
        let (mut self_references, mut content_addressed) = (0, 0);
        for (path, info) in paths.iter().zip(infos) {
            let info = info.unwrap();
            assert_eq!(*info.path, *path);
            let references: BTreeSet<_> = info.references.iter().map(|path| (**path).clone()).collect();
            assert_eq!(references, lab.paths(&lab.query("--references", path)));
            assert_eq!(format!("sha256:{}", info.nar_hash_nix32()), lab.query("--hash", path));
            assert_eq!(info.nar_size.to_string(), lab.query("--size", path));
            let deriver = lab.query("--deriver", path);
            assert_eq!(info.deriver, (deriver != "unknown-deriver").then(|| lab.path(&deriver)));
            assert!(info.registration_time > 1_600_000_000);
            self_references += usize::from(info.references.contains(path));
            if let Some(ca) = &info.ca {
                content_addressed += 1;
                assert!(path.name() == "text" && ca.starts_with("text:sha256:"), "{ca}");
                assert!(info.deriver.is_none());
            } else {
                assert!(info.ultimate && info.deriver.is_some());
                let [signature] = &info.signatures[..] else { panic!("{:?}", info.signatures) };
                assert!(signature.starts_with("lab-1:"), "{signature}");
            }
        }
        assert_eq!((self_references, content_addressed), (1, 1));
    });
}

#[test]
fn closures_and_sets_are_those_of_nix() {
    with_each_nix(|lab, location| {
        let mut daemon = Daemon::connect(location).unwrap();
        let requisites = lab.closure_of_top();
        let found = closure(&mut daemon, &[lab.top.clone().into(), absent().into()]).unwrap();
        assert_eq!(found.infos.keys().map(|path| (**path).clone()).collect::<BTreeSet<_>>(), requisites);
        assert_eq!(found.missing, [absent().into()]);
        assert_eq!(daemon.valid_paths(&[absent(), lab.top.clone()]).unwrap(), [lab.top.clone()].into());
        assert!(daemon.all_valid_paths().unwrap().is_superset(&requisites));
    });
}

#[test]
fn nars_have_the_hashes_of_their_path_infos() {
    with_each_nix(|lab, location| {
        let mut daemon = Daemon::connect(location).unwrap();
        let found = closure(&mut daemon, &[lab.top.clone().into()]).unwrap();
        for (path, info) in found.infos {
            let mut from_files = HashingWriter::new(std::io::sink());
            dump(location, &path, &mut from_files).unwrap();
            let mut from_daemon = HashingWriter::new(std::io::sink());
            assert_eq!(daemon.nar_from_path(&path, &mut from_daemon).unwrap(), info.nar_size);
            for digested in [from_files.finish().1, from_daemon.finish().1] {
                assert_eq!((digested.sha256, digested.size), (info.nar_hash, info.nar_size));
            }
        }
    });
}

#[test]
fn listings_are_those_of_nix() {
    with_each_nix(|lab, location| {
        let bucket = lab.at("bucket");
        let to = format!("file://{}?write-nar-listing=1&compression=none", bucket.display());
        lab.run("nix", &["copy", "--to", &to, &lab.full(&lab.top)]);
        for path in lab.closure_of_top() {
            let mut listing = ListingWriter::new();
            dump(location, &path, &mut listing).unwrap();
            let ours: Value = serde_json::from_str(&listing.finish().unwrap()).unwrap();
            let file = bucket.join(format!("{}.ls", &path.to_basename()[..32]));
            let theirs: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            assert_eq!(ours, theirs);
        }
    });
}

#[test]
fn outputs_of_derivations_are_known() {
    with_each_nix(|lab, location| {
        let mut daemon = Daemon::connect(location).unwrap();
        let two = lab.closure_of_top().into_iter().find(|path| path.name() == "two-dev").unwrap();
        let derivation = lab.path(&lab.query("--deriver", &two));
        let outputs = daemon.derivation_outputs(&derivation).unwrap();
        assert_eq!(outputs.keys().collect::<Vec<_>>(), ["dev", "out"]);
        assert_eq!(outputs["dev"], Some(two));

        let log = lab.closure_of_top().into_iter().find(|path| path.name() == "leaf").unwrap();
        let log = find_build_log(location, &lab.path(&lab.query("--deriver", &log))).unwrap();
        assert_eq!(log.encoding, LogEncoding::Bzip2);
    });
}

#[test]
fn roots_keep_paths_in_the_store() {
    with_each_nix(|lab, location| {
        let add = |name: &str| {
            fs::write(lab.at(name), name).unwrap();
            lab.path(&lab.run("nix-store", &["--add", lab.at(name).to_str().unwrap()]))
        };
        let (temporary, linked, loose) = (add("temporary"), add("linked"), add("loose"));
        let mut daemon = Daemon::connect(location).unwrap();
        daemon.add_temp_roots(&[temporary.clone(), absent()]).unwrap();
        let link = lab.at("link");
        symlink(lab.full(&linked), &link).unwrap();
        daemon.add_indirect_root(&link).unwrap();
        let roots = daemon.find_roots().unwrap();
        assert!(roots.contains(&(link.to_str().unwrap().to_owned(), linked.clone())), "{roots:?}");

        let all = [temporary.clone(), linked.clone(), loose];
        let kept: BTreeSet<StorePath> = [temporary, linked.clone()].into();
        lab.run("nix-store", &["--delete", "--ignore-liveness", &lab.full(&all[2])]);
        assert_eq!(daemon.valid_paths(&all).unwrap(), kept);
        // Nix does not delete a path with a root. The temporary root ends with its connection.
        let delete = |path: &StorePath| {
            let output = lab.command("nix-store").args(["--delete", &lab.full(path)]).output().unwrap();
            output.status.success()
        };
        assert!(!delete(&all[0]) && !delete(&all[1]));
        drop(daemon);
        let end = Instant::now() + Duration::from_secs(120);
        while !delete(&all[0]) {
            assert!(Instant::now() < end, "the temporary root outlives its connection");
            sleep(Duration::from_millis(50));
        }
        fs::remove_file(&link).unwrap();
        assert!(delete(&linked));
        let mut daemon = Daemon::connect(location).unwrap();
        assert!(daemon.valid_paths(&all).unwrap().is_empty());
    });
}

#[test]
fn an_error_of_the_daemon_is_reported_and_ends_the_connection() {
    with_each_nix(|_, location| {
        let mut daemon = Daemon::connect(location).unwrap();
        let error = daemon.derivation_outputs(&absent()).unwrap_err().to_string();
        assert!(error.contains("absent") && error.contains("the nix daemon says: "), "{error}");
        assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
        assert!(daemon.all_valid_paths().unwrap_err().to_string().contains("failed earlier"));

        let mut daemon = Daemon::connect(location).unwrap();
        let error = daemon.nar_from_path(&absent(), &mut std::io::sink()).unwrap_err().to_string();
        assert!(error.contains("the nix daemon says: "), "{error}");

        let mut daemon = Daemon::connect(location).unwrap();
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let path = daemon.all_valid_paths().unwrap().pop_first().unwrap();
        let error = daemon.nar_from_path(&path, &mut Full).unwrap_err().to_string();
        assert!(error.starts_with("cannot pass on the NAR"), "{error}");
        assert!(daemon.is_broken());
    });
}

#[test]
fn many_questions_are_asked_without_a_deadlock() {
    with_each_nix(|lab, location| {
        let mut daemon = Daemon::connect_with(location, Some(Duration::from_secs(60))).unwrap();
        let requisites: Vec<StorePath> = lab.closure_of_top().into_iter().collect();
        let paths: Vec<StorePath> = requisites.iter().cycle().take(20_000).cloned().collect();
        let infos = daemon.path_infos(&paths).unwrap();
        assert!(
            paths
                .iter()
                .zip(&infos)
                .all(|(path, info)| info.as_ref().is_some_and(|info| *info.path == *path))
        );
        daemon.add_temp_roots(&paths[..2000]).unwrap();
        assert_eq!(daemon.valid_paths(&paths).unwrap().len(), requisites.len());
    });
}
