//! A year of three machines, as nixpkgs makes it: some package changes every day, and with it all that is built on it; every
//! few weeks a package at the bottom changes, and nearly everything is built again.
//!
//! The bucket is written by the library, because three machines of a year would take hours to build. Everything follows
//! from a seed.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use larder::bucket::{Bucket, Condition, ContentType};
use larder::format::narinfo::{NarObject, compose};
use larder::format::object_keys::{self, Compression};
use larder::format::path_info::PathInfo;
use larder::format::signature::SecretKey;
use larder::store::{StoreDir, StorePath};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// The number of packages.
const PACKAGES: usize = 400;
/// The number of packages at the bottom, on which nearly everything is built.
const BASE: usize = 12;
/// The number of packages that a machine has by its configuration. Their closures come with them.
const CHOSEN: usize = 60;
/// The days between two changes at the bottom.
const MASS_REBUILD: u32 = 45;
/// The number of other packages that change on a day.
const CHANGES: usize = 3;
/// The days between two generations of a machine: 40 in a year.
const BETWEEN: u32 = 9;
/// The number of objects that are written at the same time.
const AT_ONCE: usize = 32;
/// The machines.
const MACHINES: usize = 3;

/// A path that was built, with its NAR.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the store knows.
    pub info: PathInfo,
    /// The NAR.
    pub nar: Vec<u8>,
}

/// A generation of a machine.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The number of the machine.
    pub machine: usize,
    /// The path of the whole system.
    pub system: StorePath,
    /// The closure, references first.
    pub closure: Vec<Built>,
}

/// A package: its own state, and what it is built on.
#[derive(Debug)]
struct Package {
    name: String,
    revision: u32,
    needs: Vec<usize>,
}

/// The packages and the machines of a year.
#[derive(Debug)]
pub struct Year {
    packages: Vec<Package>,
    /// The packages that each machine has by its configuration.
    chosen: Vec<Vec<usize>>,
    day: u32,
    random: u64,
}

impl Year {
    /// The first day.
    pub fn new(seed: u64) -> Self {
        let mut year = Self { packages: Vec::new(), chosen: Vec::new(), day: 0, random: seed | 1 };
        for number in 0..PACKAGES {
            let mut needs: Vec<_> = match number {
                0 => Vec::new(),
                1..BASE => vec![number - 1],
                _ => vec![year.below(BASE), year.below(number), year.below(number), year.below(number)],
            };
            needs.sort_unstable();
            needs.dedup();
            year.packages.push(Package { name: format!("package-{number}"), revision: 0, needs });
        }
        // What everybody has, and what one machine has.
        let common: Vec<_> = (0..CHOSEN / 2).map(|_| year.below(PACKAGES)).collect();
        for _ in 0..MACHINES {
            let own: Vec<_> = (0..CHOSEN / 2).map(|_| year.below(PACKAGES)).collect();
            year.chosen.push([common.clone(), own].concat());
        }
        year
    }

    /// The number of days so far.
    pub fn day(&self) -> u32 {
        self.day
    }

    /// Lives through a day. Returns the generations that machines switch to.
    pub fn next_day(&mut self) -> Vec<Generation> {
        if self.day > 0 {
            for _ in 0..CHANGES {
                let package = BASE + self.below(PACKAGES - BASE);
                self.packages[package].revision += 1;
            }
            if self.day.is_multiple_of(MASS_REBUILD) {
                let package = self.below(BASE);
                self.packages[package].revision += 1;
            }
        }
        let day = self.day;
        self.day += 1;
        let switches = |machine: &usize| (day + *machine as u32 * 3).is_multiple_of(BETWEEN);
        (0..MACHINES).filter(switches).map(|machine| self.generation(machine, day)).collect()
    }

