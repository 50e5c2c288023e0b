//! `larder setup` on a machine with a real systemd and Debian's Nix daemon, from the first build to the removal of larder.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::machine::Machine;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::narinfo_key;
use larder_tests::process::{Output, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
pub(crate) const LARDER: &str = "/opt/new/larder";

/// Boots a machine with Nix as Debian installs it, without a cache; on the network of another machine where one is given.
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
    // As the script of the package does.
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

/// The same with the two programs in /opt, a signing key, and another program as post-build-hook.
pub(crate) fn machine() -> Result<Option<Machine>> {
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

/// Builds a path; returns it.
pub(crate) fn build(machine: &Machine, name: &str) -> Result<String> {
    let output = machine.shell(&build_line(name, &format!("echo {name} > $out")))?.ok()?;
    Ok(output.stdout.trim().to_owned())
}

/// A build that waits until the test lets it end.
struct SlowBuild<'a> {
    machine: &'a Machine,
    name: &'static str,
}

impl<'a> SlowBuild<'a> {
    /// Starts the build, and waits until its builder runs.
    fn start(machine: &'a Machine, name: &'static str) -> Result<Self> {
        let slow = Self { machine, name };
        let [begun, end] = [slow.file("begun"), slow.file("end")];
        let wait = format!("touch {begun}; until [ -e {end} ]; do sleep 0.1; done; echo {name} > $out");
        let line = build_line(name, &wait);
        let [log, code] = [slow.file("log"), slow.file("code")];
        machine.shell("install -d -m 1777 /opt/slow")?.ok()?;
        machine.write(
            "/opt/slow/script",
            &format!("export HOME=/root\n{line} > {log} 2>&1\necho $? > {code}.new\nmv {code}.new {code}\n"),
        )?;
        machine.shell(&format!("systemd-run --quiet --unit={name} bash /opt/slow/script"))?.ok()?;
        let log = || machine.shell(&format!("cat {log}")).map(|output| output.stdout).unwrap_or_default();
        eventually("the builder running", SOON, || machine.path(&begun).exists()).with_context(log)?;
        Ok(slow)
    }

    fn file(&self, kind: &str) -> String {
        format!("/opt/slow/{}.{kind}", self.name)
    }

    /// Lets the build end, which must succeed.
    fn finish(self) -> Result<()> {
        self.machine.write(&self.file("end"), "")?;
        let code = self.machine.path(&self.file("code"));
        eventually("the end of the slow build", SOON, || code.exists())?;
        let log =
            self.machine.shell(&format!("cat {} {}", self.file("code"), self.file("log")))?.ok()?.stdout;
        ensure!(log.starts_with("0\n"), "the build failed: {log}");
        self.machine.shell("rm -r /opt/slow")?.ok().map(drop)
    }
}

/// Whether a path's narinfo is in the bucket.
fn arrived(machine: &Machine, path: &str) -> bool {
    machine.path("/srv/cache").join(narinfo_key(path)).exists()
}

/// The names, modes and contents of installed files, without the copies that `useradd` keeps.
fn snapshot(machine: &Machine) -> Result<String> {
    let line = "cd /; { find etc usr/local/bin usr/local/lib opt -xdev \\( -name '*-' -o -name .pwd.lock -o -name other-hook.log -o -name machine-id -o -name ld.so.cache \\) -prune -o -printf '%p %m %u %l\\n'; find etc usr/local/bin usr/local/lib -xdev -type f ! -name '*-' ! -name .pwd.lock ! -name machine-id -exec sha256sum {} +; } | sort";
    Ok(machine.shell(line)?.ok()?.stdout)
}

pub(crate) fn main_pid(machine: &Machine) -> Result<String> {
    Ok(machine.run(&["systemctl", "show", "-p", "MainPID", "--value", "larder-agent.service"])?.ok()?.stdout)
}

fn setup(machine: &Machine, args: &[&str]) -> Result<Output> {
    machine.run(&[&[LARDER, "setup"], args].concat())
}

#[test]
fn a_debian_machine_is_set_up_pushes_and_is_as_before_when_larder_is_removed() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    let before = snapshot(&machine)?;
    install(&machine)?;
    pushes_while_there_is_work(&machine)?;
    catches_up(&machine)?;
    rechecks(&machine)?;
    // When the agent is killed, its jobs start it again.
    machine.shell("systemctl kill -s KILL larder-agent.service; true")?;
    let path = build(&machine, "fourth")?;
    wait_for(&machine, &path)?;
    remove_during_a_build(&machine)?;
    assert_eq!(before, snapshot(&machine)?, "something is left");
    assert!(!machine.path("/var/lib/larder").exists());
    build(&machine, "fifth").map(drop)
}

