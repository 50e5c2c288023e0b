//! What somebody does to the objects of a bucket.

use anyhow::{Context, Result};
use larder::format::signature::SecretKey;
use larder_tests::fault::Chance;
use larder_tests::s3::Client;
use larder_tests::strict::{Objects, key_of};
use std::sync::{Arc, Mutex, PoisonError};

use super::common::Ground;

/// The faults.
pub(crate) const FAULTS: [&str; 36] = [
    "narinfo deleted",
    "narinfo empty",
    "narinfo truncated",
    "narinfo rubbish of its size",
    "narinfo unsigned rubbish with a signature line",
    "narinfos swapped",
    "narinfo of a stranger with other contents",
    "narinfo of a stranger with the same contents",
    "narinfo unsigned with other contents",
    "narinfo unsigned with the same contents",
    "narinfo unsigned with the same contents and a rubbish NAR",
    "narinfo of a stranger with the same contents and a rubbish NAR",
    "narinfo of an earlier build without its NAR",
    "narinfo of an earlier build with its NAR",
    "narinfo replayed",
    "URL elsewhere",
    "URL of another NAR",
    "URL upwards",
    "URL with control characters",
    "compression changed",
    "file size changed",
    "references cut",
    "references added",
    "field twice",
    "content address added",
    "narinfo huge",
    "NAR deleted",
    "NAR empty",
    "NAR truncated",
    "NAR rubbish of its size",
    "NARs swapped",
    "all NARs deleted",
    "empty NAR planted",
    "rubbish NAR planted",
    "other NAR planted",
    "markers and leases changed",
];

/// The number of faults of narinfos, which come first.
const NARINFO_FAULTS: usize = 26;
/// The objects that `larder init` writes.
const MARKERS: [&str; 2] = ["larder/format.json", "nix-cache-info"];

/// The objects that somebody can use.
pub(crate) struct Kit {
    /// The bucket after a complete push.
    pub(crate) full: Objects,
    /// The narinfo and the NAR of an earlier build of `large`, signed by our key.
    earlier: Objects,
    stranger: SecretKey,
    store_dir: String,
    large: String,
}

impl Kit {
    /// Pushes the closure once, and an earlier build of its path `large`, and keeps the objects.
    pub(crate) fn prepare(ground: &Ground, expression: &str) -> Result<Self> {
        let client = ground.server.client();
        let read = |bucket: &str| -> Result<Objects> {
            let keys = ground.objects(bucket)?.into_keys();
            let get =
                |key: String| Ok((key.clone(), client.get(bucket, &key)?.context("an object is gone")?));
            keys.filter(|key| key.ends_with(".narinfo") || key.starts_with("nar/")).map(get).collect()
        };
        let top = ground.nix.build(expression)?.remove(0);
        let closure = ground.nix.closure(std::slice::from_ref(&top))?;
        let large = closure.into_iter().map(|info| info.path).find(|path| path.ends_with("-large"));
        let large = large.context("no `large`")?;
        ground.site("earlier")?.larder.run(&["push", &large])?;
        ground.nix.nix_store(&["--delete", &top, &large])?.ok()?;
        assert_eq!(ground.nix.build(expression)?, std::slice::from_ref(&top));
        ground.site("complete")?.larder.run(&["push", &top])?;
        let (earlier, full) = (read("earlier")?, read("complete")?);
        let large = key_of(large.rsplit('/').next().unwrap_or_default());
        assert_ne!(earlier[&large], full[&large], "the builds of `large` do not differ");
        let stranger = SecretKey::generate("stranger-1").map_err(|error| anyhow::anyhow!("{error}"))?;
        let store_dir = ground.nix.store_dir().display().to_string();
        Ok(Self { full, earlier, stranger, store_dir, large })
    }

