//! Keys change without a client that ever fails.

use anyhow::{Context, Result};
use larder_tests::nix::{KeyPair, NixHome, samples, versions};
use larder_tests::servers::Kind;
use larder_tests::world::{Target, World, assert_said};

/// A client: what its configuration trusts.
struct Client {
    name: &'static str,
    trusts: String,
}

/// Lets new stores of every version substitute the path, with each of these configurations.
fn all_substitute(world: &World, path: &str, clients: &[Client], step: &str) -> Result<()> {
    let base = world.target.public_base().context("a bucket that clients can read")?;
    for version in versions() {
        for client in clients {
            let store: NixHome = world.nix.twin_of(version)?;
            store
                .substitute(&[path.to_owned()], &base, &client.trusts)
                .with_context(|| format!("{step}: Nix {version}, a client that trusts {}", client.name))?;
            assert!(store.is_valid(path));
        }
    }
    Ok(())
}

fn trusting(name: &'static str, keys: &[&KeyPair]) -> Client {
    let trusts = keys.iter().map(|key| key.public.as_str()).collect::<Vec<_>>().join(" ");
    Client { name, trusts }
}

/// The rotation of docs/keys.md, with clients of every version at every step.
fn rotate(target: Target) -> Result<()> {
    let Some(version) = versions().last().copied() else { return Ok(()) };
    let mut world = World::new(version, target)?;
    let top = world.nix.build(&samples::app("rotation"))?.remove(0);
    world.larder.run(&["push", &top])?;
    let (old, new) = (world.key.clone(), world.nix.key_pair("test-2")?);
    let only_old = || trusting("the old key", &[&old]);
    let both = || trusting("both keys", &[&old, &new]);
    let only_new = || trusting("the new key", &[&new]);
    all_substitute(&world, &top, &[only_old()], "before")?;

    // 1. Those who push sign with both keys, and what the bucket has gets the new signature.
    world.larder.use_keys(&[&old, &new])?;
    let dry = world.larder.try_run(&["sign", "--dry-run"])?;
    assert_said(&dry, 0, &["would be signed"]);
    all_substitute(&world, &top, &[only_old(), both()], "before the new signatures")?;
    let signed = world.larder.try_run(&["sign"])?;
    assert_said(&signed, 0, &["left 0"]);
    let second = world.nix.build(&samples::app("second"))?.remove(0);
    world.larder.run(&["push", &second])?;
    for path in [&top, &second] {
        all_substitute(&world, path, &[only_old(), both(), only_new()], "with both signatures")?;
    }
    assert_said(&world.larder.try_run(&["sign"])?, 0, &["signed 0", "left 0"]);

    // 2. All clients trust the new key. 3. The old key goes: from those who push, then from the bucket.
    let refused = world.larder.try_run(&["sign", "--drop", "test-1"])?;
    assert_said(&refused, 2, &["`test-1` cannot be dropped", "signing-key-files"]);
    world.larder.use_keys(&[&new])?;
    world.larder.set("trusted-keys", &format!("[{:?}]", old.public))?;
    let dropped = world.larder.try_run(&["sign", "--drop", "test-1"])?;
    assert_said(&dropped, 0, &["left 0"]);
    world.larder.unset("trusted-keys")?;
    let third = world.nix.build(&samples::app("third"))?.remove(0);
    world.larder.run(&["push", &third])?;
    for path in [&top, &second, &third] {
        all_substitute(&world, path, &[both(), only_new()], "after the rotation")?;
    }
    for path in [&top, &second, &third] {
        assert!(!world.narinfo(path)?.context("a narinfo")?.contains("Sig: test-1:"), "{path}");
    }
    assert_said(&world.larder.try_run(&["verify", "--data"])?, 0, &["clients can take every path"]);
    Ok(())
}

#[test]
fn a_key_is_replaced_in_three_steps_and_no_client_fails_minio() -> Result<()> {
    if !Kind::MinIo.is_here() {
        return Ok(());
    }
    rotate(Target::server(Kind::MinIo)?)
}

#[test]
fn a_key_is_replaced_in_three_steps_and_no_client_fails_seaweedfs() -> Result<()> {
    if !Kind::SeaweedFs.is_here() {
        return Ok(());
    }
    rotate(Target::server(Kind::SeaweedFs)?)
}

#[test]
fn what_only_a_stranger_signed_is_left_and_named() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let top = world.nix.build(&samples::app("strange"))?.remove(0);
    world.larder.run(&["push", &top])?;
    let (ours, stranger) = (world.key.clone(), world.nix.key_pair("stranger-1")?);
    world.larder.use_keys(&[&stranger])?;
    let signed = world.larder.try_run(&["sign"])?;
    assert_said(&signed, 3, &["signed 0"]);
    assert!(signed.stdout.contains("no trusted key signed it"), "{}", signed.stdout);
    let believed = world.larder.try_run(&["sign", "--trusted-by", &ours.public])?;
    assert_said(&believed, 0, &["left 0"]);
    let base = world.target.public_base().context("a base")?;
    let client = world.nix.twin()?;
    client.substitute(std::slice::from_ref(&top), &base, &stranger.public)?;
    let wrong = world.larder.try_run(&["sign", "--trusted-by", "no-key"])?;
    assert_ne!(wrong.code(), 0);
    Ok(())
}

#[test]
fn a_program_outside_signs_for_pushes_and_for_sign_and_clients_accept_it() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    let outside = world.nix.key_pair("outside-1")?;
    let log = world.larder.dir().join("signed");
    let words = [env!("CARGO_BIN_EXE_signer").into(), outside.secret_file.clone(), log.clone()];
    let words: Vec<_> = words.iter().map(|word: &std::path::PathBuf| word.display().to_string()).collect();
    let old = world.nix.build(&samples::app("before"))?.remove(0);
    world.larder.run(&["push", &old])?;

    world.larder.set("signing-command", &format!("{words:?}"))?;
    let alone = world.larder.try_run(&["push", &old])?;
    assert_said(&alone, 4, &["belong together"]);
    world.larder.set("signing-command-key", &format!("{:?}", outside.public))?;
    world.larder.unset("signing-key-files")?;
    world.larder.set("trusted-keys", &format!("[{:?}]", world.key.public))?;

    // The agent: the hook queues, and the program signs.
    world.larder.install_hook(&mut world.nix)?;
    let new = world.nix.build(&samples::app("outside"))?.remove(0);
    world.larder.run(&["agent", "--exit-when-idle", "--set", "linger=0"])?;
    world.larder.run(&["sign"])?;
    let base = world.target.public_base().context("a base")?;
    for path in [&old, &new] {
        let client = world.nix.twin()?;
        client.substitute(std::slice::from_ref(path), &base, &outside.public)?;
    }
    let signed = std::fs::read_to_string(&log)?;
    assert!(signed.contains(&format!("1;{new};")), "{signed}");
    assert!(signed.contains("larder-lease;1;"), "{signed}");

    // A program that is away stops nothing for good, and publishes nothing.
    world.larder.set("signing-command", r#"["/nowhere/signer"]"#)?;
    let third = world.nix.build(&samples::app("later"))?.remove(0);
    let failed = world.larder.try_run(&["push", &third])?;
    assert_ne!(failed.code(), 0);
    assert!(failed.stderr.contains("/nowhere/signer"), "{}", failed.stderr);
    assert!(world.narinfo(&third)?.is_none());
    world.larder.set("signing-command", &format!("{words:?}"))?;
    world.larder.run(&["push", &third])?;
    Ok(())
}
