//! A house in use: writers with overlapping closures, collectors, a verifier, a re-signer and clients work on one bucket,
//! through a bad network, and are killed. All times of the protocol are divided by one number, so that their ratios stay.

use anyhow::{Context, Result, bail, ensure};
use larder_tests::fault::{self, Chance};
use larder_tests::http::{self, request};
use larder_tests::larder::{LarderHome, faulty_binary};
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{KeyPair, NixHome, hash_part, narinfo_key, samples, versions};
use larder_tests::process::{Child, at_once};
use larder_tests::proxy::Proxy;
use larder_tests::servers::{Directory, Kind, S3Server};
use larder_tests::strict::{Narinfo, key_of};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::common::{Cases, Extent, attempt};

/// A lease holds for 2 seconds, and a late request is carried out within 2.5 seconds.
const DIVISOR: &str = "600";
/// What was pushed, or asked for, within this time stays.
const GRACE: Duration = Duration::from_secs(6);
/// The longest life of a process that is not killed.
const LONG: Duration = Duration::from_secs(60);
/// The number of tops, and of the libraries below them.
const TOPS: u32 = 60;
const LIBRARIES: u32 = 80;

/// Steps at which writers are killed.
const WRITING: [&str; 7] = [
    "request: before",
    "request: passed its fence",
    "request: answered",
    "directory: passed its fence",
    "publish: before",
    "session: begun",
    "session: rescued",
];
/// Steps at which collectors are killed.
const COLLECTING: [&str; 10] = [
    "collect: condemned",
    "collect: closing",
    "collect: saved",
    "collect: final",
    "collect: before a deletion",
    "collect: after a deletion",
    "collect: done",
    "collect: compacted",
    "request: passed its fence",
    "directory: passed its fence",
];

/// What has happened.
#[derive(Debug, Default)]
struct Counts {
    /// The kills by steps; under no name those at a moment.
    kills: Mutex<BTreeMap<String, usize>>,
    pushes: AtomicUsize,
    collections: AtomicUsize,
    deleted: AtomicUsize,
    checks: AtomicUsize,
    others: AtomicUsize,
}

impl Counts {
    fn killed(&self, at: &str) {
        let step = at.rsplit_once(':').map_or("", |(step, _)| step).to_owned();
        *self.kills.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entry(step).or_default() += 1;
    }

    fn text(&self) -> String {
        let kills = self.kills.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let get = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        format!(
            "{} kills {kills:?}, {} pushes, {} collections that deleted {} narinfos, {} verifications and signings, {} checks by clients",
            kills.values().sum::<usize>(),
            get(&self.pushes),
            get(&self.collections),
            get(&self.deleted),
            get(&self.others),
            get(&self.checks),
        )
    }
}

/// Where the bucket is.
enum Place {
    Directory(Directory),
    Server(Box<dyn S3Server>, Proxy),
}

/// The house.
struct House {
    place: Place,
    nix: NixHome,
    keys: [KeyPair; 2],
    tops: Vec<String>,
    /// The closure of each top: hash parts.
    closures: BTreeMap<String, BTreeSet<String>>,
    /// Until when each top is promised to clients.
    promised: Mutex<BTreeMap<String, Instant>>,
    is_over: AtomicBool,
    counts: Counts,
}

const BUCKET: &str = "house";

impl House {
    fn build(version: larder_tests::nix::NixVersion, kind: Option<Kind>, tag: &str) -> Result<Self> {
        let mut nix = NixHome::new(version)?;
        let tops = nix.build(&samples::overlapping(tag, TOPS, LIBRARIES))?;
        if nix.real_store_dir() == nix.store_dir() {
            nix.start_daemon()?;
        }
        let mut closures = BTreeMap::new();
        for top in &tops {
            let closure = nix.closure(std::slice::from_ref(top))?;
            closures.insert(top.clone(), closure.iter().map(|one| hash_part(&one.path).to_owned()).collect());
        }
        let place = match kind {
            None => Place::Directory(Directory::start()?),
            Some(kind) => {
                let server = kind.start_with_bucket(BUCKET)?;
                let proxy = Proxy::start(&server.endpoint())?;
                Place::Server(server, proxy)
            }
        };
        let keys = [nix.key_pair("house-1")?, nix.key_pair("house-2")?];
        let house = Self {
            place,
            nix,
            keys,
            tops,
            closures,
            promised: Mutex::default(),
            is_over: AtomicBool::new(false),
            counts: Counts::default(),
        };
        house.larder(0)?.run(&["init", "--private"])?;
        Ok(house)
    }

