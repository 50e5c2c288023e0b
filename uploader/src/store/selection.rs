//! Finds the store paths that a person names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_derivation::StorePath;

use super::daemon::Daemon;
use super::location::StoreLocation;
use super::names::{Meaning, Outputs, meaning};
use crate::base::error::{Area, Cause, Error, Result};

/// An error shows at most this many characters of a name.
const LONGEST_NAME: usize = 300;

/// The outputs of a derivation by name; `None` for an output whose path is not known yet.
type OutputPaths = BTreeMap<String, Option<StorePath>>;

/// The store paths that names lead to, and the names that lead to none.
#[derive(Debug, Default)]
pub struct Selected {
    /// Each path, with a name that leads to it. Several names may lead to the same path.
    pub found: Vec<(PathBuf, Arc<StorePath>)>,
    /// Each name that leads to no path, with the reason.
    pub bad: Vec<(PathBuf, Error)>,
}

impl Selected {
    /// The store paths, sorted, each once.
    pub fn paths(&self) -> Vec<Arc<StorePath>> {
        let paths: BTreeSet<_> = self.found.iter().map(|(_, path)| path.clone()).collect();
        paths.into_iter().collect()
    }

    /// Keeps the paths in which `fault` finds nothing wrong. The names of the other paths become bad.
    pub fn retain(&mut self, fault: impl Fn(&Path, &StorePath) -> Option<Error>) {
        for (name, path) in std::mem::take(&mut self.found) {
            match fault(&name, &path) {
                None => self.found.push((name, path)),
                Some(error) => self.bad.push((name, error)),
            }
        }
    }

    /// Adds what a name leads to.
    fn add(&mut self, name: &Path, target: Result<StorePath>) {
        match target {
            Ok(path) => self.found.push((name.to_owned(), Arc::new(path))),
            Err(error) => self.bad.push((name.to_owned(), error)),
        }
    }
}

/// All valid paths of the store except derivations. Blocks.
///
/// Fails where the store is empty.
pub fn all_outputs(daemon: &mut Daemon) -> Result<Vec<Arc<StorePath>>> {
    let valid = daemon.all_valid_paths()?;
    if valid.is_empty() {
        daemon.check_not_empty()?;
    }
    Ok(valid.into_iter().filter(|path| !path.is_derivation()).map(Arc::new).collect())
}

/// The valid store paths that `names` lead to. Blocks.
///
/// # Errors
/// The daemon cannot be asked. What is wrong with one name is in [`Selected::bad`].
pub fn valid_paths_of(names: &[PathBuf], store: &StoreLocation, daemon: &mut Daemon) -> Result<Selected> {
    let mut selected = paths_of(names, store)?;
    let valid = daemon.valid_paths(&selected.paths())?;
    selected.retain(|name, path| (!valid.contains(path)).then(|| not_in_store(store, name, path)));
    Ok(selected)
}

/// The store paths that `names` lead to, valid or not. A name is a store path, its base name, a file inside a store
/// path, a link to any of these, or a derivation with names of outputs: `x.drv^out`, `x.drv^*`. Blocks, and connects to
/// the daemon, if a name asks for outputs.
///
/// # Errors
/// The daemon cannot be asked. What is wrong with one name is in [`Selected::bad`].
pub fn paths_of(names: &[PathBuf], store: &StoreLocation) -> Result<Selected> {
    let mut seen = HashSet::new();
    let names = names.iter().filter(|name| seen.insert(*name));
    let meanings: Vec<_> = names.map(|name| (name, meaning(store, name))).collect();
    let derivations: BTreeSet<_> = meanings
        .iter()
        .filter_map(|(_, meaning)| match meaning {
            Ok(Meaning::Outputs(derivation, _)) => Some(derivation.clone()),
            _ => None,
        })
        .collect();
    let outputs = outputs_of(derivations, store)?;
    let mut selected = Selected::default();
    for (name, meaning) in meanings {
        match meaning {
            Ok(Meaning::Path(path)) => selected.add(name, Ok(path)),
            Ok(Meaning::Outputs(derivation, wanted)) => match outputs.get(&derivation) {
                Some(Ok(outputs)) => wanted_outputs(outputs, &wanted)
                    .into_iter()
                    .for_each(|output| selected.add(name, output.map_err(|error| of_name(name, error)))),
                Some(Err(error)) => selected.add(name, Err(of_name(name, error.clone()))),
                None => selected.add(name, Err(not_in_store(store, name, &derivation))),
            },
            Err(cause) => selected.add(name, Err(no_path(Area::Usage, name, cause))),
        }
    }
    Ok(selected)
}

/// The outputs of the derivations that are valid, or why the daemon cannot tell them.
fn outputs_of(
    derivations: BTreeSet<StorePath>,
    store: &StoreLocation,
) -> Result<BTreeMap<StorePath, Result<OutputPaths>>> {
    let mut known = BTreeMap::new();
    if derivations.is_empty() {
        return Ok(known);
    }
    let derivations: Vec<_> = derivations.into_iter().collect();
    let mut daemon = Daemon::connect(store)?;
    for derivation in daemon.valid_paths(&derivations)? {
        let outputs = daemon.derivation_outputs(&derivation);
        if daemon.is_broken() {
            daemon = Daemon::connect(store)?;
        }
        known.insert(derivation, outputs);
    }
    Ok(known)
}

/// The wanted ones of the outputs of a derivation.
fn wanted_outputs(outputs: &OutputPaths, wanted: &Outputs) -> Vec<Result<StorePath>> {
    let names: Vec<&String> = match wanted {
        Outputs::All => outputs.keys().collect(),
        Outputs::Named(names) => names.iter().collect(),
    };
    let path = |name: &String| match outputs.get(name) {
        Some(Some(path)) => Ok(path.clone()),
        Some(None) => {
            let text = format!("the path of the output `{name}` is not known");
            Err(Error::permanent(Area::Store, text).hint("build the derivation first"))
        }
        None => {
            let has: Vec<_> = outputs.keys().map(|name| format!("`{name}`")).collect();
            let text = format!("the derivation has no output `{name}`, only {}", has.join(", "));
            Err(Error::permanent(Area::Usage, text))
        }
    };
    names.into_iter().map(path).collect()
}

/// The error about a name that leads to no store path.
fn no_path(area: Area, name: &Path, cause: impl Into<Cause>) -> Error {
    Error::permanent(area, format!("`{}` names no store path", shown(name))).because(cause)
}

/// An error about the outputs that a name asks for, with the name.
fn of_name(name: &Path, error: Error) -> Error {
    let hint = error.hint_text().map(str::to_owned);
    let named = no_path(error.area(), name, error);
    match hint {
        Some(hint) => named.hint(hint),
        None => named,
    }
}

/// The error about a name that leads to a path that is not valid.
fn not_in_store(store: &StoreLocation, name: &Path, path: &StorePath) -> Error {
    let path = store.store_dir.render_path(path);
    let text = if name == Path::new(&path) {
        format!("`{path}` is not in the store")
    } else {
        format!("`{}` stands for `{path}`, which is not in the store", shown(name))
    };
    Error::permanent(Area::Store, text).hint("build it first, or check the path")
}

/// The name as errors show it.
fn shown(name: &Path) -> String {
    let text = name.to_string_lossy();
    match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
