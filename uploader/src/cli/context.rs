//! What the subcommands share: configuration, store, keys, bucket, queue.

use std::path::PathBuf;
use std::sync::Arc;

use larder_hook::queue::{Layout, Queue};
use larder_hook::settings;

use super::output;
use crate::agent::Connect;
use crate::base::error::{Area, Error, Result};
use crate::bucket::{self, Bucket};
use crate::config::config_keys;
use crate::config::key_files::read_secret_key;
use crate::config::{Config, ConfigKey, Size, exposure};
use crate::format::public_key::public_keys;
use crate::format::signature::SecretKey;
use crate::push::decide::{Rules, patterns};
use crate::push::send::compress::{Level, Settings};
use crate::push::{Options, Pusher};
use crate::store::{DaemonAddress, StoreLocation, StoreOptions};

/// Flags that every subcommand takes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Global {
    /// Configuration file, instead of /etc/larder/config.toml and the user's own
    #[arg(long, global = true, value_name = "FILE", env = "LARDER_CONFIG")]
    config: Option<PathBuf>,
    /// The bucket: s3://bucket/prefix?endpoint=…&region=…&profile=… or file:///directory
    #[arg(long, global = true, value_name = "ADDRESS")]
    bucket: Option<String>,
    /// The queue's directory
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Any key of the configuration, for this call: `--set compression=xz`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Global {
    /// Keys of the configuration that flags set.
    pub(super) fn flags(&self) -> Result<Vec<(&str, String)>> {
        let mut flags: Vec<(&str, String)> = Vec::new();
        for set in &self.set {
            let (key, value) = set.split_once('=').ok_or_else(|| {
                Error::permanent(Area::Usage, format!("`--set {set}` has no `=`"))
                    .hint("write `--set key=value`")
            })?;
            flags.push((key, value.to_owned()));
        }
        flags.extend(self.bucket.iter().map(|bucket| config_keys::BUCKET.flag(bucket)));
        flags.extend(self.state_dir.iter().map(|dir| config_keys::STATE_DIR.flag(dir.display().to_string())));
        Ok(flags)
    }
}

/// The configuration and what is made of it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
}

impl Context {
    pub(super) fn load(global: &Global) -> Result<Self> {
        let variable = |name: &str| match (name, &global.config) {
            ("LARDER_CONFIG", Some(file)) => Some(file.display().to_string()),
            _ => settings::process_environment(name),
        };
        let flags = global.flags()?;
        Ok(Self { config: Config::load(&variable, &flags)? })
    }

    /// The local store.
    pub(super) fn store(&self) -> Result<Arc<StoreLocation>> {
        let config = &self.config;
        let program = config.get(config_keys::NIX_DAEMON);
        let options = StoreOptions {
            store_dir: config.get(config_keys::STORE_DIR),
            real_dir: config.get(config_keys::REAL_STORE_DIR),
            state_dir: config.get(config_keys::NIX_STATE_DIR),
            log_dir: config.get(config_keys::NIX_LOG_DIR),
            // With a program to run, nothing has to be found out.
            remote: program.as_ref().map(|_| "daemon".to_owned()),
            daemon: config.get(config_keys::DAEMON_SOCKET).map(DaemonAddress::Socket),
        };
        let mut store = StoreLocation::detect(&options)?;
        if let (Some(program), None) = (program, &options.daemon) {
            store.daemon = store.stdio(program);
        }
        Ok(Arc::new(store))
    }

    /// The signing keys; at least one.
    pub(super) fn keys(&self) -> Result<Vec<SecretKey>> {
        let files = self.config.get(config_keys::SIGNING_KEY_FILES);
        if files.is_empty() {
            return Err(Error::permanent(Area::Config, "no signing key is configured").hint(
                "make one with `larder key generate NAME` and name its file in `signing-key-files`; clients refuse what is not signed",
            ));
        }
        let mut keys: Vec<SecretKey> = Vec::new();
        for file in files {
            let (key, warning) = read_secret_key(file.as_ref())?;
            warning.iter().for_each(|warning| output::warn(warning));
            if keys.iter().any(|other| other.name() == key.name()) {
                return Err(Error::permanent(
                    Area::Config,
                    format!("two signing keys are named `{}`", key.name()),
                )
                .hint("clients know a key by its name: give a new key a new name"));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        self.config.get(config_keys::CA_FILE)
    }

    /// The bucket.
    pub(super) async fn bucket(&self) -> Result<Arc<dyn Bucket>> {
        let credentials_file = self.config.get(config_keys::CREDENTIALS_FILE);
        let warning = credentials_file.as_deref().and_then(|file| exposure("the credentials file", file));
        warning.iter().for_each(|warning| output::warn(warning));
        let options =
            bucket::Options { credentials_file, ca_file: self.ca_file(), ..bucket::Options::default() };
        bucket::open(&self.config.bucket()?, &options).await
    }

    /// How paths are pushed.
    pub(super) fn options(&self, trust_unsigned: bool) -> Result<Options> {
        let config = &self.config;
        let public = |key: ConfigKey<Vec<String>>| public_keys(config.get(key).iter().map(String::as_str));
        Ok(Options {
            compression: Settings {
                compression: config.compression(),
                level: config.level().map_or(Level::Adaptive, Level::Fixed),
                threads: config.compression_threads(),
            },
            jobs: config.jobs(),
            listings: config.get(config_keys::WRITE_LISTINGS),
            rules: Rules {
                upstream_keys: public(config_keys::UPSTREAM_KEYS)?,
                push_upstream: config.get(config_keys::PUSH_UPSTREAM),
                trusted_keys: public(config_keys::TRUSTED_KEYS)?,
                trust_unsigned,
                exclude: patterns(&config.get(config_keys::EXCLUDE))?,
                max_nar_size: config.get(config_keys::MAX_NAR_SIZE).map(|Size(bytes)| bytes),
            },
        })
    }

    /// The queue, which must exist.
    pub(super) fn queue(&self, store: &StoreLocation) -> Result<Arc<Queue>> {
        let layout = Layout::open(&self.config.state_dir()).map_err(crate::agent::in_queue)?;
        Ok(Arc::new(Queue::new(layout, store.store_dir.as_str())))
    }

    /// The queue, made if need be.
    pub(super) fn make_queue(&self, store: &StoreLocation) -> Result<Arc<Queue>> {
        let layout = Layout::ready(&self.config.state_dir()).map_err(crate::agent::in_queue)?;
        Ok(Arc::new(Queue::new(layout, store.store_dir.as_str())))
    }

    /// How an agent reaches the bucket. Keys, options and the bucket's address are checked now, the bucket itself
    /// whenever a session begins.
    pub(super) async fn connect(&self, store: &Arc<StoreLocation>) -> Result<Connect> {
        let (bucket, keys, options) = (self.bucket().await?, self.keys()?, self.options(false)?);
        let store = store.clone();
        Ok(Box::new(move || {
            Box::pin(Pusher::open(bucket.clone(), store.clone(), keys.clone(), options.clone()))
        }))
    }
}
