//! A store that is not there proves nothing about the paths that are queued.

use anyhow::Result;
use larder_tests::nix::{samples, versions};
use larder_tests::process::Output;
use larder_tests::servers::Directory;
use std::fs;

use super::world::{Target, World, assert_said};

/// Runs a flush that ends at its timeout, and checks that it has settled nothing.
fn flush_in_vain(world: &World, jobs: u64) -> Result<Output> {
    let flushed = world.larder.try_run(&["flush", "--wait", "--timeout", "5"])?;
    assert_said(&flushed, 1, &["is the store mounted", "stay queued"]);
    let status = world.status()?;
    assert_eq!(status["queued"]["jobs"], jobs, "{status:#}");
    for nothing in [&status["summary"]["gone"], &status["parked"], &status["waitingForRetry"]] {
        assert_eq!(nothing.as_array().map(Vec::len), Some(0), "{status:#}");
    }
    Ok(flushed)
}

#[test]
fn a_store_that_is_not_mounted_is_not_made_anew_and_leaves_its_jobs_queued() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.install_hook(&mut world.nix)?;
        let built = world.nix.build(&samples::single(&format!("not mounted {version}")))?;
        let (place, elsewhere) = (world.nix.dir().join("n"), world.nix.dir().join("elsewhere"));
        fs::rename(&place, &elsewhere)?;
        // What is left of a mount is an empty directory.
        fs::create_dir(&place)?;
        flush_in_vain(&world, 1)?;
        assert_eq!(fs::read_dir(&place)?.count(), 0, "{version}: a store was made");
        fs::remove_dir(&place)?;
        fs::rename(&elsewhere, &place)?;
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
    }
    Ok(())
}

#[test]
fn an_empty_store_of_a_running_daemon_does_not_empty_the_queue() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.install_hook(&mut world.nix)?;
        let expression = samples::single(&format!("empty store {version}"));
        let built = world.nix.build(&expression)?;
        // A second job names only the derivation, as on a remote builder with Nix 2.8.0.
        let deriver = world.nix.instantiate(&expression)?.remove(0);
        let job = format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nDeriver: {deriver}\nEnd: \n");
        fs::write(world.larder.state_dir().join("incoming/0000000001-000000000-00000000"), job)?;
        // The daemon was started before the store was mounted.
        let store = world.nix.retire()?;
        world.nix.start_daemon()?;
        world.larder.follow(&world.nix)?;
        flush_in_vain(&world, 2)?;
        assert_said(&world.larder.try_run(&["catch-up"])?, 6, &["is the store mounted"]);
        world.nix.stop_daemon();
        let place = world.nix.dir().join("n");
        fs::remove_dir_all(&place)?;
        fs::rename(store.parent().unwrap_or(&store), &place)?;
        world.larder.follow(&world.nix)?;
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
        assert!(world.is_queue_empty());
    }
    Ok(())
}
