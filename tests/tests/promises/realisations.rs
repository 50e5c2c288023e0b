//! Outputs of floating content-addressed derivations: clients find them by their derivations.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::process::{Output, run};
use larder_tests::servers::{Directory, Kind};
use serde_json::{Value, json};
use std::time::Duration;

use super::world::{Target, World};

const LIMIT: Duration = Duration::from_secs(180);
/// Where Nix up to 2.34 looks for realisations, and where Nix from 2.35 does.
const FORMS: [&str; 2] = ["realisations/", "build-trace-v2/"];

fn directory(version: NixVersion) -> Result<World> {
    World::new(version, Target::Directory(Directory::start()?))
}

/// The same, with the hook.
fn hooked(version: NixVersion) -> Result<World> {
    let mut world = directory(version)?;
    world.larder.install_hook(&mut world.nix)?;
    Ok(world)
}

/// Builds with the bucket of the world as the only cache, signatures required, with this number of builds at a time.
fn build_from(world: &World, client: &NixHome, expression: &str, jobs: &str) -> Result<Output> {
    let base = world.target.public_base().context("a bucket that clients can read")?;
    let options = ["--option", "substituters", &base, "--option", "trusted-public-keys", &world.key.public];
    let more = ["--option", "require-sigs", "true", "--option", "builders", "", "--max-jobs", jobs];
    run(&mut client.build_command(expression, &[&options[..], &more].concat())?, LIMIT)
}

/// The keys of the realisations in one form.
fn keys(world: &World, form: &str) -> Result<Vec<String>> {
    Ok(world.target.list()?.into_keys().filter(|key| key.starts_with(form)).collect())
}

fn object(world: &World, key: &str) -> Result<Value> {
    let bytes = world.target.get(key)?.with_context(|| format!("`{key}` is missing"))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether one of the signatures is a valid one of the public key `NAME:BASE64`.
fn is_signed(fingerprint: &str, signatures: &Value, public: &str) -> Result<bool> {
    let (name, key) = public.split_once(':').context("a public key")?;
    let key: [u8; 32] = BASE64.decode(key)?.as_slice().try_into()?;
    let key = VerifyingKey::from_bytes(&key)?;
    let verify = |text: &str| {
        let encoded = text.strip_prefix(name)?.strip_prefix(':')?;
        let signature = Signature::from_slice(&BASE64.decode(encoded).ok()?).ok()?;
        key.verify(fingerprint.as_bytes(), &signature).ok()
    };
    let signatures = signatures.as_array().context("signatures")?;
    Ok(signatures.iter().filter_map(Value::as_str).any(|text| verify(text).is_some()))
}

#[test]
fn a_chain_of_floating_outputs_is_substituted_without_a_build() -> Result<()> {
    for version in versions() {
        let world = hooked(version)?;
        let expression = samples::ca_chain(&format!("chain {version}"), "");
        let built = world.nix.build(&expression)?;
        let flushed = world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&built)?;
        ensure!(!flushed.stderr.contains("cannot publish"), "{}", flushed.stderr);

        let client = world.nix.twin()?;
        let output = build_from(&world, &client, &expression, "0")?.ok()?;
        ensure!(output.lines() == built, "{version}: {} {}", output.stdout, output.stderr);
        for word in ["building '", "not signed", "untrusted"] {
            ensure!(!output.stderr.contains(word), "{version}: {}", output.stderr);
        }
        ensure!(client.is_valid(&built[0]), "{version}");
        // What is only needed to build the others is not downloaded: the bucket answers for the derivation that was asked for.
        ensure!(!output.stderr.contains("-ca-source'"), "{version}: {}", output.stderr);

        // Without the realisations, this client would have to build.
        for form in FORMS {
            keys(&world, form)?.iter().try_for_each(|key| world.target.delete(key))?;
        }
        let without = build_from(&world, &world.nix.twin()?, &expression, "0")?;
        ensure!(!without.status.success(), "{version}: {}", without.stderr);
    }
    Ok(())
}

/// `nix copy` of what an expression builds, with its realisations, from one store to another. Unlike a substitution, this checks
/// the signatures of realisations in every version.
fn copy(expression: &str, from: &NixHome, to: &NixHome, public: &str) -> Result<Output> {
    let file = to.dir().join("home/copied.nix");
    std::fs::write(&file, expression)?;
    let (file, from) = (file.display().to_string(), from.store_uri());
    to.nix(&["copy", "--from", &from, "--file", &file, "--option", "trusted-public-keys", public])
}

