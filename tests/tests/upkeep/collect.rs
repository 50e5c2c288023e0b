//! `larder collect`, `larder remove` and `larder upgrade`. The build with fail points divides all times of the protocol, so
//! that a collection takes seconds.

use anyhow::{Context, Result, ensure};
use larder::bucket::{Options, open};
use larder::format::signature::SecretKey;
use larder_tests::larder::LarderHome;
use larder_tests::process::Output;
use larder_tests::year::{Generation, Year, let_pass, publish};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A collection waits 2.5 seconds for late requests.
const DIVISOR: u32 = 600;

/// A directory as a bucket with the generations of two days, 40 days ago, and a larder without a store.
struct House {
    directory: TempDir,
    larder: LarderHome,
    new: Vec<Generation>,
}

impl House {
    fn new() -> Result<Self> {
        let (directory, mut larder) = (tempfile::tempdir()?, LarderHome::bare()?);
        let (key, file) = (SecretKey::generate("collect-1")?, larder.dir().join("collect.sec"));
        larder::config::key_files::write_secret_key(&key, &file)?;
        larder.set("signing-key-files", &format!("[{:?}]", file.display().to_string()))?;
        larder.set_string("daemon-socket", "/nonexistent/socket")?;
        larder.use_directory(directory.path())?;
        larder.run(&["init", "--private"])?;
        let mut year = Year::new(3);
        let (old, mut new) = (year.next_day(), Vec::new());
        while new.is_empty() {
            new = year.next_day();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut known = HashSet::new();
        runtime.block_on(async {
            let bucket = open(&format!("file://{}", directory.path().display()), &Options::default()).await?;
            for generation in old.iter().chain(&new) {
                publish(&*bucket, &key, &generation.closure, &mut known).await?;
            }
            anyhow::Ok(())
        })?;
        let_pass(directory.path(), DAY * 40)?;
        Ok(Self { directory, larder, new })
    }

    /// Pins the later generations, as all that stays.
    fn pin_new(&self) -> Result<()> {
        for (number, generation) in self.new.iter().enumerate() {
            let system = generation.system.to_absolute_path();
            self.larder.run(&["pin", &format!("system/{number}"), &system])?;
        }
        Ok(())
    }

    fn try_collect(&self, args: &[&str]) -> Result<Output> {
        self.larder.try_quick(&[&["collect", "--json"], args].concat(), DIVISOR)
    }

    fn collect(&self, args: &[&str]) -> Result<Vec<Value>> {
        lines(&self.try_collect(args)?.ok()?)
    }

    /// The hash parts of all narinfos.
    fn narinfos(&self) -> Result<BTreeSet<String>> {
        self.names("", ".narinfo")
    }

    /// The names of the files in a directory of the bucket, without their ending.
    fn names(&self, directory: &str, ending: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let Ok(files) = fs::read_dir(self.directory.path().join(directory)) else { return Ok(names) };
        for file in files {
            let name = file?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(ending).map(str::to_owned));
        }
        Ok(names)
    }

    fn hash_parts(generations: &[Generation]) -> BTreeSet<String> {
        let paths = generations.iter().flat_map(|generation| &generation.closure);
        paths.map(|built| built.info.path.to_basename().to_string()[..32].to_owned()).collect()
    }

    fn verify(&self) -> Result<()> {
        self.larder.run(&["verify"]).context("the bucket is not whole")?;
        Ok(())
    }
}

fn lines(output: &Output) -> Result<Vec<Value>> {
    output.lines().iter().map(|line| serde_json::from_str(line).context("JSON")).collect()
}

fn last(lines: &[Value], kind: &str) -> Result<Value> {
    let found = lines.iter().rev().find(|line| line["type"] == kind);
    found.cloned().with_context(|| format!("no `{kind}` among {lines:?}"))
}

