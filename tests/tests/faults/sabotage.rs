//! Would the tests notice a larder whose writers ignore collections? Here one is made to: it neither waits, nor rescues, nor
//! looks at its lease before it sends. A process is stopped where this matters, and the checks must find it out each time; with
//! the same timing, the right larder passes.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::samples;
use larder_tests::process::{Child, at_once, eventually, is_stopped};
use larder_tests::proxy::Proxy;
use larder_tests::servers::Kind;
use rustix::process::Signal;
use std::time::Duration;

use super::common::Ground;

/// A lease holds for 20 seconds, long enough for a push beside a stopped collector on a busy machine. A lease is dead after 50
/// seconds, and a collection waits 25 for late requests. Both larders run at the same time.
const DIVISOR: u32 = 60;
const LONG: Duration = Duration::from_secs(300);
/// How long the right larder is seen to wait.
const PUSH: Duration = Duration::from_secs(4);
const COLLECT: [&str; 8] = ["collect", "--yes", "--grace", "0s", "--keep-within", "0s", "--nar-grace", "0s"];
const IGNORES: &str = "ignores-collections";

/// A bucket that holds a path which no pin keeps, and a path that is to be pushed above the same references.
struct Place {
    ground: Ground,
    old: String,
    new: String,
}

impl Place {
    fn new(name: &str) -> Result<Option<Self>> {
        if need(Requirement::FaultyBuild).is_none() {
            return Ok(None);
        }
        let Some(ground) = Ground::new(Kind::MinIo)? else { return Ok(None) };
        let tops = ground.nix.build(&samples::overlapping(name, 2, 12))?;
        let [old, new] = &tops[..] else { anyhow::bail!("two tops") };
        let (old, new) = (old.clone(), new.clone());
        Ok(Some(Self { ground, old, new }))
    }

    /// A larder with a bucket of its own, in which the old path is.
    fn larder(&self, bucket: &str) -> Result<(LarderHome, Proxy)> {
        self.ground.bucket(bucket)?;
        let proxy = Proxy::start(&self.ground.server.endpoint())?;
        let mut larder = self.ground.larder(&self.ground.nix, &self.ground.key, &proxy, bucket)?;
        larder.set_timeout(LONG);
        larder.run(&["push", &self.old])?;
        Ok((larder, proxy))
    }

    /// Runs both larders. `found_out` runs one, and tells whether the bucket is broken afterwards.
    fn compare(
        &self,
        name: &str,
        found_out: impl Fn(&LarderHome, &str) -> Result<bool> + Sync,
    ) -> Result<()> {
        at_once(vec![("", true, "right"), (IGNORES, false, "wrong")], |(word, is_right, which)| {
            let (larder, _proxy) = self.larder(&format!("{name}-{which}"))?;
            ensure!(found_out(&larder, word)? != is_right, "`{word}`: the checks say the contrary");
            Ok(())
        })?;
        Ok(())
    }

    /// Whether a client cannot use the new path that a push has called pushed, or the bucket is not whole.
    fn is_broken(&self, larder: &LarderHome, says_pushed: bool) -> Result<bool> {
        let path = larder.try_run(&["verify", &self.new])?.code();
        let whole = larder.try_run(&["verify"])?.code();
        ensure!([path, whole].iter().all(|code| [0, 3].contains(code)), "verify: exits {path}, {whole}");
        Ok(whole == 3 || says_pushed && path == 3)
    }
}

fn start(larder: &LarderHome, args: &[&str], fault: &str, log: &str) -> Result<Child> {
    let mut command = larder.faulty_command(args, fault)?;
    command.env("LARDER_TIME_DIVISOR", DIVISOR.to_string());
    Child::spawn(&command, &larder.dir().join(log))
}

fn await_stop(child: &Child) -> Result<()> {
    eventually("the process stops", LONG, || is_stopped(child.pid())).with_context(|| child.log_tail())
}

#[test]
fn a_writer_that_uses_what_a_collection_removes_is_found_out() -> Result<()> {
    let Some(place) = Place::new("sabotage-deletion")? else { return Ok(()) };
    place.compare("deletion", |larder, word| {
        let mut collector = start(larder, &COLLECT, "stop collect: before a deletion:1", "collect.log")?;
        await_stop(&collector)?;
        let mut push = start(larder, &["push", &place.new, "--pin", "kept"], word, "push.log")?;
        let ended = if word == IGNORES {
            Some(push.wait(LONG)?)
        } else {
            std::thread::sleep(PUSH);
            push.try_wait()?
        };
        ensure!(
            ended.is_some() == (word == IGNORES),
            "a push waits for what is removed: {}",
            push.log_tail()
        );
        collector.signal(Signal::CONT)?;
        ensure!(collector.wait(LONG)?.success(), "{}", collector.log_tail());
        let says_pushed = push.wait(LONG)?.success();
        ensure!(says_pushed, "{}", push.log_tail());
        place.is_broken(larder, says_pushed)
    })
}

#[test]
fn a_writer_that_goes_on_after_its_lease_is_found_out() -> Result<()> {
    let Some(place) = Place::new("sabotage-lease")? else { return Ok(()) };
    place.compare("lease", |larder, word| {
        let fault = format!("{word},stop publish: before:1");
        let mut push = start(larder, &["push", &place.new, "--pin", "kept"], &fault, "push.log")?;
        await_stop(&push)?;
        larder.quick(&COLLECT, DIVISOR).context("a collection beside the stopped writer")?;
        push.signal(Signal::CONT)?;
        let says_pushed = push.wait(LONG)?.success();
        place.is_broken(larder, says_pushed)
    })
}