#[test]
fn clients_find_the_signatures_of_realisations_valid() -> Result<()> {
    for version in versions() {
        let world = hooked(version)?;
        // A client signs what it has found out by itself anew: which path a derivation with inputs has become.
        let expression = samples::ca_single(&format!("signed {version}"));
        let built = world.nix.build(&expression)?;
        world.larder.run(&["flush", "--wait"])?;
        // The client keeps the signatures of what it has substituted.
        let (client, next) = (world.nix.twin()?, world.nix.twin()?);
        build_from(&world, &client, &expression, "0")?.ok()?;
        let other = world.nix.key_pair("other-1")?;
        let refused = copy(&expression, &client, &next, &other.public)?;
        ensure!(refused.stderr.contains("cannot register realisation"), "{version}: {}", refused.stderr);
        copy(&expression, &client, &next, &world.key.public)?.ok().with_context(|| version.to_string())?;
        ensure!(next.is_valid(&built[0]), "{version}");
    }
    Ok(())
}

#[test]
fn an_input_that_changes_without_its_output_builds_nothing_above() -> Result<()> {
    for version in versions() {
        let mut world = hooked(version)?;
        let chain = |note: &str| samples::ca_chain(&format!("cut-off {version}"), note);
        let built = world.nix.build(&chain("one"))?;
        world.larder.run(&["flush", "--wait"])?;

        // A new store in the same place builds the changed input, and takes the others from the bucket.
        world.nix.retire()?;
        let output = build_from(&world, &world.nix, &chain("two"), "1")?.ok()?;
        ensure!(output.lines() == built, "{version}: {} {}", output.stdout, output.stderr);
        let started: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("building '")).collect();
        ensure!(started.len() == 1 && started[0].contains("-ca-base.drv"), "{version}: {}", output.stderr);

        // That is pushed, too, although its path was there: the next store builds nothing at all.
        world.larder.run(&["flush", "--wait"])?;
        let output = build_from(&world, &world.nix.twin()?, &chain("two"), "0")?.ok()?;
        ensure!(output.lines() == built, "{version}: {} {}", output.stdout, output.stderr);
    }
    Ok(())
}

#[test]
fn realisations_are_found_on_a_server() -> Result<()> {
    for kind in [Kind::MinIo, Kind::SeaweedFs].into_iter().filter(|kind| kind.is_here()) {
        let Some(version) = versions().into_iter().last() else { return Ok(()) };
        let mut world = World::new(version, Target::server(kind)?)?;
        world.larder.install_hook(&mut world.nix)?;
        let expression = samples::ca_chain("server", "");
        let built = world.nix.build(&expression)?;
        world.larder.run(&["flush", "--wait"])?;
        let output = build_from(&world, &world.nix.twin()?, &expression, "0")?.ok()?;
        ensure!(output.lines() == built, "{kind:?}: {} {}", output.stdout, output.stderr);
    }
    Ok(())
}

#[test]
fn both_forms_say_what_nix_knows_and_are_signed() -> Result<()> {
    for version in versions() {
        let world = hooked(version)?;
        world.nix.build(&samples::ca_chain(&format!("forms {version}"), ""))?;
        world.larder.run(&["flush", "--wait"])?;
        let objects = world.target.list()?;
        for key in keys(&world, "realisations/")? {
            let mut found = object(&world, &key)?;
            let signatures = found["signatures"].take();
            found.as_object_mut().context("an object")?.remove("signatures");
            let id = key.strip_prefix("realisations/").and_then(|rest| rest.strip_suffix(".doi"));
            ensure!(
                found["id"].as_str() == id && found["dependentRealisations"] == json!({}),
                "{key}: {found}"
            );
            ensure!(is_signed(&found.to_string(), &signatures, &world.key.public)?, "{key}: {found}");
            let path = found["outPath"].as_str().unwrap_or_default();
            ensure!(objects.contains_key(&narinfo_key(path)), "{key} names `{path}`, which is not visible");
        }
        // The reader of the form for 2.35: the key names the derivation and the output, and the signature covers both.
        let mut outputs = Vec::new();
        for key in keys(&world, "build-trace-v2/")? {
            let rest = key.strip_prefix("build-trace-v2/").unwrap_or_default();
            let (derivation, output) = rest.split_once('/').context("a derivation and an output")?;
            let output = output.strip_suffix(".doi").context("the ending")?;
            let found = object(&world, &key)?;
            let signed = json!({
                "key": { "drvPath": derivation, "outputName": output },
                "value": { "outPath": found["outPath"] },
            });
            ensure!(
                is_signed(&signed.to_string(), &found["signatures"], &world.key.public)?,
                "{key}: {found}"
            );
            outputs.push((
                derivation.to_owned(),
                output.to_owned(),
                found["outPath"].as_str().map(str::to_owned),
            ));
        }
        ensure!(outputs.len() >= 4, "{outputs:?}");
        // What the store knows of these derivations is what the bucket says, by the same names.
        for (derivation, output, path) in outputs {
            let name = format!("{}/{derivation}^{output}", world.nix.store_dir().display());
            if version == NixVersion::V2_8 {
                continue;
            }
            let known = world.nix.nix(&["realisation", "info", "--json", &name])?.ok()?;
            let known: Value = serde_json::from_str(&known.stdout)?;
            ensure!(known[0]["outPath"].as_str() == path.as_deref().map(base_name), "{name}: {known}");
            let id = known[0]["id"].as_str().context("an id")?;
            ensure!(objects.contains_key(&format!("realisations/{id}.doi")), "{name}: {known} {objects:?}");
        }
    }
    Ok(())
}

