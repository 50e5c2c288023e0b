//! Hostile neighbours on a booted machine: a user without rights, a build, and the agent's own user. None of them stops
//! larder, leads root astray, or learns a secret.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::machine::Machine;
use larder_tests::need::must;
use larder_tests::nix::narinfo_key;
use larder_tests::process::{Output, eventually};
use std::time::Duration;

use super::booted::{LARDER, build, machine, main_pid};

const SOON: Duration = Duration::from_secs(120);
/// Bytes that a terminal would obey.
const ESCAPES: [&str; 3] = ["\u{1b}", "\u{9b}", "\u{202e}"];

/// A machine on which root has set larder up with a strict umask, and whose bucket is prepared. A complete run must have
/// these tests.
fn installed() -> Result<Option<Machine>> {
    let Some(machine) = must(machine()?) else { return Ok(None) };
    let line = format!(
        "umask 077; mkdir -m 755 /srv/cache
         {LARDER} setup --yes --bucket file:///srv/cache --set linger=1 && {LARDER} init && chown -R larder /srv/cache"
    );
    machine.shell(&line)?.ok()?;
    Ok(Some(machine))
}

/// Runs a line as a user, in a shell. Its failures are the aim of most attacks.
fn as_user(machine: &Machine, user: &str, line: &str) -> Result<Output> {
    machine.run(&["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--", "bash", "-c", line])
}

fn as_stranger(machine: &Machine, line: &str) -> Result<Output> {
    machine.run(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "bash", "-c", line])
}

/// Requires that a build is pushed, whatever happened before.
fn assert_works(machine: &Machine, name: &str) -> Result<String> {
    let path = build(machine, name)?;
    let journal = || {
        let line = "journalctl --no-pager -u 'larder*' | tail -40; ls -lA /var/lib/larder /var/lib/larder/*";
        machine.shell(line).map(|output| output.stdout).unwrap_or_default()
    };
    let object = machine.path("/srv/cache").join(narinfo_key(&path));
    eventually(&format!("{path} in the bucket"), SOON, || object.exists()).with_context(journal)?;
    Ok(path)
}

/// The hashes of all files that belong to root and that larder could be led to.
fn files_of_root(machine: &Machine) -> Result<String> {
    let line = "cd / && find etc usr/local opt -xdev -type f ! -name '*.log' ! -path etc/mtab -exec sha256sum {} + | sort";
    Ok(machine.shell(line)?.ok()?.stdout)
}

/// Runs what root runs, and requires that no byte reaches the terminal which the terminal would obey.
fn assert_root_is_safe(machine: &Machine) -> Result<()> {
    let commands = [
        "status",
        "status --json",
        "retry --all",
        "flush",
        "catch-up",
        "queue create --owner larder",
        "config check",
    ];
    for command in commands {
        let output = machine.shell(&format!("timeout 100 {LARDER} {command}"))?;
        ensure!(output.code() != 124, "`larder {command}` does not end");
        for text in [&output.stdout, &output.stderr] {
            let found = ESCAPES.into_iter().find(|escape| text.contains(escape));
            ensure!(found.is_none(), "`larder {command}` prints {found:?}: {text:?}");
        }
    }
    Ok(())
}

#[test]
fn a_user_without_rights_neither_stops_larder_nor_learns_a_secret() -> Result<()> {
    let Some(machine) = installed()? else { return Ok(()) };
    // The stranger takes every lock that it can take, and keeps it.
    let locks = "for place in /var/lib/larder /var/lib/larder/* /var/lib/larder/*/*; do flock \\$place sleep 3600 & done; touch /tmp/taken; wait";
    machine
        .shell(&format!("systemd-run --quiet --unit=stranger --uid=65534 --gid=65534 bash -c \"{locks}\""))?
        .ok()?;
    eventually("the locks of the stranger", SOON, || machine.path("/tmp/taken").exists())?;
    let status = machine.run(&[LARDER, "status", "--json"])?.ok()?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status["agentRunning"], false, "a stranger's lock looks like an agent: {status:#}");
    let path = assert_works(&machine, "beside-a-stranger")?;

    for attack in [
        "cat /etc/larder/key.sec",
        "touch /var/lib/larder/incoming/x",
        "ls /var/lib/larder/tmp",
        "ln -s /etc /var/lib/larder/roots/x",
        "touch /var/lib/larder/state/x",
        "mv /var/lib/larder/state /var/lib/larder/gone",
        "rm -r /var/lib/larder/parked",
        "ls /var/lib/larder/state",
    ] {
        assert_ne!(as_stranger(&machine, attack)?.code(), 0, "{attack}");
    }
    // The hook of a stranger queues nothing, and the commands of the queue do nothing for it.
    let hook = format!(
        "OUT_PATHS={path} /opt/new/larder-hook; {LARDER} flush; {LARDER} retry --all; {LARDER} catch-up"
    );
    as_stranger(&machine, &hook)?;
    assert_eq!(
        machine
            .shell("ls -A /var/lib/larder/incoming /var/lib/larder/work")?
            .ok()?
            .stdout
            .trim()
            .lines()
            .count(),
        3
    );

    let limit =
        machine.run(&["systemctl", "show", "-p", "LimitCORE", "--value", "larder-agent.service"])?.ok()?;
    assert_eq!(limit.stdout.trim(), "0", "a core dump could hold the signing key");
    assert_works(&machine, "beside-a-stranger-still").map(drop)
}

