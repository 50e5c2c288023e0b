//! What a set-up changes, and what taking it back does.

use std::collections::BTreeSet;
use std::path::Path;

use super::change::{Change, Tree};
use super::manifest::Manifest;
use super::units;
use crate::base::error::{Area, Error, Result};
use crate::client::nix_conf::{Block, NixConf};
use crate::config::Config;
use crate::config::config_keys::{BUCKET, CREDENTIALS_FILE, SIGNING_KEY_FILES};

/// Where the programs go: neither a garbage collection nor an upgrade takes them away.
pub const HOOK_DIR: &str = "/usr/local/lib/larder";
/// The queue.
pub const STATE_DIR: &str = "/var/lib/larder";
/// Who the agent runs as.
pub const USER: &str = "larder";
/// The units that are started.
pub const STARTED: [&str; 4] =
    ["larder-queue.service", "larder-agent.path", "larder-agent.timer", "larder-catch-up.timer"];
const UNITS: &str = "/etc/systemd/system";
const MANIFEST: &str = "/usr/local/lib/larder/manifest.json";
const CONFIG: &str = "/etc/larder/config.toml";
const NIX_CONF: &str = "/etc/nix/nix.conf";
const CUSTOM: &str = "nix.custom.conf";
/// Who may enter it, may reach the daemon.
const SOCKET_DIR: &str = "/nix/var/nix/daemon-socket";
/// Keeps what a program from the store is linked with.
const GC_ROOT: &str = "/nix/var/nix/gcroots/larder-setup";

/// What a set-up is made of.
#[derive(Debug)]
pub struct Request<'a> {
    /// The programs, as they are to be installed.
    pub larder: Vec<u8>,
    /// The hook.
    pub hook: Vec<u8>,
    /// The package in the store that they come from, if they do.
    pub package: Option<String>,
    /// The configuration as it takes effect.
    pub config: &'a Config,
    /// The file to make of it, where there is none.
    pub new_config: String,
    /// Whether to set the hook.
    pub install_hook: bool,
}

/// Changes, in the order in which they are to be made, and the record of what they leave.
#[derive(Debug)]
pub struct Plan {
    /// Before Nix is told of the hook.
    pub files: Vec<Change>,
    /// Telling Nix of it, or telling it to forget.
    pub nix: Vec<Change>,
    /// The record afterwards.
    pub manifest: Manifest,
    /// An earlier hook, which runs after larder's.
    pub chained: Option<String>,
    /// What was left alone, and why.
    pub remarks: Vec<String>,
}

/// The `post-build-hook` of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub program: String,
    /// `FILE:LINE`.
    pub at: String,
}

/// The program that Nix is told to run.
pub fn hook_file(chained: bool) -> String {
    format!("{HOOK_DIR}/{}", if chained { "hook" } else { "larder-hook" })
}

impl Manifest {
    /// The record of a machine; an empty one where nothing is set up.
    pub fn of(tree: &Tree) -> Result<Self> {
        let Some(text) = tree.read_text(MANIFEST)? else { return Ok(Self { version: 1, ..Self::default() }) };
        Self::parse(&text).ok_or_else(|| {
            Error::permanent(Area::Config, format!("`{MANIFEST}` is no record that this version knows"))
                .hint("use the version of larder that set this machine up")
        })
    }

    /// Writes the record.
    pub fn store(&self, tree: &Tree) -> Result<()> {
        let file =
            Change::File { path: MANIFEST.into(), before: None, after: self.to_json().into(), mode: 0o644 };
        tree.make(&file)
    }
}

/// Nix's configuration without our lines.
fn nix_conf(tree: &Tree) -> Result<NixConf> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(tree.at(&path.display().to_string()));
        match text {
            Ok(text) => Ok(Block::split(Some(&text)).rest),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    NixConf::read(Path::new(NIX_CONF), &read)
        .map_err(|error| Error::permanent(Area::Config, format!("cannot read `{NIX_CONF}`")).because(error))
}

