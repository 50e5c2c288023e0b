//! A long day: tens of thousands of builds are queued by the real hook while the bucket comes and goes, and one agent
//! works them off. Memory must be flat, the status right at every look, and in the end nothing may be missing.
//!
//! Run by `tests/soak`. Prints a line every ten seconds, and fails on the first thing that is wrong.

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
use larder_tests::servers::Kind;
use larder_tests::synthetic::SyntheticStore;
use watch::Watch;

const BUCKET: &str = "soak";
/// Builds whose closures overlap.
const BLOCK: usize = 50;
/// Hooks at the same time, as on a machine with two builds.
const BUILDERS: usize = 2;
/// How long the bucket is there, and away.
const THERE: Duration = Duration::from_secs(20);
const AWAY: Duration = Duration::from_secs(8);
/// How long the queue may take to drain once all is queued, for each thousand builds.
const DRAIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let paths = std::env::args().nth(1).map_or(Ok(50_000), |word| word.parse());
    let Ok(paths) = paths else {
        eprintln!("usage: soak [BUILDS]");
        return ExitCode::from(2);
    };
    match soak(paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(paths: usize) -> Result<()> {
    say(&format!("{paths} builds"));
    let server = Kind::MinIo.start_with_bucket(BUCKET)?;
    let store = SyntheticStore::in_blocks(paths, BLOCK)?;
    store.write_files(0..paths)?;
    std::fs::create_dir_all(store.state_dir().join("gcroots/auto"))?;
    let version = *versions().first().context("no Nix here to make a key with")?;
    let nix = NixHome::new(version)?;
    let key = nix.key_pair("soak-1")?;
    let mut larder = store.larder()?;
    larder.use_keys(&[&key])?;
    larder.use_server(&*server, BUCKET)?;
    larder.run(&["init"])?;
    larder.run(&["queue", "create"])?;
    let mut proxy = Proxy::start(&server.endpoint())?;
    larder.use_server_at(&*server, &proxy.endpoint(), BUCKET)?;

    let mut agent = larder.agent(&[])?;
    agent.wait_until(Duration::from_secs(30), || {
        larder.run(&["status", "--json"]).is_ok_and(|status| status.stdout.contains("\"agentRunning\": true"))
    })?;
    let watch = Watch::of(&larder, agent.pid());
    let (queued, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let all: Vec<_> = store.paths().collect();
    let begun = Instant::now();
    let outages = thread::scope(|scope| -> Result<usize> {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|which| {
                let (larder, all, queued, over) = (&larder, &all, &queued, &over);
                scope.spawn(move || build(larder, all.iter().skip(which).step_by(BUILDERS), queued, over))
            })
            .collect();
        let weather = scope.spawn(|| come_and_go(&mut proxy, &over));
        let watched = watch_until_drained(&watch, &larder, &queued, paths, begun);
        over.store(true, Ordering::Relaxed);
        for builder in builders {
            builder.join().expect("a builder panicked")?;
        }
        let outages = weather.join().expect("the weather panicked")?;
        watched.map(|()| outages)
    })?;
    let took = begun.elapsed();
    agent.signal(rustix::process::Signal::TERM)?;
    ensure!(agent.wait(Duration::from_secs(60))?.success(), "the agent ended badly: {}", agent.log_tail());

    let narinfos = server.client().list(BUCKET, "")?.into_iter().filter(|(key, _)| key.ends_with(".narinfo"));
    let narinfos = narinfos.count();
    ensure!(narinfos == paths, "{narinfos} narinfos in the bucket");
    for place in ["incoming", "work", "parked", "roots", "tmp"] {
        ensure!(is_empty(&larder.state_dir().join(place))?, "something is left in {place}/");
    }
    let left = std::fs::read_dir(store.state_dir().join("gcroots/auto"))?
        .flatten()
        .filter(|entry| entry.path().metadata().is_ok())
        .count();
    ensure!(left == 0, "{left} roots are left");
    let memory = watch.memory()?;
    say(&format!(
        "{paths} builds, {outages} outages, {} looks at the status, {} s",
        watch.looks(),
        took.as_secs()
    ));
    say(&format!("memory in MiB, by quarters: {:.0?}", memory));
    let (first, last) = (memory[1], memory[3]);
    ensure!(last <= 1.25 * first + 8.0, "memory grows: {memory:.0?}");
    Ok(())
}

/// What Nix does after each build.
fn build<'a>(
    larder: &LarderHome,
    paths: impl Iterator<Item = &'a String>,
    queued: &AtomicUsize,
    over: &AtomicBool,
) -> Result<()> {
    let hook = binary("larder-hook")?;
    for path in paths {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let mut command = clean_command(&hook);
        command.env("LARDER_CONFIG", larder.config_file()).env("OUT_PATHS", path);
        let output = run(&mut command, Duration::from_secs(60))?.ok()?;
        ensure!(output.stderr.is_empty(), "the hook says: {}", output.stderr);
        queued.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes the bucket away again and again; gives it back in the end.
fn come_and_go(proxy: &mut Proxy, over: &AtomicBool) -> Result<usize> {
    let wait = |time: Duration| {
        let until = Instant::now() + time;
        while Instant::now() < until && !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
    };
    let mut outages = 0;
    while !over.load(Ordering::Relaxed) {
        wait(THERE);
        proxy.switch_off();
        outages += 1;
        wait(AWAY);
        proxy.switch_on()?;
        // It is not for the order that this is run, and the log would fill the memory.
        proxy.clear_log();
    }
    Ok(outages)
}

fn watch_until_drained(
    watch: &Watch,
    larder: &LarderHome,
    queued: &AtomicUsize,
    paths: usize,
    begun: Instant,
) -> Result<()> {
    let mut all_queued = None;
    let mut next = Instant::now();
    loop {
        let before = queued.load(Ordering::Relaxed);
        let waiting = watch.look(before, || queued.load(Ordering::Relaxed))?;
        if Instant::now() >= next {
            next += Duration::from_secs(10);
            let memory = watch.now()?;
            say(&format!(
                "{:>4} s: {before} queued, {waiting} wait, {memory:.0} MiB",
                begun.elapsed().as_secs()
            ));
        }
        if before == paths {
            let since = *all_queued.get_or_insert_with(Instant::now);
            if waiting == 0 && is_empty(&larder.state_dir().join("roots"))? {
                return Ok(());
            }
            let patience = DRAIN * u32::try_from(paths.div_ceil(1000))?;
            ensure!(since.elapsed() < patience, "{waiting} still wait");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(dir)?.next().transpose()?.is_none())
}

fn say(what: &str) {
    eprintln!("soak: {what}");
}
