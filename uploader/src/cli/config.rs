//! `larder config`.

use super::context::Context;
use super::output;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::bucket::Address;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the configuration and print every value with its source; secrets are in files and not shown
    Check {
        /// Look at the values alone, neither at the files that they name nor at this machine's store: for where the
        /// configuration is made
        #[arg(long)]
        values_only: bool,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
    let Command::Check { values_only } = args.command;
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in Config::unknown_variables(variables) {
        output::warn(&format!("`{name}` is no variable of larder's and changes nothing"));
    }
    // First: what is refused in an address may be a secret, and is not shown.
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
    address?;
    context.options(false)?;
    if values_only {
        return Ok(Exit::Ok);
    }
    context.store()?;
    for key in context.keys()? {
        output::data(&format!("# public key: {}", key.public_text()));
    }
    Ok(Exit::Ok)
}
