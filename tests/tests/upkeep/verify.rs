//! `larder verify` finds and names each fault of a damaged bucket, and no fault in a sound one.

use anyhow::{Context, Result, ensure};
use larder_tests::damage::{Damage, Victim};
use larder_tests::larder::LarderHome;
use larder_tests::nix::{NixVersion, samples, versions};
use larder_tests::process::Output;
use larder_tests::servers::{Directory, Kind};
use larder_tests::synthetic::SyntheticStore;
use larder_tests::world::{Target, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A fault: its kind and its object.
pub(crate) type Found = BTreeSet<(String, String)>;

/// The length of the chain of paths in a bucket. Each damage hits a link of its own.
const CHAIN: u32 = 60;

/// The lines of a type in the JSON output.
pub(crate) fn lines(output: &Output, kind: &str) -> Result<Vec<Value>> {
    let parsed =
        output.lines().iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<Value>, _>>()?;
    Ok(parsed.into_iter().filter(|line| line["type"] == kind).collect())
}

/// Runs `larder verify --json` with these words, and checks the exit code. Returns the faults.
pub(crate) fn verify(larder: &LarderHome, words: &[&str], code: i32) -> Result<Found> {
    let words = [&["verify", "--json"], words].concat();
    let output = larder.try_run(&words)?;
    ensure!(output.code() == code, "{words:?}: {}\n{}{}", output.code(), output.stdout, output.stderr);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let faults = lines(&output, "fault")?;
    for fault in &faults {
        ensure!(!text(&fault["consequence"]).is_empty() && !text(&fault["remedy"]).is_empty(), "{fault}");
    }
    Ok(faults.iter().map(|fault| (text(&fault["kind"]), text(&fault["object"]))).collect())
}

/// A bucket with a chain, and the links of the chain from the first to the last.
pub(crate) struct Ground {
    pub(crate) world: World,
    pub(crate) links: Vec<String>,
    sound: BTreeMap<String, Vec<u8>>,
}

impl Ground {
    pub(crate) fn new(version: NixVersion, target: Target, tag: &str) -> Result<Self> {
        let world = World::new(version, target)?;
        let last = world.nix.build(&samples::chain(tag, CHAIN))?.remove(0);
        world.larder.run(&["push", &last])?;
        let closure = world.nix.closure(&[last])?;
        let mut links: Vec<_> = closure.into_iter().map(|info| info.path).collect();
        let number = |path: &str| path.rsplit('-').next().and_then(|end| end.parse::<u32>().ok());
        links.sort_by_key(|path| number(path));
        ensure!(links.len() == CHAIN as usize, "{links:?}");
        let keys = world.target.list()?.into_keys().filter(|key| !key.starts_with("larder/writers/"));
        let sound = keys.map(|key| Ok((key.clone(), world.target.get(&key)?.context("no object")?)));
        let sound = sound.collect::<Result<_>>()?;
        Ok(Self { world, links, sound })
    }

    /// The paths for one damage.
    pub(crate) fn victim(&self, number: usize) -> Victim<'_> {
        let at = 2 + 2 * number;
        Victim { path: &self.links[at], referrer: &self.links[at + 1], sound: &self.links[0] }
    }

    /// Plants all damage but that of `nix-cache-info`. Returns what `larder verify` should find.
    fn damage(&self, in_nars: bool) -> Result<Found> {
        let mut planted = Found::new();
        for (number, damage) in Damage::ALL.into_iter().enumerate().skip(1) {
            let named = damage.plant(&self.world.target, self.victim(number))?;
            if let Some(object) = named.filter(|_| in_nars || !damage.is_in_nars()) {
                planted.insert((damage.fault().to_owned(), object));
            }
        }
        Ok(planted)
    }

    /// Makes the bucket what it was.
    pub(crate) fn mend(&self) -> Result<()> {
        for key in self.world.target.list()?.into_keys().filter(|key| !self.sound.contains_key(key)) {
            self.world.target.delete(&key)?;
        }
        self.sound.iter().try_for_each(|(key, bytes)| self.world.target.put(key, bytes))
    }
}

/// The targets of this machine.
pub(crate) fn targets() -> Result<Vec<(String, Target)>> {
    let mut targets = vec![("directory".to_owned(), Target::Directory(Directory::start()?))];
    for kind in [Kind::MinIo, Kind::SeaweedFs] {
        if kind.is_here() {
            targets.push((format!("{kind:?}"), Target::server(kind)?));
        }
    }
    Ok(targets)
}

