//! `larder setup` on a machine with a real systemd and Debian's Nix daemon: from the first build to its removal.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::machine::Machine;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::narinfo_key;
use larder_tests::process::{Output, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const LARDER: &str = "/opt/new/larder";

/// A machine with Nix as Debian wires it, asking no cache; on the network of another one where that is given.
pub(crate) fn debian(beside: Option<&Machine>) -> Result<Option<Machine>> {
    let (Some(setup), Some(_)) = (need(Requirement::NixSetup), need(Requirement::Nix28)) else {
        return Ok(None);
    };
    let Some(machine) = Machine::boot(beside)? else { return Ok(None) };
    let units = ["nix-daemon.service", "nix-daemon.socket"].map(|unit| format!("lib/systemd/system/{unit}"));
    for file in units.iter().map(String::as_str).chain(["usr/lib/tmpfiles.d/nix-daemon.conf"]) {
        machine.put(&setup.join(file), &format!("/{file}"))?;
    }
    machine.put(&setup.join("etc/nix/nix.conf"), "/etc/nix/nix.conf")?;
    let nix_conf = std::fs::read_to_string(machine.path("/etc/nix/nix.conf"))?;
    machine.write("/etc/nix/nix.conf", &(nix_conf + "substituters =\n"))?;
    let name = if beside.is_some() { "second" } else { "first" };
    // As the package's own script makes them.
    machine
        .shell(&format!(
            "set -e; hostname {name}; groupadd --force --system nixbld; groupadd --force --system nix-users
             id nixbld1 2>/dev/null || useradd --system --gid nixbld --groups nixbld --no-user-group --shell /usr/sbin/nologin nixbld1
             mkdir -p /nix/store /nix/var/nix /srv; rm -f /root/.cache/nix/binary-cache*
             systemctl daemon-reload; systemd-tmpfiles --create nix-daemon.conf; systemctl start nix-daemon.socket nix-daemon.service"
        ))?
        .ok()?;
    Ok(Some(machine))
}

/// The same with the two programs somewhere, a signing key, and a hook of somebody else's.
fn machine() -> Result<Option<Machine>> {
    let Some(machine) = debian(None)? else { return Ok(None) };
    for program in ["larder", "larder-hook"] {
        machine.put(&binary(program)?, &format!("/opt/new/{program}"))?;
    }
    let nix_conf = std::fs::read_to_string(machine.path("/etc/nix/nix.conf"))?;
    let more = "experimental-features = nix-command\npost-build-hook = /opt/other-hook\n";
    machine.write("/etc/nix/nix.conf", &(nix_conf + more))?;
    machine.write("/opt/other-hook", "#!/bin/sh\necho \"$OUT_PATHS\" >> /opt/other-hook.log\n")?;
    machine
        .shell("chmod +x /opt/other-hook; mkdir -p /etc/larder; systemctl restart nix-daemon.service")?
        .ok()?;
    machine.run(&[LARDER, "key", "generate", "booted-1", "--output", "/etc/larder/key.sec"])?.ok()?;
    Ok(Some(machine))
}

fn build_line(name: &str, script: &str) -> String {
    format!(
        "NIX_REMOTE=daemon nix-build --no-out-link -E 'derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; PATH = \"/usr/bin:/bin\"; args = [ \"-c\" \"{script}\" ]; }}'"
    )
}

/// Builds something; its path.
pub(crate) fn build(machine: &Machine, name: &str) -> Result<String> {
    let output = machine.shell(&build_line(name, &format!("echo {name} > $out")))?.ok()?;
    Ok(output.stdout.trim().to_owned())
}

/// Whether a path's narinfo is in the bucket.
fn arrived(machine: &Machine, path: &str) -> bool {
    machine.path("/srv/cache").join(narinfo_key(path)).exists()
}

/// What is installed: names, modes, contents. Without what `useradd` keeps beside its files, and what is no file.
fn snapshot(machine: &Machine) -> Result<String> {
    let line = "cd /; { find etc usr/local/bin usr/local/lib opt -xdev \\( -name '*-' -o -name .pwd.lock -o -name other-hook.log -o -name machine-id -o -name ld.so.cache \\) -prune -o -printf '%p %m %u %l\\n'; find etc usr/local/bin usr/local/lib -xdev -type f ! -name '*-' ! -name .pwd.lock ! -name machine-id -exec sha256sum {} +; } | sort";
    Ok(machine.shell(line)?.ok()?.stdout)
}

fn main_pid(machine: &Machine) -> Result<String> {
    Ok(machine.run(&["systemctl", "show", "-p", "MainPID", "--value", "larder-agent.service"])?.ok()?.stdout)
}

fn setup(machine: &Machine, args: &[&str]) -> Result<Output> {
    machine.run(&[&[LARDER, "setup"], args].concat())
}

#[test]
fn a_debian_machine_is_set_up_pushes_rests_and_is_as_before_when_that_is_taken_back() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    let before = snapshot(&machine)?;
    let new = ["--bucket", "file:///srv/cache", "--set", "linger=5"];
    setup(&machine, &new)?.ok()?;
    assert_eq!(before, snapshot(&machine)?, "changed by showing");
    machine.shell("mkdir /srv/cache")?.ok()?;
    let output = setup(&machine, &[&["--yes"], &new[..]].concat())?.ok()?;
    assert!(output.stderr.contains("`/opt/other-hook` is Nix's post-build-hook now"), "{}", output.stderr);
    assert!(setup(&machine, &["--yes"])?.ok()?.stderr.contains("nothing is to be changed"));
    machine.shell(&format!("{LARDER} init && chown -R larder /srv/cache"))?.ok()?;
    for unit in ["larder-agent.path", "larder-agent.timer", "larder-catch-up.timer"] {
        assert!(machine.is_active(unit), "{unit} was not started");
    }
    let owners = machine.shell("cd /var/lib/larder && stat -c '%n %U %a' . *")?.ok()?.stdout;
    assert_eq!(
        owners,
        ". root 755\nincoming root 770\nparked larder 755\nroots larder 755\nstate larder 755\ntmp root 700\nwork larder 755\n"
    );
    assert!(!machine.is_active("larder-agent.service"), "it runs without work");

    // A build starts it, a second one finds it still there, and then it rests.
    let first = build(&machine, "first")?;
    let journal = || {
        machine.shell("journalctl --no-pager -u 'larder*' | tail -40; systemctl status --no-pager larder-agent.service").map(|output| output.stdout).unwrap_or_default()
    };
    eventually("the first path arriving", SOON, || arrived(&machine, &first)).with_context(journal)?;
    let pid = main_pid(&machine)?;
    let second = build(&machine, "second")?;
    eventually("the second path arriving", SOON, || arrived(&machine, &second)).with_context(journal)?;
    assert_eq!(main_pid(&machine)?, pid, "started anew for the second build");
    eventually("the agent resting", SOON, || !machine.is_active("larder-agent.service"))?;
    let state =
        machine.run(&["systemctl", "show", "-p", "Result,NRestarts", "larder-agent.service"])?.ok()?.stdout;
    assert_eq!(state, "Result=success\nNRestarts=0\n");
    let third = build(&machine, "third")?;
    eventually("the third path arriving", SOON, || arrived(&machine, &third)).with_context(journal)?;
    let log = machine.shell("cat /opt/other-hook.log")?.ok()?.stdout;
    assert_eq!(log.lines().count(), 3, "the other hook ran for each build, too");
    let public = machine.run(&[LARDER, "key", "public", "/etc/larder/key.sec"])?.ok()?.stdout;
    machine
        .shell(&format!(
            "nix store verify -r --store file:///srv/cache --option trusted-public-keys '{}' {first} {second} {third}",
            public.trim()
        ))?
        .ok()?;

    // The catch-up, as its timer starts it: what the hook never saw.
    machine.shell("mv /usr/local/lib/larder/hook /usr/local/lib/larder/hook.away; printf '#!/bin/sh\\n' > /usr/local/lib/larder/hook; chmod +x /usr/local/lib/larder/hook")?.ok()?;
    let unseen = build(&machine, "unseen")?;
    machine.shell("mv /usr/local/lib/larder/hook.away /usr/local/lib/larder/hook; systemctl start larder-catch-up.service")?.ok().with_context(journal)?;
    eventually("the unseen path arriving", SOON, || arrived(&machine, &unseen)).with_context(journal)?;

    // Killed in the middle of its work, it is started again by what it had taken.
    machine.shell("systemctl kill -s KILL larder-agent.service; true")?;
    let fourth = build(&machine, "fourth")?;
    eventually("the fourth path arriving", SOON, || arrived(&machine, &fourth)).with_context(journal)?;

    // Taken back while a build runs: that build still has its hook.
    let slow = build_line("slow", "sleep 8; echo slow > $out");
    machine.write(
        "/opt/slow.sh",
        &format!("export HOME=/root\n{slow} > /opt/slow.log 2>&1\necho $? > /opt/slow.code\n"),
    )?;
    machine.shell("systemd-run --quiet --unit=slow bash /opt/slow.sh; sleep 3")?.ok()?;
    let output = setup(&machine, &["--remove", "--yes"])?;
    assert_eq!(output.code(), 3, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("when they have ended"), "{}", output.stderr);
    assert!(machine.path("/usr/local/lib/larder/larder-hook").exists());
    eventually("the slow build's end", SOON, || machine.path("/opt/slow.code").exists())?;
    let said = machine.shell("cat /opt/slow.code /opt/slow.log")?.ok()?.stdout;
    ensure!(said.starts_with("0\n"), "the build failed for the hook's sake: {said}");
    machine.shell("rm /opt/slow*")?.ok()?;
    eventually("its daemon's end", SOON, || {
        setup(&machine, &["--remove", "--queue", "--yes"]).is_ok_and(|output| output.status.success())
    })?;
    assert_eq!(before, snapshot(&machine)?, "something is left");
    assert!(!machine.path("/var/lib/larder").exists());
    build(&machine, "fifth")?;
    Ok(())
}