    fn generation(&self, machine: usize, day: u32) -> Generation {
        let mut needed: BTreeSet<usize> = self.chosen[machine].iter().copied().collect();
        let mut next: Vec<_> = needed.iter().copied().collect();
        while let Some(package) = next.pop() {
            next.extend(self.packages[package].needs.iter().filter(|need| needed.insert(**need)));
        }
        // Packages need only packages with smaller numbers.
        let mut paths: BTreeMap<usize, StorePath> = BTreeMap::new();
        let mut closure = Vec::new();
        for package in needed {
            let Package { name, revision, needs } = &self.packages[package];
            let references: Vec<_> = needs.iter().filter_map(|need| paths.get(need).cloned()).collect();
            let built = build(name, *revision, references, 200 + package * 11 % 4000);
            paths.insert(package, built.info.path.as_ref().clone());
            closure.push(built);
        }
        let all = self.chosen[machine].iter().filter_map(|package| paths.get(package).cloned());
        let all: BTreeSet<_> = all.collect();
        let system = build(&format!("nixos-system-host{machine}"), day, all.into_iter().collect(), 300);
        let path = system.info.path.as_ref().clone();
        closure.push(system);
        Generation { machine, system: path, closure }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % limit
    }
}

/// Builds a path: its hash follows from its revision and from all that it is built on.
fn build(name: &str, revision: u32, references: Vec<StorePath>, size: usize) -> Built {
    let mut hash = Sha256::new();
    hash.update(format!("{name} {revision}"));
    references.iter().for_each(|path| hash.update(path.digest()));
    let hash = hash.finalize();
    let path = path(&hash, name);
    let contents: Vec<u8> = (0..size.div_ceil(32))
        .flat_map(|block| Sha256::new().chain_update(hash).chain_update(block.to_le_bytes()).finalize())
        .collect();
    let nar = nar(&contents);
    let info = PathInfo {
        path: path.into(),
        deriver: None,
        nar_hash: Sha256::digest(&nar).into(),
        nar_size: nar.len() as u64,
        references: references.into_iter().collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Box::default(),
        ca: None,
    };
    Built { info, nar }
}

fn path(hash: &[u8], name: &str) -> StorePath {
    let mut digest = [0; 20];
    digest.copy_from_slice(&hash[..20]);
    // Names of packages are names of store paths.
    StorePath::from_parts(digest, name).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A NAR of one file.
fn nar(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    for text in [&b"nix-archive-1"[..], b"(", b"type", b"regular", b"contents", contents, b")"] {
        nar.extend((text.len() as u64).to_le_bytes());
        nar.extend(text);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// Writes what the bucket does not have of a closure: NARs first, then narinfos.
pub async fn publish(
    bucket: &dyn Bucket,
    key: &SecretKey,
    closure: &[Built],
    known: &mut HashSet<StorePath>,
) -> Result<()> {
    let writer = object_keys::new_writer();
    let new: Vec<_> = closure.iter().filter(|built| known.insert((*built.info.path).clone())).collect();
    let (mut nars, mut narinfos) = (Vec::new(), Vec::new());
    for Built { info, nar } in new {
        let object = NarObject {
            key: object_keys::new_nar(&info.nar_hash, Compression::None, &writer),
            compression: Compression::None,
            file_hash: Some(info.nar_hash),
            file_size: Some(info.nar_size),
        };
        let narinfo = compose(&StoreDir::default(), info, &object, std::slice::from_ref(key))?;
        narinfos.push((object_keys::narinfo(&info.path), narinfo, ContentType::NarInfo));
        nars.push((object.key, nar.clone(), ContentType::Nar));
    }
    for objects in [nars, narinfos] {
        let put = async |(key, bytes, kind): (String, Vec<u8>, ContentType)| {
            bucket.put(&key, bytes.into(), kind, Condition::None).await
        };
        stream::iter(objects.into_iter().map(put)).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    }
    Ok(())
}

/// Lets time pass in a directory that is a bucket: each file becomes older.
pub fn let_pass(directory: &Path, time: Duration) -> Result<()> {
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let file = File::options().write(true).open(entry.path())?;
            file.set_modified(entry.metadata()?.modified()? - time)?;
        }
    }
    Ok(())
}