#[test]
fn each_damage_is_found_and_named_and_a_sound_bucket_has_none() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    for (name, target) in targets()? {
        let ground = Ground::new(version, target, &name)?;
        let larder = &ground.world.larder;
        ensure!(verify(larder, &[], 0)?.is_empty(), "{name}: a sound bucket has faults");
        let planted = ground.damage(false)?;
        // Once with the records of the sound bucket, and once with those of the damaged one.
        for run in ["first", "second"] {
            let found = verify(larder, &[], 3)?;
            ensure!(found == planted, "{name}, {run}: {found:#?}\ninstead of {planted:#?}");
        }
        ground.mend()?;
        let leftovers: Found =
            verify(larder, &[], 0)?.into_iter().filter(|(kind, _)| kind != "unfinished-upload").collect();
        ensure!(leftovers.is_empty(), "{name}, mended: {leftovers:#?}");
        if let Some(object) = Damage::CacheInfo.plant(&ground.world.target, ground.victim(0))? {
            let output = larder.try_run(&["verify", "--json"])?;
            ensure!(output.code() != 0, "{name}: {}", output.stdout);
            ensure!(
                lines(&output, "fault")?.iter().any(|fault| fault["object"] == *object),
                "{}",
                output.stdout
            );
        }
    }
    Ok(())
}

#[test]
fn the_bytes_of_nars_are_judged_with_data_alone() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?), "data")?;
    let larder = &ground.world.larder;
    ensure!(verify(larder, &["--data"], 0)?.is_empty());
    let planted = ground.damage(true)?;
    ensure!(planted.iter().any(|(kind, _)| kind == "nar-contents"));
    let found = verify(larder, &["--data"], 3)?;
    ensure!(found == planted, "{found:#?}\ninstead of {planted:#?}");
    Ok(())
}

#[test]
fn people_read_consequences_and_remedies_and_paths_limit_what_is_examined() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?), "people")?;
    let larder = &ground.world.larder;
    let victim = Victim { path: &ground.links[30], referrer: &ground.links[31], sound: &ground.links[0] };
    Damage::NoNar.plant(&ground.world.target, victim)?;
    let output = larder.try_run(&["verify"])?;
    ensure!(output.code() == 3, "{}{}", output.stdout, output.stderr);
    for word in
        ["paths without their NARs", "-link-30: its NAR", "29 paths above it", "remedy: `larder repair`"]
    {
        ensure!(output.stdout.contains(word), "no `{word}` in {}", output.stdout);
    }
    ensure!(!output.stdout.contains("link-31"), "an affected path is no fault: {}", output.stdout);
    // Below the damage, all is sound; above it, it is found.
    ensure!(verify(larder, &[&ground.links[29]], 0)?.is_empty());
    ensure!(verify(larder, &[&ground.links[40]], 3)?.len() == 1);
    // A person who has no store and no secret key, but an address and a public key.
    let mut reader = LarderHome::bare()?;
    if let Target::Directory(directory) = &ground.world.target {
        reader.use_directory(directory.path())?;
    }
    reader.set_string("daemon-socket", "/nonexistent/socket")?;
    ensure!(verify(&reader, &["--key", &ground.world.key.public], 3)?.len() == 1);
    let other = ground.world.nix.key_pair("other-1")?;
    let untrusted = verify(&reader, &["--key", &other.public], 3)?;
    ensure!(
        untrusted.iter().filter(|(kind, _)| kind == "untrusted").count() == CHAIN as usize,
        "{untrusted:?}"
    );
    // The judgement by the other key is not that by the first.
    ensure!(verify(&reader, &["--key", &ground.world.key.public], 3)?.len() == 1);
    Ok(())
}

#[test]
fn a_bucket_has_no_fault_while_a_push_runs() -> Result<()> {
    const PATHS: usize = 3000;
    for (name, target) in targets()? {
        let store = SyntheticStore::start(PATHS)?;
        store.write_files(0..PATHS)?;
        let mut larder = store.larder()?;
        match &target {
            Target::Directory(directory) => larder.use_directory(directory.path())?,
            Target::Server(server) => larder.use_server(&**server, larder_tests::world::BUCKET)?,
        }
        let key = larder.dir().join("push.sec");
        larder::config::key_files::write_secret_key(
            &larder::format::signature::SecretKey::generate("push-1")?,
            &key,
        )?;
        larder.set("signing-key-files", &format!("[{:?}]", key.display().to_string()))?;
        larder.run(&["init", "--private"])?;
        let last = store.paths().next_back().context("no paths")?;
        let mut during = 0;
        let pushed = std::thread::scope(|scope| {
            let push = scope.spawn(|| larder.run(&["push", &last]));
            while !push.is_finished() {
                let found = verify(&larder, &[], 0)?;
                ensure!(found.is_empty(), "{name}: {found:#?}");
                during += 1;
            }
            push.join().map_err(|_| anyhow::anyhow!("the push panicked"))?
        });
        pushed?;
        ensure!(during > 2, "{name}: only {during} verifications ran beside the push");
        ensure!(verify(&larder, &[], 0)?.is_empty());
    }
    Ok(())
}
