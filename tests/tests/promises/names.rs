//! The names that commands take for store paths.

use anyhow::Result;
use larder_tests::nix::{samples, versions};
use larder_tests::process::{Output, run_with_input};
use larder_tests::servers::Directory;
use serde_json::Value;
use std::time::Duration;

use super::world::{Target, World, assert_said};

/// The base name of a store path.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn push_stdin(world: &World, args: &[&str], input: &[u8]) -> Result<Output> {
    let args = [&["push", "--stdin"], args].concat();
    run_with_input(&mut world.larder.command(&args)?, input, Duration::from_secs(120))
}

fn json_lines(output: &Output) -> Result<Vec<Value>> {
    Ok(output.lines().iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?)
}

#[test]
fn names_that_larder_and_nix_print_are_taken() -> Result<()> {
    for version in versions() {
        let world = World::new(version, Target::Directory(Directory::start()?))?;
        let multi = samples::multi(&format!("names {version}"));
        let derivation = world.nix.instantiate(&multi)?.remove(0);
        let unbuilt = format!("{derivation}^dev");
        assert_said(&world.larder.try_run(&["push", &unbuilt])?, 6, &[&unbuilt, "is not in the store"]);
        world.nix.build(&multi)?;
        let outputs = world.nix.nix_store(&["--query", "--outputs", &derivation])?.ok()?.lines();
        let [out, dev] = ["-multi", "-multi-dev"]
            .map(|name| outputs.iter().find(|path| path.ends_with(name)).cloned().unwrap_or_default());
        for (name, wanted) in [
            (base_name(&out).to_owned(), 1),
            (format!("{derivation}^out"), 1),
            (format!("{derivation}!out"), 1),
            (format!("{}^out", base_name(&derivation)), 1),
            (format!("{derivation}^dev"), 2),
            (format!("{derivation}^out,doc"), 2),
            (format!("{derivation}^*"), 3),
        ] {
            let shown = world.larder.run(&["push", "--dry-run", &name])?;
            assert_eq!(shown.lines().len(), wanted, "{name}: {}{}", shown.stdout, shown.stderr);
        }
        let wrong = format!("{derivation}^lib");
        assert_said(
            &world.larder.try_run(&["push", &wrong])?,
            2,
            &["no output `lib`", "`dev`, `doc`, `out`"],
        );
        world.larder.run(&["push", &format!("{derivation}^dev")])?;
        world.assert_complete(&[dev])?;
        world.larder.run(&["client", "--check", base_name(&out)])?;
    }
    Ok(())
}

#[test]
fn an_output_whose_path_is_not_known_is_named() -> Result<()> {
    for version in versions() {
        let world = World::new(version, Target::Directory(Directory::start()?))?;
        let expression = samples::content_addressed(&format!("floating {version}"));
        let derivation = world.nix.instantiate(&expression)?.remove(0);
        let name = format!("{derivation}^out");
        let output = world.larder.try_run(&["push", &name])?;
        assert_said(&output, 6, &[&name, "the output `out` is not known", "build the derivation"]);
        let built = world.nix.build(&expression)?;
        world.larder.run(&["push", &name])?;
        world.assert_complete(&built)?;
    }
    Ok(())
}

#[test]
fn a_name_without_a_slash_means_the_store_and_not_a_file_beside() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let [first, second] = ["first", "second"].map(samples::single);
    let (first, second) = (world.nix.build(&first)?.remove(0), world.nix.build(&second)?.remove(0));
    std::os::unix::fs::symlink(&second, world.larder.dir().join(base_name(&first)))?;
    let pushed = |name: &str| -> Result<Vec<String>> { Ok(world.larder.run(&["push", "-n", name])?.lines()) };
    assert_eq!(pushed(base_name(&first))?, [base_name(&first)]);
    assert_eq!(pushed(&format!("./{}", base_name(&first)))?, [base_name(&second)]);
    Ok(())
}