#[test]
fn a_build_does_no_more_than_be_pushed() -> Result<()> {
    let Some(machine) = installed()? else { return Ok(()) };
    machine.shell("systemctl stop larder-agent.path larder-agent.service")?.ok()?;
    let attack = "{ cat /etc/larder/key.sec; touch /var/lib/larder/incoming/x; ln -s /etc /var/lib/larder/roots/x; ls /var/lib/larder/state; flock -n /var/lib/larder/state true && echo locked; } > $out 2>/dev/null; echo the end >> $out";
    let line = format!(
        "NIX_REMOTE=daemon nix-build --no-out-link --option sandbox false -E 'derivation {{ name = \"attack\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; PATH = \"/usr/bin:/bin\"; args = [ \"-c\" \"{attack}\" ]; }}'"
    );
    let path = machine.shell(&line)?.ok()?.stdout.trim().to_owned();
    assert_eq!(machine.shell(&format!("cat {path}"))?.ok()?.stdout, "the end\n");
    machine.shell("systemctl start larder-agent.path")?.ok()?;
    let object = machine.path("/srv/cache").join(narinfo_key(&path));
    eventually("the output of the attack in the bucket", SOON, || object.exists())?;
    assert_works(&machine, "after-an-attack").map(drop)
}

#[test]
fn what_a_build_mentions_is_refused_where_the_closure_is_not_trusted() -> Result<()> {
    let Some(machine) = installed()? else { return Ok(()) };
    machine.shell("echo 'closure-trust = false' >> /etc/larder/config.toml")?.ok()?;
    // An import without a signature. An export loses the content address, by which the path would be trusted.
    machine.write("/srv/imported", "imported\n")?;
    let import = "cd /srv && path=$(nix-store --add imported) && nix-store --export $path > archive && nix-store --delete $path >/dev/null 2>&1 && nix-store --import < archive";
    let imported = machine.shell(import)?.ok()?.stdout.trim().to_owned();
    let line = format!(
        "NIX_REMOTE=daemon nix-build --no-out-link -E 'derivation {{ name = \"mentions\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; PATH = \"/usr/bin:/bin\"; imported = builtins.storePath \"{imported}\"; args = [ \"-c\" \"echo $imported > $out\" ]; }}'"
    );
    let path = machine.shell(&line)?.ok()?.stdout.trim().to_owned();
    let name = imported.rsplit('/').next().unwrap_or_default();
    let parked =
        || machine.shell(&format!("{LARDER} status")).is_ok_and(|output| output.stdout.contains(name));
    eventually("the refusal of the import", SOON, parked)?;
    for path in [&path, &imported] {
        assert!(!machine.path("/srv/cache").join(narinfo_key(path)).exists(), "{path} was published");
    }
    assert_works(&machine, "mentions-nothing").map(drop)
}