/// The hook that somebody else has set.
pub fn earlier_hook(tree: &Tree) -> Result<Option<Hook>> {
    let conf = nix_conf(tree)?;
    Ok(conf.last("post-build-hook").filter(|origin| !origin.value.is_empty()).map(|origin| Hook {
        program: origin.value.join(" "),
        at: format!("{}:{}", origin.file.display(), origin.line),
    }))
}

/// Where our lines go: the file that an installer leaves to its users, where it keeps nix.conf for itself.
fn nix_conf_file(tree: &Tree) -> Result<String> {
    let custom = nix_conf(tree)?.files().iter().any(|file| file.ends_with(CUSTOM));
    let text = tree.read_text(NIX_CONF)?.unwrap_or_default();
    let named = text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.ends_with("include")) && words.next() == Some(CUSTOM)
    });
    let path = if custom || named { format!("/etc/nix/{CUSTOM}") } else { NIX_CONF.to_owned() };
    match tree.link(&path) {
        None => Ok(path),
        Some(target) => Err(Error::permanent(Area::Config, format!("`{path}` is a link to `{target}`"))
            .because("something else writes it")
            .hint("on NixOS use the module `services.larder`; elsewhere set post-build-hook where that file is made, and run `larder setup --no-hook`")),
    }
}

struct Builder<'a> {
    tree: &'a Tree,
    old: Manifest,
    plan: Plan,
}

impl Builder<'_> {
    fn directories(&mut self, path: &str) {
        let parents: Vec<_> =
            Path::new(path).ancestors().skip(1).map(|parent| parent.display().to_string()).collect();
        for parent in parents.into_iter().rev().filter(|parent| parent.len() > 1) {
            let known = self.plan.manifest.directories.contains(&parent);
            if !self.tree.exists(&parent) && !known {
                self.plan.files.push(Change::Directory(parent.clone()));
                self.plan.manifest.directories.insert(parent);
            }
        }
    }

    fn file(&mut self, path: &str, after: Vec<u8>, mode: u32) -> Result<()> {
        self.directories(path);
        let before = self.tree.read(path)?;
        let (digest, ours) = (Manifest::digest(&after), self.old.files.contains_key(path));
        if before.is_some() && !ours && before.as_ref() != Some(&after) {
            return Err(Error::permanent(
                Area::Config,
                format!("`{path}` is there, and not of `larder setup`'s making"),
            )
            .hint("move it away, or remove it, and try again"));
        }
        if before.is_none() || ours {
            self.plan.manifest.files.insert(path.to_owned(), digest);
        }
        if before.as_ref() != Some(&after) {
            self.plan.files.push(Change::File { path: path.to_owned(), before, after, mode });
        }
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) {
        self.directories(path);
        match self.tree.link(path) {
            Some(there) if there == target => {
                if self.old.links.contains_key(path) {
                    self.plan.manifest.links.insert(path.to_owned(), target.to_owned());
                }
                return;
            }
            None if !self.tree.exists(path) => {}
            _ => self.plan.files.push(Change::Remove(path.to_owned())),
        }
        self.plan.manifest.links.insert(path.to_owned(), target.to_owned());
        self.plan.files.push(Change::Link { path: path.to_owned(), target: target.to_owned() });
    }
}

