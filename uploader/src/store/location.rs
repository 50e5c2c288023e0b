//! The location of the local store and the address of its daemon.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix_derivation::{StoreDir, StorePath};

use crate::base::error::{Area, Error, Result};

const STATE_DIR: &str = "/nix/var/nix";
const LOG_DIR: &str = "/nix/var/log/nix";
const DAEMON: &str = "nix-daemon";

/// The database of the store, in the state directory.
const DATABASE: &str = "db/db.sqlite";

/// Directories of `nix-daemon` that may be absent from the PATH of a service.
const DAEMON_DIRS: [&str; 2] = ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"];

/// The address of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonAddress {
    /// The socket that the daemon listens on.
    Socket(PathBuf),
    /// A program that speaks the protocol on its standard input and output, such as `nix-daemon --stdio`.
    Stdio {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Variables that are added to its environment.
        env: Vec<(String, String)>,
    },
}

/// The location of the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLocation {
    /// The store directory that store paths begin with.
    pub store_dir: StoreDir,
    /// The directory that holds the files. It differs from `store_dir` for a chroot store.
    pub real_dir: PathBuf,
    /// The state directory of Nix, with the database, the roots and the socket.
    pub state_dir: PathBuf,
    /// The log directory of Nix.
    pub log_dir: PathBuf,
    /// The address of the daemon.
    pub daemon: DaemonAddress,
}

/// Known facts about the store. [`StoreLocation::detect`] finds the others.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Overrides `NIX_STORE_DIR`.
    pub store_dir: Option<String>,
    /// The directory that holds the files, if it is not `store_dir`.
    pub real_dir: Option<PathBuf>,
    /// Overrides `NIX_STATE_DIR`.
    pub state_dir: Option<PathBuf>,
    /// Overrides `NIX_LOG_DIR`.
    pub log_dir: Option<PathBuf>,
    /// Overrides `NIX_REMOTE`, and has the same form.
    pub remote: Option<String>,
    /// The address of the daemon. Overrides `remote`.
    pub daemon: Option<DaemonAddress>,
}

impl StoreLocation {
    /// Finds the store as Nix does: from the options, then the environment, then Nix's defaults.
    ///
    /// # Errors
    /// An option or variable is wrong, or `NIX_REMOTE` names a store that is not local.
    pub fn detect(options: &StoreOptions) -> Result<Self> {
        Self::detect_in(options, |name| std::env::var_os(name))
    }

    /// [`detect`](Self::detect) with the given environment.
    pub fn detect_in(options: &StoreOptions, env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let store_dir = match (&options.store_dir, env("NIX_STORE_DIR")) {
            (Some(given), _) => given.clone(),
            (None, Some(value)) => text("NIX_STORE_DIR", value)?,
            (None, None) => nix_derivation::store_path::STORE_DIR.to_owned(),
        };
        let trimmed = if store_dir.len() > 1 { store_dir.trim_end_matches('/') } else { &store_dir };
        let store_dir = StoreDir::new(trimmed).map_err(|error| {
            Error::permanent(Area::Config, format!("cannot use `{trimmed}` as the store directory"))
                .because(error)
                .hint("give an absolute path, such as `/nix/store`")
        })?;
        let dir = |given: &Option<PathBuf>, name: &str, default: &str| {
            let dir = given.clone().or_else(|| env(name).map(PathBuf::from));
            absolute(dir.unwrap_or_else(|| default.into()))
        };
        let state_dir = dir(&options.state_dir, "NIX_STATE_DIR", STATE_DIR)?;
        let log_dir = dir(&options.log_dir, "NIX_LOG_DIR", LOG_DIR)?;
        let real_dir = absolute(options.real_dir.clone().unwrap_or_else(|| store_dir.as_str().into()))?;
        let mut location =
            Self { store_dir, real_dir, state_dir, log_dir, daemon: DaemonAddress::Socket(PathBuf::new()) };
        location.daemon = match &options.daemon {
            Some(address) => address.clone(),
            None => location.find_daemon(options, env)?,
        };
        Ok(location)
    }

