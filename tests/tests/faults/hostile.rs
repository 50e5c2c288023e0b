//! A hostile bucket: between any two requests of a push, somebody changes, plants, truncates, deletes, swaps or replays
//! an object. Afterwards, each narinfo that a client with our key accepts leads to a closure which the client can take,
//! or larder has said by name which path is not usable.

use anyhow::{Context, Result, ensure};
use larder_tests::fault::Chance;
use larder_tests::larder::LarderHome;
use larder_tests::nix::samples;
use larder_tests::process::Output;
use larder_tests::proxy::{Proxy, Record};
use larder_tests::servers::Kind;
use larder_tests::strict::{Narinfo, Objects, Reader, key_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use super::common::{Cases, Extent, Ground, Site, attempt, only_case};
use super::tamper::{FAULTS, Kit, Tamper};

/// The number of cases that run at the same time.
const AT_ONCE: usize = 4;
/// The number of cases of a full run.
const FULL: usize = 5200;

/// The kinds of requests, of which each meets each fault.
const OPERATIONS: [&str; 12] = [
    "GET format",
    "GET cache-info",
    "PUT lease",
    "LIST leases",
    "GET narinfo",
    "HEAD nar",
    "LIST nar",
    "PUT reservation",
    "DELETE reservation",
    "PUT nar",
    "PUT narinfo",
    "DELETE lease",
];

/// The kind of a request; empty for others.
fn operation(record: &Record) -> String {
    let key = record.path.splitn(3, '/').nth(2).unwrap_or_default();
    let of = |prefix: &str| {
        key.starts_with(prefix) || record.query.contains(&format!("prefix={}", prefix.replace('/', "%2F")))
    };
    let object = match () {
        () if key == "larder/format.json" => "format",
        () if key == "nix-cache-info" => "cache-info",
        () if of("larder/writers/") && key.is_empty() => "leases",
        () if of("larder/writers/") => "lease",
        () if of("larder/reservations/") => "reservation",
        () if key.ends_with(".narinfo") => "narinfo",
        () if of("nar/") => "nar",
        () => return String::new(),
    };
    let method = if key.is_empty() { "LIST" } else { &record.method };
    format!("{method} {object}")
}

/// What a push of the closure said: its exit code, and the paths, by the keys of their narinfos, that it did not call
/// available.
struct Said {
    code: i32,
    unusable: BTreeSet<String>,
    text: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let lines =
            output.stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let good = ["pushed", "signed", "present", "upstream"];
        let bad =
            lines.filter(|line| line["type"] == "path" && !good.iter().any(|word| line["outcome"] == *word));
        let unusable =
            bad.filter_map(|line| Some(key_of(line["path"].as_str()?.rsplit('/').next()?))).collect();
        Self { code: output.code(), unusable, text: format!("{}\n{}", output.stdout, output.stderr) }
    }
}

/// Narinfos because of which a client cannot use a narinfo that it accepts, with the reasons, and that larder has not
/// named. A path that larder calls blocked may stand for what is below it only while larder names that, too.
fn unnamed(reader: &Reader, objects: &Objects, said: &Said) -> BTreeMap<String, String> {
    let narinfos = objects.keys().filter(|key| key.ends_with(".narinfo"));
    let accepted = narinfos.filter(|key| reader.accepted(key, objects).is_ok());
    let mut found = BTreeMap::new();
    for key in accepted {
        let culprits = reader.culprits(key, objects);
        let is_named = |key: &String| said.code != 0 && said.unusable.contains(key);
        found.extend(culprits.into_iter().filter(|(culprit, _)| !is_named(culprit)));
    }
    found
}

/// Whether larder cannot see the damage by design: a client accepts the narinfo, and its NAR has as many bytes as it should
/// have, but others. larder reads a NAR only before it lets a new narinfo name an object that it did not write. `before`
/// are the objects before the push, `put` the keys that larder has written since.
fn is_beyond_a_check(
    reader: &Reader,
    key: &str,
    objects: &Objects,
    before: &Objects,
    put: &BTreeSet<String>,
) -> bool {
    let Ok(info) = reader.accepted(key, objects) else { return false };
    let size = objects.get(&info.url).map(|object| object.len() as u64);
    let has_its_size = size.is_some() && info.file_size == size;
    // A narinfo of this push that names an object which others wrote must have been verified.
    let url_before = before.get(key).and_then(|bytes| Narinfo::parse(bytes).ok()).map(|info| info.url);
    let named_it_before = url_before.is_some_and(|url| url == info.url);
    has_its_size && (named_it_before || put.contains(&info.url) || !put.contains(key))
}