#[test]
fn a_push_by_hand_publishes_the_realisations_of_the_closure() -> Result<()> {
    let Some(version) = versions().into_iter().last() else { return Ok(()) };
    let world = directory(version)?;
    let expression = samples::ca_chain("by hand", "");
    let built = world.nix.build(&expression)?;
    world.larder.run(&["push", &built[0]])?;
    let before = world.target.list()?;
    let output = build_from(&world, &world.nix.twin()?, &expression, "0")?.ok()?;
    ensure!(output.lines() == built, "{} {}", output.stdout, output.stderr);
    // A bucket from before gets them when the path is pushed again.
    for form in FORMS {
        keys(&world, form)?.iter().try_for_each(|key| world.target.delete(key))?;
    }
    world.larder.run(&["push", &built[0]])?;
    let kept = |key: &&String| FORMS.iter().any(|form| key.starts_with(form));
    let after = world.target.list()?;
    ensure!(before.keys().filter(kept).eq(after.keys().filter(kept)), "{before:?} {after:?}");
    Ok(())
}

/// The keys of all realisations, in both forms.
fn all_keys(world: &World) -> Result<Vec<String>> {
    Ok([keys(world, FORMS[0])?, keys(world, FORMS[1])?].concat())
}

#[test]
fn a_collection_takes_the_realisations_of_paths_that_went_and_no_others() -> Result<()> {
    const DIVISOR: u32 = 600;
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let Some(version) = versions().into_iter().last() else { return Ok(()) };
    let world = directory(version)?;
    let (kept, gone) = (samples::ca_chain("kept", ""), samples::ca_single("gone"));
    let kept = world.nix.build(&kept)?.remove(0);
    world.larder.run(&["push", &kept])?;
    let before = all_keys(&world)?;
    world.larder.run(&["pin", "kept", &kept])?;
    let gone = world.nix.build(&gone)?.remove(0);
    world.larder.run(&["push", &gone])?;
    ensure!(all_keys(&world)?.len() == before.len() + 2, "{:?}", world.target.list()?);
    world.larder.run(&["verify"])?;
    let collect = |grace: &str| {
        let args = ["collect", "--yes", "--grace", "0s", "--nar-grace", grace];
        world.larder.quick(&args, DIVISOR)
    };
    let output = collect("30d")?;
    ensure!(!world.target.list()?.contains_key(&narinfo_key(&gone)), "{} {}", output.stdout, output.stderr);
    // As NARs do, they stay for the grace, so that the path can be brought back.
    ensure!(all_keys(&world)?.len() == before.len() + 2);
    collect("0s")?;
    ensure!(all_keys(&world)? == before, "{:?}", all_keys(&world)?);
    world.larder.run(&["verify"])?;

    // A path that somebody removes takes its realisations with it.
    world.larder.quick(&["remove", "--purge", "--yes", "--unpin", &kept], DIVISOR)?;
    let top = kept.rsplit('/').next().unwrap_or_default();
    for key in all_keys(&world)? {
        ensure!(object(&world, &key)?["outPath"] != top, "{key}");
    }
    Ok(())
}
