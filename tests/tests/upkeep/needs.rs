//! What pushes asked for, and what they pin by themselves, with a real store. The bucket is a directory, whose files' times
//! are set back, or MinIO behind a recording proxy.

use anyhow::{Context, Result, ensure};
use larder_tests::nix::samples;
use larder_tests::process::eventually;
use larder_tests::proxy::{Proxy, Record};
use larder_tests::world::{BUCKET, Target, World, assert_said};
use larder_tests::year::let_pass;
use serde_json::Value;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NEEDS: &str = "larder/needs/";
const SYSTEM: &str = "nixos-system-test-24.11";

fn needs(world: &World) -> Result<Vec<String>> {
    Ok(world.target.list()?.into_keys().filter(|key| key.starts_with(NEEDS)).collect())
}

/// Lets days pass in the bucket.
fn pass(world: &World, days: u32) -> Result<()> {
    let Target::Directory(directory) = &world.target else { anyhow::bail!("the bucket is no directory") };
    let_pass(directory.path(), DAY * days)
}

fn why(world: &World, path: &str, rules: &[&str]) -> Result<Value> {
    let output = world.larder.run(&[&["why", path, "--json"], rules].concat())?;
    serde_json::from_str(output.stdout.trim()).context("`larder why --json` prints one object")
}

/// An expression whose output has the name of a NixOS system, and refers to another path.
fn system(tag: &str) -> String {
    samples::app(tag).replace("mk \"app\"", &format!("mk \"{SYSTEM}\""))
}

#[test]
fn a_push_that_finds_its_closure_present_renews_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let app = world.nix.build(&samples::app("renewed"))?.remove(0);
    let lib = world.member(&app, "lib")?;
    world.larder.run(&["push", &app])?;
    ensure!(needs(&world)?.is_empty(), "the narinfo of a pushed path says that it is needed");
    pass(&world, 40)?;
    let answer = why(&world, &lib, &["--keep-within", "30d"])?;
    ensure!(answer["mayGo"] == true && answer["neededBy"] == "pushed", "{answer}");

    let dry = world.larder.run(&["push", "--dry-run", &app])?;
    ensure!(needs(&world)?.is_empty(), "a dry run wrote: {}", dry.stderr);
    world.larder.run(&["push", &app])?;
    let written = needs(&world)?;
    ensure!(written.len() == 1, "{written:?}");
    let text = String::from_utf8(world.target.get(&written[0])?.context("a need")?)?;
    ensure!(text.contains("-app\"") && !text.contains("-lib\""), "only the root is named: {text}");
    pass(&world, 20)?;
    // The flag and the configuration say the same.
    world.larder.set_string("keep-within", "30d")?;
    for rules in [&["--keep-within", "30d"][..], &[]] {
        let answer = why(&world, &lib, rules)?;
        ensure!(answer["mayGo"] == false && answer["reason"] == "keep-within", "{answer}");
        ensure!(
            answer["neededBy"] == "asked" && answer["neededSecondsAgo"].as_u64() >= Some(20 * 86_400),
            "{answer}"
        );
    }
    let said = world.larder.run(&["why", &lib])?.stdout;
    ensure!(said.contains("was last asked for by a push 20 days ago"), "{said}");
    ensure!(why(&world, &lib, &["--keep-within", "10d"])?["mayGo"] == true);

    // A need that nobody understands ends each decision.
    world.target.put(&written[0], b"{\"needed\":[],\"later\":1}")?;
    assert_said(&world.larder.try_run(&["why", &lib])?, 7, &["cannot understand the need", &written[0]]);
    Ok(())
}