/// Runs `larder setup`, which changes nothing before it is confirmed, and nothing when it is repeated.
fn install(machine: &Machine) -> Result<()> {
    let before = snapshot(machine)?;
    let new = ["--bucket", "file:///srv/cache", "--set", "linger=10"];
    setup(machine, &new)?.ok()?;
    assert_eq!(before, snapshot(machine)?, "changed by showing");
    machine.shell("mkdir /srv/cache")?.ok()?;
    let output = setup(machine, &[&["--yes"], &new[..]].concat())?.ok()?;
    assert!(output.stderr.contains("`/opt/other-hook` is Nix's post-build-hook now"), "{}", output.stderr);
    // As an earlier version made the queue.
    machine.shell("chmod 755 /var/lib/larder/state")?.ok()?;
    assert!(setup(machine, &["--yes"])?.ok()?.stderr.contains("nothing is to be changed"));
    machine.shell(&format!("{LARDER} init && chown -R larder /srv/cache"))?.ok()?;
    for unit in ["larder-agent.path", "larder-agent.timer", "larder-catch-up.timer", "larder-recheck.timer"] {
        assert!(machine.is_active(unit), "{unit} was not started");
    }
    let owners = machine.shell("cd /var/lib/larder && stat -c '%n %U %a' . *")?.ok()?.stdout;
    assert_eq!(
        owners,
        ". root 755\nincoming root 770\nparked larder 755\nroots larder 755\nstate larder 700\ntmp root 700\nwork larder 755\n"
    );
    assert!(!machine.is_active("larder-agent.service"), "the service runs without work");
    Ok(())
}

/// Waits until a path is in the bucket.
fn wait_for(machine: &Machine, path: &str) -> Result<()> {
    let journal = || {
        let line =
            "journalctl --no-pager -u 'larder*' | tail -40; systemctl status --no-pager larder-agent.service";
        machine.shell(line).map(|output| output.stdout).unwrap_or_default()
    };
    eventually(&format!("{path} arriving"), SOON, || arrived(machine, path)).with_context(journal)
}

/// A build starts the agent, a second build finds the agent running, then the agent ends, and a third build starts it.
fn pushes_while_there_is_work(machine: &Machine) -> Result<()> {
    let first = build(machine, "first")?;
    wait_for(machine, &first)?;
    let pid = main_pid(machine)?;
    let second = build(machine, "second")?;
    wait_for(machine, &second)?;
    assert_eq!(main_pid(machine)?, pid, "the agent was started again for the second build");
    eventually("the end of the agent", SOON, || !machine.is_active("larder-agent.service"))?;
    let state =
        machine.run(&["systemctl", "show", "-p", "Result,NRestarts", "larder-agent.service"])?.ok()?.stdout;
    assert_eq!(state, "Result=success\nNRestarts=0\n");
    let third = build(machine, "third")?;
    wait_for(machine, &third)?;
    let log = machine.shell("cat /opt/other-hook.log")?.ok()?.stdout;
    assert_eq!(log.lines().count(), 3, "the other hook did not run for each build");
    let public = machine.run(&[LARDER, "key", "public", "/etc/larder/key.sec"])?.ok()?.stdout;
    let verify = format!(
        "nix store verify -r --store file:///srv/cache --option trusted-public-keys '{}' {first} {second} {third}",
        public.trim()
    );
    machine.shell(&verify)?.ok().map(drop)
}