struct Trial<'a> {
    ground: &'a Ground,
    kit: &'a Arc<Kit>,
    reader: &'a Reader,
    top: &'a str,
    beyond: &'a AtomicUsize,
    hit: &'a Mutex<BTreeSet<(String, &'static str)>>,
}

impl Trial<'_> {
    fn run(&self, case: usize, mut chance: Chance) -> Result<()> {
        let site = self.ground.site(&format!("hostile-{case}"))?;
        let client = self.ground.server.client();
        // The grid of operations and faults comes first, then everything at random.
        let (operation_wanted, fault) = match case < OPERATIONS.len() * FAULTS.len() {
            true => (OPERATIONS[case % OPERATIONS.len()], FAULTS[case / OPERATIONS.len()]),
            false => (OPERATIONS[chance.below(OPERATIONS.len())], FAULTS[chance.below(FAULTS.len())]),
        };
        let objects = self.kit.beginning(&mut chance, operation_wanted, fault);
        objects.iter().try_for_each(|(key, bytes)| client.put(&site.bucket, key, bytes))?;
        let before = self.objects(&site)?;
        let tamper = Arc::new(Tamper::new(self.ground, &site.bucket, self.kit, fault, chance.draw())?);
        // The operations on narinfos and NARs come several times in a push.
        let nth = if operation_wanted.ends_with("nar") || operation_wanted.ends_with("narinfo") {
            chance.below(4)
        } else {
            0
        };
        let nth = if operation_wanted == "LIST nar" { 0 } else { nth };
        let (hits, mut seen) = (Arc::new(AtomicUsize::new(0)), 0);
        let (rule, count) = (tamper.clone(), hits.clone());
        site.proxy.set_fault(move |record| {
            if operation(record) == operation_wanted {
                if seen == nth {
                    count.fetch_add(usize::from(rule.strike()), Ordering::SeqCst);
                }
                seen += 1;
            }
            None
        });
        let first = Said::of(&push(&site.larder, &["--json"], self.top)?);
        site.proxy.clear_fault();
        if hits.load(Ordering::SeqCst) > 0 {
            let mut hit = self.hit.lock().unwrap_or_else(PoisonError::into_inner);
            hit.insert((operation_wanted.to_owned(), fault));
        }
        tamper.check()?;
        self.judge(&site, &before, &first, &tamper)
    }

    fn judge(&self, site: &Site, before: &Objects, first: &Said, tamper: &Tamper) -> Result<()> {
        ensure!([0, 3, 4, 5, 6, 7].contains(&first.code), "the push: {} {}", first.code, first.text);
        if unnamed(self.reader, &self.objects(site)?, first).is_empty() {
            return Ok(());
        }
        // The change came after larder's last look. The next check must name it.
        tamper.restore_markers()?;
        let check = Said::of(&push(&site.larder, &["--json", "--check"], self.top)?);
        let objects = self.objects(site)?;
        let left = unnamed(self.reader, &objects, &check);
        let put = written(&site.proxy, &site.bucket);
        let (beyond, left): (BTreeMap<_, _>, BTreeMap<_, _>) = left
            .into_iter()
            .partition(|(key, _)| is_beyond_a_check(self.reader, key, &objects, before, &put));
        self.beyond.fetch_add(usize::from(!beyond.is_empty()), Ordering::SeqCst);
        ensure!(
            left.is_empty(),
            "{left:#?} are not named\nthe push: {}\nthe check: {} {}",
            first.text,
            check.code,
            check.text
        );
        Ok(())
    }

    fn objects(&self, site: &Site) -> Result<Objects> {
        let client = self.ground.server.client();
        let keys = self.ground.objects(&site.bucket)?.into_keys();
        let get = |key: String| Ok((key.clone(), client.get(&site.bucket, &key)?.unwrap_or_default()));
        keys.map(get).collect()
    }
}

/// The keys that larder has written.
fn written(proxy: &Proxy, bucket: &str) -> BTreeSet<String> {
    let bucket = format!("/{bucket}/");
    let log = proxy.log();
    let writes = log.iter().filter(|record| record.method == "PUT" && record.status / 100 == 2);
    writes.filter_map(|record| record.path.strip_prefix(&bucket)).map(str::to_owned).collect()
}

fn push(larder: &LarderHome, flags: &[&str], top: &str) -> Result<Output> {
    larder.try_run(&[&["push"], flags, &[top]].concat())
}

/// Everything that a trial needs: a server, objects to plant, a client, and the top of a closure of six paths.
type Prepared = (Ground, Arc<Kit>, Reader, String);

