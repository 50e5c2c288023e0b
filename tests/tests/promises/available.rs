//! A path counts as present only if a client can take it. What stands in its place is replaced, or reported.

use anyhow::{Context, Result};
use larder_tests::larder::LarderHome;
use larder_tests::nix::{KeyPair, NixHome, narinfo_key, samples};
use larder_tests::process::Output;

use super::world::{Target, World, assert_said, field};

/// Another team: a larder with a key of its own, which pushes into the bucket of the world.
struct Team {
    larder: LarderHome,
    key: KeyPair,
}

impl Team {
    fn beside(world: &World) -> Result<Self> {
        let mut larder = LarderHome::new(&world.nix)?;
        let key = world.nix.key_pair("team-1")?;
        larder.use_keys(&[&key])?;
        match &world.target {
            Target::Directory(directory) => larder.use_directory(directory.path())?,
            Target::Server(server) => larder.use_server(&**server, super::world::BUCKET)?,
        }
        Ok(Self { larder, key })
    }
}

/// A bucket that has the build of another team for `large`, to which `top` refers. The build is not reproducible: the
/// store then gets a build of its own.
struct AnotherBuild {
    team: Team,
    top: String,
    large: String,
    /// The hash of the contents of the other build.
    hash: String,
}

fn with_another_build(world: &World, tag: &str) -> Result<AnotherBuild> {
    let team = Team::beside(world)?;
    let expression = samples::layered(tag, 2);
    let top = world.nix.build(&expression)?.remove(0);
    let large = world.member(&top, "large")?;
    team.larder.run(&["push", &large])?;
    let hash = world.nix.hash_contents(&large)?;
    world.nix.nix_store(&["--delete", &top, &large])?.ok()?;
    assert_eq!(world.nix.build(&expression)?, std::slice::from_ref(&top));
    assert_ne!(world.nix.hash_contents(&large)?, hash);
    Ok(AnotherBuild { team, top, large, hash })
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What clients with the key of the world get, in a new store.
fn substitute(world: &World, path: &str, keys: &str) -> Result<NixHome> {
    let client = world.nix.twin()?;
    let base = world.target.public_base().context("a bucket that clients can read")?;
    client.substitute(&[path.to_owned()], &base, keys)?;
    Ok(client)
}

/// Runs `larder push` and requires that it names `path` as unusable, with these words in the reason.
#[track_caller]
fn assert_unusable(pushed: &Output, path: &str, words: &[&str]) {
    assert_said(pushed, 3, &[&[&*format!("unusable {}", name(path))], words].concat());
}

#[test]
fn a_build_of_a_stranger_blocks_what_refers_to_it_until_it_is_adopted() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let AnotherBuild { top, large, .. } = with_another_build(&world, "stranger")?;
    world.larder.install_hook(&mut world.nix)?;
    world.nix.nix_store(&["--delete", &top])?.ok()?;
    world.nix.build(&samples::layered("stranger", 2))?;

    let pushed = world.larder.try_run(&["push", &top])?;
    assert_unusable(&pushed, &large, &["signed by `team-1`", "larder push --adopt team-1", "blocked"]);
    assert!(world.narinfo(&top)?.is_none(), "a path above an unusable path is published");
    assert!(!world.narinfo(&large)?.unwrap_or_default().contains("test-1:"), "other contents are signed");

    // The agent parks both, and says so.
    let flushed = world.larder.try_run(&["flush", "--wait"])?;
    assert_said(&flushed, 3, &["parked", name(&large), "team-1"]);
    let status = world.larder.try_run(&["status"])?;
    assert!(status.stdout.contains("larder push --adopt team-1"), "{}", status.stdout);
    assert!(world.narinfo(&top)?.is_none());

    world.larder.run(&["push", "--adopt", "team-1", &top])?;
    let client = substitute(&world, &top, &world.key.public)?;
    assert_eq!(client.hash_contents(&large)?, world.nix.hash_contents(&large)?);
    world.larder.run(&["retry", "--all"])?;
    world.larder.run(&["flush", "--wait"])?;
    assert_eq!(world.status()?["parked"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn of_two_builds_by_trusted_keys_the_first_stays_and_clients_get_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let AnotherBuild { team, top, large, hash } = with_another_build(&world, "trusted")?;
    world.larder.set("trusted-keys", &format!("[{:?}]", team.key.public))?;
    let pushed = world.larder.try_run(&["push", &top])?;
    assert_said(&pushed, 0, &[&format!("differs {}", name(&large)), "another build", "team-1"]);
    let client = substitute(&world, &top, &format!("{} {}", world.key.public, team.key.public))?;
    assert_eq!(client.hash_contents(&large)?, hash);
    Ok(())
}

#[test]
fn a_trusted_build_whose_own_references_are_missing_is_not_relied_on() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let AnotherBuild { team, top, large, .. } = with_another_build(&world, "references")?;
    world.larder.set("trusted-keys", &format!("[{:?}]", team.key.public))?;
    // The other team signs a build of `large` that refers to a path which only its store has.
    let hidden = world.nix.build(&samples::single("only the team has it"))?.remove(0);
    let narinfo = world.narinfo(&large)?.context("no narinfo")?;
    let changed = narinfo.replace("References: \n", &format!("References: {}\n", name(&hidden)));
    let changed = signed_again(&world, &team, &large, &changed)?;
    world.target.put(&narinfo_key(&large), changed.as_bytes())?;
    let pushed = world.larder.try_run(&["push", &top])?;
    assert_unusable(&pushed, &large, &[&format!("it refers to `{}`", name(&hidden)), "team-1"]);
    team.larder.run(&["push", &hidden])?;
    world.larder.run(&["push", &top])?;
    let client = substitute(&world, &top, &format!("{} {}", world.key.public, team.key.public))?;
    assert!(client.is_valid(&hidden));
    Ok(())
}

/// The narinfo with a new signature by the key of the team.
fn signed_again(world: &World, team: &Team, path: &str, narinfo: &str) -> Result<String> {
    let key = larder::format::signature::SecretKey::parse(&std::fs::read_to_string(&team.key.secret_file)?)
        .map_err(|reason| anyhow::anyhow!(reason))?;
    let of = |field_name: &str| field(narinfo, field_name).with_context(|| format!("no {field_name}"));
    let directory = world.nix.store_dir().display().to_string();
    let references = of("References")?.split_whitespace().map(|base| format!("{directory}/{base}"));
    let references = references.collect::<Vec<_>>().join(",");
    let fingerprint = format!("1;{path};{};{};{references}", of("NarHash")?, of("NarSize")?);
    let lines = narinfo.lines().filter(|line| !line.starts_with("Sig: ")).map(|line| format!("{line}\n"));
    Ok(lines.collect::<String>() + &format!("Sig: {}\n", key.sign(&fingerprint)?.to_nix_string()))
}

#[test]
fn what_nobody_signed_is_replaced() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let AnotherBuild { top, large, .. } = with_another_build(&world, "unsigned")?;
    let narinfo = world.narinfo(&large)?.context("no narinfo")?;
    let unsigned = narinfo.lines().filter(|line| !line.starts_with("Sig: "));
    let unsigned: String = unsigned.map(|line| format!("{line}\n")).collect();
    let elsewhere = |text: &str| text.replacen("URL: nar/", "URL: http://127.0.0.1:1/nar/", 1);
    for stands in [unsigned.clone(), elsewhere(&unsigned), String::new(), "Sig: team-1:AAAA\n".into()] {
        world.target.put(&narinfo_key(&large), stands.as_bytes())?;
        world.larder.run(&["push", &top])?;
        world.assert_complete(std::slice::from_ref(&top))?;
        let client = substitute(&world, &top, &world.key.public)?;
        assert_eq!(client.hash_contents(&large)?, world.nix.hash_contents(&large)?);
    }
    let nar = field(&narinfo, "URL").context("no URL")?;
    assert!(world.target.get(nar)?.is_some(), "the NAR of the replaced narinfo is gone");
    Ok(())
}

