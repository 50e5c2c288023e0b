//! Opens the objects that subcommands share: configuration, store, signing keys, bucket and queue.

use std::path::PathBuf;
use std::sync::Arc;

use larder_hook::queue::{Layout, Queue};
use larder_hook::settings;
use nix_narinfo::TrustedPublicKey;

use super::arguments::Global;
use super::output;
use crate::agent::Connect;
use crate::base::error::{Area, Error, Result};
use crate::base::queue_error::in_queue;
use crate::bucket::{self, Bucket};
use crate::config::config_keys;
use crate::config::key_files::read_secret_key;
use crate::config::{Config, ConfigKey, SigningCommand, Size, exposure};
use crate::format::public_key::public_keys;
use crate::format::signature::SecretKey;
use crate::http::PublicReader;
use crate::push::decide::{Rules, patterns};
use crate::push::send::compress::{Level, Settings};
use crate::push::{LogOptions, Options, PinRules, Pusher};
use crate::store::{DaemonAddress, StoreLocation, StoreOptions};

/// The configuration of a call. Its methods open what the configuration names.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
}

impl Context {
    /// Reads files, variables and flags.
    pub(super) fn load(global: &Global) -> Result<Self> {
        let variable = |name: &str| match (name, &global.config) {
            ("LARDER_CONFIG", Some(file)) => Some(file.display().to_string()),
            _ => settings::process_environment(name),
        };
        let flags = global.configuration()?;
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
            // `nix-daemon` names a program to run, so there is no daemon to detect.
            remote: program.as_ref().map(|_| "daemon".to_owned()),
            daemon: config.get(config_keys::DAEMON_SOCKET).map(DaemonAddress::Socket),
        };
        let mut store = StoreLocation::detect(&options)?;
        if let (Some(program), None) = (program, &options.daemon) {
            store.daemon = store.stdio(program);
        }
        Ok(Arc::new(store))
    }

    /// The signing keys, at least one. Prints a warning about each file that others can read.
    pub(super) fn keys(&self) -> Result<Vec<SecretKey>> {
        let mut keys: Vec<SecretKey> = Vec::new();
        for file in self.config.get(config_keys::SIGNING_KEY_FILES) {
            let (key, warning) = read_secret_key(file.as_ref())?;
            warning.iter().for_each(|warning| output::warn(warning));
            keys.push(key);
        }
        keys.extend(self.outside_key()?);
        if keys.is_empty() {
            return Err(Error::permanent(Area::Config, "no signing key is configured").hint(
                "make a key with `larder key generate NAME` and put its file into `signing-key-files`: clients refuse paths without a signature",
            ));
        }
        let has_twin =
            |key: &&SecretKey| keys.iter().filter(|other| other.name() == key.name()).nth(1).is_some();
        match keys.iter().find(has_twin) {
            None => Ok(keys),
            Some(key) => {
                Err(Error::permanent(Area::Config, format!("two signing keys are named `{}`", key.name()))
                    .hint("clients tell keys apart by their names: give a new key a new name"))
            }
        }
    }

    /// The key with which `signing-command` signs.
    ///
    /// # Errors
    /// Only one of `signing-command` and `signing-command-key` is set, or the latter is no public key.
    fn outside_key(&self) -> Result<Option<SecretKey>> {
        let command = SigningCommand::new(&self.config.get(config_keys::SIGNING_COMMAND));
        let public = self.config.get(config_keys::SIGNING_COMMAND_KEY);
        match (command, public) {
            (None, None) => Ok(None),
            (Some(command), Some(public)) => {
                let public = public_keys([public.as_str()])?;
                Ok(public.into_iter().next().map(|public| SecretKey::outside(public, Arc::new(command))))
            }
            _ => Err(Error::permanent(
                Area::Config,
                "`signing-command` and `signing-command-key` belong together, and only one of them is set",
            )
            .hint("larder checks each signature of the command with the public key")),
        }
    }

    /// Public keys that the command line names.
    ///
    /// # Errors
    /// A text is no public key.
    pub(super) fn public_keys(&self, texts: &[String]) -> Result<Vec<TrustedPublicKey>> {
        public_keys(texts.iter().map(String::as_str))
    }

    /// The keys that clients trust: those of `texts`, or else those of the configuration. A signing key that this user cannot
    /// read is named in a warning.
    ///
    /// # Errors
    /// A text is no public key, or there is no key at all.
    pub(super) fn client_keys(&self, texts: &[String]) -> Result<Vec<TrustedPublicKey>> {
        if !texts.is_empty() {
            return public_keys(texts.iter().map(String::as_str));
        }
        let mut keys = public_keys(self.config.get(config_keys::TRUSTED_KEYS).iter().map(String::as_str))?;
        for file in self.config.get(config_keys::SIGNING_KEY_FILES) {
            match read_secret_key(file.as_ref()) {
                Ok((key, _)) => keys.push(key.public()),
                Err(error) => output::warn(&error.to_string()),
            }
        }
        keys.extend(self.outside_key()?.map(|key| key.public()));
        if keys.is_empty() {
            return Err(Error::permanent(Area::Config, "no key is known that clients trust")
                .hint("name the public key of the cache with `--key NAME:BASE64`"));
        }
        Ok(keys)
    }

    /// The file with certificates that larder trusts in addition to those of the system.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        self.config.get(config_keys::CA_FILE)
    }

    /// The bucket. Prints a warning if others can read the credentials file.
    pub(super) async fn bucket(&self) -> Result<Arc<dyn Bucket>> {
        self.bucket_at(&self.config.bucket()?).await
    }

    /// The bucket at another address, with the same credentials unless the address names others.
    pub(super) async fn bucket_at(&self, address: &str) -> Result<Arc<dyn Bucket>> {
        let credentials_file = self.config.get(config_keys::CREDENTIALS_FILE);
        let warning = credentials_file.as_deref().and_then(|file| exposure("the credentials file", file));
        warning.iter().for_each(|warning| output::warn(warning));
        let options =
            bucket::Options { credentials_file, ca_file: self.ca_file(), ..bucket::Options::default() };
        bucket::open(address, &options).await
    }

    /// The URL at which clients read the bucket, without a slash at its end.
    pub(super) fn public_url(&self, bucket: &dyn Bucket) -> String {
        let url = self.config.get(config_keys::PUBLIC_URL).unwrap_or_else(|| bucket.public_url());
        url.trim_end_matches('/').to_owned()
    }

    /// Reads caches as a client does.
    ///
    /// # Errors
    /// The file with more certificates cannot be used.
    pub(super) fn reader(&self) -> Result<PublicReader> {
        PublicReader::new(self.ca_file().as_deref())
    }

    /// The options of a push.
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
            logs: LogOptions {
                which: config.build_logs(),
                most: config.get(config_keys::MAX_LOG_SIZE).map_or(u64::MAX, |Size(bytes)| bytes),
            },
            rules: Rules {
                upstream_keys: public(config_keys::UPSTREAM_KEYS)?,
                push_upstream: config.get(config_keys::PUSH_UPSTREAM),
                trusted_keys: public(config_keys::TRUSTED_KEYS)?,
                trust_unsigned,
                closure_trust: config.get(config_keys::CLOSURE_TRUST),
                exclude: patterns(&config.get(config_keys::EXCLUDE))?,
                max_nar_size: config.get(config_keys::MAX_NAR_SIZE).map(|Size(bytes)| bytes),
            },
            adopt: Vec::new(),
            trust_bucket: config.get(config_keys::TRUST_BUCKET),
            pins: self.pin_rules()?,
        })
    }

    /// Which pushed roots are pinned.
    fn pin_rules(&self) -> Result<PinRules> {
        let keep_last = self.config.get(config_keys::PIN_KEEP_LAST).and_then(|most| u32::try_from(most).ok());
        PinRules::new(&self.config.get(config_keys::PIN_PATTERNS), keep_last, &host_name())
    }

    /// Warnings about pins that never get a path.
    ///
    /// # Errors
    /// A pattern is wrong.
    pub(super) fn pin_warnings(&self) -> Result<Vec<String>> {
        Ok(self.pin_rules()?.never_pushed(&patterns(&self.config.get(config_keys::EXCLUDE))?))
    }

    /// The most that queued jobs keep from garbage collection, in bytes of NARs.
    pub(super) fn max_pinned(&self) -> Option<u64> {
        self.config.get(config_keys::MAX_PINNED).map(|Size(bytes)| bytes)
    }

    /// The queue. Fails if it does not exist.
    pub(super) fn queue(&self, store: &StoreLocation) -> Result<Arc<Queue>> {
        let layout = Layout::open(&self.config.state_dir()).map_err(in_queue)?;
        Ok(Arc::new(Queue::new(layout, store.store_dir.as_str())))
    }

    /// The queue. Makes its directories if they do not exist, and corrects their modes.
    pub(super) fn make_queue(&self, store: &StoreLocation) -> Result<Arc<Queue>> {
        let layout = Layout::create(&self.config.state_dir(), None).map_err(in_queue)?;
        Ok(Arc::new(Queue::new(layout, store.store_dir.as_str())))
    }

    /// The function that opens an agent's session with the bucket. This method checks the keys, the options and the
    /// bucket's address; each session checks the bucket itself.
    pub(super) async fn connect(&self, store: &Arc<StoreLocation>) -> Result<Connect> {
        let (bucket, keys, options) = (self.bucket().await?, self.keys()?, self.options(false)?);
        let store = store.clone();
        Ok(Box::new(move || {
            Box::pin(Pusher::open(bucket.clone(), store.clone(), keys.clone(), options.clone()))
        }))
    }
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
