//! `larder recheck` finds what clients cannot take any more among the paths that the agent has relied on.

use anyhow::{Context, Result};
use larder_tests::nix::{narinfo_key, samples};
use larder_tests::process::{Output, eventually};
use larder_tests::proxy::Record;
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::order::behind_proxy;
use super::world::{Target, World, assert_said, field};

const SOON: Duration = Duration::from_secs(120);
/// The length of the chains: above the number of paths whose narinfos each push reads.
const CHAIN: u32 = 80;

/// Damage to a bucket that has a chain.
struct Damage {
    /// A path whose narinfo became rubbish of the same size.
    rubbish: String,
    /// A path whose narinfo is deleted.
    no_narinfo: String,
    /// A path whose NAR is deleted.
    no_nar: String,
    /// A path whose narinfo was replaced by the narinfo of other contents, signed by a stranger, of the same size.
    strange: String,
}

impl Damage {
    /// Damages the closure of the last path of a chain. What larder can mend lies below what it cannot mend.
    fn to(world: &World, last: &str) -> Result<Self> {
        let narinfo = |path: &str| world.narinfo(path)?.context("no narinfo");
        let [rubbish, no_narinfo, no_nar, strange] =
            [10, 20, 40, 60].map(|number| world.member(last, &format!("link-{number}")));
        let (rubbish, no_narinfo, no_nar, strange) = (rubbish?, no_narinfo?, no_nar?, strange?);
        let whole = narinfo(&rubbish)?;
        world.target.put(&narinfo_key(&rubbish), &vec![b'x'; whole.len()])?;
        world.target.delete(&narinfo_key(&no_narinfo))?;
        world.target.delete(field(&narinfo(&no_nar)?, "URL").context("no URL")?)?;
        let before = narinfo(&strange)?;
        let hashes = [&before, &whole].map(|text| field(text, "NarHash").unwrap_or_default().to_owned());
        let changed = before.replace(&hashes[0], &hashes[1]).replace("Sig: test-1:", "Sig: team-1:");
        assert_eq!(changed.len(), before.len());
        world.target.put(&narinfo_key(&strange), changed.as_bytes())?;
        Ok(Self { rubbish, no_narinfo, no_nar, strange })
    }

    /// Each damaged path, with a word of the reason.
    fn reasons(&self) -> [(&str, &str); 4] {
        [
            (&*self.rubbish, "it does not end with a line feed"),
            (&*self.no_narinfo, "the bucket does not have it any more"),
            (&*self.no_nar, "`larder push --adopt test-1` replaces it"),
            (&*self.strange, "`larder push --adopt team-1` replaces it"),
        ]
    }

    /// Checks that the output of a recheck names each path with its reason, and no other path.
    #[track_caller]
    fn assert_named(&self, rechecked: &Output) {
        assert_eq!(rechecked.lines().len(), 4, "{}{}", rechecked.stdout, rechecked.stderr);
        for (path, reason) in self.reasons() {
            let line = rechecked.lines().into_iter().find(|line| line.starts_with(&format!("{path}: ")));
            assert!(line.is_some_and(|line| line.contains(reason)), "{path}: {}", rechecked.stdout);
        }
    }

