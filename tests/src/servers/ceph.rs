//! Ceph RGW: one monitor, manager, OSD (in memory) and gateway, without systemd.

use super::{ACCESS_KEY, Kind, S3Server, SECRET_KEY};
use crate::need::Requirement;
use crate::process::{Child, clean_command, run};
use crate::{cache, http, ports};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

#[derive(Debug)]
pub(super) struct CephRgw {
    port: u16,
    _children: Vec<Child>,
    _dir: TempDir,
}

impl CephRgw {
    pub(super) fn start() -> Result<Self> {
        Requirement::Ceph.find().context("Ceph is not provisioned")?;
        let dir = tempfile::tempdir()?;
        let port = ports::free();
        let root = dir.path();
        for name in ["mon", "osd", "mgr", "rgw", "run", "log"] {
            std::fs::create_dir(root.join(name))?;
        }
        let id = uuid()?;
        std::fs::write(root.join("ceph.conf"), config(root, &id, port))?;
        let keyring = root.join("keyring").display().to_string();
        let monmap = root.join("monmap").display().to_string();

        tool(
            root,
            "ceph-authtool",
            &["--create-keyring", &keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"],
        )?;
        let all = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"];
        for name in ["client.admin", "osd.0", "mgr.x", "client.rgw.a"] {
            let mut args = vec![keyring.as_str(), "--gen-key", "-n", name];
            args.extend(all);
            tool(root, "ceph-authtool", &args)?;
        }
        let address = monitor(port);
        tool(root, "monmaptool", &["--create", "--fsid", &id, "--addv", "a", &address, &monmap])?;
        tool(root, "ceph-mon", &["--mkfs", "-i", "a", "--monmap", &monmap, "--keyring", &keyring])?;
        let mut children = vec![spawn(root, "ceph-mon", &["-i", "a", "-f"])?];
        let osd = uuid()?;
        tool(root, "ceph", &["osd", "new", &osd])?;
        tool(root, "ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd])?;
        children.push(spawn(root, "ceph-osd", &["-i", "0", "-f"])?);
        children.push(spawn(root, "ceph-mgr", &["-i", "x", "-f"])?);
        tool(root, "ceph", &["osd", "crush", "add", "osd.0", "1.0", "root=default", "host=larder"])?;
        let user = [
            "user",
            "create",
            "--uid=larder",
            "--display-name=larder",
            "--access-key",
            ACCESS_KEY,
            "--secret-key",
            SECRET_KEY,
        ];
        tool(root, "radosgw-admin", &user)?;
        let mut gateway = spawn(root, "radosgw", &["-n", "client.rgw.a", "-f"])?;
        let url = format!("http://127.0.0.1:{port}/");
        gateway.wait_until(Duration::from_secs(180), || http::get(&url).is_ok_and(|r| r.status() == 200))?;
        // The gateway ends first when the children are dropped.
        children.insert(0, gateway);
        Ok(Self { port, _children: children, _dir: dir })
    }
}

/// The addresses of the monitor. Its ports follow from the port of the gateway.
fn monitor(port: u16) -> String {
    format!("[v2:127.0.0.1:{},v1:127.0.0.1:{}]", port + 10_000, port + 10_001)
}

fn config(root: &Path, id: &str, port: u16) -> String {
    let (root, monitor) = (root.display(), monitor(port));
    format!(
        "[global]
fsid = {id}
mon host = {monitor}
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
keyring = {root}/keyring
run dir = {root}/run
admin socket = {root}/run/$cluster-$name.$pid.asok
log file = {root}/log/$name.log
mon data = {root}/mon
osd data = {root}/osd
mgr data = {root}/mgr
rgw data = {root}/rgw
osd objectstore = memstore
memstore device bytes = 6442450944
mon pg warn min per osd = 0
mon max pg per osd = 1000
mgr modules =
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dns name =
"
    )
}

fn command(root: &Path, program: &str, args: &[&str]) -> Result<Command> {
    let program = cache::program(program).with_context(|| format!("no {program}"))?;
    let mut command = clean_command(program);
    command.env("CEPH_CONF", root.join("ceph.conf")).env("HOME", root).current_dir(root).args(args);
    Ok(command)
}

fn tool(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    run(&mut command(root, program, args)?, Duration::from_secs(90))?.ok()?;
    Ok(())
}

fn spawn(root: &Path, program: &str, args: &[&str]) -> Result<Child> {
    Child::spawn(&command(root, program, args)?, &root.join("log").join(format!("{program}.out")))
}

fn uuid() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

impl S3Server for CephRgw {
    fn kind(&self) -> Kind {
        Kind::CephRgw
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn honours_if_absent(&self) -> bool {
        true
    }

    fn has_bucket_policies(&self) -> bool {
        true
    }

    /// RGW says that a key is missing only to clients that may list.
    fn anonymous_missing(&self) -> u16 {
        403
    }
}
