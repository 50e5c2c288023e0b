//! larder signs only paths that this machine has built or trusts.

use anyhow::Result;
use larder_tests::nix::{NixHome, samples, versions};
use larder_tests::servers::Directory;

use super::world::{Target, World, assert_said, field};

/// A world whose store has the closure of `app` as it comes from a remote builder: unsigned and not `ultimate`.
fn with_imported(version: larder_tests::nix::NixVersion, tag: &str) -> Result<(World, NixHome, Vec<String>)> {
    let builder = NixHome::new(version)?;
    let built = builder.build(&samples::app(tag))?;
    let world = World::over(&builder, Target::Directory(Directory::start()?))?;
    Ok((world, builder, built))
}

#[test]
fn unsigned_imported_paths_are_refused_by_name_unless_asked_for() -> Result<()> {
    for version in versions() {
        let (world, _builder, built) = with_imported(version, &format!("imported {version}"))?;
        let app = built[0].rsplit('/').next().unwrap_or_default();
        let refused = world.larder.try_run(&["push", "--all"])?;
        assert_said(&refused, 3, &["refused", app, "--trust-unsigned"]);
        assert!(world.narinfo(&built[0])?.is_none());
        world.larder.run(&["push", "--all", "--trust-unsigned"])?;
        world.assert_complete(&built)?;
    }
    Ok(())
}

#[test]
fn paths_that_the_hook_queues_count_as_built_here() -> Result<()> {
    for version in versions() {
        let (world, _builder, built) = with_imported(version, &format!("remote {version}"))?;
        let infos = world.nix.path_info(&built)?;
        assert!(infos.iter().all(|info| !info.ultimate && info.signatures.is_empty()));
        let mut hook = larder_tests::process::clean_command(larder_tests::larder::binary("larder-hook")?);
        hook.env("LARDER_CONFIG", world.larder.config_file()).env("OUT_PATHS", &built[0]);
        larder_tests::process::run(&mut hook, std::time::Duration::from_secs(120))?.ok()?;
        world.larder.run(&["flush", "--wait"])?;
        // The machine has already trusted the closure of such a build.
        world.assert_complete(&built)?;
    }
    Ok(())
}

#[test]
fn paths_that_are_signed_only_as_part_of_a_closure_are_named_and_can_be_refused() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        let imported = world.nix.build(&samples::single(&format!("mentioned {version}")))?.remove(0);
        // The path comes back from elsewhere: unsigned, and not `ultimate`.
        let elsewhere = world.nix.twin()?;
        elsewhere.import_unsigned(&world.nix, std::slice::from_ref(&imported))?;
        world.nix.nix_store(&["--delete", &imported])?.ok()?;
        world.nix.import_unsigned(&elsewhere, std::slice::from_ref(&imported))?;
        // Whoever may build has an unsigned import signed by mentioning it.
        let text = format!("see {imported}");
        let path = format!("builtins.storePath {imported}");
        let expression = format!(
            r#"derivation {{ name = "mention"; system = builtins.currentSystem; builder = "/bin/sh";
                 args = [ "-c" "echo ${{{path}}} > $out" ]; text = "{text}"; }}"#
        );
        let built = world.nix.build(&expression)?;
        let name = imported.rsplit('/').next().unwrap_or_default();
        world.larder.set("closure-trust", "false")?;
        let refused = world.larder.try_run(&["push", &built[0]])?;
        assert_said(&refused, 3, &[&format!("refused {name}"), "blocked"]);
        assert!(world.narinfo(&imported)?.is_none() && world.narinfo(&built[0])?.is_none());
        world.larder.unset("closure-trust")?;
        let pushed = world.larder.run(&["push", &built[0]])?;
        assert_said(&pushed, 0, &["signs 1 path only because", name, "closure-trust"]);
        world.assert_complete(&built)?;
        // Nothing is signed any more, so there is nothing to say.
        let again = world.larder.run(&["push", &built[0]])?;
        assert!(!again.stderr.contains("only because"), "{}", again.stderr);
    }
    Ok(())
}

#[test]
fn a_verified_signature_by_a_trusted_key_is_enough_and_is_kept() -> Result<()> {
    let Some(version) = versions().into_iter().next() else { return Ok(()) };
    let (mut world, _builder, built) = with_imported(version, "friend")?;
    let friend = world.nix.key_pair("friend-1")?;
    world.nix.sign(&friend, &built)?;
    assert_eq!(world.larder.try_run(&["push", &built[0]])?.code(), 3, "the key is not trusted yet");
    world.larder.set("trusted-keys", &format!("[{:?}]", friend.public))?;
    world.larder.run(&["push", &built[0]])?;
    let narinfo = world.narinfo(&built[0])?.unwrap_or_default();
    assert!(narinfo.contains("Sig: friend-1:") && narinfo.contains("Sig: test-1:"), "{narinfo}");
    Ok(())
}

#[test]
fn a_content_addressed_path_needs_no_signature() -> Result<()> {
    let Some(version) = versions().into_iter().next() else { return Ok(()) };
    let builder = NixHome::new(version)?;
    let built = builder.build(&samples::assorted("content"))?;
    let fixed: Vec<_> = built.into_iter().filter(|path| path.ends_with("-fixed")).collect();
    // An export loses the content address of a path; a copy keeps it.
    let nix = builder.twin()?;
    builder.nix(&["copy", "--no-check-sigs", "--to", &nix.store_uri(), &fixed[0]])?.ok()?;
    let info = nix.path_info(&fixed)?.remove(0);
    assert!(!info.ultimate && info.signatures.is_empty() && info.ca.is_some(), "{info:?}");
    let world = World::with(nix, Target::Directory(Directory::start()?))?;
    world.larder.run(&["push", &fixed[0]])?;
    let narinfo = world.narinfo(&fixed[0])?.unwrap_or_default();
    assert!(field(&narinfo, "CA").is_some_and(|ca| ca.starts_with("fixed:sha256:")), "{narinfo}");
    Ok(())
}

#[test]
fn a_job_of_another_user_does_not_count_as_a_build() -> Result<()> {
    if larder_tests::need::need(larder_tests::need::Requirement::Root).is_none() {
        return Ok(());
    }
    let Some(version) = versions().into_iter().next() else { return Ok(()) };
    let (world, _builder, built) = with_imported(version, "forged")?;
    world.larder.run(&["queue", "create"])?;
    let job = world.larder.state_dir().join("incoming/1-1-1");
    std::fs::write(&job, format!("Larder-Job: 1\nOrigin: hook\nCreated: 1\nPath: {}\nEnd: \n", built[0]))?;
    std::os::unix::fs::chown(&job, Some(65534), Some(65534))?;
    assert_said(&world.larder.try_run(&["flush", "--wait"])?, 3, &["not written by root", "parked"]);
    assert!(world.narinfo(&built[0])?.is_none());
    Ok(())
}
