//! Runs one agent for a long time: the hook queues tens of thousands of builds while the bucket becomes unreachable and
//! reachable again. The memory of the agent must not grow, and the status must always be right. At the end, the bucket must
//! have every path, and the queue must be empty.
//!
//! `tests/soak` runs this program. It prints a line every ten seconds, and ends at the first error.

mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, versions};
use larder_tests::process::{clean_command, run};
use larder_tests::proxy::Proxy;
use larder_tests::servers::{Kind, S3Server};
use larder_tests::synthetic::SyntheticStore;
use watch::Watch;

const BUCKET: &str = "soak";
/// The number of builds whose closures overlap.
const BLOCK: usize = 50;
/// The number of hooks that run at the same time, as on a machine with two builds.
const BUILDERS: usize = 2;
/// The time between two outages of the bucket.
const REACHABLE: Duration = Duration::from_secs(20);
/// The duration of an outage.
const OUTAGE: Duration = Duration::from_secs(8);
/// The longest time that the agent may take to empty the queue after the last build, for each thousand builds.
const DRAIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let builds = std::env::args().nth(1).map_or(Ok(50_000), |word| word.parse());
    let Ok(builds) = builds else {
        eprintln!("usage: soak [BUILDS]");
        return ExitCode::from(2);
    };
    match Soak::prepare(builds).and_then(Soak::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A store, a server behind a proxy, and larder configured for both.
struct Soak {
    paths: usize,
    server: Box<dyn S3Server>,
    proxy: Proxy,
    store: SyntheticStore,
    larder: LarderHome,
    _nix: NixHome,
}

/// The progress of the builds.
struct Progress {
    queued: AtomicUsize,
    over: AtomicBool,
    begun: Instant,
}

impl Soak {
    /// Generates a store of `paths` paths, each of which is the output of one build, and starts the server.
    fn prepare(paths: usize) -> Result<Self> {
        say(&format!("{paths} builds"));
        let server = Kind::MinIo.start_with_bucket(BUCKET)?;
        let store = SyntheticStore::in_blocks(paths, BLOCK)?;
        store.write_files(0..paths)?;
        std::fs::create_dir_all(store.state_dir().join("gcroots/auto"))?;
        let version =
            *versions().first().context("no Nix to generate a key with: run `tests/provision nix`")?;
        let nix = NixHome::new(version)?;
        let mut larder = store.larder()?;
        larder.use_keys(&[&nix.key_pair("soak-1")?])?;
        larder.use_server(&*server, BUCKET)?;
        larder.run(&["init"])?;
        larder.run(&["queue", "create"])?;
        let proxy = Proxy::start(&server.endpoint())?;
        larder.use_server_at(&*server, &proxy.endpoint(), BUCKET)?;
        Ok(Self { paths, server, proxy, store, larder, _nix: nix })
    }

    /// Runs the agent, the builds and the outages, then checks the bucket, the queue and the memory.
    fn run(mut self) -> Result<()> {
        let larder = &self.larder;
        let mut agent = larder.agent(&[])?;
        agent.wait_until(Duration::from_secs(30), || {
            larder
                .run(&["status", "--json"])
                .is_ok_and(|status| status.stdout.contains("\"agentRunning\": true"))
        })?;
        let watch = Watch::of(larder, agent.pid());
        let begun = Instant::now();
        let paths: Vec<_> = self.store.paths().collect();
        let outages = build_through_outages(&watch, larder, &mut self.proxy, &paths)?;
        let took = begun.elapsed();
        agent.signal(rustix::process::Signal::TERM)?;
        let status = agent.wait(Duration::from_secs(60))?;
        ensure!(status.success(), "the agent failed: {status}\n{}", agent.log_tail());
        self.check_bucket_and_queue()?;
        let memory = watch.memory()?;
        say(&format!(
            "{} builds, {outages} outages, {} checks of the status, {} s",
            self.paths,
            watch.checks(),
            took.as_secs()
        ));
        say(&format!("peak memory in MiB, for each quarter: {memory:.0?}"));
        // In the first quarter, the agent still fills its caches.
        let (second, last) = (memory[1], memory[3]);
        ensure!(last <= 1.25 * second + 8.0, "the memory of the agent grows: {memory:.0?}");
        Ok(())
    }

    /// Fails unless the bucket has every path, and the queue and its links are gone.
    fn check_bucket_and_queue(&self) -> Result<()> {
        let objects = self.server.client().list(BUCKET, "")?;
        let narinfos = objects.iter().filter(|(key, _)| key.ends_with(".narinfo")).count();
        ensure!(narinfos == self.paths, "the bucket has {narinfos} narinfos of {} paths", self.paths);
        for folder in ["incoming", "work", "parked", "roots", "tmp"] {
            ensure!(is_empty(&self.larder.state_dir().join(folder))?, "the folder {folder}/ is not empty");
        }
        let roots = std::fs::read_dir(self.store.state_dir().join("gcroots/auto"))?
            .flatten()
            .filter(|entry| entry.path().metadata().is_ok())
            .count();
        ensure!(roots == 0, "{roots} garbage collector roots remain");
        Ok(())
    }
}

/// Runs the hook for all paths while the bucket has outages, and waits until the queue is empty. Returns the number of
/// outages.
fn build_through_outages(
    watch: &Watch,
    larder: &LarderHome,
    proxy: &mut Proxy,
    paths: &[String],
) -> Result<usize> {
    let progress =
        Progress { queued: AtomicUsize::new(0), over: AtomicBool::new(false), begun: Instant::now() };
    thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|index| {
                let progress = &progress;
                scope.spawn(move || build(larder, paths.iter().skip(index).step_by(BUILDERS), progress))
            })
            .collect();
        let outages = scope.spawn(|| cause_outages(proxy, &progress.over));
        let watched = watch_until_drained(watch, larder, &progress, paths.len());
        progress.over.store(true, Ordering::Relaxed);
        for builder in builders {
            builder.join().expect("a thread that builds panicked")?;
        }
        let outages = outages.join().expect("the thread that causes outages panicked")?;
        watched.map(|()| outages)
    })
}

