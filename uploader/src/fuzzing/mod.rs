//! Properties of all parsers of foreign data, for any bytes: the parser ends, does not panic, and fulfils the
//! assertions here. `fuzz/` contains the targets for cargo-fuzz. The unit test runs the kept corpora and mutations of
//! them.

mod bucket;
mod collection;
mod configuration;
mod format;
mod machine;
mod queue;
mod store;

/// Asserts the properties of one parser for the given bytes.
pub type Target = fn(&[u8]);

/// All targets. Their names are the names of their corpora in `fuzz/corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("address", bucket::address),
    ("answer", bucket::answer),
    ("cache_info", format::cache_info),
    ("collection", collection::collection),
    ("configuration", configuration::configuration),
    ("credentials", bucket::credentials),
    ("daemon", store::daemon),
    ("derivation", queue::derivation),
    ("environment", queue::environment),
    ("job", queue::job),
    ("keys", format::signing_and_object_keys),
    ("listing", format::listing),
    ("manifest", machine::manifest),
    ("marker", format::marker),
    ("narinfo", format::narinfo),
    ("nix_conf", machine::nix_conf),
    ("policy", bucket::policy),
    ("relay_path", machine::relay_path),
];

/// Runs the target with this name.
///
/// # Panics
/// A property does not hold, or no target has this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target `{name}`")).1(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// The number of mutations for each target, over all files of its corpus.
    const MUTATIONS: usize = 20_000;

    fn corpus(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
    }

    /// Changes, removes, repeats or inserts a few bytes, chosen by an xorshift generator.
    fn mutate(bytes: &[u8], seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % below.max(1)
        };
        let mut bytes = bytes.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            let to = (at + random(9)).min(bytes.len());
            match random(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << random(8),
                1 => drop(bytes.drain(at..to)),
                2 => {
                    let piece = bytes[at..to].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => bytes.insert(at, random(256) as u8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    }

    #[test]
    fn the_properties_hold_for_the_corpora_and_mutations() {
        for (name, target) in TARGETS {
            let mut files: Vec<_> =
                fs::read_dir(corpus(name)).expect(name).map(|entry| entry.unwrap().path()).collect();
            files.sort();
            assert!(!files.is_empty(), "no corpus of `{name}`");
            for (number, file) in files.iter().enumerate() {
                let bytes = fs::read(file).unwrap();
                target(&bytes);
                for mutation in 0..MUTATIONS.div_ceil(files.len()) {
                    target(&mutate(&bytes, (mutation as u64) << 32 | number as u64));
                }
            }
        }
    }
}
