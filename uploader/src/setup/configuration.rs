//! The parts of an installation that come from this program and from the configuration.

use std::path::Path;

use super::change::Tree;
use super::install::Installation;
use super::paths::CONFIG;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Address;
use crate::config::config_keys::{SIGNING_KEY_FILES, STORE_DIR};
use crate::config::{Config, Flag};

/// Reads the configuration of the machine, or makes a new one of `flags`. Returns it with the text of the new file,
/// which is empty if the machine has a configuration.
///
/// `flags` are configuration keys with their values. `defaults` are more of them, for a new configuration only.
/// Fails if the machine has a configuration and there are flags.
pub fn read_or_make_configuration(
    tree: &Tree,
    mut flags: Vec<Flag<'_>>,
    defaults: Vec<Flag<'static>>,
) -> Result<(Config, String)> {
    let file = tree.at(CONFIG);
    if file.exists() {
        if !flags.is_empty() {
            return Err(Error::permanent(Area::Usage, format!("`{}` exists already", file.display()))
                .hint("change that file, and run `larder setup` without --bucket and --set"));
        }
        let variable = |name: &str| (name == "LARDER_CONFIG").then(|| file.display().to_string());
        return Ok((Config::load(&variable, &[])?, String::new()));
    }
    flags.extend(defaults);
    let config = Config::load(&|name| (name == "LARDER_CONFIG").then(|| "/dev/null".to_owned()), &flags)?;
    config.bucket()?.parse::<Address>()?;
    let text = config
        .effective()
        .filter(|(key, ..)| flags.iter().any(|flag| flag.key() == key.name))
        .filter_map(|(key, value, _)| Some(format!("{} = {}\n", key.name, value?)))
        .collect();
    Ok((config, text))
}

/// Reads the parts of an installation. The programs are this program, and `larder-hook` in the same directory.
///
/// Fails if a program or a signing key of the configuration is missing.
pub fn read_installation<'a>(
    tree: &Tree,
    config: &'a Config,
    new_config: String,
    install_hook: bool,
) -> Result<Installation<'a>> {
    for file in config.get(SIGNING_KEY_FILES) {
        if !tree.exists(&file) {
            return Err(Error::permanent(Area::Config, format!("there is no signing key `{file}`"))
                .hint(format!("make one: `larder key generate cache.example.org-1 --output {file}`")));
        }
    }
    let failed = |operation: String, error: std::io::Error| {
        Error::permanent(Area::General, format!("cannot {operation}")).because(error)
    };
    let program = std::env::current_exe().map_err(|error| failed("find this program".into(), error))?;
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| failed(format!("read `{}`", path.display()), error))
    };
    Ok(Installation {
        larder: read(&program)?,
        hook: read(&program.with_file_name("larder-hook"))?,
        package: package(&program, config),
        config,
        new_config,
        install_hook,
    })
}

/// The store path that a program is in.
fn package(program: &Path, config: &Config) -> Option<String> {
    let store = config.get(STORE_DIR).unwrap_or_else(|| "/nix/store".into());
    let program = program.canonicalize().ok()?;
    let inside = program.strip_prefix(&store).ok()?;
    Some(Path::new(&store).join(inside.components().next()?).display().to_string())
}