    /// The file-system path of a store path.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.real_dir.join(path.to_basename())
    }

    /// Checks that the store is there. Where larder runs the daemon itself, the daemon would make an empty store in the
    /// place of a store that is not mounted.
    ///
    /// # Errors
    /// The database or the directory of the store does not exist. Only for [`DaemonAddress::Stdio`]: a daemon that
    /// somebody else runs may have both in another place.
    pub(crate) fn check_exists(&self) -> Result<()> {
        if matches!(self.daemon, DaemonAddress::Socket(_)) {
            return Ok(());
        }
        let mut needed = [self.state_dir.join(DATABASE), self.real_dir.clone()].into_iter();
        let Some(missing) = needed.find(|path| matches!(path.try_exists(), Ok(false))) else { return Ok(()) };
        Err(Error::transient(Area::Store, format!("cannot open the nix store `{}`", self.store_dir))
            .because(format!("`{}` does not exist", missing.display()))
            .hint("is the store mounted, and are `real-store-dir` and `nix-state-dir` right? larder runs no `nix-daemon` without a store, because the daemon would make an empty store"))
    }

    /// The address of `nix-daemon --stdio` for this store, run from `program`.
    pub fn stdio(&self, program: impl Into<PathBuf>) -> DaemonAddress {
        let dirs = [
            ("NIX_STORE_DIR", self.store_dir.as_str().to_owned()),
            ("NIX_STATE_DIR", self.state_dir.to_string_lossy().into_owned()),
            ("NIX_LOG_DIR", self.log_dir.to_string_lossy().into_owned()),
        ];
        let mut args = vec!["--stdio".to_owned()];
        if self.real_dir != Path::new(self.store_dir.as_str()) {
            let [store, state, log] = [&dirs[0].1, &dirs[1].1, &dirs[2].1].map(|dir| url_encode(dir));
            let real = url_encode(&self.real_dir.to_string_lossy());
            args.push("--store".into());
            args.push(format!("local?store={store}&real={real}&state={state}&log={log}"));
        }
        let env = dirs.map(|(name, dir)| (name.to_owned(), dir)).into();
        DaemonAddress::Stdio { program: program.into(), args, env }
    }

    fn find_daemon(
        &self,
        options: &StoreOptions,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<DaemonAddress> {
        let remote = match (&options.remote, env("NIX_REMOTE")) {
            (Some(given), _) => given.clone(),
            (None, Some(value)) => text("NIX_REMOTE", value)?,
            (None, None) => String::new(),
        };
        let socket = match env("NIX_DAEMON_SOCKET_PATH") {
            Some(path) => absolute(path.into())?,
            None => self.state_dir.join("daemon-socket/socket"),
        };
        let program = || find_program(DAEMON, env("PATH"));
        match remote.as_str() {
            "" | "auto" => {
                if can_answer(&socket) {
                    return Ok(DaemonAddress::Socket(socket));
                }
                // Without a socket and a program, the attempt to connect to the socket gives the better error.
                Ok(program().map_or(DaemonAddress::Socket(socket), |program| self.stdio(program)))
            }
            "daemon" => Ok(DaemonAddress::Socket(socket)),
            "local" => program().map(|program| self.stdio(program)).ok_or_else(|| {
                Error::permanent(Area::Store, "cannot open the nix store without a daemon")
                    .because(format!("`{DAEMON}` is not on PATH"))
                    .hint("install nix, or put its `bin` directory on PATH")
            }),
            other => match other.strip_prefix("unix://") {
                Some("") => Ok(DaemonAddress::Socket(socket)),
                Some(path) if path.starts_with('/') && !path.contains(['?', '%']) => {
                    Ok(DaemonAddress::Socket(path.into()))
                }
                _ => Err(Error::permanent(
                    Area::Config,
                    format!("cannot read the store `{other}`, which `NIX_REMOTE` names"),
                )
                .because("larder reads only the local store, through its daemon")
                .hint("unset `NIX_REMOTE`, or set it to `daemon` or `unix:///path/of/the/socket`")),
            },
        }
    }
}

/// Whether a daemon may listen on the socket. A socket without permission counts: larder must not circumvent it.
fn can_answer(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
        ),
    }
}

fn find_program(name: &str, path: Option<OsString>) -> Option<PathBuf> {
    let path = path.unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(DAEMON_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::permanent(Area::Config, format!("cannot use the directory `{}`", path.display()))
        .because("it is not an absolute path"))
}

fn text(name: &str, value: OsString) -> Result<String> {
    value.into_string().map_err(|value| {
        Error::permanent(Area::Config, format!("cannot read the environment variable `{name}`"))
            .because(format!("`{}` is not UTF-8", value.to_string_lossy()))
    })
}