fn prepare(tag: &str) -> Result<Option<Prepared>> {
    let Some(ground) = Ground::new(Kind::S3sFs)? else { return Ok(None) };
    let expression = samples::layered(tag, 2);
    let kit = Arc::new(Kit::prepare(&ground, &expression)?);
    let top = ground.nix.build(&expression)?.remove(0);
    let reader = Reader::new(&ground.nix.store_dir().display().to_string(), &ground.key.public)?;
    Ok(Some((ground, kit, reader, top)))
}

#[test]
fn whatever_others_do_to_a_bucket_larder_completes_it_or_names_what_is_unusable() -> Result<()> {
    let Some((ground, kit, reader, top)) = prepare("hostile")? else { return Ok(()) };
    let cases = Mutex::new(Cases::new("hostile", 160, FULL, None));
    let (beyond, hit, failed) = (AtomicUsize::new(0), Mutex::default(), Mutex::new(Vec::new()));
    let trial = Trial { ground: &ground, kit: &kit, reader: &reader, top: &top, beyond: &beyond, hit: &hit };
    let locked = || cases.lock().unwrap_or_else(PoisonError::into_inner);
    // The sample takes its cases from the whole run.
    let step = if Extent::of_run() == Extent::Sample && only_case().is_none() { FULL / 160 } else { 1 };
    let offset = if step > 1 { locked().seed as usize % step } else { 0 };
    let work = || {
        loop {
            let Some((number, _)) = locked().next() else { return };
            let case = number * step + offset;
            let chance = Chance::new(locked().seed ^ (case as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let replay = locked().replay(case);
            if let Err(error) = attempt(&replay, &format!("case {case}"), || trial.run(case, chance)) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_default();
    let hit = hit.lock().map(|hit| hit.len()).unwrap_or_default();
    let beyond = beyond.load(Ordering::SeqCst);
    locked().report(&format!(
        "{hit} of {} pairs of an operation and a fault, {beyond} NARs of their size with other bytes, {} failures",
        OPERATIONS.len() * FAULTS.len(),
        failed.len()
    ));
    ensure!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n\n"));
    let is_full = Extent::of_run() == Extent::Full && only_case().is_none();
    ensure!(!is_full || hit == OPERATIONS.len() * FAULTS.len(), "only {hit} pairs were met");
    Ok(())
}

#[test]
fn the_strict_reader_finds_every_kind_of_damage() -> Result<()> {
    let Some((_ground, kit, reader, top)) = prepare("strict")? else { return Ok(()) };
    let key = key_of(top.rsplit('/').next().unwrap_or_default());
    let whole = kit.full.clone();
    assert_eq!(reader.culprits(&key, &whole), BTreeMap::new());
    let info = reader.accepted(&key, &whole)?;
    let text = String::from_utf8(whole[&key].clone())?;
    let other =
        whole.keys().find(|other| other.ends_with(".narinfo") && **other != key).context("one path")?;
    let changed = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
    let nar = &whole[&info.url];
    for (object, bytes) in [
        (&key, Vec::new()),
        (&key, text.trim_end().as_bytes().to_vec()),
        (&key, whole[other].clone()),
        (&key, changed("URL: ", "URL: http://elsewhere/")),
        (&key, changed("URL: nar/", "URL: nar/x")),
        (&key, changed("Compression: zstd", "Compression: xz")),
        (&key, changed("NarSize: ", "NarSize: 1")),
        (&key, changed("References: ", "References: 0c5b8vw40dy178xlpddw65q9gf1h2186-x ")),
        (&key, changed("Sig: ", "Sig: other")),
        (other, Vec::new()),
        (&info.url, Vec::new()),
        (&info.url, nar[..nar.len() - 1].to_vec()),
        (&info.url, vec![7; nar.len()]),
    ] {
        let mut damaged = whole.clone();
        damaged.insert(object.clone(), bytes);
        assert_eq!(reader.culprits(&key, &damaged).len(), 1, "{object}: {:?}", damaged.get(object));
        damaged.remove(object);
        assert_eq!(reader.culprits(&key, &damaged).len(), 1, "{object} is missing");
    }
    // A larder that names nothing is found out, and one that names the path is not.
    let mut damaged = whole.clone();
    damaged.remove(other);
    let silent = Said { code: 0, unusable: BTreeSet::new(), text: String::new() };
    assert!(!unnamed(&reader, &damaged, &silent).is_empty());
    let honest = Said { code: 3, unusable: [other.clone()].into(), text: String::new() };
    assert!(unnamed(&reader, &damaged, &honest).is_empty());
    Ok(())
}
