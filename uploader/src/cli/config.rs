//! `larder config`: checks the configuration and prints it.

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
    /// Check the configuration and print every value with its source. Secrets are in files, which are not shown
    Check {
        /// Check only the values, not the files that they name and not the store. For machines that generate a
        /// configuration for another machine
        #[arg(long)]
        values_only: bool,
    },
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit> {
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
