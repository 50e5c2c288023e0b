//! `larder key`.

use std::path::PathBuf;

use super::output;
use crate::base::error::Result;
use crate::base::exit::Exit;
use crate::config::key_files::{read_secret_key, write_secret_key};
use crate::format::signature::SecretKey;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key pair in Nix's format; prints the public key
    Generate {
        /// The key's name, by custom the cache's domain and a number: cache.example.org-1
        name: String,
        /// Where the secret key goes; default: ./NAME.sec
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the public key of a secret key file
    Public {
        /// The secret key file
        file: PathBuf,
    },
}

pub(super) fn run(args: Args) -> Result<Exit> {
    match args.command {
        Command::Generate { name, output } => {
            let key = SecretKey::generate(&name)?;
            let file = output.unwrap_or_else(|| PathBuf::from(format!("{}.sec", name.replace('/', "_"))));
            write_secret_key(&key, &file)?;
            output::say(&format!(
                "wrote the secret key to {} (mode 0600); keep a copy in a safe place",
                file.display()
            ));
            output::say("the public key, for the clients' `trusted-public-keys`:");
            output::data(&key.public_text());
        }
        Command::Public { file } => {
            let (key, warning) = read_secret_key(&file)?;
            warning.iter().for_each(|warning| output::warn(warning));
            output::data(&key.public_text());
        }
    }
    Ok(Exit::Ok)
}