#[test]
fn the_guard_restarts_the_daemon_when_its_word_has_changed_and_only_then() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    let daemon = || -> Result<String> {
        Ok(machine
            .run(&["systemctl", "show", "-p", "MainPID", "--value", "nix-daemon.service"])?
            .ok()?
            .stdout)
    };
    let fragment = "/run/larder/substituters.conf";
    machine.shell(&format!("echo '!include {fragment}' >> /etc/nix/nix.conf"))?.ok()?;
    let guard = || {
        machine.run(&[
            LARDER,
            "client",
            "--guard",
            fragment,
            "--restart",
            "nix-daemon.service",
            "--url",
            "file:///srv/lan",
        ])
    };
    let first = daemon()?;
    assert!(guard()?.ok()?.stderr.contains("0 of 1 cache"));
    let second = daemon()?;
    assert_ne!(first, second, "the fragment is new, and the daemon was not restarted");
    guard()?.ok()?;
    assert_eq!(daemon()?, second, "restarted although nothing changed");
    machine.write("/srv/lan/nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n")?;
    // A build that runs meanwhile goes on.
    let slow = build_line("meanwhile", "sleep 5; echo there > $out");
    machine.write("/opt/slow.sh", &format!("export HOME=/root\n{slow}; echo $? > /opt/slow.code\n"))?;
    machine.shell("systemd-run --quiet --unit=slow bash /opt/slow.sh; sleep 2")?.ok()?;
    assert!(guard()?.ok()?.stderr.contains("1 of 1 cache"));
    assert_ne!(daemon()?, second);
    eventually("the build's end", SOON, || machine.path("/opt/slow.code").exists())?;
    assert_eq!(std::fs::read_to_string(machine.path("/opt/slow.code"))?, "0\n");
    Ok(())
}