    /// A larder, whose first key is that of the house. The keys after it sign, too.
    fn larder(&self, more_keys: usize) -> Result<LarderHome> {
        let mut larder = LarderHome::new(&self.nix)?;
        if self.nix.real_store_dir() != self.nix.store_dir() {
            larder.set_string("real-store-dir", &self.nix.real_store_dir().display().to_string())?;
            let daemon = self.nix.version().bin_dir().join("nix-daemon");
            larder.set_string("nix-daemon", &daemon.display().to_string())?;
        }
        larder.use_keys(&self.keys[..=more_keys].iter().collect::<Vec<_>>())?;
        match &self.place {
            Place::Directory(directory) => larder.use_directory(directory.path())?,
            Place::Server(server, proxy) => larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?,
        }
        larder.set_timeout(LONG);
        let cache = larder.dir().join("cache").display().to_string();
        larder.set_env("XDG_CACHE_HOME", &cache);
        Ok(larder)
    }

    /// Runs a command of larder, and perhaps kills it: at a step, or at a time. Returns its output if it succeeds.
    fn live(
        &self,
        larder: &LarderHome,
        args: &[&str],
        chance: &mut Chance,
        points: &[&str],
    ) -> Result<Option<String>> {
        let (mut fault, mut until) = (String::new(), Instant::now() + LONG);
        match chance.below(4) {
            0 => fault = format!("{}:{}", points[chance.below(points.len())], 1 + chance.below(2)),
            1 => until = Instant::now() + Duration::from_millis(chance.below(12_000) as u64),
            _ => {}
        }
        let log: PathBuf = larder.dir().join("command.log");
        let mut command = larder.faulty_command(args, &fault)?;
        command.env("LARDER_TIME_DIVISOR", DIVISOR);
        let mut child = Child::spawn(&command, &log)?;
        loop {
            if let Some(status) = child.try_wait()? {
                if status.signal().is_some() {
                    self.counts.killed(&fault);
                }
                return Ok(status.success().then(|| child.log()));
            }
            if self.is_over.load(Ordering::SeqCst) && chance.below(50) == 0 || Instant::now() > until {
                self.counts.killed("");
                child.kill();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    /// Pushes random tops. What a push has reported is promised from its beginning on.
    fn write(&self, mut chance: Chance) -> Result<()> {
        let larder = self.larder(0)?;
        while self.goes_on() {
            let top = &self.tops[chance.below(self.tops.len())];
            let begun = Instant::now();
            if self.live(&larder, &["push", top], &mut chance, &WRITING)?.is_some() {
                self.counts.pushes.fetch_add(1, Ordering::SeqCst);
                let mut promised = self.promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let until = promised.entry(top.clone()).or_insert(begun);
                *until = (*until).max(begun + GRACE);
            }
            std::thread::sleep(Duration::from_millis(chance.below(3000) as u64));
        }
        Ok(())
    }

    fn collect(&self, mut chance: Chance) -> Result<()> {
        let larder = self.larder(0)?;
        let grace = format!("{}s", GRACE.as_secs());
        let args =
            ["collect", "--yes", "--json", "--grace", &grace, "--keep-within", &grace, "--nar-grace", "0s"];
        while self.goes_on() {
            if let Some(log) = self.live(&larder, &args, &mut chance, &COLLECTING)? {
                let lines =
                    log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                for line in lines.filter(|line| line["type"] == "summary") {
                    let paths = line["paths"].as_u64().unwrap_or_default();
                    let is_empty = paths == 0 && line["objects"] == 0;
                    self.counts.collections.fetch_add(usize::from(!is_empty), Ordering::SeqCst);
                    self.counts.deleted.fetch_add(usize::try_from(paths)?, Ordering::SeqCst);
                }
            }
            std::thread::sleep(Duration::from_millis(chance.below(500) as u64));
        }
        Ok(())
    }

    /// Signs anew with two keys, and drops the second again; and verifies.
    fn others(&self, mut chance: Chance) -> Result<()> {
        let (one, both) = (self.larder(0)?, self.larder(1)?);
        while self.goes_on() {
            for (larder, args) in
                [(&both, &["sign"][..]), (&one, &["verify"]), (&one, &["sign", "--drop", "house-2"])]
            {
                self.live(larder, args, &mut chance, &WRITING)?;
                self.counts.others.fetch_add(1, Ordering::SeqCst);
            }
            // New signatures make narinfos young.
            let until = Instant::now() + Duration::from_millis(9000 + chance.below(9000) as u64);
            while self.goes_on() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Takes random promised tops, and looks at random narinfos, as clients do.
    fn read(&self, mut chance: Chance, pinned: &[String]) -> Result<()> {
        while self.goes_on() {
            let promised: Vec<(String, Instant)> = {
                let promised = self.promised.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let never = Instant::now() + Duration::from_secs(3600);
                let pinned = pinned.iter().map(|top| (top.clone(), never));
                promised.iter().map(|(top, until)| (top.clone(), *until)).chain(pinned).collect()
            };
            let (top, until) = &promised[chance.below(promised.len())];
            if *until < Instant::now() + Duration::from_millis(500) {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            if let Err(error) = self.take(top) {
                // It may have taken so long that the promise is over, if nobody has pushed it again.
                ensure!(Instant::now() > *until, "a client cannot take {top}, which is promised: {error:#}");
            }
            self.glance(&mut chance)?;
            self.counts.checks.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes a top with its closure.
    fn take(&self, top: &str) -> Result<()> {
        let (mut next, mut seen) = (vec![narinfo_key(top)], BTreeSet::new());
        while let Some(key) = next.pop() {
            if !seen.insert(key.clone()) {
                continue;
            }
            let info = Narinfo::parse(&self.get(&key)?.with_context(|| format!("{key} is missing"))?)?;
            ensure!(self.exists(&info.url)?, "{} of {key} is missing", info.url);
            next.extend(info.references.iter().map(|base| key_of(base)));
        }
        Ok(())
    }

    /// Looks at one narinfo of those that may be there: if a client sees it, it sees its NAR and its references, too.
    fn glance(&self, chance: &mut Chance) -> Result<()> {
        let top = &self.tops[chance.below(self.tops.len())];
        let all: Vec<_> = self.closures[top].iter().collect();
        let key = format!("{}.narinfo", all[chance.below(all.len())]);
        let Some(bytes) = self.get(&key)? else { return Ok(()) };
        let info = Narinfo::parse(&bytes)?;
        let mut missing = Vec::new();
        if !self.exists(&info.url)? {
            missing.push(info.url.clone());
        }
        for base in &info.references {
            let reference = key_of(base);
            if !self.exists(&reference)? {
                missing.push(reference);
            }
        }
        // What refers to a path goes before the path.
        ensure!(
            missing.is_empty() || self.get(&key)?.as_ref() != Some(&bytes),
            "clients see {key}, but not {missing:?}"
        );
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Directory(directory) => match std::fs::read(directory.path().join(key)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            },
            Place::Server(server, _) => match server.public_base(BUCKET) {
                // Garage serves nobody without credentials.
                None => server.client().get(BUCKET, key),
                Some(base) => {
                    let answer = http::get(&format!("{base}/{key}"))?;
                    match answer.status() {
                        200 => Ok(Some(answer.body)),
                        404 => Ok(None),
                        status => bail!("{key}: {status}"),
                    }
                }
            },
        }
    }

    fn exists(&self, key: &str) -> Result<bool> {
        match &self.place {
            Place::Directory(directory) => Ok(directory.path().join(key).exists()),
            Place::Server(server, _) => match server.public_base(BUCKET) {
                None => Ok(server.client().get(BUCKET, key)?.is_some()),
                Some(base) => {
                    let answer = request("HEAD", &format!("{base}/{key}"), &[], b"")?;
                    ensure!(matches!(answer.status(), 200 | 404), "{key}: {}", answer.status());
                    Ok(answer.status() == 200)
                }
            },
        }
    }

    /// All keys that begin with a prefix.
    fn keys_below(&self, prefix: &str) -> Result<Vec<String>> {
        match &self.place {
            Place::Directory(directory) => {
                let files = walkdir::WalkDir::new(directory.path()).into_iter().flatten();
                let files = files.filter(|file| file.file_type().is_file());
                let keys = files.filter_map(|file| {
                    Some(file.path().strip_prefix(directory.path()).ok()?.display().to_string())
                });
                Ok(keys.filter(|key| key.starts_with(prefix)).collect())
            }
            Place::Server(server, _) => {
                Ok(server.client().list(BUCKET, prefix)?.into_iter().map(|(key, _)| key).collect())
            }
        }
    }

    /// Lives for this long.
    fn live_for(&self, time: Duration, pinned: &[String], mut chance: Chance) -> Result<()> {
        if let Place::Server(_, proxy) = &self.place {
            proxy.set_latency(Duration::from_millis(1));
            let rule = Mutex::new(Chance::new(chance.draw()));
            proxy.set_fault(move |_| {
                let mut chance = rule.lock().ok()?;
                (chance.below(500) == 0).then(|| fault::ALL[chance.below(fault::ALL.len())].1)
            });
        }
        let mut seed = || Chance::new(chance.draw());
        let (writers, collectors, readers) =
            ((0..6).map(|_| seed()).collect::<Vec<_>>(), [seed(), seed()], [seed(), seed(), seed()]);
        let other = seed();
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let guard = |result: Result<()>| {
                if result.is_err() {
                    self.is_over.store(true, Ordering::SeqCst);
                }
                result
            };
            let mut all = Vec::new();
            all.extend(writers.into_iter().map(|seed| scope.spawn(move || guard(self.write(seed)))));
            all.extend(collectors.into_iter().map(|seed| scope.spawn(move || guard(self.collect(seed)))));
            all.extend(readers.into_iter().map(|seed| scope.spawn(move || guard(self.read(seed, pinned)))));
            all.push(scope.spawn(move || guard(self.others(other))));
            let until = Instant::now() + time;
            while Instant::now() < until && self.goes_on() {
                std::thread::sleep(Duration::from_millis(50));
            }
            self.is_over.store(true, Ordering::SeqCst);
            all.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a panic"))).collect()
        });
        if let Place::Server(_, proxy) = &self.place {
            proxy.clear_fault();
        }
        results.into_iter().collect()
    }

    /// Ends what is open, collects all that no pin keeps, and checks that exactly the pins' closures are left.
    fn settle(&self, pinned: &[String]) -> Result<()> {
        let mut larder = self.larder(0)?;
        larder.set_timeout(LONG * 3);
        let args =
            ["collect", "--yes", "--json", "--grace", "0s", "--keep-within", "0s", "--nar-grace", "0s"];
        let divisor = DIVISOR.parse()?;
        for _ in 0..3 {
            larder.quick(&args, divisor).context("the last collections")?;
        }
        let narinfos: BTreeSet<String> = self
            .keys_below("")?
            .into_iter()
            .filter_map(|key| key.strip_suffix(".narinfo").map(str::to_owned))
            .collect();
        let wanted: BTreeSet<String> =
            pinned.iter().flat_map(|top| self.closures[top].iter().cloned()).collect();
        ensure!(narinfos == wanted, "left are {narinfos:?} instead of {wanted:?}");
        let nars = self.keys_below("nar/")?;
        ensure!(nars.len() <= wanted.len(), "{} NARs for {} paths", nars.len(), wanted.len());
        larder.run(&["verify", "--data"]).context("the bucket at the end")?;
        Ok(())
    }
}

fn one(kind: Option<Kind>, case: usize, mut chance: Chance, time: Duration) -> Result<String> {
    let version = versions().first().copied().context("a Nix")?;
    let house = House::build(version, kind, &format!("house-{case}"))?;
    let mut pinned = house.tops.clone();
    chance.shuffle(&mut pinned);
    pinned.truncate(3);
    let larder = house.larder(0)?;
    for (number, top) in pinned.iter().enumerate() {
        larder.run(&["push", top, "--pin", &format!("system/{number}")])?;
    }
    house.live_for(time, &pinned, chance)?;
    house.settle(&pinned)?;
    Ok(house.counts.text())
}

#[test]
fn a_house_in_use_loses_nothing_and_keeps_no_garbage() -> Result<()> {
    if need(Requirement::FaultyBuild).is_none() || versions().is_empty() {
        return Ok(());
    }
    let _ = faulty_binary("larder")?;
    let places = [None, Some(Kind::MinIo), Some(Kind::SeaweedFs), Some(Kind::Garage)];
    let here: Vec<_> = places.into_iter().filter(|kind| kind.is_none_or(Kind::is_here)).collect();
    let mut cases = Cases::new("house", here.len(), here.len(), Some(here.len()));
    let time = match Extent::of_run() {
        Extent::Full => Duration::from_secs(3600),
        Extent::Time(time) => time,
        Extent::Sample => Duration::from_secs(60),
    };
    let mut all = Vec::new();
    while let Some((case, chance)) = cases.next() {
        all.push((case, chance, cases.replay(case)));
    }
    // Most of the time, all of them wait.
    let texts = at_once(all, |(case, chance, replay)| {
        let kind = here[case % here.len()];
        let name = kind.map_or("directory".to_owned(), |kind| format!("{kind:?}"));
        let mut text = String::new();
        attempt(&replay, &format!("case {case} in {name}"), || {
            text = one(kind, case, chance, time)?;
            Ok(())
        })?;
        Ok(format!("{name}: {text}"))
    })?;
    cases.report(&texts.join("; "));
    Ok(())
}
