//! The two binaries under test, and a configuration for them.

use crate::nix::{KeyPair, NixHome};
use crate::process::{Child, Output, clean_command, run};
use crate::secrets::Secrets;
use crate::servers::S3Server;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A built binary, `larder` or `larder-hook`: in `$LARDER_BIN_DIR`, else beside the running test in the target directory.
///
/// Cargo builds the binaries of other packages only with `--workspace`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("LARDER_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe()?;
            let dir = exe.parent().unwrap_or(Path::new("/"));
            // Tests lie in `deps/`.
            if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("no {}: run `cargo build --locked --workspace` first, or set LARDER_BIN_DIR", path.display());
    }
    Ok(path)
}

/// A binary with fail points, which `tests/faults --build` leaves in `faulty/` beside the other binaries.
pub fn faulty_binary(name: &str) -> Result<PathBuf> {
    let path = binary(name)?;
    let path = path.parent().unwrap_or(Path::new("/")).join("faulty").join(name);
    if !path.is_file() {
        bail!("no {}: run `tests/faults --build` first", path.display());
    }
    Ok(path)
}

/// A configuration of larder for a store, in a temporary directory, with a queue of its own. The output of its commands is
/// searched for secrets; so are all files of the directory when it is dropped.
#[derive(Debug)]
pub struct LarderHome {
    dir: TempDir,
    conf: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    timeout: Duration,
    secrets: Secrets,
}

impl LarderHome {
    /// A configuration for a store, and for its daemon if the daemon runs. It has no bucket and no key yet.
    pub fn new(nix: &NixHome) -> Result<Self> {
        let mut home = Self::bare()?;
        home.env.extend(nix.client_env());
        home.follow(nix)?;
        Ok(home)
    }

