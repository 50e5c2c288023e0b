//! A year in the life of a bucket: three machines, 40 generations each. The bucket is a directory, whose files' times are
//! set back as the days pass.

use anyhow::{Context, Result, ensure};
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::year::{Generation, Year, let_pass, publish};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAYS: u32 = 365;
/// The days that pass at once for the files.
const STEP: u32 = 10;
/// The days between two looks at the bucket.
const MONTH: u32 = 30;

/// A directory as a bucket, with a larder that knows its key and has no store.
struct House {
    directory: TempDir,
    larder: LarderHome,
    key: SecretKey,
    runtime: tokio::runtime::Runtime,
    known: HashSet<larder::store::StorePath>,
}

impl House {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut larder = LarderHome::bare()?;
        let key = SecretKey::generate("year-1")?;
        let file: PathBuf = larder.dir().join("year.sec");
        larder::config::key_files::write_secret_key(&key, &file)?;
        larder.set("signing-key-files", &format!("[{:?}]", file.display().to_string()))?;
        larder.set_string("daemon-socket", "/nonexistent/socket")?;
        larder.use_directory(directory.path())?;
        larder.set_timeout(Duration::from_secs(300));
        larder.run(&["init", "--private"])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { directory, larder, key, runtime, known: HashSet::new() })
    }

    fn publish(&mut self, generation: &Generation) -> Result<()> {
        let address = format!("file://{}", self.directory.path().display());
        self.runtime.block_on(async {
            let bucket = open(&address, &Options::default()).await?;
            publish(&*bucket, &self.key, &generation.closure, &mut self.known).await
        })
    }

    /// The bytes of the NARs, and the number of narinfos.
    fn size(&self) -> Result<(u64, usize)> {
        let nars = fs::read_dir(self.directory.path().join("nar"))?;
        let sizes = nars.map(|entry| Ok(entry?.metadata()?.len())).sum::<Result<u64>>()?;
        let names = fs::read_dir(self.directory.path())?;
        let is_narinfo = |path: &Path| path.extension().is_some_and(|extension| extension == "narinfo");
        let narinfos =
            names.filter(|entry| entry.as_ref().is_ok_and(|entry| is_narinfo(&entry.path()))).count();
        Ok((sizes, narinfos))
    }

    /// Checks that a client can take a generation as a whole.
    fn assert_bootable(&self, generation: &Generation) -> Result<()> {
        let system = generation.system.to_absolute_path();
        self.larder.run(&["verify", &system]).with_context(|| format!("{system} cannot be booted"))?;
        Ok(())
    }
}

#[test]
fn a_year_of_three_machines_without_collection_grows_and_stays_whole() -> Result<()> {
    let (mut house, mut year) = (House::new()?, Year::new(14));
    let (mut generations, mut sizes) = (Vec::new(), Vec::new());
    while year.day() < DAYS {
        for generation in year.next_day() {
            house.publish(&generation)?;
            generations.push(generation);
        }
        if year.day().is_multiple_of(STEP) {
            let_pass(house.directory.path(), DAY * STEP)?;
        }
        if year.day().is_multiple_of(MONTH) {
            let (bytes, narinfos) = house.size()?;
            sizes.push((year.day(), bytes, narinfos));
        }
    }
    for (day, bytes, narinfos) in &sizes {
        eprintln!("day {day}: {narinfos} paths, {bytes} bytes of NARs");
    }
    ensure!((115..=125).contains(&generations.len()), "{} generations", generations.len());
    ensure!(sizes.is_sorted_by(|one, other| one.1 < other.1), "{sizes:?}");
    house.larder.run(&["verify", "--data"])?;
    let machines: HashSet<_> = generations.iter().map(|generation| generation.machine).collect();
    ensure!(machines.len() == 3);
    // Every generation can be booted, the first and the last alike.
    for generation in generations.iter().step_by(20) {
        house.assert_bootable(generation)?;
    }
    Ok(())
}

/// The generations of each machine that a pin keeps, and the time for which everything stays.
const KEPT: usize = 8;
const WITHIN: &str = "30d";

/// The bucket at the end of a month, with and without collections.
#[derive(Debug)]
struct Month {
    day: u32,
    with: (u64, usize),
    without: (u64, usize),
}

/// `LARDER_WRITE_YEAR=1` writes the table of the plot.
#[test]
fn a_year_of_three_machines_with_collections_stays_small_and_bootable() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let (mut house, mut year) = (House::new()?, Year::new(14));
    let mut kept: BTreeMap<usize, Vec<Generation>> = BTreeMap::new();
    let mut ever: HashMap<String, u64> = HashMap::new();
    let mut months: Vec<Month> = Vec::new();
    while year.day() < DAYS {
        for generation in year.next_day() {
            // What a collection has taken is published again if it is needed again.
            let directory = house.directory.path().to_owned();
            house.known.retain(|path| directory.join(format!("{}.narinfo", hash(path))).exists());
            house.publish(&generation)?;
            ever.extend(generation.closure.iter().map(|built| (hash(&built.info.path), built.info.nar_size)));
            let pin = format!("system/machine-{}", generation.machine);
            let system = generation.system.to_absolute_path();
            house.larder.run(&["pin", &pin, &system, "--keep-last", &KEPT.to_string()])?;
            let of_machine = kept.entry(generation.machine).or_default();
            of_machine.push(generation);
            if of_machine.len() > KEPT {
                of_machine.remove(0);
            }
        }
        if year.day().is_multiple_of(STEP) {
            let_pass(house.directory.path(), DAY * STEP)?;
        }
        if year.day().is_multiple_of(MONTH) {
            house.larder.quick(&["collect", "--yes", "--keep-within", WITHIN], 600)?;
            let systems: Vec<_> =
                kept.values().flatten().map(|generation| generation.system.to_absolute_path()).collect();
            let args: Vec<_> = ["verify"].into_iter().chain(systems.iter().map(String::as_str)).collect();
            house.larder.run(&args).context("a generation within the rules cannot be booted")?;
            let without = (ever.values().sum(), ever.len());
            months.push(Month { day: year.day(), with: house.size()?, without });
        }
    }
    house.larder.run(&["verify", "--data"])?;
    let last = months.last().context("a month")?;
    ensure!(last.with.1 * 2 < last.without.1, "less than half of all paths are left: {last:?}");
    let before = months.iter().rev().nth(3).context("four months")?;
    ensure!(last.with.1 * 2 < before.with.1 * 3, "the bucket stops growing: {before:?} {last:?}");
    if std::env::var_os("LARDER_WRITE_YEAR").is_some() {
        let row = |month: &Month| {
            json!({
                "day": month.day, "withBytes": month.with.0, "withPaths": month.with.1,
                "withoutBytes": month.without.0, "withoutPaths": month.without.1,
            })
        };
        let table = json!({ "format": 1, "rows": months.iter().map(row).collect::<Vec<_>>() });
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance/year.json");
        fs::write(file, serde_json::to_string_pretty(&table)? + "\n")?;
    }
    Ok(())
}

/// The hash part of a path.
fn hash(path: &larder::store::StorePath) -> String {
    path.to_basename().to_string()[..32].to_owned()
}