#[test]
fn a_narinfo_that_leads_to_another_server_gets_no_signature() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let team = Team::beside(&world)?;
    // The contents are the same, so that larder would add its signature.
    let path = world.nix.build(&samples::single("elsewhere"))?.remove(0);
    team.larder.run(&["push", &path])?;
    let narinfo = world.narinfo(&path)?.context("no narinfo")?;
    let changed = narinfo.replacen("URL: nar/", "URL: http://127.0.0.1:1/nar/", 1);
    world.target.put(&narinfo_key(&path), changed.as_bytes())?;
    assert_unusable(&world.larder.try_run(&["push", &path])?, &path, &["URL", "team-1"]);
    assert_eq!(world.narinfo(&path)?.as_deref(), Some(&*changed));
    Ok(())
}

#[test]
fn larder_signs_no_narinfo_of_others_before_it_has_read_the_nar() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let team = Team::beside(&world)?;
    let path = world.nix.build(&samples::single("unread"))?.remove(0);
    team.larder.run(&["push", &path])?;
    let narinfo = world.narinfo(&path)?.context("no narinfo")?;
    let nar = field(&narinfo, "URL").context("no URL")?;
    let size = world.target.get(nar)?.context("no NAR")?.len();
    world.target.put(nar, &vec![7; size])?;
    assert_unusable(&world.larder.try_run(&["push", &path])?, &path, &["has other contents", "team-1"]);
    assert_eq!(world.narinfo(&path)?.as_deref(), Some(&*narinfo));
    // What nobody has signed is replaced.
    let unsigned = narinfo.lines().filter(|line| !line.starts_with("Sig: "));
    let unsigned: String = unsigned.map(|line| format!("{line}\n")).collect();
    world.target.put(&narinfo_key(&path), unsigned.as_bytes())?;
    world.larder.run(&["push", &path])?;
    substitute(&world, &path, &world.key.public)?;
    Ok(())
}