#[test]
fn a_warm_push_takes_one_request_more_and_the_record_comes_before_the_report() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let Target::Server(server) = &world.target else { return Ok(()) };
    let proxy = Proxy::start(&server.endpoint())?;
    world.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
    let built = world.nix.build(&samples::tiny("warm", 30))?;
    let args: Vec<&str> = ["push", "--json"].into_iter().chain(built.iter().map(String::as_str)).collect();
    world.larder.run(&args)?;
    let is_need = |record: &Record| record.path.contains(NEEDS);
    ensure!(proxy.count(is_need) == 0, "a push of new paths wrote a need");
    proxy.clear_log();
    world.larder.run(&args)?;
    let writes = |record: &Record| {
        record.method != "GET" && record.method != "HEAD" && !record.path.contains("larder/writers/")
    };
    let log = proxy.log();
    let written: Vec<_> = log.iter().filter(|record| writes(record)).map(|record| &record.path).collect();
    ensure!(written.len() == 1 && proxy.count(is_need) == 1, "{written:?}");

    // When the record cannot be written, nothing is reported as present.
    proxy.set_fault(|record| record.path.contains(NEEDS).then_some(larder_tests::fault::Fault::Status(403)));
    let refused = world.larder.try_run(&args)?;
    proxy.clear_fault();
    let outcomes: Vec<Value> =
        refused.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of =
        |word: &str| outcomes.iter().filter(|line| line["type"] == "path" && line["outcome"] == word).count();
    ensure!(refused.code() == 3 && (of("present"), of("failed")) == (0, 30), "{}", refused.stdout);
    Ok(())
}

#[test]
fn the_agent_pins_the_systems_that_it_pushes() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.set("pin-patterns", "[\"system/{host}=nixos-system-*\"]")?;
    world.larder.set("pin-keep-last", "2")?;
    world.larder.run(&["flush", "--wait"])?;
    for command in [&["config", "check", "--values-only"][..], &["status"]] {
        let said = world.larder.run(command)?.stderr;
        ensure!(said.contains("never gets a path") && said.contains("`exclude`"), "{command:?}: {said}");
    }
    world.larder.set("exclude", "[]")?;
    ensure!(!world.larder.run(&["status"])?.stderr.contains("never gets"));

    world.larder.install_hook(&mut world.nix)?;
    let agent = world.larder.agent(&[])?;
    let mut systems = Vec::new();
    for tag in ["one", "two", "three"] {
        systems.extend(world.nix.build(&system(tag))?);
        let other = world.nix.build(&samples::single(tag))?;
        let is_there = || {
            let pushed = world.narinfo(&other[0]).is_ok_and(|narinfo| narinfo.is_some());
            pushed && all_generations(&world).is_ok_and(|count| count == systems.len())
        };
        eventually("the system is pushed and pinned", Duration::from_secs(60), is_there)?;
        // The order of generations is that of their times, which a directory tells in full.
        std::thread::sleep(Duration::from_millis(20));
    }
    let counting = generations(&world)?;
    ensure!(
        counting.iter().all(|one| one["keepLast"] == 2 && one["paths"].as_array().map(Vec::len) == Some(1)),
        "{counting:?}"
    );
    let names = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let kept: Vec<_> = counting.iter().filter_map(|one| one["paths"][0].as_str()).collect();
    ensure!(kept == [names(&systems[2]), names(&systems[1])], "{kept:?} of {systems:?}");
    drop(agent);

    // The closure stays with its system, whatever the age; what is not pinned goes.
    pass(&world, 400)?;
    let lib = world.member(&systems[2], "lib")?;
    let answer = why(&world, &lib, &["--keep-within", "30d"])?;
    ensure!(answer["reason"] == "pin", "{answer}");
    ensure!(why(&world, &systems[0], &["--keep-within", "30d"])?["mayGo"] == true);

    // To push the youngest again adds no generation; to push another one does.
    world.larder.run(&["push", &systems[2]])?;
    ensure!(generations(&world)?.len() == 2 && all_generations(&world)? == 3);
    world.larder.run(&["push", &systems[0]])?;
    let kept = generations(&world)?;
    ensure!(kept[0]["paths"][0] == names(&systems[0]).as_str() && all_generations(&world)? == 4, "{kept:?}");
    Ok(())
}

/// The generations that count, the youngest first.
fn generations(world: &World) -> Result<Vec<Value>> {
    let lines = world.larder.run(&["pins", "system/", "--json"])?.lines();
    let all = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<Value>, _>>()?;
    Ok(all.into_iter().filter(|one| one["counts"] == true).collect())
}

fn all_generations(world: &World) -> Result<usize> {
    Ok(world.target.list()?.keys().filter(|key| key.starts_with("larder/pins/system/")).count())
}