#[test]
fn the_modules_relay_runs_behind_its_socket_and_closed_in() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let Some(files) = super::units::render("relayed", dir.path())? else { return Ok(()) };
    let bin = binary("larder")?.parent().context("no directory")?.display().to_string();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file)?.replace(&bin, "/opt/new");
        machine.write(&format!("/etc/systemd/system/{name}"), &text)?;
    }
    machine.shell("systemctl daemon-reload && systemctl start larder-relay.socket")?.ok()?;
    assert!(!machine.is_active("larder-relay.service"), "it runs without work");
    let url = "http://127.0.0.1:8391";
    let ask = |path: &str| machine.run(&["curl", "--silent", "--show-error", &format!("{url}{path}")]);
    let journal = || machine.shell("journalctl --no-pager -u larder-relay | tail -20").map(|out| out.stdout);
    // There is no such host here.
    let info = ask("/lan/nix-cache-info")?.ok().with_context(|| journal().unwrap_or_default())?.stdout;
    assert_eq!(info, "WantMassQuery: 1\nPriority: 30\n");
    assert!(machine.is_active("larder-relay.service"));
    assert!(ask("/")?.ok()?.stdout.contains("lan\thttp://cache.lan:8333/nix%20cache?x=y\taway"));
    assert!(journal()?.contains("lan is unavailable"), "{}", journal()?);
    // Nobody misses it: the socket stays, and the next question starts it again.
    machine.shell("systemctl stop larder-relay.service")?.ok()?;
    assert_eq!(ask("/lan/x.narinfo")?.ok()?.stdout, "away\n");
    Ok(())
}