#[test]
fn a_narinfo_without_its_nar_is_not_present() -> Result<()> {
    for (count, check) in [(5, false), (5, true), (80, false), (80, true)] {
        let Some(world) = World::minio()? else { return Ok(()) };
        let last = world.nix.build(&samples::chain(&format!("no nars {count} {check}"), count))?.remove(0);
        let push = |extra: &[&str]| {
            let check = check.then_some("--check");
            world.larder.try_run(
                &["push", &last].into_iter().chain(check).chain(extra.iter().copied()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(push(&[])?.code(), 0);
        assert_eq!(push(&[])?.code(), 0);
        for (key, _) in world.target.list()?.iter().filter(|(key, _)| key.starts_with("nar/")) {
            world.target.delete(key)?;
        }
        assert_unusable(&push(&[])?, &last, &["is not in the bucket", "larder push --adopt test-1"]);
        assert_eq!(push(&["--adopt", "test-1"])?.code(), 0);
        world.assert_complete(std::slice::from_ref(&last))?;
        substitute(&world, &last, &world.key.public)?;
    }
    Ok(())
}

#[test]
fn a_nar_of_another_size_is_not_the_nar() -> Result<()> {
    let Some(world) = World::plain()? else { return Ok(()) };
    let path = world.nix.build(&samples::single("size"))?.remove(0);
    world.larder.run(&["push", &path])?;
    let narinfo = world.narinfo(&path)?.context("no narinfo")?;
    let url = field(&narinfo, "URL").context("no URL")?;
    world.target.put(url, b"x")?;
    assert_unusable(&world.larder.try_run(&["push", &path])?, &path, &["has 1 bytes instead of", "test-1"]);
    Ok(())
}

#[test]
fn a_planted_nar_is_never_shared_and_a_sound_nar_is() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let path = world.nix.build(&samples::big("planted", 2))?.remove(0);
    world.larder.run(&["push", &path])?;
    let url = |narinfo: &str| field(narinfo, "URL").map(str::to_owned).context("no URL");
    let mut sound = url(&world.narinfo(&path)?.context("no narinfo")?)?;
    for planted in [0, 1, 2_097_400] {
        // Nobody signed the empty narinfo, so that it is replaced.
        world.target.put(&narinfo_key(&path), b"")?;
        world.target.put(&sound, &vec![7; planted])?;
        world.larder.run(&["push", &path])?;
        let sent_again = url(&world.narinfo(&path)?.context("no narinfo")?)?;
        assert_ne!(sent_again, sound, "{planted} bytes of rubbish are shared");
        substitute(&world, &path, &world.key.public)?;
        world.target.delete(&sound)?;
        sound = sent_again;
    }
    world.target.put(&narinfo_key(&path), b"")?;
    world.larder.run(&["push", &path])?;
    let narinfo = world.narinfo(&path)?.context("no narinfo")?;
    assert_eq!(url(&narinfo)?, sound);
    // The file hash is known, since the object was read.
    assert!(narinfo.contains("FileHash: "), "{narinfo}");
    substitute(&world, &path, &world.key.public)?;
    Ok(())
}

#[test]
fn rubbish_of_the_expected_size_among_many_paths_is_found_by_a_check() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let last = world.nix.build(&samples::chain("rubbish", 80))?.remove(0);
    world.larder.run(&["push", &last])?;
    let member = world.nix.closure(std::slice::from_ref(&last))?.remove(40).path;
    let narinfo = world.narinfo(&member)?.context("no narinfo")?;
    world.target.put(&narinfo_key(&member), &vec![b'x'; narinfo.len()])?;
    world.larder.run(&["push", "--check", &last])?;
    substitute(&world, &last, &world.key.public)?;
    // With a signature in it, it stays and is named.
    let signature = narinfo.lines().find(|line| line.starts_with("Sig: ")).context("no signature")?;
    let rubbish = format!("{}\n{signature}\n", "x".repeat(narinfo.len() - signature.len() - 2));
    world.target.put(&narinfo_key(&member), rubbish.as_bytes())?;
    assert_unusable(&world.larder.try_run(&["push", "--check", &last])?, &member, &["malformed", "test-1"]);
    Ok(())
}