#[test]
fn the_agents_user_neither_leads_root_astray_nor_stops_the_rest_by_one_bad_entry() -> Result<()> {
    let Some(machine) = installed()? else { return Ok(()) };
    assert_works(&machine, "before")?;
    let before = files_of_root(&machine)?;
    let plant = r#"cd /var/lib/larder
      mkdir -p incoming/directory/deeper; touch incoming/directory/file; mkfifo incoming/fifo
      ln -s /etc/shadow incoming/link; ln -s /nowhere incoming/dangling
      printf 'larder-job 1\n\033[2Jname \x9b \xe2\x80\xae\n' > incoming/"$(printf 'esc\033[2J\342\200\256')"
      touch incoming/unreadable; chmod 000 incoming/unreadable; touch incoming/"$(printf 'new\nline')"
      printf '\033]0;title\007 \xe2\x80\xae' > parked/escape; mkdir -p work/directory/deeper
      ln -sf /etc/passwd state/since; ln -sf /etc/larder/config.toml state/summary.json
      for file in state/*; do [ -f "$file" ] && [ ! -L "$file" ] && printf '\033[2J' > "$file"; done; true"#;
    as_user(&machine, "larder", plant)?.ok()?;
    assert_works(&machine, "among-bad-entries")?;
    assert_root_is_safe(&machine)?;
    let log = machine.shell("journalctl --no-pager -o cat -u 'larder*'")?.ok()?.stdout;
    let found = ESCAPES.into_iter().find(|escape| log.contains(escape));
    assert!(found.is_none(), "the journal holds {found:?}");
    assert_eq!(before, files_of_root(&machine)?, "root changed a file of its own for the agent's user");
    // Directories that its owner has closed are opened again by root's `queue create`, as at each start.
    as_user(
        &machine,
        "larder",
        "chmod 000 /var/lib/larder/state /var/lib/larder/work; chmod 777 /var/lib/larder/parked",
    )?
    .ok()?;
    machine.shell("systemctl restart larder-queue.service")?.ok()?;
    assert_works(&machine, "after-the-correction")?;
    let modes = machine.shell("stat -c %a /var/lib/larder/parked /var/lib/larder/state")?.ok()?.stdout;
    assert!(!modes.contains("777"), "{modes}");
    ensure!(main_pid(&machine).is_ok(), "the unit is broken");
    Ok(())
}

#[test]
fn a_user_without_rights_cannot_make_the_relay_hide_a_cache() -> Result<()> {
    let Some(machine) = must(machine()?) else { return Ok(()) };
    machine.put(&binary("larder")?, LARDER)?;
    machine.write("/srv/www/nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n")?;
    machine.shell("systemd-run --quiet --unit=web --working-directory=/srv/www python3 -m http.server --bind 127.0.0.1 8080")?.ok()?;
    let line = format!(
        "systemd-run --quiet --unit=relay {LARDER} relay --listen 127.0.0.1:8391 lan=http://127.0.0.1:8080"
    );
    machine.shell(&line)?.ok()?;
    let info =
        || machine.run(&["curl", "--silent", "--max-time", "20", "http://127.0.0.1:8391/lan/nix-cache-info"]);
    let is_there = || info().is_ok_and(|output| output.stdout.contains("StoreDir: /nix/store"));
    eventually("the cache behind the relay", SOON, is_there)?;
    for attack in [
        "curl --silent --max-time 20 http://127.0.0.1:8391/lan/$(head -c 9000 /dev/zero | tr '\\0' x)",
        "curl --silent --max-time 20 'http://127.0.0.1:8391/lan/?list-type=2'",
        "curl --silent --max-time 20 'http://127.0.0.1:8391/lan/nar/../../x'",
        "curl --silent --max-time 20 -H 'Host: attacker.example' http://127.0.0.1:8391/lan/nix-cache-info",
        "exec 2>/dev/null; for n in $(seq 400); do exec {fd}<>/dev/tcp/127.0.0.1/8391 || break; done; curl --silent --max-time 20 http://127.0.0.1:8391/lan/nix-cache-info",
    ] {
        let answer = as_stranger(&machine, attack)?;
        assert!(!answer.stdout.contains("list-type"), "{attack}: {}", answer.stdout);
        assert!(
            !attack.contains("attacker") || !answer.stdout.contains("StoreDir"),
            "any `Host` is answered"
        );
        assert!(is_there(), "the cache is away after: {attack}");
        let caches = machine.run(&["curl", "--silent", "http://127.0.0.1:8391/"])?.ok()?.stdout;
        assert!(!caches.contains("unavailable"), "{attack}: {caches}");
    }
    // While the stranger holds its connections, others are served.
    machine
        .shell("systemd-run --quiet --unit=idle --uid=65534 bash -c 'exec 2>/dev/null; for n in $(seq 400); do exec {fd}<>/dev/tcp/127.0.0.1/8391; done; touch /tmp/idle; sleep 3600'")?
        .ok()?;
    eventually("400 idle connections", SOON, || machine.path("/tmp/idle").exists())?;
    assert!(is_there(), "idle connections lock others out");
    Ok(())
}
