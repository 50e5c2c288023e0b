//! No secret is shown. `larder_tests::secrets` searches the output and the files of every test; the tests here search
//! command lines, objects, logs and the output of builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use larder_tests::nix::samples;
use larder_tests::secrets::{ACCESS_TOKEN, Secrets};
use larder_tests::servers::SECRET_KEY;

use super::world::World;

/// The secrets of a world.
fn secrets(world: &World) -> Secrets {
    let secrets = Secrets::default();
    secrets.add_key(&world.key.secret_file);
    secrets.add(SECRET_KEY, &world.larder.dir().join("credentials"));
    secrets
}

#[test]
fn command_lines_objects_and_logs_have_no_secret() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    let built = world.nix.build(&samples::app("secrets"))?;
    let secrets = secrets(&world);
    let mut agent = world.larder.agent(&[])?;
    let mut seen = 0;
    agent.wait_until(Duration::from_secs(120), || {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            // Servers of the harness get their secrets in other ways.
            if line.windows(6).any(|word| word == b"larder") {
                secrets.search("a command line", &line);
                seen += 1;
            }
        }
        matches!(world.narinfo(&built[0]), Ok(Some(_)))
    })?;
    assert!(seen > 0);
    for key in world.target.list()?.into_keys() {
        let object = world.target.get(&key)?.context("an object has vanished")?;
        secrets.search(&format!("the object `{key}`"), &object);
    }
    secrets.search("the agent's log", agent.log().as_bytes());
    Ok(())
}

#[test]
fn a_failing_hook_shows_nothing_of_its_environment() -> Result<()> {
    let Some(mut world) = World::plain()? else { return Ok(()) };
    world.larder.install_hook(&mut world.nix)?;
    fs::remove_dir_all(world.larder.state_dir())?;
    fs::write(world.larder.state_dir(), "no directory")?;
    let output = world.nix.try_build(&samples::single("no queue"))?.ok()?;
    assert!(output.stderr.contains("larder"), "the hook said nothing: {}", output.stderr);
    let secrets = secrets(&world);
    secrets.search("the build's output", output.stderr.as_bytes());
    secrets.search("the build's output", output.stdout.as_bytes());
    // The secret is in the configuration of Nix.
    let shown = world.nix.nix(&["show-config"])?;
    assert!(shown.stdout.contains(ACCESS_TOKEN.split('=').next_back().unwrap_or_default()), "not planted");
    Ok(())
}

#[test]
fn a_secret_that_others_can_read_is_warned_of() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    let built = world.nix.build(&samples::single("exposed"))?;
    let quiet = world.larder.run(&["push", &built[0]])?;
    assert!(!quiet.stderr.contains("warning"), "{}", quiet.stderr);
    for file in [world.larder.dir().join("credentials"), world.key.secret_file.clone()] {
        for (mode, readers) in [(0o644, "everybody"), (0o640, "its group")] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
            let said = world.larder.run(&["push", &built[0]])?.stderr;
            let warning = format!("`{}` can be read by {readers}", file.display());
            assert!(said.contains(&warning), "{said}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