#[test]
fn what_nothing_keeps_goes_and_comes_back() -> Result<()> {
    let house = House::new()?;
    let before = house.narinfos()?;
    house.pin_new()?;
    let shown = house.collect(&[])?;
    let plan = last(&shown, "plan")?;
    ensure!(plan["paths"].as_u64() > Some(0) && house.narinfos()? == before, "{plan}");
    let ended = last(&house.collect(&["--yes"])?, "summary")?;
    ensure!(ended["paths"] == plan["paths"] && ended["spared"] == 0, "{ended} {plan}");
    ensure!(house.narinfos()? == House::hash_parts(&house.new), "exactly what the pins keep stays");
    let files = walkdir::WalkDir::new(house.directory.path().join("larder/collections"));
    let left: Vec<_> = files.into_iter().flatten().filter(|one| one.file_type().is_file()).collect();
    ensure!(left.is_empty(), "the objects of the collection are gone: {left:?}");
    house.verify()?;
    // All NARs stand, and the paths come back.
    let id = ended["id"].as_str().context("an id")?;
    let listed = lines(&house.larder.run(&["collect", "--undo", "--json"])?)?;
    ensure!(last(&listed, "collection")?["id"] == id, "{listed:?}");
    let undone = last(&house.collect(&["--undo", id])?, "summary")?;
    ensure!(undone["back"] == plan["paths"] && undone["lost"] == 0, "{undone}");
    ensure!(house.narinfos()? == before);
    house.verify()?;
    // What came back is young. A day later, it goes again.
    ensure!(last(&house.collect(&[])?, "plan")?["paths"] == 0);
    let_pass(house.directory.path(), DAY * 2)?;
    ensure!(last(&house.collect(&[])?, "plan")?["paths"] == plan["paths"]);
    Ok(())
}

#[test]
fn nars_go_when_no_narinfo_has_named_them_for_thirty_days() -> Result<()> {
    let house = House::new()?;
    house.pin_new()?;
    house.collect(&["--yes"])?;
    let nars = house.names("nar", "")?.len();
    // The first collection after that sees the NARs that nothing names.
    ensure!(last(&house.collect(&["--yes"])?, "summary")?["objects"] == 0);
    let_pass(house.directory.path(), DAY * 29)?;
    ensure!(last(&house.collect(&["--yes"])?, "summary")?["objects"] == 0);
    let_pass(house.directory.path(), DAY * 2)?;
    let ended = last(&house.collect(&["--yes"])?, "summary")?;
    let left = house.names("nar", "")?.len();
    ensure!(ended["objects"] == nars - left && left == house.narinfos()?.len(), "{ended} {nars} {left}");
    house.verify()?;
    // Nothing can be brought back any more.
    house.collect(&["--yes"])?;
    ensure!(house.larder.run(&["collect", "--undo", "--json"])?.stdout.is_empty());
    ensure!(house.names("larder/orphans", "")?.is_empty());
    Ok(())
}

#[test]
fn an_uncertain_view_ends_a_collection_before_the_first_deletion() -> Result<()> {
    let house = House::new()?;
    let before = house.narinfos()?;
    let refused = |what: &str, part: &str| -> Result<()> {
        for args in [&["--yes"][..], &[]] {
            let output = house.try_collect(args)?;
            ensure!(output.code() == 7 && output.stderr.contains(part), "{what}: {output:?}");
        }
        ensure!(house.narinfos()? == before, "{what}");
        Ok(())
    };
    refused("no rule", "no pin and no rule says what may go")?;
    house.pin_new()?;
    let pins = house.directory.path().join("larder/pins/system/broken");
    fs::create_dir_all(&pins)?;
    fs::write(pins.join("x.json"), "{")?;
    refused("a damaged pin", "cannot understand the pin")?;
    fs::remove_dir_all(&pins)?;
    let path = house.new.first().and_then(|one| one.closure.first()).context("a path")?;
    let hash = path.info.path.to_basename().to_string()[..32].to_owned();
    let file = house.directory.path().join(format!("{hash}.narinfo"));
    let narinfo = fs::read(&file)?;
    fs::write(&file, "StorePath: rubbish\n")?;
    refused("a damaged narinfo", "cannot be read")?;
    fs::write(&file, &narinfo)?;
    let foreign = String::from_utf8(narinfo)?.replace("URL: nar/", "URL: nar/0");
    let url = foreign.lines().find_map(|line| line.strip_prefix("URL: ")).context("a URL")?;
    let nar = house.directory.path().join(url);
    fs::copy(house.directory.path().join(url.replace("nar/0", "nar/")), nar)?;
    fs::write(&file, &foreign)?;
    refused("another program", "another program than larder")?;
    house.collect(&["--yes", "--foreign-writers"])?;
    house.verify()
}

