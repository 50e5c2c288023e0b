//! The world of most tests: a store, a bucket, a key, and a larder that pushes from the store to the bucket.

use crate::larder::LarderHome;
use crate::nix::{KeyPair, NixHome, NixVersion, narinfo_key, versions};
use crate::process::{Child, Output, eventually};
use crate::servers::{Directory, Kind, S3Server};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// The bucket's name on every server.
pub const BUCKET: &str = "cache";

/// The target of pushes.
#[derive(Debug)]
pub enum Target {
    /// A directory behind a static web server.
    Directory(Directory),
    /// A real S3 server.
    Server(Box<dyn S3Server>),
}

impl Target {
    /// A server with an empty public bucket.
    pub fn server(kind: Kind) -> Result<Self> {
        Ok(Self::Server(kind.start_with_bucket(BUCKET)?))
    }

    /// The URL that clients read; `None` where reading needs credentials.
    pub fn public_base(&self) -> Option<String> {
        match self {
            Self::Directory(directory) => Some(directory.public_base()),
            Self::Server(server) => server.public_base(BUCKET),
        }
    }

    /// All keys and sizes.
    pub fn list(&self) -> Result<BTreeMap<String, u64>> {
        match self {
            Self::Server(server) => Ok(server.client().list(BUCKET, "")?.into_iter().collect()),
            Self::Directory(directory) => {
                let files =
                    walkdir::WalkDir::new(directory.path()).into_iter().collect::<Result<Vec<_>, _>>()?;
                let files = files.into_iter().filter(|entry| entry.file_type().is_file());
                let key = |path: &std::path::Path| {
                    path.strip_prefix(directory.path()).map(|p| p.display().to_string())
                };
                let keys = files
                    .map(|entry| Ok((key(entry.path())?, entry.metadata()?.len())))
                    .collect::<Result<BTreeMap<_, _>>>()?;
                Ok(keys.into_iter().filter(|(key, _)| !key.starts_with(".larder-tmp")).collect())
            }
        }
    }

    /// An object's bytes.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Server(server) => server.client().get(BUCKET, key),
            Self::Directory(directory) => match std::fs::read(directory.path().join(key)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Writes an object without larder.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Server(server) => server.client().put(BUCKET, key, bytes),
            Self::Directory(directory) => {
                let path = directory.path().join(key);
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                // A new file, as every writer makes one: the entity tag of a directory counts on it.
                let draft = path.with_extension("test-new");
                std::fs::write(&draft, bytes)?;
                Ok(std::fs::rename(draft, path)?)
            }
        }
    }

    /// Makes an object older. Returns whether that is possible: only in a directory.
    pub fn make_older(&self, key: &str, by: Duration) -> Result<bool> {
        let Self::Directory(directory) = self else { return Ok(false) };
        let file = std::fs::File::options().write(true).open(directory.path().join(key))?;
        file.set_modified(file.metadata()?.modified()? - by)?;
        Ok(true)
    }

    /// Deletes an object without larder.
    pub fn delete(&self, key: &str) -> Result<()> {
        match self {
            Self::Server(server) => server.client().delete(BUCKET, key),
            Self::Directory(directory) => Ok(std::fs::remove_file(directory.path().join(key))?),
        }
    }
}

/// A store, a larder for it, and a bucket after `larder init`.
#[derive(Debug)]
pub struct World {
    /// The store, and its Nix.
    pub nix: NixHome,
    /// The larder that pushes.
    pub larder: LarderHome,
    /// The key that it signs with.
    pub key: KeyPair,
    /// The bucket.
    pub target: Target,
}

impl World {
    /// A world with a new store.
    pub fn new(version: NixVersion, target: Target) -> Result<Self> {
        Self::with(NixHome::new(version)?, target)
    }

    /// A world whose store has all paths of `builder` as they come from a remote builder: unsigned, and not `ultimate`.
    /// The two stores have the same logical store directory.
    pub fn over(builder: &NixHome, target: Target) -> Result<Self> {
        let nix = builder.twin()?;
        let all = builder.nix(&["path-info", "--all"])?.ok()?.lines();
        let outputs: Vec<_> = all.into_iter().filter(|path| !path.ends_with(".drv")).collect();
        nix.import_unsigned(builder, &outputs)?;
        Self::with(nix, target)
    }