    /// Whether larder has mended what it may mend.
    fn is_mended(&self, world: &World) -> Result<bool> {
        for path in [&self.rubbish, &self.no_narinfo] {
            let narinfo = world.narinfo(path)?.unwrap_or_default();
            let Some(nar) = field(&narinfo, "URL") else { return Ok(false) };
            if world.target.get(nar)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks that the other two paths are parked.
    #[track_caller]
    fn assert_parked(&self, world: &World) -> Result<()> {
        let status = world.status()?;
        let parked = status["parked"].as_array().context("no list")?;
        let own: Vec<_> = parked.iter().filter(|one| one["blockedBy"].is_null()).collect();
        assert_eq!(own.len(), 2, "{status:#}");
        for (path, reason) in &self.reasons()[2..] {
            let found = own.iter().find(|one| one["path"] == *path).and_then(|one| one["reason"].as_str());
            assert!(found.is_some_and(|found| found.contains(reason)), "{path}: {status:#}");
        }
        Ok(())
    }
}

/// The base names on the list of the agent.
fn listed(world: &World) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(world.larder.state_dir().join("state/relied-on"))?;
    Ok(text.lines().skip(1).map(str::to_owned).collect())
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

#[test]
fn a_recheck_names_what_clients_cannot_take_and_the_agent_mends_or_parks_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let chain = |length| samples::chain("recheck", length);
    let last = world.nix.build(&chain(CHAIN))?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    assert_eq!(listed(&world)?.len(), CHAIN as usize);
    let sound = world.larder.run(&["recheck", "--rate", "1000"])?;
    assert!(sound.stderr.contains("examined 80 paths; clients can take them all"), "{}", sound.stderr);
    assert!(sound.stdout.is_empty() && world.is_queue_empty());

    let damage = Damage::to(&world, &last)?;
    let shown = world.larder.run(&["recheck", "--rate", "1000", "--dry-run"])?;
    damage.assert_named(&shown);
    assert_eq!(shown.stdout.matches("(would be queued again)").count(), 4, "{}", shown.stdout);
    assert!(world.is_queue_empty(), "a dry run has queued something");
    let rechecked = world.larder.run(&["recheck", "--rate", "1000"])?;
    damage.assert_named(&rechecked);
    assert_eq!(rechecked.stdout.matches("(queued again)").count(), 4, "{}", rechecked.stdout);
    // What waits in the queue is not queued twice.
    world.larder.run(&["recheck", "--rate", "1000"])?;
    assert_eq!(world.status()?["queued"]["paths"], 4);

    let flushed = world.larder.try_run(&["flush", "--wait"])?;
    assert_said(&flushed, 3, &["parked", name(&damage.no_nar), name(&damage.strange)]);
    assert!(damage.is_mended(&world)?);
    damage.assert_parked(&world)?;

    // A push of many paths that refer to parked paths does not believe a listing about them.
    world.nix.build(&chain(CHAIN + 1))?;
    assert_eq!(world.larder.try_run(&["flush", "--wait"])?.code(), 3);
    damage.assert_parked(&world)?;
    let again = world.larder.try_run(&["recheck", "--rate", "1000"])?;
    assert_said(&again, 3, &["clients cannot take 2 of them; queued 0"]);
    assert_eq!(again.stdout.matches("(parked, see `larder status`)").count(), 2, "{}", again.stdout);

    let adopt = ["push", "--adopt", "test-1", "--adopt", "team-1", &damage.no_nar, &damage.strange];
    world.larder.run(&adopt)?;
    world.larder.run(&["retry", "--all"])?;
    world.larder.run(&["flush", "--wait"])?;
    assert_eq!(world.status()?["parked"].as_array().map(Vec::len), Some(0));
    world.larder.run(&["recheck", "--rate", "1000"])?;
    let client = world.nix.twin()?;
    let base = world.target.public_base().context("a bucket that clients can read")?;
    client.substitute(&[last], &base, &world.key.public)
}

#[test]
fn an_agent_that_knows_the_paths_from_before_reads_them_again_after_a_recheck() -> Result<()> {
    let Some((mut world, proxy)) = behind_proxy()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let chain = |length| samples::chain("stale", length);
    let last = world.nix.build(&chain(CHAIN))?.remove(0);
    let mut agent = world.agent_of_the_queue(&["--drain", "600"])?;
    world.larder.run(&["flush", "--wait"])?;
    // The upload of another build keeps the session of the agent open.
    let is_first = AtomicBool::new(true);
    let gate = proxy.hold(move |record| {
        record.method == "PUT" && record.path.contains("/nar/") && is_first.swap(false, Ordering::Relaxed)
    });
    world.nix.build(&samples::big("stale", 1))?;
    gate.wait_for(1, SOON)?;

    let damage = Damage::to(&world, &last)?;
    // The next push relies on what the session knows.
    let next = world.nix.build(&chain(CHAIN + 1))?.remove(0);
    eventually("a push above the damage", SOON, || world.narinfo(&next).is_ok_and(|found| found.is_some()))?;
    damage.assert_named(&world.larder.run(&["recheck", "--rate", "1000"])?);
    let is_settled = || {
        let parked = world.status().map(|status| status["parked"].as_array().map_or(0, Vec::len));
        parked.is_ok_and(|parked| parked == 2) && damage.is_mended(&world).unwrap_or(false)
    };
    eventually("the damage mended or parked", SOON, is_settled)?;
    damage.assert_parked(&world)?;
    assert_eq!(gate.waiting(), 1, "the session has ended");
    gate.open();
    agent.signal(Signal::TERM)?;
    assert!(agent.wait(SOON)?.success(), "{}", agent.log());
    Ok(())
}

#[test]
fn a_lost_or_damaged_list_costs_only_the_recheck_of_its_paths() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let list = world.larder.state_dir().join("state/relied-on");
    // No agent has run.
    let none = world.larder.run(&["recheck"])?;
    assert!(none.stderr.contains("examined 0 paths"), "{}", none.stderr);
    let app = world.nix.build(&samples::app("listed"))?.remove(0);
    world.larder.run(&["flush", "--wait"])?;
    assert_eq!(listed(&world)?.len(), 3);

