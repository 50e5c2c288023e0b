//! `larder setup` below a scratch root: its files, that a second run changes nothing, and that removal leaves nothing.

use anyhow::{Context, Result};
use larder_tests::larder::binary;
use larder_tests::process::{Output, clean_command, run};
use sha2::Digest;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const NEW: [&str; 3] = ["--yes", "--bucket", "s3://nix-cache?endpoint=http://cache.lan:8333"];

/// Files of a machine: names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

/// The root directory of another machine.
struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A root with these files, directories of Nix and systemd, and a signing key.
    fn new(files: Files<'_>) -> Result<Self> {
        let scratch = Self(tempfile::tempdir()?);
        for dir in [
            "etc/nix",
            "etc/larder",
            "etc/systemd/system/multi-user.target.wants",
            "usr/local/lib",
            "nix/var/nix/gcroots",
        ] {
            std::fs::create_dir_all(scratch.0.path().join(dir))?;
        }
        scratch.write("etc/larder/key.sec", "not looked at")?;
        files.iter().try_for_each(|(name, text)| scratch.write(name, text))?;
        Ok(scratch)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.0.path().join(name), text)?)
    }

    fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.0.path().join(name)).with_context(|| name.to_owned())
    }

    fn setup(&self, args: &[&str]) -> Result<Output> {
        self.setup_with_umask("022", args)
    }

    fn setup_with_umask(&self, umask: &str, args: &[&str]) -> Result<Output> {
        let mut command = clean_command("/bin/sh");
        command.args(["-c", "umask $0; exec \"$@\"", umask]).arg(binary("larder")?);
        command.args(["setup", "--root"]).arg(self.0.path()).args(args);
        run(&mut command, SOON)
    }

    /// Everything below the root: modes, contents, targets of links.
    fn snapshot(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for entry in walkdir::WalkDir::new(self.0.path()) {
            let entry = entry?;
            let name = entry.path().strip_prefix(self.0.path())?.display().to_string();
            let metadata = entry.path().symlink_metadata()?;
            let what = if metadata.is_symlink() {
                std::fs::read_link(entry.path())?.display().to_string()
            } else if metadata.is_file() {
                format!("{:?}", sha2::Sha256::digest(std::fs::read(entry.path())?))
            } else {
                String::new()
            };
            all.insert(name, format!("{:o} {what}", metadata.permissions().mode()));
        }
        Ok(all)
    }
}

fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names = a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