/// What a set-up changes on a machine.
pub fn setup(tree: &Tree, request: Request<'_>) -> Result<Plan> {
    if tree.exists("/etc/NIXOS") {
        return Err(Error::permanent(Area::Usage, "this is NixOS, whose configuration is made of modules")
            .hint("use `services.larder` of the flake's nixosModules; `larder setup` is for other systems"));
    }
    if request.config.state_dir() != Path::new(STATE_DIR) {
        return Err(Error::permanent(
            Area::Config,
            format!("the units are made for `{STATE_DIR}`, and `state-dir` is another"),
        )
        .hint("take `state-dir` out of the configuration; another file system can be mounted there"));
    }
    let chained = earlier_hook(tree)?.filter(|_| request.install_hook);
    if let Some(hook) = chained
        .as_ref()
        .filter(|hook| hook.program.ends_with("/larder-hook") || hook.program.starts_with(HOOK_DIR))
    {
        return Err(Error::permanent(
            Area::Config,
            format!("`{}` sets larder's hook already, to `{}`", hook.at, hook.program),
        )
        .hint("take that line out and restart nix-daemon first: each build would be queued twice"));
    }
    let old = Manifest::of(tree)?;
    if !request.install_hook && !old.edited.is_empty() {
        return Err(Error::permanent(
            Area::Usage,
            "the hook is set, and `--no-hook` would leave it to itself",
        )
        .hint("take everything back first: `larder setup --remove`"));
    }
    let manifest =
        Manifest { version: 1, directories: old.directories.clone(), user: old.user, ..Manifest::default() };
    let plan = Plan { files: Vec::new(), nix: Vec::new(), manifest, chained: None, remarks: Vec::new() };
    let mut builder = Builder { tree, old, plan };
    if let Some(package) = &request.package {
        builder.link(GC_ROOT, package);
    }
    builder.file(&format!("{HOOK_DIR}/larder"), request.larder, 0o755)?;
    builder.file(&format!("{HOOK_DIR}/larder-hook"), request.hook, 0o755)?;
    if let Some(hook) = &chained {
        let script = format!(
            "#!/bin/sh\n# Made by `larder setup`: Nix runs one hook, and {} names another.\nexec {HOOK_DIR}/larder-hook --then {}\n",
            hook.at,
            quoted(&hook.program)
        );
        builder.file(&hook_file(true), script.into(), 0o755)?;
    }
    if tree.exists(CONFIG) && !builder.old.files.contains_key(CONFIG) {
        builder.plan.remarks.push(format!("`{CONFIG}` is there and stays as it is"));
    } else if tree.exists(CONFIG) {
        // Made by us, and perhaps changed since: it is its owner's now, until it is removed unchanged.
        let digest = builder.old.files.get(CONFIG).cloned().unwrap_or_default();
        builder.plan.manifest.files.insert(CONFIG.into(), digest);
    } else {
        builder.file(CONFIG, request.new_config.into(), 0o644)?;
    }
    for (name, text) in units::render(HOOK_DIR, &service_lines(tree, request.config)?) {
        builder.file(&format!("{UNITS}/{name}"), text.into(), 0o644)?;
        if let Some(target) = units::wanted_by(&name) {
            builder.link(&format!("{UNITS}/{target}.wants/{name}"), &format!("{UNITS}/{name}"));
        }
    }
    if request.install_hook {
        tell_nix(&mut builder, chained.is_some())?;
    }
    // What an earlier set-up made and this one does not: Nix may know it still, so it stays until all is taken back.
    for (path, digest) in &builder.old.files {
        builder.plan.manifest.files.entry(path.clone()).or_insert_with(|| digest.clone());
    }
    builder.plan.manifest.edited.extend(builder.old.edited.clone());
    builder.plan.chained = chained.map(|hook| hook.program);
    Ok(builder.plan)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

const AGENT: &str = "larder-agent.service";
const CATCH_UP: &str = "larder-catch-up.service";

/// What depends on the machine: systemd hands the secrets over, so that their files may be root's alone; and where the
/// daemon's socket is closed to others (Debian's is), its group comes along.
fn service_lines(tree: &Tree, config: &Config) -> Result<Vec<(&'static str, String)>> {
    let keys = config.get(SIGNING_KEY_FILES);
    let mut lines: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(index, file)| (AGENT, format!("LoadCredential=key-{index}:{file}")))
        .collect();
    let names: Vec<_> = (0..keys.len()).map(|index| format!("%d/key-{index}")).collect();
    lines.push((AGENT, format!("Environment=\"LARDER_SIGNING_KEY_FILES={}\"", names.join(" "))));
    if let Some(file) = config.get(CREDENTIALS_FILE) {
        lines.push((AGENT, format!("LoadCredential=credentials:{}", file.display())));
        lines.push((AGENT, "Environment=LARDER_CREDENTIALS_FILE=%d/credentials".into()));
    }
    if let Some(directory) = config.get(BUCKET).as_deref().and_then(|bucket| bucket.strip_prefix("file://")) {
        let directory = directory.split('?').next().unwrap_or_default();
        lines.push((AGENT, format!("ReadWritePaths={directory}")));
    }
    if let Some(group) = tree.closed_to(SOCKET_DIR)? {
        lines.extend([AGENT, CATCH_UP].map(|unit| (unit, format!("SupplementaryGroups={group}"))));
    }
    Ok(lines)
}

