//! `larder push`, the manual backfill.

use anyhow::Result;
use larder_tests::nix::{narinfo_key, samples, versions};
use larder_tests::process::run_with_input;
use larder_tests::servers::Directory;
use std::time::Duration;

use super::world::{Target, World, assert_said, field};

#[test]
fn links_are_followed_and_files_inside_a_path_stand_for_the_path() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("links"))?;
    let (link, second) = (world.larder.dir().join("result"), world.larder.dir().join("second"));
    std::os::unix::fs::symlink(&built[0], &link)?;
    std::os::unix::fs::symlink("result", &second)?;
    let inside = format!("{}/bin/hello", built[0]);
    for path in ["./result", "second", "result/bin/hello", &inside] {
        let shown = world.larder.run(&["push", "--dry-run", path])?;
        assert_eq!(shown.lines().len(), 3, "{path}: {}{}", shown.stdout, shown.stderr);
    }
    world.larder.run(&["push", "./result"])?;
    world.assert_complete(&built)
}

#[test]
fn a_dry_run_changes_nothing_and_each_line_of_json_parses() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("dry"))?;
    let before = world.target.list()?;
    world.larder.run(&["push", "-n", &built[0]])?;
    assert_eq!(world.target.list()?, before);
    let output = world.larder.run(&["push", "--json", &built[0]])?;
    let lines = output
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line))
        .collect::<Result<Vec<serde_json::Value>, _>>()?;
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
    assert_eq!((of("plan"), of("path"), of("summary")), (1, 3, 1), "{}", output.stdout);
    assert_eq!(lines.last().map(|line| &line["counts"]["pushed"]), Some(&3.into()));
    assert!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(())
}

#[test]
fn paths_come_from_standard_input_too() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("stdin", 30))?;
    let input = built.join("\n");
    run_with_input(
        &mut world.larder.command(&["push", "--stdin", "-j", "1"])?,
        input.as_bytes(),
        Duration::from_secs(120),
    )?
    .ok()?;
    world.assert_complete(&built)?;
    run_with_input(&mut world.larder.command(&["push", "--stdin"])?, b"", Duration::from_secs(120))?.ok()?;
    Ok(())
}

#[test]
fn many_paths_are_found_by_listing_and_a_second_push_sends_nothing() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("many", 300))?;
    let mut args = vec!["push", "--json"];
    args.extend(built.iter().map(String::as_str));
    world.larder.run(&args)?;
    world.assert_complete(&built)?;
    let before = world.target.list()?;
    let again = world.larder.run(&args)?;
    assert!(again.stdout.contains("\"present\":300"), "{}", again.stdout.lines().last().unwrap_or_default());
    let mut after = world.target.list()?;
    // The record that the paths were asked for.
    after.retain(|key, _| !key.starts_with("larder/needs/"));
    assert_eq!(after, before);
    Ok(())
}

#[test]
fn the_whole_closure_is_checked_below_present_paths() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("holes"))?;
    world.larder.run(&["push", &built[0]])?;
    let lib = world.member(&built[0], "lib")?;
    let Target::Directory(directory) = &world.target else { return Ok(()) };
    std::fs::remove_file(directory.path().join(narinfo_key(&lib)))?;
    world.larder.run(&["push", &built[0]])?;
    world.assert_complete(&built)
}

#[test]
fn without_closure_only_paths_with_present_references_are_pushed() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::app("no closure"))?;
    assert_said(&world.larder.try_run(&["push", "--no-closure", &built[0]])?, 3, &["blocked", "refers to"]);
    assert!(world.narinfo(&built[0])?.is_none());
    for info in world.nix.closure(&built)? {
        if info.path != built[0] {
            world.larder.run(&["push", "--no-closure", &info.path])?;
        }
    }
    world.larder.run(&["push", "--no-closure", &built[0]])?;
    world.assert_complete(&built)
}

#[test]
fn upstream_paths_are_skipped_on_a_verified_signature_and_mirrored_when_asked() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        let upstream = world.nix.key_pair("upstream-1")?;
        let built = world.nix.build(&samples::app(&format!("upstream {version}")))?;
        let lib = world.member(&built[0], "lib")?;
        world.nix.sign(&upstream, std::slice::from_ref(&lib))?;
        // Another key of the same name has not signed the path.
        let imposter = world.nix.key_pair("upstream-1")?;
        world.larder.set("upstream-keys", &format!("[{:?}]", imposter.public))?;
        let shown = world.larder.run(&["push", "-n", &built[0]])?;
        assert_eq!(shown.lines().len(), 3, "{}", shown.stderr);
        world.larder.set("upstream-keys", &format!("[{:?}]", upstream.public))?;
        let pushed = world.larder.run(&["push", &built[0]])?;
        assert!(pushed.stderr.contains("1 upstream"), "{}", pushed.stderr);
        assert!(world.narinfo(&lib)?.is_none(), "{version}");
        world.larder.set("push-upstream", "true")?;
        world.larder.run(&["push", &built[0]])?;
        let narinfo = world.narinfo(&lib)?.unwrap_or_default();
        assert!(narinfo.contains("Sig: upstream-1:") && narinfo.contains("Sig: test-1:"), "{narinfo}");
    }
    Ok(())
}

#[test]
fn excluded_outputs_and_their_referrers_are_not_pushed() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    world.larder.set("exclude", "[\"li*\"]")?;
    let built = world.nix.build(&samples::app("excluded"))?;
    world.larder.run(&["flush", "--wait"])?;
    let keys = world.target.list()?;
    assert_eq!(keys.keys().filter(|key| key.ends_with(".narinfo")).count(), 1, "{keys:?}");
    assert_eq!(world.status()?["summary"]["excluded"], 2);
    let shown = world.larder.run(&["push", "-n", &built[0]])?;
    assert!(shown.stderr.contains("2 excluded"), "{}", shown.stderr);
    Ok(())
}

#[test]
fn a_path_of_another_machine_with_other_contents_is_not_replaced() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::big("not reproducible", 1))?;
    world.larder.run(&["push", &built[0]])?;
    let narinfo = world.narinfo(&built[0])?;
    // On another machine the same derivation gives other bytes under the same path.
    let mut world = world;
    world.nix.retire()?;
    let again = world.nix.build(&samples::big("not reproducible", 1))?;
    assert_eq!(built, again);
    let pushed = world.larder.run(&["push", &built[0]])?;
    assert!(pushed.stderr.contains("another build"), "{}", pushed.stderr);
    assert_eq!(world.narinfo(&built[0])?, narinfo, "the narinfo was changed");
    assert!(field(&narinfo.unwrap_or_default(), "Sig").is_some());
    Ok(())
}
