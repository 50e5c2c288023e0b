//! A year in the life of a bucket: three machines, 40 generations each. The bucket is a directory, whose files' times are
//! set back as the days pass.

use anyhow::{Context, Result, ensure};
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::year::{Generation, Year, let_pass, publish};
use std::collections::HashSet;
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