/// The catch-up, as its timer starts it, queues a path that the hook did not see.
fn catches_up(machine: &Machine) -> Result<()> {
    const HOOK: &str = "/usr/local/lib/larder/hook";
    machine
        .shell(&format!("mv {HOOK} {HOOK}.away; printf '#!/bin/sh\\n' > {HOOK}; chmod +x {HOOK}"))?
        .ok()?;
    let unseen = build(machine, "unseen")?;
    machine.shell(&format!("mv {HOOK}.away {HOOK}; systemctl start larder-catch-up.service"))?.ok()?;
    wait_for(machine, &unseen)
}

/// The recheck, as its timer starts it, finds a path that the bucket has lost, and the agent pushes the path again.
fn rechecks(machine: &Machine) -> Result<()> {
    let lost = build(machine, "lost")?;
    wait_for(machine, &lost)?;
    std::fs::remove_file(machine.path("/srv/cache").join(narinfo_key(&lost)))?;
    machine.shell("systemctl start larder-recheck.service")?.ok()?;
    wait_for(machine, &lost)
}

/// Removes larder while a build runs: that build still has its hook, and a second removal removes the rest.
fn remove_during_a_build(machine: &Machine) -> Result<()> {
    let slow = SlowBuild::start(machine, "slow")?;
    // A process of root that would build without the daemon.
    let knows = "NIX_CONFIG=post-build-hook=/usr/local/lib/larder/hook";
    machine.shell(&format!("systemd-run --quiet --unit=knows --setenv={knows} sleep 1000"))?.ok()?;
    let output = setup(machine, &["--remove", "--yes"])?;
    assert_eq!(output.code(), 3, "{}{}", output.stdout, output.stderr);
    let told = ["after they have ended", "nix-daemon", "sleep", "outside of this container"];
    assert!(told.iter().all(|word| output.stderr.contains(word)), "{}", output.stderr);
    assert!(machine.path("/usr/local/lib/larder/larder-hook").exists());
    slow.finish()?;
    assert_eq!(setup(machine, &["--remove", "--yes"])?.code(), 3, "the process that knows the hook runs");
    machine.shell("systemctl stop knows.service")?.ok()?;
    eventually("the end of its daemon", SOON, || {
        setup(machine, &["--remove", "--queue", "--yes"]).is_ok_and(|output| output.status.success())
    })
}

/// Installs the units that the module renders for a case, with the programs in /opt and texts replaced.
fn put_units(machine: &Machine, case: &str, replaced: &[(&str, &str)]) -> Result<bool> {
    let dir = tempfile::tempdir()?;
    let Some(files) = super::units::render(case, dir.path())? else { return Ok(false) };
    let bin = binary("larder")?.parent().context("no directory")?.display().to_string();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = std::fs::read_to_string(&file)?.replace(&bin, "/opt/new");
        for (from, to) in replaced {
            text = text.replace(from, to);
        }
        machine.write(&format!("/etc/systemd/system/{name}"), &text)?;
    }
    machine.shell("systemctl daemon-reload")?.ok()?;
    Ok(true)
}