    /// A world with a given store.
    pub fn with(nix: NixHome, target: Target) -> Result<Self> {
        let mut larder = LarderHome::new(&nix)?;
        let key = nix.key_pair("test-1")?;
        larder.use_keys(&[&key])?;
        if nix.real_store_dir() != nix.store_dir() {
            larder.set_string("real-store-dir", &nix.real_store_dir().display().to_string())?;
            larder.set_string(
                "nix-daemon",
                &nix.version().bin_dir().join("nix-daemon").display().to_string(),
            )?;
        }
        let mut init = vec!["init"];
        match &target {
            Target::Directory(directory) => {
                larder.use_directory(directory.path())?;
                larder.set_string("public-url", &directory.public_base())?;
            }
            Target::Server(server) => {
                larder.use_server(&**server, BUCKET)?;
                if server.public_base(BUCKET).is_none() {
                    init.push("--private");
                }
            }
        }
        larder.run(&init)?;
        Ok(Self { nix, larder, key, target })
    }

    /// A world with a directory and the oldest Nix of this machine, for tests that depend on neither. `None`, noted as
    /// skipped, where there is no Nix.
    pub fn plain() -> Result<Option<Self>> {
        versions()
            .first()
            .map(|version| Self::new(*version, Target::Directory(Directory::start()?)))
            .transpose()
    }

    /// The same with MinIO.
    pub fn minio() -> Result<Option<Self>> {
        match (versions().first(), Kind::MinIo.is_here()) {
            (Some(version), true) => Ok(Some(Self::new(*version, Target::server(Kind::MinIo)?)?)),
            _ => Ok(None),
        }
    }

    /// The narinfo of a store path in the bucket.
    pub fn narinfo(&self, path: &str) -> Result<Option<String>> {
        Ok(self.target.get(&narinfo_key(path))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Checks that the bucket has the narinfos and the NARs of the closure of paths.
    pub fn assert_complete(&self, paths: &[String]) -> Result<()> {
        let keys = self.target.list()?;
        for info in self.nix.closure(paths)? {
            let narinfo =
                self.narinfo(&info.path)?.with_context(|| format!("no narinfo of {}", info.path))?;
            let nar = field(&narinfo, "URL").context("a narinfo without URL")?;
            anyhow::ensure!(keys.contains_key(nar), "the NAR {nar} of {} is missing", info.path);
        }
        Ok(())
    }

    /// The path of that name in the closure of `path`.
    pub fn member(&self, path: &str, name: &str) -> Result<String> {
        let closure = self.nix.closure(&[path.to_owned()])?;
        let found = closure.into_iter().find(|info| info.path.ends_with(&format!("-{name}")));
        found.map(|info| info.path).with_context(|| format!("no `{name}` in the closure of {path}"))
    }

    /// Whether no job is queued, by the files of the queue.
    pub fn is_queue_empty(&self) -> bool {
        ["incoming", "work"].into_iter().all(|place| {
            std::fs::read_dir(self.larder.state_dir().join(place)).is_ok_and(|mut dir| dir.next().is_none())
        })
    }

    /// Runs `larder status --json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.larder.run(&["status", "--json"])?.stdout)?)
    }

    /// Starts `larder agent ARGS…`, and waits until it is the agent of the queue: a `flush` that came before it would
    /// take the queue itself.
    pub fn agent_of_the_queue(&self, args: &[&str]) -> Result<Child> {
        let agent = self.larder.agent(args)?;
        eventually("the agent running", Duration::from_secs(120), || {
            self.status().is_ok_and(|status| status["agentRunning"] == true)
        })
        .with_context(|| agent.log())?;
        Ok(agent)
    }
}

/// The first value of a field of a narinfo.
pub fn field<'a>(narinfo: &'a str, name: &str) -> Option<&'a str> {
    narinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Checks an exit code, and that stderr has all these words; shows all output otherwise.
#[track_caller]
pub fn assert_said(output: &Output, code: i32, words: &[&str]) {
    let said = words.iter().all(|word| output.stderr.contains(word));
    assert!(
        output.code() == code && said,
        "wanted code {code} and {words:?} from {}: code {}\n{}{}",
        output.command,
        output.code(),
        output.stdout,
        output.stderr
    );
}