#[test]
fn a_removed_path_is_gone_for_good_until_it_is_permitted_again() -> Result<()> {
    let house = House::new()?;
    house.pin_new()?;
    let generation = house.new.first().context("a generation")?;
    // All of a system refers to its first path.
    let path = generation.closure.first().context("a path")?.info.path.clone();
    let hash = path.to_basename().to_string()[..32].to_owned();
    let absolute = path.to_absolute_path();
    let quick = |args: &[&str]| house.larder.try_quick(&[&["remove", &absolute], args].concat(), DIVISOR);
    let refused = quick(&["--purge", "--yes"])?;
    ensure!(refused.code() == 7 && refused.stderr.contains("system/0"), "{refused:?}");
    let before = house.narinfos()?;
    quick(&["--purge", "--unpin"])?.ok()?;
    ensure!(house.narinfos()? == before, "nothing goes without `--yes`");
    let narinfo = fs::read_to_string(house.directory.path().join(format!("{hash}.narinfo")))?;
    let nar = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).context("a URL")?;
    quick(&["--purge", "--unpin", "--yes"])?.ok()?;
    ensure!(!house.narinfos()?.contains(&hash) && !house.directory.path().join(nar).exists());
    let system = generation.system.to_basename().to_string()[..32].to_owned();
    ensure!(!house.narinfos()?.contains(&system), "what refers to it goes, too");
    ensure!(house.names("larder/collections/removed", ".json")? == BTreeSet::from([hash.clone()]));
    house.verify()?;
    quick(&["--lift"])?.ok()?;
    ensure!(house.names("larder/collections/removed", ".json")?.is_empty());
    Ok(())
}

#[test]
fn a_bucket_of_format_1_is_collected_after_an_upgrade() -> Result<()> {
    let house = House::new()?;
    house.pin_new()?;
    let marker = house.directory.path().join("larder/format.json");
    fs::write(&marker, "{\"version\": 1, \"written_by\": \"larder\", \"conditional_writes\": true}\n")?;
    let refused = house.try_collect(&["--yes"])?;
    ensure!(refused.code() == 7 && refused.stderr.contains("larder upgrade"), "{refused:?}");
    // A writer of format 1 has a lease, and renews it no more.
    let lease = house.directory.path().join("larder/writers/0123456789abcdfghijklmnp.json");
    fs::write(&lease, "{\"since\": 1, \"renewed\": 1, \"version\": \"0.1.0\"}")?;
    let begun = std::time::Instant::now();
    let upgraded = house.larder.quick(&["upgrade"], DIVISOR)?;
    ensure!(upgraded.stderr.contains("waiting for 1 writer"), "{upgraded:?}");
    ensure!(begun.elapsed() > Duration::from_secs(5), "a lease is dead after 50 minutes by the divisor");
    ensure!(fs::read_to_string(&marker)?.contains("\"version\": 2"));
    house.collect(&["--yes"])?;
    ensure!(!lease.exists(), "the lease of a dead writer is removed");
    house.verify()
}

#[test]
fn what_cannot_be_mended_is_taken_back_with_what_refers_to_it() -> Result<()> {
    let house = House::new()?;
    house.pin_new()?;
    let generation = house.new.first().context("a generation")?;
    let path = generation.closure.first().context("a path")?.info.path.clone();
    let hash = path.to_basename().to_string()[..32].to_owned();
    let file = house.directory.path().join(format!("{hash}.narinfo"));
    let narinfo = fs::read_to_string(&file)?;
    let nar = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).context("a URL")?;
    fs::remove_file(house.directory.path().join(nar))?;
    let quick = |args: &[&str]| house.larder.try_quick(&[&["repair", "--yes"], args].concat(), DIVISOR);
    let left = quick(&[])?;
    ensure!(left.code() == 3 && left.stderr.contains("--take-back") && file.exists(), "{left:?}");
    let taken = quick(&["--take-back"])?;
    ensure!(taken.code() == 3 && !file.exists(), "{taken:?}");
    let system = generation.system.to_basename().to_string()[..32].to_owned();
    ensure!(!house.narinfos()?.contains(&system), "what refers to it goes, too");
    house.verify()
}
