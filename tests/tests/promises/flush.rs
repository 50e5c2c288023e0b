//! `larder flush` without `--wait`: the agent tries everything now, and the command returns at once.

use anyhow::{Context, Result};
use larder_tests::nix::samples;
use larder_tests::process::eventually;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::world::{World, assert_said};

const SOON: Duration = Duration::from_secs(120);

#[test]
fn a_flush_asks_the_agent_to_try_waiting_jobs_and_blocked_paths_now() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.run(&["queue", "create"])?;
    assert_said(&world.larder.try_run(&["flush"])?, 0, &["nothing is queued in"]);
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::single("waits"))?;
    // The next attempt at the path is in an hour.
    let incoming = world.larder.state_dir().join("incoming");
    let job = fs::read_dir(&incoming)?.next().context("no job")??;
    let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let attempts = format!("Attempts: 3 {at} {} no answer\nEnd: ", built[0]);
    let text = fs::read_to_string(job.path())?.replace("End: ", &attempts);
    fs::remove_file(job.path())?;
    fs::write(world.larder.state_dir().join("work").join(job.file_name()), text)?;
    assert_said(&world.larder.try_run(&["flush"])?, 1, &["no agent runs", "larder flush --wait"]);
    fs::remove_file(incoming.join(".nudge"))?;
    let agent = world.larder.agent(&[])?;
    let other = world.nix.build(&samples::single("does not wait"))?;
    let pushed = |paths: &[String]| world.assert_complete(paths).is_ok();
    eventually("the push of the other path", SOON, || pushed(&other))?;
    assert!(!pushed(&built), "the path did not wait");
    let flushed = world.larder.run(&["flush"])?;
    assert_said(&flushed, 0, &["asked the agent to push 1 queued build", "larder flush --wait"]);
    eventually("the push of the waiting path", SOON, || pushed(&built))
        .map_err(|error| error.context(agent.log()))
}