fn tell_nix(builder: &mut Builder<'_>, chained: bool) -> Result<()> {
    let path = nix_conf_file(builder.tree)?;
    let conf = nix_conf(builder.tree)?;
    let before = builder.tree.read_text(&path)?;
    let mut lines = format!("post-build-hook = {}\n", hook_file(chained));
    let allowed = conf.words("allowed-users", &["*"]);
    if !allowed.iter().any(|user| user == "*" || user == USER) {
        lines += &format!("extra-allowed-users = {USER}\n");
    }
    let block = Block::split(before.as_deref());
    // What its owner has added behind stays there, unless it would win.
    let behind = before.as_deref().and_then(|text| text.rsplit_once(&lines));
    let stands = block.ours.as_ref() == Some(&lines)
        && behind.is_some_and(|(_, text)| !text.contains("post-build-hook"));
    let after = before.clone().filter(|_| stands).unwrap_or_else(|| block.with(&lines));
    builder.directories(&path);
    builder.plan.manifest.edited.insert(path.clone());
    // Lines behind an include win over what is included.
    if let Some(last) =
        conf.last("post-build-hook").filter(|last| path != NIX_CONF && last.file == Path::new(NIX_CONF))
    {
        let text = builder.tree.read_text(NIX_CONF)?.unwrap_or_default();
        let included_at =
            text.lines().position(|line| line.contains(CUSTOM) && !line.trim_start().starts_with('#'));
        if included_at.is_none_or(|at| at + 1 < last.line) {
            return Err(Error::permanent(
                Area::Config,
                format!(
                    "`{NIX_CONF}:{}` sets a post-build-hook behind the include of {CUSTOM}, and would win",
                    last.line
                ),
            )
            .hint("move that line before the include, and try again"));
        }
    }
    if before.as_deref() != Some(after.as_str()) {
        let before = before.map(String::into_bytes);
        builder.plan.nix.push(Change::File { path, before, after: after.into(), mode: 0o644 });
    }
    Ok(())
}

/// What taking a set-up back changes: Nix first, then the files. What was changed since stays.
pub fn removal(tree: &Tree) -> Result<Plan> {
    let old = Manifest::of(tree)?;
    if let Some(hook) = earlier_hook(tree)?.filter(|hook| hook.program.starts_with(HOOK_DIR)) {
        return Err(Error::permanent(
            Area::Config,
            format!("`{}` names `{}` by itself", hook.at, hook.program),
        )
        .hint("take that line out: Nix fails every build whose hook is missing"));
    }
    let mut plan = Plan {
        files: Vec::new(),
        nix: Vec::new(),
        manifest: old.clone(),
        chained: None,
        remarks: Vec::new(),
    };
    for path in &old.edited {
        let Some(text) = tree.read_text(path)? else { continue };
        let block = Block::split(Some(&text));
        if block.ours.is_none() {
            continue;
        }
        plan.nix.push(match block.rest {
            Some(rest) => Change::File {
                path: path.clone(),
                before: Some(text.into()),
                after: rest.into(),
                mode: 0o644,
            },
            None => Change::Remove(path.clone()),
        });
    }
    for (path, target) in &old.links {
        if tree.link(path).as_ref() == Some(target) {
            plan.files.push(Change::Remove(path.clone()));
        }
    }
    for (path, digest) in &old.files {
        match tree.read(path)? {
            Some(bytes) if Manifest::digest(&bytes) != *digest => {
                plan.remarks.push(format!("`{path}` was changed since and stays"));
            }
            Some(_) => plan.files.push(Change::Remove(path.clone())),
            None => {}
        }
    }
    if tree.exists(MANIFEST) {
        plan.files.push(Change::Remove(MANIFEST.into()));
    }
    let directories: BTreeSet<_> = old.directories.iter().collect();
    plan.files.extend(directories.into_iter().rev().map(|path| Change::RemoveDirectory(path.clone())));
    Ok(plan)
}
