//! `larder config`: checks the configuration and prints it.

use std::collections::BTreeSet;

use super::context::Context;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::bucket::{Address, check_credentials_file};
use crate::config::Config;
use crate::config::config_keys::{CREDENTIALS_FILE, PUBLIC_URL};
use crate::format::cache_url::url_fault;
use crate::http::PublicReader;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the configuration and the files that it names, and print every value with its source. Secrets are in files,
    /// which are not shown
    Check {
        /// Check only the values, not the files that they name and not the store. For machines that generate a
        /// configuration for another machine
        #[arg(long)]
        values_only: bool,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let Command::Check { values_only } = args.command;
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in Config::unknown_variables(variables) {
        output::warn(&format!("`{name}` is not a variable of larder and has no effect"));
    }
    // An invalid address may have a secret in it. Check the address before anything prints it.
    let address = context.config.bucket();
    if let Ok(address) = &address {
        address.parse::<Address>()?;
    }
    for (key, value, source) in context.config.effective() {
        match value {
            Some(value) => output::data(&format!("{} = {value}  # {source}", key.name)),
            None => output::data(&format!("# {}: {}", key.name, key.help)),
        }
    }
    let mut found = Findings::default();
    found.note(address);
    found.note(context.options(false));
    found.note(public_url(&context.config));
    context.pin_warnings().into_iter().flatten().for_each(|warning| output::warn(&warning));
    if !values_only {
        found.note(context.store());
        let keys = found.note(context.keys()).unwrap_or_default();
        keys.iter().for_each(|key| output::data(&format!("# public key: {}", key.public_text())));
        found.note(PublicReader::new(context.ca_file().as_deref()));
        found.note(credentials_file(&context.config));
        // Reads the files that the bucket needs, and sends nothing.
        found.note(context.bucket().await);
    }
    Ok(if found.0.is_empty() { Exit::Ok } else { Exit::Config })
}

/// Checks the credentials file, if the configuration names one. A directory needs no credentials, but the file may be
/// meant for another bucket.
fn credentials_file(config: &Config) -> Result<()> {
    let Some(file) = config.get(CREDENTIALS_FILE) else { return Ok(()) };
    let profile = match config.bucket().and_then(|address| address.parse()) {
        Ok(Address::S3(address)) => address.profile,
        _ => None,
    };
    check_credentials_file(&file, profile.as_deref())
}

/// Checks the URL that clients read, if the configuration names one.
fn public_url(config: &Config) -> Result<()> {
    match config.get(PUBLIC_URL).and_then(|url| url_fault(&url)) {
        Some(fault) => Err(Error::permanent(Area::Config, format!("`public-url` {fault}"))),
        None => Ok(()),
    }
}

/// The texts of the errors that a check has found. Two checks may find the same error.
#[derive(Default)]
struct Findings(BTreeSet<String>);

impl Findings {
    /// Prints an error that was not found before.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if self.0.insert(error.to_string()) {
                    output::error(&error);
                }
                None
            }
        }
    }
}
