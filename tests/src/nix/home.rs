//! A private store and the commands on it.

use super::{Daemon, NixVersion};
use crate::process::{Output, clean_command, run, run_with_input};
use crate::secrets::ACCESS_TOKEN;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A signing key: the file with the secret half and the public half as `trusted-public-keys` wants it.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// File of the secret key, mode 0600.
    pub secret_file: PathBuf,
    /// `NAME:BASE64`.
    pub public: String,
}

/// A private Nix store (and its state, log, configuration and home directories) of one version.
#[derive(Debug)]
pub struct NixHome {
    version: NixVersion,
    dir: PathBuf,
    store_dir: PathBuf,
    conf: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    timeout: Duration,
    counter: AtomicU32,
    // Dropped in this order: first the daemon, then its files.
    daemon: Option<Daemon>,
    _temp: Option<RemovableDir>,
}

impl NixHome {
    /// Creates an empty store in a temporary directory, without a daemon until [`NixHome::start_daemon`].
    pub fn new(version: NixVersion) -> Result<Self> {
        let temp = RemovableDir::new()?;
        let dir = temp.path().to_owned();
        Self::make(version, dir.clone(), dir.join("n/store"), Some(temp))
    }

    /// Opens or creates a store in a directory that is kept.
    pub fn at(version: NixVersion, dir: &Path) -> Result<Self> {
        Self::make(version, dir.to_owned(), dir.join("n/store"), None)
    }

    /// Creates an empty second store with the same logical store directory. It has none of the settings of this store.
    pub fn twin(&self) -> Result<Self> {
        let temp = RemovableDir::new()?;
        Self::make(self.version, temp.path().to_owned(), self.store_dir.clone(), Some(temp))
    }

    /// [`NixHome::twin`], of another version of Nix.
    pub fn twin_of(&self, version: NixVersion) -> Result<Self> {
        let temp = RemovableDir::new()?;
        Self::make(version, temp.path().to_owned(), self.store_dir.clone(), Some(temp))
    }

    fn make(
        version: NixVersion,
        dir: PathBuf,
        store_dir: PathBuf,
        temp: Option<RemovableDir>,
    ) -> Result<Self> {
        let conf = [
            ("experimental-features", "nix-command ca-derivations"),
            // The hook gets this token, and must not show it.
            ("access-tokens", ACCESS_TOKEN),
            ("substituters", ""),
            ("trusted-public-keys", ""),
            ("build-users-group", ""),
            ("sandbox", "false"),
            ("max-jobs", "2"),
            ("fsync-metadata", "false"),
        ];
        let home = Self {
            version,
            dir,
            store_dir,
            conf: conf.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            env: BTreeMap::new(),
            timeout: Duration::from_secs(180),
            counter: AtomicU32::new(0),
            daemon: None,
            _temp: temp,
        };
        home.make_dirs()?;
        Ok(home)
    }

    fn make_dirs(&self) -> Result<()> {
        // All must be there before a daemon starts.
        for name in ["n/store", "n/var", "n/log", "n/etc", "home"] {
            fs::create_dir_all(self.dir.join(name))?;
        }
        self.write_conf()?;
        // One process creates the database now. When a build creates it, the build hook of Nix opens it at the same time,
        // and sometimes one of the two finds it busy and gives up.
        if !self.state_dir().join("db/db.sqlite").exists() {
            run(self.bare_command("nix-store").arg("--init"), self.timeout)?.ok()?;
        }
        Ok(())
    }

    fn write_conf(&self) -> Result<()> {
        let text: String = self.conf.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        fs::write(self.conf_dir().join("nix.conf"), text)?;
        Ok(())
    }

    /// Its version.
    pub fn version(&self) -> NixVersion {
        self.version
    }

    /// The directory of `n/` (store, var, log, etc) and `home/`. A test may put files there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The logical store directory (`NIX_STORE_DIR`).
    pub fn store_dir(&self) -> &Path {
        &self.store_dir
    }

    /// The physical store directory: the logical one, except for a [`NixHome::twin`].
    pub fn real_store_dir(&self) -> PathBuf {
        self.dir.join("n/store")
    }