#[test]
fn each_reason_for_a_wrong_name_is_told() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let store = world.nix.store_dir().display().to_string();
    let absent = format!("{store}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent");
    let at = |name: &str| world.larder.dir().join(name);
    std::fs::write(at("file"), "")?;
    std::os::unix::fs::symlink("nowhere", at("dangling"))?;
    std::os::unix::fs::symlink(&absent, at("result"))?;
    for (name, code, words) in [
        ("./absent", 2, ["./absent", "there is no such file"]),
        ("./file", 2, ["./file", "it is not below"]),
        ("./dangling", 2, ["./dangling", "nowhere`, which does not exist"]),
        ("./result", 6, ["./result", "is not in the store"]),
        (absent.as_str(), 6, [absent.as_str(), "is not in the store"]),
        (store.as_str(), 2, [store.as_str(), "the store directory itself"]),
    ] {
        assert_said(&world.larder.try_run(&["push", name])?, code, &words);
    }
    Ok(())
}

#[test]
fn wrong_names_are_all_named_and_the_other_paths_are_pushed() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let built = world.nix.build(&samples::tiny("among", 30))?;
    let absent = format!("{}/0c5b8vw40dy178xlpddw65q9gf1h2186-absent", world.nix.store_dir().display());
    let mut input = built[..20].join("\n").into_bytes();
    input.extend(format!("\n/etc/passwd\n{absent}\n./n\u{fc}/absent\n").as_bytes());
    input.extend(b"./\xff\n");
    input.extend(built[20..].join(" ").as_bytes());

    let strict = push_stdin(&world, &["--strict"], &input)?;
    let named = ["/etc/passwd", absent.as_str(), "./n\u{fc}/absent", "./\u{fffd}"];
    assert_said(&strict, 2, &named);
    assert_said(&strict, 2, &["4 names"]);
    assert!(world.narinfo(&built[0])?.is_none());

    let output = push_stdin(&world, &[], &input)?;
    assert_said(&output, 3, &named);
    assert_said(&output, 3, &["30 pushed", "4 names skipped"]);
    world.assert_complete(&built)?;

    // The same holds for arguments, and for JSON.
    let json = world.larder.try_run(&["push", "--json", &built[0], "/etc/passwd", &absent])?;
    assert_said(&json, 3, &[]);
    let lines = json_lines(&json)?;
    let invalid: Vec<_> = lines.iter().filter(|line| line["type"] == "invalid").collect();
    let names: Vec<_> = invalid.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names, ["/etc/passwd", &absent], "{}", json.stdout);
    assert!(invalid.iter().all(|line| line["reason"].is_string()), "{}", json.stdout);
    let last = lines.last().cloned().unwrap_or_default();
    assert_eq!((&last["invalid"], &last["counts"]["present"]), (&2.into(), &1.into()), "{last}");
    let none = world.larder.try_run(&["push", "--json", "/etc/passwd"])?;
    assert_said(&none, 2, &["/etc/passwd"]);
    assert_eq!(json_lines(&none)?.first().map(|line| &line["name"]), Some(&"/etc/passwd".into()));
    Ok(())
}

#[test]
fn parked_paths_are_named_in_each_form_and_wrong_names_do_not_keep_them_parked() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let app = world.nix.build(&samples::app("retry"))?.remove(0);
    let lib = world.member(&app, "lib")?;
    world.nix.corrupt(&lib)?;
    assert_eq!(world.larder.try_run(&["flush", "--wait"])?.code(), 3);
    assert_said(&world.larder.try_run(&["retry", "./absent"])?, 2, &["there is no such file"]);
    assert_eq!(world.status()?["parked"].as_array().map(Vec::len), Some(2));
    let deriver = world.nix.path_info(std::slice::from_ref(&lib))?.remove(0).deriver.unwrap_or_default();
    let names = ["./absent", "0c5b8vw40dy178xlpddw65q9gf1h2186-other"];
    let output = world.larder.try_run(&["retry", names[0], &format!("{deriver}^out"), names[1]])?;
    assert_said(&output, 3, &["there is no such file", "other` is not parked", "queued 2 paths"]);
    assert_eq!(world.larder.try_run(&["flush", "--wait"])?.code(), 3);
    assert_said(&world.larder.try_run(&["retry", base_name(&lib)])?, 0, &["queued 2 paths"]);
    Ok(())
}
