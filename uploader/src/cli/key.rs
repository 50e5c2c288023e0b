//! `larder key`: generates signing keys and prints public keys.

use std::path::{Path, PathBuf};

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
    /// Generate a key pair in Nix's format and print the public key
    Generate {
        /// The name of the key, by custom the domain of the cache and a number: cache.example.org-1
        name: String,
        /// Write the secret key to this file, by default ./NAME.sec
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
            let file = output.unwrap_or_else(|| PathBuf::from(format!("{}.sec", name.replace('/', "_"))));
            generate(&name, &file)?;
        }
        Command::Public { file } => {
            let (key, warning) = read_secret_key(&file)?;
            warning.iter().for_each(|warning| output::warn(warning));
            output::data(&key.public_text());
        }
    }
    Ok(Exit::Ok)
}

fn generate(name: &str, file: &Path) -> Result<()> {
    let key = SecretKey::generate(name)?;
    write_secret_key(&key, file)?;
    output::say(&format!(
        "wrote the secret key to {} (mode 0600); keep a copy in a safe place",
        file.display()
    ));
    output::say("the public key, for `trusted-public-keys` on clients:");
    output::data(&key.public_text());
    Ok(())
}
