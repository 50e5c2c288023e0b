//! Credentials that are replaced while an agent runs.

use anyhow::{Result, ensure};
use larder_tests::nix::samples;
use larder_tests::process::eventually;
use larder_tests::servers::{ACCESS_KEY, SECRET_KEY};
use std::time::Duration;

use super::world::{Target, World};

const SOON: Duration = Duration::from_secs(120);

/// Builds a path, whose hook queues it, and waits until an agent has pushed it.
fn build_and_wait(world: &World, tag: &str, between: impl FnOnce() -> Result<()>) -> Result<()> {
    let path = world.nix.build(&samples::single(tag))?.remove(0);
    between()?;
    let arrived = || world.narinfo(&path).is_ok_and(|narinfo| narinfo.is_some());
    eventually(&format!("{tag} in the bucket"), SOON, arrived)
}

/// An agent goes on after its credentials were replaced twice: by another secret key, and by another pair of keys.
fn agent_takes_up_new_credentials(mut world: World) -> Result<()> {
    world.larder.install_hook(&mut world.nix)?;
    let file = world.larder.dir().join("credentials");
    let mut agent = world.larder.agent(&[])?;
    build_and_wait(&world, "first", || Ok(()))?;
    let new_secret: String = SECRET_KEY.chars().rev().collect();
    let new_access: String = ACCESS_KEY.chars().rev().collect();
    for (access_key, secret_key, tag) in
        [(ACCESS_KEY, &*new_secret, "second"), (&*new_access, SECRET_KEY, "third")]
    {
        let Target::Server(server) = &mut world.target else { continue };
        server.rotate(access_key, secret_key)?;
        let refused = |log: &str| log.matches("the server answered 403").count();
        let before = refused(&agent.log());
        build_and_wait(&world, tag, || {
            eventually("a refusal", SOON, || refused(&agent.log()) > before)?;
            let text = format!(
                "[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
            );
            Ok(std::fs::write(&file, text)?)
        })?;
    }
    ensure!(agent.try_wait()?.is_none(), "the agent has ended:\n{}", agent.log_tail());
    Ok(())
}

#[test]
fn an_agent_takes_up_a_changed_credentials_file() -> Result<()> {
    let Some(world) = World::minio()? else { return Ok(()) };
    agent_takes_up_new_credentials(world)
}

#[test]
fn an_agent_takes_up_a_changed_profile() -> Result<()> {
    let Some(mut world) = World::minio()? else { return Ok(()) };
    let file = world.larder.dir().join("credentials");
    world.larder.set_env("AWS_SHARED_CREDENTIALS_FILE", &file.display().to_string());
    world.larder.set_env("AWS_CONFIG_FILE", "/dev/null");
    world.larder.unset("credentials-file")?;
    agent_takes_up_new_credentials(world)
}