#[test]
fn the_guard_restarts_the_daemon_only_when_the_list_of_caches_has_changed() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    if !put_units(&machine, "travels", &[("cache.lan", "127.0.0.1")])? {
        return Ok(());
    }
    let show = |property: &str, unit: &str| -> Result<String> {
        Ok(machine.run(&["systemctl", "show", "-p", property, "--value", unit])?.ok()?.stdout)
    };
    let daemon = || show("MainPID", "nix-daemon.service");
    let fragment = || machine.shell("cat /run/larder/substituters.conf").map(|output| output.stdout);
    let journal =
        || machine.shell("journalctl --no-pager -u 'larder-guard*' | tail -40").map(|out| out.stdout);
    machine.shell("echo '!include /run/larder/substituters.conf' >> /etc/nix/nix.conf")?.ok()?;
    let guard = || -> Result<bool> {
        Ok(machine.run(&["systemctl", "start", "larder-guard.service"])?.status.success())
    };
    let first = daemon()?;
    assert!(guard()?, "{}", journal()?);
    assert_eq!(fragment()?, "# No cache can be reached.\n", "{}", journal()?);
    let second = daemon()?;
    assert_ne!(first, second, "the fragment is new, and the daemon was not restarted");
    assert!(guard()? && journal()?.contains("cannot be reached"), "{}", journal()?);
    assert_eq!(daemon()?, second, "restarted although nothing changed");
    // The part that asks has no rights: not even its file is of root.
    let owner = machine.shell("stat -c %u /run/larder-guard/verdict")?.ok()?.stdout;
    assert!(owner.trim().parse::<u32>()? >= 61184, "the probe ran as {owner}");
    // A relay is a server that has a nix-cache-info. A build that runs meanwhile goes on.
    let server = "systemd-run --quiet --unit=lan /opt/new/larder relay --listen 127.0.0.1:8333 nix-cache=http://127.0.0.1:9";
    machine.shell(server)?.ok()?;
    let slow = SlowBuild::start(&machine, "meanwhile")?;
    eventually("the relay listening", SOON, || {
        machine
            .shell("curl --silent --fail http://127.0.0.1:8333/")
            .is_ok_and(|output| output.status.success())
    })?;
    assert!(guard()?, "{}", journal()?);
    let named = "extra-substituters = http://127.0.0.1:8333/nix-cache?priority=10\n";
    assert_eq!(fragment()?, named, "{}", journal()?);
    let third = daemon()?;
    assert_ne!(third, second);
    // Whatever a probe writes that was taken over, or if it writes nothing: the guard refuses, and nothing changes.
    let drop_in = "/etc/systemd/system/larder-guard-probe.service.d/evil.conf";
    for script in [
        "echo extra-substituters = http://evil > /run/larder-guard/verdict",
        "rm -f /run/larder-guard/verdict; exit 1",
    ] {
        machine.write(drop_in, &format!("[Service]\nExecStart=\nExecStart=/bin/sh -c '{script}'\n"))?;
        machine.shell("systemctl daemon-reload")?.ok()?;
        assert!(!guard()?, "{script}: {}", journal()?);
        assert_eq!((fragment()?, daemon()?), (named.to_owned(), third.clone()), "{script}");
    }
    slow.finish()
}

#[test]
fn the_relay_of_the_module_runs_behind_its_socket_and_confined() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    if !put_units(&machine, "relayed", &[])? {
        return Ok(());
    }
    machine.shell("systemctl start larder-relay.socket")?.ok()?;
    assert!(!machine.is_active("larder-relay.service"), "the service runs without work");
    let url = "http://127.0.0.1:8391";
    let ask = |path: &str| machine.run(&["curl", "--silent", "--show-error", &format!("{url}{path}")]);
    let journal = || machine.shell("journalctl --no-pager -u larder-relay | tail -20").map(|out| out.stdout);
    // The host of the cache does not exist.
    let info = ask("/lan/nix-cache-info")?.ok().with_context(|| journal().unwrap_or_default())?.stdout;
    assert_eq!(info, "WantMassQuery: 1\nPriority: 30\n");
    assert!(machine.is_active("larder-relay.service"));
    assert!(ask("/")?.ok()?.stdout.contains("lan\thttp://cache.lan:8333/nix%20cache?x=y\tunavailable"));
    assert!(journal()?.contains("lan is unavailable"), "{}", journal()?);
    // The socket stays, and the next request starts the relay again.
    machine.shell("systemctl stop larder-relay.service")?.ok()?;
    assert_eq!(ask("/lan/00000000000000000000000000000000.narinfo")?.ok()?.stdout, "away\n");
    Ok(())
}
