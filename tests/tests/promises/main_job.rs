//! The purpose of larder: a machine substitutes what another has built, from a server without a process of larder.

use anyhow::Result;
use larder_tests::nix::{NixHome, NixVersion, samples, versions};
use larder_tests::process::at_once;
use larder_tests::servers::{self, Directory, Kind};

use super::world::{Target, World};

/// Builds with the hook under a daemon, waits for the push, substitutes in an empty store that trusts only our key.
fn build_here_run_there(version: NixVersion, target: Target, tag: &str) -> Result<()> {
    let mut world = World::new(version, target)?;
    world.larder.install_hook(&mut world.nix)?;
    world.nix.start_daemon()?;
    world.larder.follow(&world.nix)?;
    let built = world.nix.build(&samples::app(tag))?;
    assert_eq!(world.status()?["queued"]["jobs"], 3, "three builds are queued");
    world.larder.run(&["flush", "--wait"])?;
    world.assert_complete(&built)?;
    assert_eq!(world.status()?["roots"]["paths"], 0, "roots are released");
    let Some(cache) = world.target.public_base() else { return Ok(()) };
    world.larder.run(&["client", "--check", &built[0]])?;

    let other = world.nix.twin()?;
    other.substitute(&built, &cache, &world.key.public)?;
    for info in world.nix.closure(&built)? {
        assert_eq!(other.hash_contents(&info.path)?, world.nix.hash_contents(&info.path)?, "{}", info.path);
    }
    verified_by_our_key_alone(&world.nix, &cache, &world.key.public, &built)?;
    let stranger = world.nix.key_pair("stranger-1")?;
    let refused = world.nix.twin()?.try_substitute(&built, &cache, &stranger.public)?;
    assert!(!refused.status.success(), "substituted without a trusted signature");
    Ok(())
}

fn with_each_nix(tag: &str, target: impl Fn() -> Result<Target> + Sync) -> Result<()> {
    at_once(versions(), |version| build_here_run_there(version, target()?, &format!("{tag} {version}")))
        .map(drop)
}

/// `nix store verify` finds nothing untrusted with our key, and something with another.
fn verified_by_our_key_alone(nix: &NixHome, cache: &str, public: &str, paths: &[String]) -> Result<()> {
    nix.verify_cache(cache, public, paths)?.ok()?;
    let stranger = nix.key_pair("other-1")?;
    let output = nix.verify_cache(cache, &stranger.public, paths)?;
    assert!(!output.status.success() && output.stderr.contains("untrusted"), "{}", output.stderr);
    Ok(())
}

#[test]
fn a_second_store_substitutes_what_the_first_built_on_every_nix_from_minio() -> Result<()> {
    if !Kind::MinIo.is_here() {
        return Ok(());
    }
    with_each_nix("minio", || Target::server(Kind::MinIo))
}

#[test]
fn a_second_store_substitutes_what_the_first_built_on_every_nix_from_seaweedfs() -> Result<()> {
    if !Kind::SeaweedFs.is_here() {
        return Ok(());
    }
    with_each_nix("seaweedfs", || Target::server(Kind::SeaweedFs))
}

#[test]
fn a_second_store_substitutes_what_the_first_built_on_every_nix_from_a_directory() -> Result<()> {
    with_each_nix("directory", || Ok(Target::Directory(Directory::start()?)))
}

#[test]
fn a_push_arrives_on_a_server_without_anonymous_readers() -> Result<()> {
    with_each_nix("s3s", || Target::server(Kind::S3sFs))
}

#[test]
fn a_second_store_substitutes_from_the_servers_asked_for_by_flag() -> Result<()> {
    for kind in servers::by_flag() {
        for version in versions() {
            build_here_run_there(version, Target::server(kind)?, &format!("{kind:?} {version}"))?;
        }
    }
    Ok(())
}

#[test]
fn without_a_daemon_the_hook_and_the_push_work_the_same() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.install_hook(&mut world.nix)?;
        let built = world.nix.build(&samples::assorted(&format!("single {version}")))?;
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
        let other = world.nix.twin()?;
        other.substitute(&built, &world.target.public_base().unwrap_or_default(), &world.key.public)?;
        for path in &built {
            assert_eq!(other.hash_contents(path)?, world.nix.hash_contents(path)?, "{path}");
        }
    }
    Ok(())
}

#[test]
fn what_is_substituted_runs() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("running"))?;
    world.larder.run(&["push", &built[0]])?;
    world.nix.retire()?;
    world.nix.substitute(&built, &world.target.public_base().unwrap_or_default(), &world.key.public)?;
    let mut program = larder_tests::process::clean_command(format!("{}/bin/hello", built[0]));
    let output = larder_tests::process::run(&mut program, std::time::Duration::from_secs(120))?.ok()?;
    assert_eq!(output.stdout.trim(), "hello from running");
    Ok(())
}

#[test]
fn floating_content_addressed_outputs_are_found_by_the_agent() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        world.larder.install_hook(&mut world.nix)?;
        let built = world.nix.build(&samples::content_addressed(&format!("ca {version}")))?;
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
        let narinfo = world.narinfo(&built[0])?.unwrap_or_default();
        assert!(
            super::world::field(&narinfo, "CA").is_some_and(|ca| ca.starts_with("fixed:r:sha256:")),
            "{narinfo}"
        );
    }
    Ok(())
}
