//! Reads derivations from their files in the store, and finds what their content-addressed outputs have become.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;

use nix_derivation::{Derivation, Output, StorePath};

use super::daemon::Daemon;
use super::location::StoreLocation;
use crate::base::error::{Area, Error, Result};
use crate::base::file::MAX_SMALL;
use crate::format::derivation_hash::{Purpose, hash};
use crate::format::realisation::{Named, Realisation};

/// The most derivations of one name that are looked at.
const MOST_ALIKE: usize = 100;

/// What is known of derivations. They never change, so this stays true.
#[derive(Clone, Debug, Default)]
pub struct Derivations {
    /// The hashes of derivations as inputs.
    inputs: BTreeMap<StorePath, [u8; 32]>,
    /// The derivations without floating outputs.
    plain: BTreeSet<StorePath>,
}

impl Derivations {
    /// The realisations, in both forms, of the floating content-addressed outputs of a derivation: those that the daemon knows.
    /// Empty if it has no such outputs. Blocks. `daemon` is a connection, which is opened when it is needed.
    ///
    /// # Errors
    /// When the derivation, or one that it needs, cannot be read, or the daemon does not answer.
    pub fn realisations(
        &mut self,
        location: &StoreLocation,
        daemon: &mut Option<Daemon>,
        path: &StorePath,
    ) -> Result<Vec<Realisation>> {
        if self.plain.contains(path) {
            return Ok(Vec::new());
        }
        let derivation = read(location, path)?;
        let is_floating = |output: &Output| matches!(output, Output::Floating { .. });
        if !derivation.outputs().values().any(is_floating) {
            self.plain.insert(path.clone());
            return Ok(Vec::new());
        }
        self.hash_inputs(location, &derivation)?;
        let hash = hash(&derivation, Purpose::Outputs, &self.inputs).map_err(|why| unreadable(path, why))?;
        let daemon = match daemon {
            Some(daemon) if !daemon.is_broken() => daemon,
            _ => daemon.insert(Daemon::connect(location)?),
        };
        let built = daemon.derivation_outputs(path)?;
        let known = built.into_iter().filter(|(name, _)| derivation.outputs().contains_key(name));
        let realised = known.filter_map(|(name, built)| Some((name, built?))).flat_map(|(name, built)| {
            let named = [Named::Hash(hash), Named::Path(path.clone())];
            named.into_iter().filter_map(move |named| Realisation::new(named, &name, built.clone()))
        });
        Ok(realised.collect())
    }

    /// The derivations in the store with the name of one of these, besides these, at most [`MOST_ALIKE`] of each name. Nix
    /// replaces the inputs of a derivation by their outputs before it builds it, and so builds another derivation of the same
    /// name. Clients ask for the one before. Blocks.
    pub fn alike(location: &StoreLocation, paths: &BTreeSet<StorePath>) -> Vec<StorePath> {
        let mut left: BTreeMap<&str, usize> = paths.iter().map(|path| (path.name(), MOST_ALIKE)).collect();
        let Ok(entries) = std::fs::read_dir(&location.real_dir) else { return Vec::new() };
        let mut alike = Vec::new();
        for entry in entries.flatten() {
            let Ok(path) = StorePath::from_basename(entry.file_name().as_encoded_bytes()) else { continue };
            if let Some(left) = left.get_mut(path.name()).filter(|left| **left > 0)
                && !paths.contains(&path)
            {
                *left -= 1;
                alike.push(path);
            }
        }
        alike
    }

    /// Finds the hashes of all derivations that a derivation needs, directly or not.
    fn hash_inputs(&mut self, location: &StoreLocation, derivation: &Derivation) -> Result<()> {
        let unknown = |of: &Derivation, known: &BTreeMap<StorePath, [u8; 32]>| -> Vec<StorePath> {
            of.input_derivations().keys().filter(|path| !known.contains_key(*path)).cloned().collect()
        };
        // Those whose inputs are being hashed: each is needed by the one before.
        let mut open: Vec<(StorePath, Derivation)> = Vec::new();
        let mut begun = BTreeSet::new();
        let mut wanted = unknown(derivation, &self.inputs);
        loop {
            // A derivation that needs itself is found here, too: then its hash stays unknown.
            if let Some(path) = wanted.pop().filter(|path| begun.insert(path.clone())) {
                let input = read(location, &path)?;
                wanted = unknown(&input, &self.inputs);
                open.push((path, input));
                continue;
            }
            if !wanted.is_empty() {
                continue;
            }
            let Some((path, input)) = open.pop() else { return Ok(()) };
            let hash = hash(&input, Purpose::Input, &self.inputs).map_err(|why| unreadable(&path, why))?;
            self.inputs.insert(path, hash);
            let next = open.last().map_or(derivation, |(_, next)| next);
            wanted = unknown(next, &self.inputs);
            wanted.retain(|path| !begun.contains(path));
        }
    }
}

/// Reads a derivation from its file.
fn read(location: &StoreLocation, path: &StorePath) -> Result<Derivation> {
    let mut text = Vec::new();
    File::open(location.real_path(path))
        .and_then(|file| file.take(MAX_SMALL).read_to_end(&mut text))
        .map_err(|error| unreadable(path, error))?;
    let name = path.name().trim_end_matches(".drv");
    Derivation::from_aterm_bytes_in(&text, name, location.store_dir.clone())
        .map_err(|error| unreadable(path, error))
}

fn unreadable(path: &StorePath, why: impl std::fmt::Display) -> Error {
    Error::permanent(Area::Store, format!("cannot read the derivation `{}`", path.to_basename()))
        .because(why.to_string())
}