    /// `NIX_STATE_DIR`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("n/var")
    }

    /// `NIX_LOG_DIR`.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("n/log")
    }

    /// `NIX_CONF_DIR`.
    pub fn conf_dir(&self) -> PathBuf {
        self.dir.join("n/etc")
    }

    /// The physical path of a store path.
    pub fn real(&self, path: &str) -> PathBuf {
        self.real_store_dir().join(Path::new(path).file_name().unwrap_or_default())
    }

    /// The store's address for `NIX_REMOTE` and `--store`.
    pub fn store_uri(&self) -> String {
        if self.real_store_dir() == self.store_dir {
            return "local".to_owned();
        }
        let [store, real, state, log] =
            [self.store_dir.clone(), self.real_store_dir(), self.state_dir(), self.log_dir()]
                .map(|p| p.display().to_string());
        format!("local?store={store}&real={real}&state={state}&log={log}")
    }

    /// Sets a line of `nix.conf`. A running daemon reads it only when it is started again.
    pub fn set_conf(&mut self, key: &str, value: &str) -> Result<()> {
        self.conf.insert(key.to_owned(), value.to_owned());
        self.write_conf()
    }

    /// Removes a line of `nix.conf`.
    pub fn unset_conf(&mut self, key: &str) -> Result<()> {
        self.conf.remove(key);
        self.write_conf()
    }

    /// Adds a variable to the environment of the daemon and of all commands, and so to that of the hook.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.insert(key.to_owned(), value.to_owned());
    }

    /// Sets the time limit of commands; 3 minutes by default.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Starts a daemon. From now on all commands use it.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.daemon = None;
        let mut command = self.bare_command("nix-daemon");
        command.env("NIX_REMOTE", self.store_uri());
        self.daemon = Some(Daemon::start(command, &self.dir.join("n/sock"), &self.dir.join("daemon.log"))?);
        Ok(())
    }

    /// Stops the daemon. From now on commands open the store themselves.
    pub fn stop_daemon(&mut self) {
        self.daemon = None;
    }

    /// The daemon, if one runs.
    pub fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// Moves this store away and creates an empty store in its place. Settings stay; a daemon is stopped.
    /// Returns the new path of the old store directory.
    pub fn retire(&mut self) -> Result<PathBuf> {
        ensure!(self.real_store_dir() == self.store_dir, "a twin cannot be retired");
        self.stop_daemon();
        let old = self.dir.join(format!("retired-{}", self.next()));
        fs::rename(self.dir.join("n"), &old)?;
        self.make_dirs()?;
        Ok(old.join("store"))
    }

    /// The environment with which a program uses this store, with a daemon or without.
    pub fn client_env(&self) -> BTreeMap<String, String> {
        let text = |p: PathBuf| p.display().to_string();
        let mut env = self.env.clone();
        let path =
            format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", self.version.bin_dir().display());
        env.insert("PATH".into(), path);
        env.insert("HOME".into(), text(self.dir.join("home")));
        env.insert("NIX_STORE_DIR".into(), text(self.store_dir.clone()));
        env.insert("NIX_STATE_DIR".into(), text(self.state_dir()));
        env.insert("NIX_LOG_DIR".into(), text(self.log_dir()));
        env.insert("NIX_CONF_DIR".into(), text(self.conf_dir()));
        match &self.daemon {
            Some(daemon) => {
                env.insert("NIX_REMOTE".into(), "daemon".into());
                env.insert("NIX_DAEMON_SOCKET_PATH".into(), text(daemon.socket().to_owned()));
            }
            None => {
                env.insert("NIX_REMOTE".into(), self.store_uri());
            }
        }
        env
    }

    fn bare_command(&self, program: &str) -> Command {
        let mut command = clean_command(self.version.bin_dir().join(program));
        command.envs(self.client_env()).current_dir(&self.dir);
        command
    }

    /// A command of this Nix on this store, with an empty narinfo cache of its own.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.bare_command(program);
        // A command must not see what an earlier command remembered of a binary cache.
        let cache = self.dir.join(format!("home/cache-{}", self.next()));
        command.env("XDG_CACHE_HOME", cache).args(args);
        command
    }

    /// Runs `nix-store …`.
    pub fn nix_store(&self, args: &[&str]) -> Result<Output> {
        run(&mut self.command("nix-store", args), self.timeout)
    }

    /// Runs `nix-store …` with something on stdin, as `--load-db` wants it.
    pub fn nix_store_with_input(&self, args: &[&str], input: &[u8]) -> Result<Output> {
        run_with_input(&mut self.command("nix-store", args), input, self.timeout)
    }

    /// Runs `nix …`.
    pub fn nix(&self, args: &[&str]) -> Result<Output> {
        run(&mut self.command("nix", args), self.timeout)
    }

    /// Runs `nix-build` on an expression, with success or not.
    pub fn try_build(&self, expression: &str) -> Result<Output> {
        run(&mut self.build_command(expression, &[])?, self.timeout)
    }

    /// The command `nix-build` on an expression.
    pub fn build_command(&self, expression: &str, args: &[&str]) -> Result<Command> {
        let file = self.dir.join(format!("home/expression-{}.nix", self.next()));
        fs::write(&file, expression)?;
        let mut command = self.command("nix-build", &["--no-out-link", "--show-trace"]);
        command.arg(file).args(args);
        Ok(command)
    }

    /// Builds an expression; returns its output paths, in the order of the expression's attributes.
    pub fn build(&self, expression: &str) -> Result<Vec<String>> {
        Ok(self.try_build(expression)?.ok()?.lines())
    }

    /// Instantiates an expression without building it.
    pub fn instantiate(&self, expression: &str) -> Result<Vec<String>> {
        let file = self.dir.join(format!("home/expression-{}.nix", self.next()));
        fs::write(&file, expression)?;
        let mut command = self.command("nix-instantiate", &[]);
        Ok(run(command.arg(file), self.timeout)?.ok()?.lines())
    }

    /// Evaluates an expression to a string; what its evaluation puts into the store is there afterwards.
    pub fn evaluate(&self, expression: &str) -> Result<String> {
        let file = self.dir.join(format!("home/expression-{}.nix", self.next()));
        fs::write(&file, expression)?;
        let mut command = self.command("nix-instantiate", &["--eval", "--read-write-mode", "--json"]);
        let output = run(command.arg(file), self.timeout)?.ok()?;
        Ok(serde_json::from_str(&output.stdout)?)
    }

    /// Substitutes paths from a binary cache alone, signatures required, with success or not.
    pub fn try_substitute(&self, paths: &[String], cache_url: &str, public_key: &str) -> Result<Output> {
        let mut args =
            vec!["-r", "--option", "substituters", cache_url, "--option", "trusted-public-keys", public_key];
        args.extend(["--option", "require-sigs", "true", "--max-jobs", "0", "--option", "builders", ""]);
        args.extend(paths.iter().map(String::as_str));
        self.nix_store(&args)
    }

    /// Substitutes paths and their closures from a binary cache, signatures required.
    pub fn substitute(&self, paths: &[String], cache_url: &str, public_key: &str) -> Result<()> {
        self.try_substitute(paths, cache_url, public_key)?.ok()?;
        Ok(())
    }

    /// `nix copy --to URL` (with the closure).
    pub fn copy_to(&self, url: &str, paths: &[String]) -> Result<()> {
        let mut args = vec!["copy", "--to", url];
        args.extend(paths.iter().map(String::as_str));
        self.nix(&args)?.ok()?;
        Ok(())
    }

    /// `nix store verify --store URL`: checks contents and signatures of the closures of paths in a cache.
    pub fn verify_cache(&self, url: &str, public_key: &str, paths: &[String]) -> Result<Output> {
        let mut args =
            vec!["store", "verify", "-r", "--store", url, "--option", "trusted-public-keys", public_key];
        args.extend(paths.iter().map(String::as_str));
        self.nix(&args)
    }

    /// Collects garbage.
    pub fn gc(&self) -> Result<Output> {
        self.nix_store(&["--gc"])?.ok()
    }

    /// Makes a signing key.
    pub fn key_pair(&self, name: &str) -> Result<KeyPair> {
        let secret = self.nix(&["key", "generate-secret", "--key-name", name])?.ok()?.stdout;
        let mut command = self.command("nix", &["key", "convert-secret-to-public"]);
        let public = run_with_input(&mut command, secret.as_bytes(), self.timeout)?.ok()?.stdout;
        let secret_file = self.dir.join(format!("home/{name}.sec"));
        fs::write(&secret_file, secret)?;
        fs::set_permissions(&secret_file, fs::Permissions::from_mode(0o600))?;
        Ok(KeyPair { secret_file, public: public.trim().to_owned() })
    }

    /// Signs paths in the store.
    pub fn sign(&self, key: &KeyPair, paths: &[String]) -> Result<()> {
        let file = key.secret_file.display().to_string();
        let mut args = vec!["store", "sign", "-r", "-k", &file];
        args.extend(paths.iter().map(String::as_str));
        self.nix(&args)?.ok()?;
        Ok(())
    }

    /// Imports the closures of paths from another store with the same logical directory, as from a remote builder: unsigned
    /// and not `ultimate`.
    pub fn import_unsigned(&self, from: &Self, paths: &[String]) -> Result<()> {
        ensure!(self.store_dir == from.store_dir, "other store directories");
        let file = self.dir.join(format!("home/export-{}", self.next()));
        let mut args = vec!["-qR"];
        args.extend(paths.iter().map(String::as_str));
        let closure = from.nix_store(&args)?.ok()?.lines();
        // Through a file: an export is not text.
        let mut export = from.command("nix-store", &["--export"]);
        export.args(closure);
        let mut shell = clean_command("/bin/sh");
        shell.args(["-c", r#"out=$1; shift; exec "$@" > "$out""#, "sh"]).arg(&file);
        shell.arg(export.get_program()).args(export.get_args());
        shell.envs(export.get_envs().filter_map(|(k, v)| Some((k, v?))));
        run(&mut shell, self.timeout)?.ok()?;
        let export = fs::read(&file)?;
        self.nix_store_with_input(&["--import"], &export)?.ok()?;
        fs::remove_file(&file)?;
        Ok(())
    }

    /// Whether a path is valid in the store.
    pub fn is_valid(&self, path: &str) -> bool {
        self.nix_store(&["--check-validity", path]).is_ok_and(|o| o.status.success())
    }

    /// The SHA-256 of the NAR of the present files of a store path, independent of the database.
    pub fn hash_contents(&self, path: &str) -> Result<String> {
        let real = self.real(path).display().to_string();
        let mut command = self.command("nix-hash", &["--type", "sha256", &real]);
        Ok(run(&mut command, self.timeout)?.ok()?.stdout.trim().to_owned())
    }

    /// Changes a byte of the first regular file with contents at a store path, without Nix.
    pub fn corrupt(&self, path: &str) -> Result<()> {
        let files = walkdir::WalkDir::new(self.real(path)).sort_by_file_name();
        for entry in files {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && metadata.len() > 0 {
                fs::set_permissions(
                    entry.path(),
                    fs::Permissions::from_mode(metadata.permissions().mode() | 0o200),
                )?;
                let mut bytes = fs::read(entry.path())?;
                bytes[0] ^= 1;
                fs::write(entry.path(), bytes)?;
                fs::set_permissions(entry.path(), metadata.permissions())?;
                return Ok(());
            }
        }
        anyhow::bail!("{path} has no file with contents")
    }

    fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

/// A temporary directory whose store, read-only as Nix leaves it, can be removed by anyone.
#[derive(Debug)]
struct RemovableDir(TempDir);

impl RemovableDir {
    fn new() -> Result<Self> {
        // Short, because the path of a socket has at most 108 bytes; real, because Nix refuses a symlink above its store.
        let base = fs::canonicalize(std::env::temp_dir())?;
        Ok(Self(
            tempfile::Builder::new()
                .prefix("larder-")
                .tempdir_in(base)
                .context("making a temporary directory")?,
        ))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for RemovableDir {
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root() {
            return;
        }
        for entry in
            walkdir::WalkDir::new(self.0.path()).into_iter().flatten().filter(|e| e.file_type().is_dir())
        {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
        }
    }
}
