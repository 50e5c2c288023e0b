//! Credentials that are replaced while the agent runs as a service: systemd gives the agent a copy of the file, which
//! does not change while the agent runs.

use anyhow::{Context, Result, ensure};
use larder_tests::machine::Machine;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::narinfo_key;
use larder_tests::process::eventually;
use std::time::Duration;

use super::booted::{LARDER, build, machine, main_pid};

const SOON: Duration = Duration::from_secs(180);
const FILE: &str = "/etc/larder/credentials";

/// Starts MinIO on the machine with a key, and stops the server with the former key.
fn serve(machine: &Machine, access_key: &str, secret_key: &str) -> Result<()> {
    let line = format!(
        "systemctl stop minio.service 2>/dev/null
         systemd-run --quiet --unit=minio --setenv=HOME=/srv --setenv=MINIO_ROOT_USER={access_key} \
           --setenv=MINIO_ROOT_PASSWORD={secret_key} --setenv=MINIO_BROWSER=off --setenv=MINIO_UPDATE=off \
           /usr/local/bin/minio server --quiet --address 127.0.0.1:9000 --console-address 127.0.0.1:9001 /srv/minio
         systemctl is-active minio.service"
    );
    machine.shell(&line)?.ok()?;
    eventually("MinIO being ready", SOON, || {
        machine
            .run(&["curl", "--silent", "--fail", "http://127.0.0.1:9000/minio/health/ready"])
            .is_ok_and(|output| output.status.success())
    })
}

/// Replaces the file of the credentials, which only root can read.
fn write(machine: &Machine, access_key: &str, secret_key: &str) -> Result<()> {
    let text = format!("AWS_ACCESS_KEY_ID={access_key}\nAWS_SECRET_ACCESS_KEY={secret_key}\n");
    machine.write(&format!("{FILE}.new"), &text)?;
    machine.shell(&format!("chmod 0600 {FILE}.new && mv {FILE}.new {FILE}"))?.ok().map(drop)
}

/// Waits until a path is in the bucket.
fn wait_for(machine: &Machine, path: &str) -> Result<()> {
    let journal = || {
        let line = "journalctl --no-pager -u 'larder*' -u minio | tail -60";
        machine.shell(line).map(|output| output.stdout).unwrap_or_default()
    };
    let object = machine.path("/srv/minio/nix-cache").join(narinfo_key(path));
    eventually(&format!("{path} in the bucket"), SOON, || object.exists()).with_context(journal)
}

#[test]
fn a_running_service_takes_up_replaced_credentials() -> Result<()> {
    let Some(minio) = need(Requirement::MinIo) else { return Ok(()) };
    let Some(machine) = machine()? else { return Ok(()) };
    machine.put(&minio, "/usr/local/bin/minio")?;
    let [old, new] = [("old-access-key", "old-secret-key"), ("new-access-key", "new-secret-key")];
    serve(&machine, old.0, old.1)?;
    write(&machine, old.0, old.1)?;
    let bucket = "s3://nix-cache?endpoint=http://127.0.0.1:9000";
    let setup =
        [LARDER, "setup", "--yes", "--bucket", bucket, "--credentials-file", FILE, "--set", "linger=3600"];
    machine.run(&setup)?.ok()?;
    machine.run(&[LARDER, "init", "--create"])?.ok()?;
    wait_for(&machine, &build(&machine, "first")?)?;
    let pid = main_pid(&machine)?;

    serve(&machine, new.0, new.1)?;
    let path = build(&machine, "second")?;
    eventually("a refusal", SOON, || {
        machine
            .shell("journalctl --no-pager -u larder-agent.service")
            .is_ok_and(|log| log.stdout.contains("InvalidAccessKeyId"))
    })?;
    write(&machine, new.0, new.1)?;
    wait_for(&machine, &path)?;
    ensure!(main_pid(&machine)? != pid, "the agent could not have the new copy");
    // The new agent stays.
    let pid = main_pid(&machine)?;
    wait_for(&machine, &build(&machine, "third")?)?;
    ensure!(main_pid(&machine)? == pid, "the agent was started again for the third build");
    Ok(())
}