/// Runs the hook for each path, as Nix does after a build.
fn build<'a>(
    larder: &LarderHome,
    paths: impl Iterator<Item = &'a String>,
    progress: &Progress,
) -> Result<()> {
    let hook = binary("larder-hook")?;
    for path in paths {
        if progress.over.load(Ordering::Relaxed) {
            break;
        }
        let mut command = clean_command(&hook);
        command.env("LARDER_CONFIG", larder.config_file()).env("OUT_PATHS", path);
        let output = run(&mut command, Duration::from_secs(60))?.ok()?;
        ensure!(output.stderr.is_empty(), "the hook printed: {}", output.stderr);
        progress.queued.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes the bucket unreachable again and again until `over` is set. At the end, the bucket is reachable. Returns the number
/// of outages.
fn cause_outages(proxy: &mut Proxy, over: &AtomicBool) -> Result<usize> {
    let wait = |time: Duration| {
        let until = Instant::now() + time;
        while Instant::now() < until && !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
    };
    let mut outages = 0;
    while !over.load(Ordering::Relaxed) {
        wait(REACHABLE);
        proxy.switch_off();
        outages += 1;
        wait(OUTAGE);
        proxy.switch_on()?;
        // This program does not read the log, which would fill the memory.
        proxy.clear_log();
    }
    Ok(outages)
}

/// Checks the status and the memory of the agent until all paths are queued and the queue is empty.
fn watch_until_drained(watch: &Watch, larder: &LarderHome, progress: &Progress, paths: usize) -> Result<()> {
    let mut all_queued = None;
    let mut next_message = Instant::now();
    loop {
        let queued = progress.queued.load(Ordering::Relaxed);
        let waiting = watch.check(queued, || progress.queued.load(Ordering::Relaxed))?;
        if Instant::now() >= next_message {
            next_message += Duration::from_secs(10);
            let (seconds, memory) = (progress.begun.elapsed().as_secs(), watch.memory_now()?);
            say(&format!("{seconds:>4} s: {queued} queued, {waiting} waiting, {memory:.0} MiB"));
        }
        if queued == paths {
            let since = *all_queued.get_or_insert_with(Instant::now);
            if waiting == 0 && is_empty(&larder.state_dir().join("roots"))? {
                return Ok(());
            }
            let limit = DRAIN * u32::try_from(paths.div_ceil(1000))?;
            ensure!(since.elapsed() < limit, "{waiting} paths still wait after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(dir)?.next().transpose()?.is_none())
}

fn say(message: &str) {
    eprintln!("soak: {message}");
}