    /// The objects of a bucket before a push in which a request of this kind comes: none, some paths with their NARs, only
    /// the NARs, or all.
    pub(crate) fn beginning(&self, chance: &mut Chance, operation: &str, fault: &str) -> Objects {
        let is_nar = |key: &str| key.starts_with("nar/");
        let all = self.full.clone().into_iter();
        // Paths without references, which any other push may have left.
        let is_base = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("\nReferences: \n");
        let choice = match operation {
            "PUT nar" | "PUT reservation" | "DELETE reservation" | "LIST nar" => chance.below(2),
            "PUT narinfo" => chance.below(3),
            "HEAD nar" => 2 + chance.below(2),
            _ => chance.below(4),
        };
        // A fault of NARs needs NARs.
        match if fault.contains("NARs") || fault.starts_with("NAR ") { choice.max(1) } else { choice } {
            0 => Objects::new(),
            // An earlier build of `large` does not help.
            1 => all
                .filter(|(key, _)| {
                    is_nar(key)
                        && !self.full[&self.large].windows(key.len()).any(|part| part == key.as_bytes())
                })
                .collect(),
            2 => all.filter(|(key, bytes)| is_nar(key) || (is_base(bytes) && *key != self.large)).collect(),
            _ => all.collect(),
        }
    }

    /// A narinfo with a signature of the stranger in place of the others.
    fn by_the_stranger(&self, narinfo: &str) -> String {
        let field = |name: &str| narinfo.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let references = field("References: ").split_whitespace();
        let references: Vec<_> = references.map(|base| format!("{}/{base}", self.store_dir)).collect();
        let print = format!(
            "1;{};{};{};{}",
            field("StorePath: "),
            field("NarHash: "),
            field("NarSize: "),
            references.join(",")
        );
        format!("{}Sig: {}\n", unsigned(narinfo), self.stranger.sign(&print).unwrap().to_nix_string())
    }
}

fn unsigned(narinfo: &str) -> String {
    narinfo.lines().filter(|line| !line.starts_with("Sig: ")).map(|line| format!("{line}\n")).collect()
}

/// The value of a field replaced.
fn with(narinfo: &str, name: &str, value: &str) -> String {
    let line = |line: &str| match line.strip_prefix(name) {
        Some(_) => format!("{name}{value}\n"),
        None => format!("{line}\n"),
    };
    narinfo.lines().map(line).collect()
}

/// Strikes a bucket with a fault.
pub(crate) struct Tamper {
    client: Client,
    bucket: String,
    kit: Arc<Kit>,
    fault: &'static str,
    chance: Mutex<Chance>,
    /// The markers as they were before.
    markers: Objects,
    /// Why a strike failed, which is a bug of the test.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Tamper {
    pub(crate) fn new(
        ground: &Ground,
        bucket: &str,
        kit: &Arc<Kit>,
        fault: &'static str,
        seed: u64,
    ) -> Result<Self> {
        let client = ground.server.client();
        let mut markers = Objects::new();
        for key in MARKERS {
            markers.insert(key.into(), client.get(bucket, key)?.context("no marker")?);
        }
        let (bucket, chance) = (bucket.to_owned(), Mutex::new(Chance::new(seed)));
        Ok(Self { client, bucket, kit: kit.clone(), fault, chance, markers, failure: Mutex::default() })
    }

    /// Writes the markers again as they were.
    pub(crate) fn restore_markers(&self) -> Result<()> {
        self.markers.iter().try_for_each(|(key, bytes)| self.client.put(&self.bucket, key, bytes))
    }

    /// Changes an object as the fault says. Returns whether the bucket has changed: a fault may find nothing to change.
    pub(crate) fn strike(&self) -> bool {
        let listed = || self.client.list(&self.bucket, "").unwrap_or_default();
        let contents = |keys: Vec<(String, u64)>| -> Objects {
            keys.into_iter().filter_map(|(key, _)| Some((key.clone(), self.get(&key).ok()??))).collect()
        };
        let before = contents(listed());
        self.strike_once();
        contents(listed()) != before
    }