    let whole = std::fs::read(&list)?;
    // Rubbish after the first line, and a last line that is cut off.
    let first = whole.iter().position(|byte| *byte == b'\n').context("no first line")? + 1;
    let (head, names) = whole[..whole.len() - 2].split_at(first);
    let cut = [head, b"rubbish\n\xff\xfe\0\n\n../..\n", names].concat();
    for (damaged, left) in [(&cut[..], 2), (b"", 0), (b"Bucket: s3://elsewhere\n", 0)] {
        std::fs::write(&list, damaged)?;
        let rechecked = world.larder.run(&["recheck"])?;
        let expected = format!("examined {left} paths");
        assert!(rechecked.stderr.contains(&expected), "no `{expected}`: {}", rechecked.stderr);
    }
    std::fs::remove_file(&list)?;
    assert!(world.larder.run(&["recheck"])?.stderr.contains("examined 0 paths"));
    // The next push finds the paths again, and lists them.
    world.larder.run(&["catch-up", "--all"])?;
    world.larder.run(&["flush", "--wait"])?;
    assert!(listed(&world)?.contains(&name(&app).to_owned()));
    Ok(())
}

#[test]
fn paths_that_left_the_store_are_judged_alone_and_leave_the_list_when_the_bucket_has_lost_them() -> Result<()>
{
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let paths = ["sound", "no nar", "no narinfo"];
    let built = paths.map(|tag| Ok::<_, anyhow::Error>(world.nix.build(&samples::single(tag))?.remove(0)));
    let [sound, no_nar, no_narinfo] = built;
    let (sound, no_nar, no_narinfo) = (sound?, no_nar?, no_narinfo?);
    world.larder.run(&["flush", "--wait"])?;
    world.nix.gc()?;
    assert!(!world.nix.is_valid(&sound));
    world.larder.run(&["recheck"])?;
    let narinfo = world.narinfo(&no_nar)?.context("no narinfo")?;
    world.target.delete(field(&narinfo, "URL").context("no URL")?)?;
    world.target.delete(&narinfo_key(&no_narinfo))?;
    let rechecked = world.larder.try_run(&["recheck"])?;
    assert_said(&rechecked, 3, &["examined 3 paths", "cannot take 1 of them", "the bucket: 1"]);
    let lines = rechecked.lines();
    let named = lines.len() == 1 && lines[0].starts_with(&no_nar) && lines[0].contains("not in this store");
    assert!(named, "{}", rechecked.stdout);
    assert!(world.is_queue_empty());
    let mut left = listed(&world)?;
    left.sort();
    let mut expected = [name(&sound), name(&no_nar)];
    expected.sort_unstable();
    assert_eq!(left, expected);
    Ok(())
}

#[test]
fn a_recheck_needs_a_bucket_that_is_prepared() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.nix.build(&samples::single("unprepared"))?;
    world.larder.run(&["flush", "--wait"])?;
    let Target::Directory(directory) = &world.target else { return Ok(()) };
    // Nothing is queued because everything seems to be missing.
    for key in ["larder/format.json", "nix-cache-info"] {
        let hidden = directory.path().join("hidden");
        std::fs::rename(directory.path().join(key), &hidden)?;
        assert_said(&world.larder.try_run(&["recheck"])?, 7, &["`larder init`"]);
        std::fs::rename(&hidden, directory.path().join(key))?;
    }
    assert!(world.is_queue_empty());
    Ok(())
}

/// The largest number of requests that ran at the same time.
fn most_at_once(log: &[Record]) -> usize {
    let running =
        |at: u64| log.iter().filter(move |one| one.start <= at && one.end.is_none_or(|end| at < end));
    log.iter().map(|one| running(one.start).count()).max().unwrap_or_default()
}

#[test]
fn a_recheck_only_reads_a_few_objects_at_a_time_and_keeps_its_rate() -> Result<()> {
    let Some((mut world, proxy)) = behind_proxy()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.nix.build(&samples::chain("rate", 40))?;
    world.larder.run(&["flush", "--wait"])?;
    proxy.clear_log();
    proxy.set_latency(Duration::from_millis(30));
    world.larder.run(&["recheck", "--rate", "10000"])?;
    let log = proxy.log();
    let count = |method: &str, end: &str| {
        log.iter().filter(|one| one.method == method && one.path.ends_with(end)).count()
    };
    assert_eq!((count("GET", ".narinfo"), count("HEAD", ".nar.zst")), (40, 40), "{log:?}");
    // The format and the cache info are read before.
    assert_eq!(log.len(), 40 + 40 + 2, "{log:?}");
    assert!(log.iter().all(|one| matches!(&*one.method, "GET" | "HEAD")), "{log:?}");
    assert!(most_at_once(&log) <= 4, "{} requests at the same time", most_at_once(&log));
    proxy.set_latency(Duration::ZERO);

    // 80 requests have 79 distances, each of a fortieth of a second.
    let begun = Instant::now();
    world.larder.run(&["recheck", "--rate", "40"])?;
    assert!(begun.elapsed() >= Duration::from_secs(1) / 40 * 79, "{:?}", begun.elapsed());
    Ok(())
}