    /// A configuration without a store.
    pub fn bare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("larder-home-").tempdir()?;
        fs::create_dir(dir.path().join("state"))?;
        let cache = dir.path().join("cache").display().to_string();
        let (conf, timeout) = (BTreeMap::new(), Duration::from_secs(180));
        let secrets = Secrets::default();
        let mut home = Self { dir, conf, env: BTreeMap::new(), timeout, secrets };
        home.env.insert("LARDER_CONFIG".into(), home.config_file().display().to_string());
        home.env.insert("XDG_CACHE_HOME".into(), cache);
        home.set_string("state-dir", &home.state_dir().display().to_string())?;
        Ok(home)
    }

    /// Configures the directories of a store and the socket of its daemon again, after a daemon was started or stopped.
    pub fn follow(&mut self, nix: &NixHome) -> Result<()> {
        for name in ["NIX_REMOTE", "NIX_DAEMON_SOCKET_PATH"] {
            self.env.remove(name);
        }
        self.env.extend(nix.client_env());
        self.set_string("store-dir", &nix.store_dir().display().to_string())?;
        self.set_string("nix-state-dir", &nix.state_dir().display().to_string())?;
        match nix.daemon() {
            Some(daemon) => self.set_string("daemon-socket", &daemon.socket().display().to_string()),
            None => self.unset("daemon-socket"),
        }
    }

    /// The directory of the configuration, the state and the logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// larder's state directory, with the queue.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Sets a key of the configuration to a TOML value.
    pub fn set(&mut self, key: &str, toml: &str) -> Result<()> {
        self.conf.insert(key.to_owned(), toml.to_owned());
        self.write()
    }

    /// Sets a key of the configuration to a string.
    pub fn set_string(&mut self, key: &str, value: &str) -> Result<()> {
        self.set(key, &toml_string(value))
    }

    /// Removes a key.
    pub fn unset(&mut self, key: &str) -> Result<()> {
        self.conf.remove(key);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text: String = self.conf.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        fs::write(self.config_file(), text)?;
        Ok(())
    }

    /// Sets a variable for the commands (not for the hook; see [`LarderHome::install_hook`]).
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.insert(key.to_owned(), value.to_owned());
    }

    /// Sets the time limit of commands; 3 minutes by default.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Signs with these keys.
    pub fn use_keys(&mut self, keys: &[&KeyPair]) -> Result<()> {
        keys.iter().for_each(|key| self.secrets.add_key(&key.secret_file));
        let files: Vec<_> = keys.iter().map(|k| toml_string(&k.secret_file.display().to_string())).collect();
        self.set("signing-key-files", &format!("[{}]", files.join(", ")))
    }

    /// Pushes to a bucket (`NAME` or `NAME/PREFIX`) of a server.
    pub fn use_server(&mut self, server: &dyn S3Server, bucket: &str) -> Result<()> {
        self.use_server_at(server, &server.endpoint(), bucket)
    }

    /// The same through another endpoint, such as a [`Proxy`](crate::proxy::Proxy)'s.
    pub fn use_server_at(&mut self, server: &dyn S3Server, endpoint: &str, bucket: &str) -> Result<()> {
        self.set_string("bucket", &format!("s3://{bucket}?endpoint={endpoint}&region={}", server.region()))?;
        self.use_credentials(&server.access_key(), &server.secret_key())?;
        let (name, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
        match server.public_base(name) {
            Some(base) if prefix.is_empty() => self.set_string("public-url", &base),
            Some(base) => self.set_string("public-url", &format!("{base}/{prefix}")),
            None => self.unset("public-url"),
        }
    }

    /// Writes a credentials file in the form of AWS's shared credentials, mode 0600, and names it in the configuration.
    pub fn use_credentials(&mut self, access_key: &str, secret_key: &str) -> Result<()> {
        let file = self.dir.path().join("credentials");
        self.secrets.add(secret_key, &file);
        let text =
            format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n");
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        self.set_string("credentials-file", &file.display().to_string())
    }

    /// Pushes to a directory.
    pub fn use_directory(&mut self, dir: &Path) -> Result<()> {
        self.set_string("bucket", &format!("file://{}", dir.display()))
    }

    /// Makes the hook the `post-build-hook` of a store. Call this before a daemon is started.
    pub fn install_hook(&self, nix: &mut NixHome) -> Result<()> {
        nix.set_env("LARDER_CONFIG", &self.config_file().display().to_string());
        nix.set_conf("post-build-hook", &binary("larder-hook")?.display().to_string())
    }

    /// The command `larder ARGS…`.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        Ok(self.command_of(&binary("larder")?, args))
    }

    /// [`LarderHome::command`] of another build of `larder`.
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = clean_command(program);
        command.envs(&self.env).current_dir(self.dir.path()).args(args);
        command
    }

    /// [`LarderHome::command`] of the build with fail points, with a value of `LARDER_FAULT`.
    pub fn faulty_command(&self, args: &[&str], fault: &str) -> Result<Command> {
        let mut command = clean_command(faulty_binary("larder")?);
        command.envs(&self.env).current_dir(self.dir.path()).args(args).env("LARDER_FAULT", fault);
        Ok(command)
    }

    /// Runs `larder ARGS…` of the build with fail points to its end, with all times of the protocol of collections divided by
    /// `divisor`.
    pub fn try_quick(&self, args: &[&str], divisor: u32) -> Result<Output> {
        run(self.faulty_command(args, "")?.env("LARDER_TIME_DIVISOR", divisor.to_string()), self.timeout)
    }

    /// The same, with success.
    pub fn quick(&self, args: &[&str], divisor: u32) -> Result<Output> {
        self.try_quick(args, divisor)?.ok()
    }

    /// Lets the commands run with a clock that is wrong by so many days. The clock that tells how much time passes stays
    /// right, and so do the times of files. `library` is [`Requirement::FakeTime`](crate::need::Requirement::FakeTime).
    pub fn shift_clock(&mut self, library: &Path, days: i32) {
        self.set_env("LD_PRELOAD", &library.display().to_string());
        self.set_env("FAKETIME", &format!("{days:+}d"));
        self.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.set_env("NO_FAKE_STAT", "1");
    }

    /// Runs `larder ARGS…` to its end, with success or not.
    pub fn try_run(&self, args: &[&str]) -> Result<Output> {
        let output = run(&mut self.command(args)?, self.timeout)?;
        for text in [&output.stdout, &output.stderr] {
            self.secrets.search(&format!("the output of `larder {}`", args.join(" ")), text.as_bytes());
        }
        Ok(output)
    }

    /// Runs `larder ARGS…`, which must succeed.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.try_run(args)?.ok()
    }

    /// Starts `larder agent ARGS…`; its output goes to `agent.log`.
    pub fn agent(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.command(&["agent"])?;
        command.args(args);
        Child::spawn(&command, &self.dir.path().join("agent.log"))
    }
}

impl Drop for LarderHome {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.secrets.search_dir(self.dir.path());
        }
    }
}

/// A basic string of TOML.
pub fn toml_string(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::toml_string;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(toml_string("a\"b\\c\nd"), r#""a\"b\\c\u000Ad""#);
    }
}