fn url_encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn detect(options: &StoreOptions, env: &[(&str, &str)]) -> Result<StoreLocation> {
        StoreLocation::detect_in(options, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_defaults_are_those_of_nix() {
        let location = detect(&StoreOptions::default(), &[("NIX_REMOTE", "daemon")]).unwrap();
        assert_eq!(location.store_dir, StoreDir::default());
        assert_eq!(location.real_dir, Path::new("/nix/store"));
        assert_eq!(location.log_dir, Path::new("/nix/var/log/nix"));
        assert_eq!(location.daemon, DaemonAddress::Socket("/nix/var/nix/daemon-socket/socket".into()));
    }

    #[test]
    fn options_go_before_the_environment() {
        let options = StoreOptions { store_dir: Some("/a/store/".into()), ..Default::default() };
        let env = [("NIX_STORE_DIR", "/b"), ("NIX_STATE_DIR", "/c"), ("NIX_REMOTE", "unix:///d/socket")];
        let location = detect(&options, &env).unwrap();
        assert_eq!(location.store_dir.as_str(), "/a/store");
        assert_eq!(location.state_dir, Path::new("/c"));
        assert_eq!(location.daemon, DaemonAddress::Socket("/d/socket".into()));
    }

    #[test]
    fn a_socket_that_connects_is_used_and_otherwise_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("nix-daemon"), "").unwrap();
        let (state, path, socket) = (at("state"), at(""), at("socket"));
        let env = [
            ("NIX_STATE_DIR", &*state),
            ("PATH", &*path),
            ("NIX_DAEMON_SOCKET_PATH", &*socket),
            ("NIX_REMOTE", ""),
        ];
        let listener = UnixListener::bind(&socket).unwrap();
        let found = detect(&StoreOptions::default(), &env).unwrap();
        assert_eq!(found.daemon, DaemonAddress::Socket(socket.clone().into()));
        drop(listener);
        let found = detect(&StoreOptions::default(), &env).unwrap();
        let DaemonAddress::Stdio { program, args, env } = found.daemon else { panic!("{:?}", found.daemon) };
        assert_eq!(program, Path::new(&at("nix-daemon")));
        assert_eq!(args, ["--stdio"]);
        assert!(env.contains(&("NIX_STATE_DIR".into(), state.clone())));
    }

    #[test]
    fn a_chroot_store_is_named_to_the_program() {
        let options = StoreOptions { real_dir: Some("/r 1/nix/store".into()), ..Default::default() };
        let location = detect(&options, &[("NIX_REMOTE", "daemon")]).unwrap();
        let DaemonAddress::Stdio { args, .. } = location.stdio("/bin/nix-daemon") else { panic!() };
        assert_eq!(args[1], "--store");
        assert!(args[2].contains("real=/r%201/nix/store&state=/nix/var/nix"), "{}", args[2]);
    }

    #[test]
    fn a_store_that_is_not_there_is_not_opened_by_a_daemon_of_larder() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            real_dir: Some(dir.path().join("store")),
            state_dir: Some(dir.path().join("var")),
            ..Default::default()
        };
        let mut location = detect(&options, &[("NIX_REMOTE", "daemon")]).unwrap();
        // The daemon at a socket may have the store in another place.
        location.check_exists().unwrap();
        location.daemon = location.stdio("/bin/nix-daemon");
        let refusal = |location: &StoreLocation| location.check_exists().unwrap_err().to_string();
        assert!(refusal(&location).contains("db.sqlite"));
        std::fs::create_dir_all(dir.path().join("var/db")).unwrap();
        std::fs::write(dir.path().join("var").join(DATABASE), "").unwrap();
        assert!(refusal(&location).contains("/store` does not exist"));
        std::fs::create_dir(dir.path().join("store")).unwrap();
        location.check_exists().unwrap();
    }

    #[test]
    fn other_stores_are_refused_by_name() {
        for remote in ["ssh-ng://host", "/tmp/chroot", "unix:///socket?root=/mnt", "https://cache"] {
            let error = detect(&StoreOptions::default(), &[("NIX_REMOTE", remote)]).unwrap_err();
            assert!(error.to_string().contains(remote), "{error}");
            assert!(error.hint_text().is_some());
        }
        assert!(detect(&StoreOptions::default(), &[("NIX_STATE_DIR", "var")]).is_err());
        assert!(detect(&StoreOptions::default(), &[("NIX_STORE_DIR", "/a/../b")]).is_err());
    }
}