#[test]
fn setup_is_idempotent_and_removal_restores_every_byte() -> Result<()> {
    const DETERMINATE: &str = "# managed\nbuild-users-group = nixbld\n!include nix.custom.conf\n";
    // Files, the file that gains lines, and those lines.
    let ours = "post-build-hook = /usr/local/lib/larder/larder-hook\n";
    let chained = "post-build-hook = /usr/local/lib/larder/hook\n";
    let cases: &[(Files<'_>, &str, &str)] = &[
        (&[], "etc/nix/nix.conf", ours),
        (&[("etc/nix/nix.conf", "")], "etc/nix/nix.conf", ours),
        (&[("etc/nix/nix.conf", "sandbox = false\n")], "etc/nix/nix.conf", ours),
        (&[("etc/nix/nix.conf", "sandbox = false")], "etc/nix/nix.conf", ours),
        (&[("etc/nix/nix.conf", DETERMINATE)], "etc/nix/nix.custom.conf", ours),
        (
            &[("etc/nix/nix.conf", DETERMINATE), ("etc/nix/nix.custom.conf", "max-jobs = 3")],
            "etc/nix/nix.custom.conf",
            ours,
        ),
        (&[("etc/nix/nix.conf", "post-build-hook = /opt/it's mine\n")], "etc/nix/nix.conf", chained),
        (
            &[("etc/nix/nix.conf", "allowed-users = root @wheel\n")],
            "etc/nix/nix.conf",
            "post-build-hook = /usr/local/lib/larder/larder-hook\nextra-allowed-users = larder\n",
        ),
    ];
    for (files, conf, lines) in cases {
        let scratch = Scratch::new(files)?;
        let before = scratch.snapshot()?;
        let shown = scratch.setup(&NEW[1..])?.ok()?;
        for word in ["+ ExecStart=/usr/local/lib/larder/larder agent", &format!("/{conf}"), lines.trim_end()]
        {
            let word = word.lines().next().unwrap_or_default();
            assert!(shown.stdout.contains(word), "no `{word}` in the diff:\n{}", shown.stdout);
        }
        assert_eq!(differences(&before, &scratch.snapshot()?), [""; 0], "changed by showing");

        scratch.setup(&NEW)?.ok()?;
        let after = scratch.snapshot()?;
        assert!(scratch.read(conf)?.contains(lines), "{files:?}: {}", scratch.read(conf)?);
        assert!(scratch.read("etc/larder/config.toml")?.contains("bucket = \"s3://nix-cache"));
        let agent = scratch.read("etc/systemd/system/larder-agent.service")?;
        let recheck = scratch.read("etc/systemd/system/larder-recheck.service")?;
        for unit in [&agent, &recheck] {
            assert!(unit.contains("LoadCredential=key-0:/etc/larder/key.sec\n"), "{unit}");
        }
        let again = scratch.setup(&["--yes"])?.ok()?;
        assert!(again.stderr.contains("nothing is to be changed"), "{}", again.stderr);
        assert_eq!(again.stdout, "");
        assert_eq!(differences(&after, &scratch.snapshot()?), [""; 0], "twice is not once");

        scratch.setup(&["--remove"])?.ok()?;
        assert_eq!(differences(&after, &scratch.snapshot()?), [""; 0], "changed by showing");
        scratch.setup(&["--remove", "--yes"])?.ok()?;
        assert_eq!(differences(&before, &scratch.snapshot()?), [""; 0], "{files:?}: not as before");
        assert!(scratch.setup(&["--remove", "--yes"])?.ok()?.stderr.contains("nothing is set up here"));
    }
    Ok(())
}

#[test]
fn modes_do_not_depend_on_the_umask() -> Result<()> {
    let modes = |umask| -> Result<BTreeMap<String, String>> {
        let scratch = Scratch::new(&[("etc/nix/nix.conf", "post-build-hook = /opt/mine\n")])?;
        // Directories that the set-up has to make.
        std::fs::remove_dir_all(scratch.0.path().join("etc/systemd"))?;
        std::fs::remove_dir_all(scratch.0.path().join("usr/local"))?;
        scratch.setup_with_umask(umask, &NEW)?.ok()?;
        scratch.snapshot()
    };
    let open = modes("022")?;
    for umask in ["077", "000"] {
        assert_eq!(differences(&open, &modes(umask)?), [""; 0], "with the umask {umask}");
    }
    Ok(())
}

#[test]
fn an_earlier_hook_is_kept_and_run_by_a_script() -> Result<()> {
    let scratch = Scratch::new(&[("etc/nix/nix.conf", "post-build-hook = /opt/it's mine\n")])?;
    let output = scratch.setup(&NEW)?.ok()?;
    assert!(output.stderr.contains("`/opt/it's mine` is Nix's post-build-hook now"), "{}", output.stderr);
    let script = scratch.read("usr/local/lib/larder/hook")?;
    assert!(
        script.ends_with("exec /usr/local/lib/larder/larder-hook --then '/opt/it'\\''s mine'\n"),
        "{script}"
    );
    assert!(scratch.read("etc/nix/nix.conf")?.starts_with("post-build-hook = /opt/it's mine\n"));
    // The other hook is removed. The script stays until larder is removed, because the daemon may still run it.
    let ours = scratch.read("etc/nix/nix.conf")?;
    let (_, block) = ours.split_once('\n').context("one line only")?;
    scratch.write("etc/nix/nix.conf", block)?;
    scratch.setup(&["--yes"])?.ok()?;
    assert!(scratch.read("etc/nix/nix.conf")?.contains("= /usr/local/lib/larder/larder-hook\n"));
    assert!(scratch.read("usr/local/lib/larder/hook").is_ok());
    let refused = scratch.setup(&["--yes", "--no-hook"])?;
    assert!(refused.code() == 2 && refused.stderr.contains("larder setup --remove"), "{}", refused.stderr);
    // A line of the administrator that names the script must be removed first.
    let conf = scratch.read("etc/nix/nix.conf")?;
    scratch.write("etc/nix/nix.conf", &(conf.clone() + "post-build-hook = /usr/local/lib/larder/hook\n"))?;
    let refused = scratch.setup(&["--remove", "--yes"])?;
    assert!(refused.code() == 4 && refused.stderr.contains("nix.conf:"), "{}", refused.stderr);
    scratch.write("etc/nix/nix.conf", &conf)?;
    scratch.setup(&["--remove", "--yes"])?.ok()?;
    assert!(scratch.read("usr/local/lib/larder/hook").is_err());
    assert_eq!(scratch.read("etc/nix/nix.conf")?, "");
    Ok(())
}

#[test]
fn files_that_others_made_or_changed_are_kept() -> Result<()> {
    let scratch = Scratch::new(&[("etc/nix/nix.conf", "sandbox = false\n")])?;
    scratch.setup(&NEW)?.ok()?;
    let config = scratch.read("etc/larder/config.toml")? + "linger = 90\n";
    scratch.write("etc/larder/config.toml", &config)?;
    let conf = scratch.read("etc/nix/nix.conf")? + "max-jobs = 3\n";
    scratch.write("etc/nix/nix.conf", &conf)?;
    // These changes need no other units.
    let again = scratch.setup(&["--yes"])?.ok()?;
    assert!(again.stderr.contains("nothing is to be changed"), "{}{}", again.stdout, again.stderr);
    let removed = scratch.setup(&["--remove", "--yes"])?.ok()?;
    assert!(removed.stderr.contains("`/etc/larder/config.toml` was changed since and stays"));
    assert_eq!(scratch.read("etc/larder/config.toml")?, config);
    assert_eq!(scratch.read("etc/nix/nix.conf")?, "sandbox = false\nmax-jobs = 3\n");

    // An existing configuration is kept and used.
    scratch.setup(&["--yes"])?.ok()?;
    assert_eq!(scratch.read("etc/larder/config.toml")?, config);
    let refused = scratch.setup(&NEW)?;
    assert!(refused.code() == 2 && refused.stderr.contains("exists already"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn harmful_setups_are_refused_with_a_way_out() -> Result<()> {
    // Files of the machine, arguments, words.
    let cases: &[(Files<'_>, &[&str], &[&str])] = &[
        (&[("etc/NIXOS", "")], &NEW, &["NixOS", "services.larder"]),
        (&[], &["--yes"], &["bucket"]),
        (&[], &["--yes", "--bucket", "nonsense"], &["nonsense"]),
        (
            &[],
            &[NEW[0], NEW[1], NEW[2], "--signing-key-file", "/nowhere"],
            &["/nowhere", "larder key generate"],
        ),
        (
            &[("etc/nix/nix.conf", "# one\npost-build-hook = /usr/local/bin/larder-hook\n")],
            &NEW,
            &["/etc/nix/nix.conf:2", "twice"],
        ),
        (
            &[("etc/systemd/system/larder-agent.service", "[Service]\n")],
            &NEW,
            &["larder-agent.service", "move it away"],
        ),
        (
            &[("etc/nix/nix.conf", "!include nix.custom.conf\npost-build-hook = /opt/other\n")],
            &NEW,
            &["nix.conf:2", "move that line"],
        ),
        (
            &[(
                "etc/larder/config.toml",
                "bucket = \"file:///srv\"\nstate-dir = \"/srv/queue\"\nsigning-key-files = [\"/etc/larder/key.sec\"]\n",
            )],
            &["--yes"],
            &["state-dir", "/var/lib/larder"],
        ),
    ];
    for (files, args, words) in cases {
        let scratch = Scratch::new(files)?;
        let before = scratch.snapshot()?;
        let output = scratch.setup(args)?;
        assert!(!output.status.success(), "{files:?} {args:?} was taken");
        for word in *words {
            assert!(output.stderr.contains(word), "{files:?}: no `{word}` in: {}", output.stderr);
        }
        assert_eq!(differences(&before, &scratch.snapshot()?), [""; 0], "{files:?}: changed all the same");
    }
    let scratch = Scratch::new(&[])?;
    std::os::unix::fs::symlink("/nix/store/x-nix.conf", scratch.0.path().join("etc/nix/nix.conf"))?;
    let output = scratch.setup(&NEW)?;
    assert!(!output.status.success() && output.stderr.contains("is a link to"), "{}", output.stderr);
    Ok(())
}

#[test]
fn systemd_accepts_the_units_and_rates_them_confined() -> Result<()> {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        larder_tests::need::skip("no systemd-analyze here");
        return Ok(());
    }
    let scratch = Scratch::new(&[])?;
    scratch.setup(&NEW)?.ok()?;
    let bin = binary("larder")?.parent().context("no directory")?.display().to_string();
    let dir = tempfile::tempdir()?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(scratch.0.path().join("etc/systemd/system"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let text = std::fs::read_to_string(entry.path())?.replace("/usr/local/lib/larder", &bin);
            let file = dir.path().join(entry.file_name());
            std::fs::write(&file, text)?;
            files.push(file);
        }
    }
    assert_eq!(files.len(), 12);
    super::units::verify_and_judge(&files)
}
