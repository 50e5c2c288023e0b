//! A signing program for the tests: it has the secret key that larder does not have.
//!
//! `signer KEY_FILE [LOG]` signs its standard input, and appends a line to LOG.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use larder::config::key_files::read_secret_key;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let file = words.next().context("no key file")?;
    let (key, _) = read_secret_key(Path::new(&file))?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    if let Some(log) = words.next() {
        writeln!(OpenOptions::new().append(true).create(true).open(log)?, "{text}")?;
    }
    println!("{}", key.sign(&text)?.to_nix_string());
    Ok(())
}