    /// Fails where a strike has failed.
    pub(crate) fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    fn strike_once(&self) {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let struck = match FAULTS.iter().position(|fault| *fault == self.fault) {
            Some(place) if place < NARINFO_FAULTS => self.strike_narinfo(&mut chance),
            Some(place) if place + 1 < FAULTS.len() => self.strike_nar(&mut chance),
            _ => self.strike_markers(&mut chance),
        };
        if let Err(error) = struck {
            let error = error.context(format!("cannot strike with `{}`", self.fault));
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.client.get(&self.bucket, key)
    }

    fn put(&self, key: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.client.put(&self.bucket, key, bytes.as_ref())
    }

    /// A random key of the complete bucket that ends or begins with a text.
    fn any(&self, chance: &mut Chance, fits: impl Fn(&str) -> bool) -> Result<String> {
        let keys: Vec<_> = self.kit.full.keys().filter(|key| fits(key)).collect();
        Ok(keys.get(chance.below(keys.len().max(1))).context("no such key")?.to_string())
    }

    /// The narinfo that stands under a key; the narinfo of a complete push if none does.
    fn narinfo(&self, key: &str) -> Result<String> {
        let bytes = self.get(key)?.filter(|bytes| !bytes.is_empty());
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_else(|| self.kit.full[key].clone())).into_owned())
    }

    fn strike_narinfo(&self, chance: &mut Chance) -> Result<()> {
        let is_narinfo = |key: &str| key.ends_with(".narinfo");
        let key = self.any(chance, is_narinfo)?;
        let other = self.any(chance, |other| is_narinfo(other) && other != key)?;
        let text = self.narinfo(&key)?;
        let signature = text.lines().find(|line| line.starts_with("Sig: ")).unwrap_or("Sig: x").to_owned();
        let other_contents = || with(&text, "NarHash: ", &format!("sha256:{}", "0".repeat(52)));
        let large = &self.kit.large;
        let bytes = match self.fault {
            "narinfo deleted" => return self.client.delete(&self.bucket, &key),
            "narinfo empty" => String::new(),
            "narinfo truncated" => text.chars().take(chance.below(text.len())).collect(),
            "narinfo rubbish of its size" => "x".repeat(text.len()),
            "narinfo unsigned rubbish with a signature line" => format!("rubbish\n{signature}\n"),
            "narinfos swapped" => {
                let theirs = self.narinfo(&other)?;
                self.put(&other, &text)?;
                theirs
            }
            "narinfo of a stranger with other contents" => self.kit.by_the_stranger(&other_contents()),
            "narinfo of a stranger with the same contents" => self.kit.by_the_stranger(&text),
            "narinfo unsigned with other contents" => unsigned(&other_contents()),
            "narinfo unsigned with the same contents" => unsigned(&text),
            "narinfo unsigned with the same contents and a rubbish NAR" => {
                unsigned(&self.with_rubbish(&text, chance)?)
            }
            "narinfo of a stranger with the same contents and a rubbish NAR" => {
                self.kit.by_the_stranger(&self.with_rubbish(&text, chance)?)
            }
            "narinfo of an earlier build without its NAR" => {
                return self.put(large, &self.kit.earlier[large]);
            }
            "narinfo of an earlier build with its NAR" => {
                return self.kit.earlier.iter().try_for_each(|(key, bytes)| self.put(key, bytes));
            }
            "narinfo replayed" => {
                // A narinfo that does not stand, or has changed, if there is any.
                let stands =
                    |key: &str| self.get(key).ok().flatten().is_some_and(|now| now == self.kit.full[key]);
                let key = self.any(chance, |key| is_narinfo(key) && !stands(key)).unwrap_or(key);
                return self.put(&key, &self.kit.full[&key]);
            }
            "URL elsewhere" => with(&text, "URL: ", "http://127.0.0.1:1/nar/x.nar.zst"),
            "URL of another NAR" => with(&text, "URL: ", &self.any(chance, |key| key.starts_with("nar/"))?),
            "URL upwards" => with(&text, "URL: ", "../nar/x.nar.zst"),
            "URL with control characters" => with(&text, "URL: ", "nar/\u{1b}[2J.nar.zst"),
            "compression changed" => {
                with(&text, "Compression: ", ["xz", "none", "bzip2", "magic"][chance.below(4)])
            }
            "file size changed" => with(&text, "FileSize: ", &chance.below(100_000).to_string()),
            "references cut" => with(&text, "References: ", ""),
            "references added" => with(&text, "References: ", "0c5b8vw40dy178xlpddw65q9gf1h2186-x"),
            "field twice" => format!("{text}URL: nar/x.nar.zst\n"),
            "content address added" => {
                format!("{text}CA: fixed:r:sha256:0zhkga32apid60mm7nh92z2970im5837x7dnvzq6hn0n1pwqcfvg\n")
            }
            "narinfo huge" => format!("{text}Extra: {}\n", "x".repeat(5 << 20)),
            other => anyhow::bail!("no such fault: {other}"),
        };
        self.put(&key, bytes)
    }

    /// The narinfo with a new NAR, which is as long as the narinfo says, and rubbish.
    fn with_rubbish(&self, text: &str, chance: &mut Chance) -> Result<String> {
        let size = 100 + chance.below(1000);
        self.put("nar/rubbish.nar.zst", vec![7; size])?;
        let size = size.to_string();
        Ok(with(
            &with(&with(text, "URL: ", "nar/rubbish.nar.zst"), "FileSize: ", &size),
            "Compression: ",
            "zstd",
        ))
    }

    fn strike_nar(&self, chance: &mut Chance) -> Result<()> {
        let keys: Vec<_> = self.client.list(&self.bucket, "nar/")?.into_iter().map(|(key, _)| key).collect();
        let planted = self.any(chance, |key| key.starts_with("nar/"))?;
        let planted =
            planted.split_once('-').context("no NAR of larder")?.0.to_owned() + "-0123456789abcdfg.nar.zst";
        let other = || self.any(&mut Chance::new(1), |key| key.starts_with("nar/"));
        match self.fault {
            "empty NAR planted" => return self.put(&planted, b""),
            "rubbish NAR planted" => return self.put(&planted, vec![7; 100 + chance.below(100_000)]),
            "other NAR planted" => return self.put(&planted, &self.kit.full[&other()?]),
            "all NARs deleted" => {
                return keys.iter().try_for_each(|key| self.client.delete(&self.bucket, key));
            }
            _ => {}
        }
        if keys.is_empty() {
            return Ok(());
        }
        let key = &keys[chance.below(keys.len())];
        let bytes = self.get(key)?.unwrap_or_default();
        match self.fault {
            "NAR deleted" => self.client.delete(&self.bucket, key),
            "NAR empty" => self.put(key, b""),
            "NAR truncated" => self.put(key, &bytes[..bytes.len() / 2]),
            "NAR rubbish of its size" => self.put(key, vec![7; bytes.len()]),
            "NARs swapped" => {
                let others: Vec<_> = keys.iter().filter(|other| *other != key).collect();
                let Some(other) = others.get(chance.below(others.len().max(1))) else { return Ok(()) };
                let theirs = self.get(other)?.unwrap_or_default();
                self.put(other, &bytes)?;
                self.put(key, theirs)
            }
            other => anyhow::bail!("no such fault: {other}"),
        }
    }

    fn strike_markers(&self, chance: &mut Chance) -> Result<()> {
        let lease = r#"{"since":1,"renewed":1,"version":"0","signatures":["k:x"]}"#;
        match chance.below(6) {
            0 => self.put(MARKERS[0], br#"{"version":2}"#),
            1 => self.client.delete(&self.bucket, MARKERS[0]),
            2 => self.put(MARKERS[1], "StoreDir: /elsewhere\nPriority: x\n"),
            3 => self.client.delete(&self.bucket, MARKERS[1]),
            4 => self.put("larder/writers/0123456789abcdfghijklmnp.json", lease),
            _ => {
                let nar = self.any(chance, |key| key.starts_with("nar/"))?;
                let hash = nar.trim_start_matches("nar/").split('-').next().unwrap_or_default();
                self.put(&format!("larder/reservations/{hash}"), r#"{"writer":"0123456789abcdfghijklmnp"}"#)
            }
        }
    }
}
