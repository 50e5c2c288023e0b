//! The hook in Nix's configuration: finds the hook of another owner, and sets larder's hook.

use std::path::Path;

use super::change::{Change, Tree};
use super::paths::{CUSTOM_NIX_CONF, NIX_CONF, USER, hook_file};
use super::plan::PlanBuilder;
use crate::base::error::{Area, Error, Result};
use crate::client::nix_conf::{Block, NixConf};

/// A `post-build-hook` that larder did not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherHook {
    /// The program.
    pub(super) program: String,
    /// The line that sets it, as `FILE:LINE`.
    pub(super) place: String,
}

/// Nix's configuration without larder's lines.
fn read_conf(tree: &Tree) -> Result<NixConf> {
    let read = |path: &Path| match std::fs::read_to_string(tree.at(&path.display().to_string())) {
        Ok(text) => Ok(Block::split(Some(&text)).rest),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    NixConf::read(Path::new(NIX_CONF), &read)
        .map_err(|error| Error::permanent(Area::Config, format!("cannot read `{NIX_CONF}`")).because(error))
}

/// The hook that another owner has set.
pub(super) fn other_hook(tree: &Tree) -> Result<Option<OtherHook>> {
    let conf = read_conf(tree)?;
    let line = conf.last("post-build-hook").filter(|origin| !origin.value.is_empty());
    Ok(line.map(|origin| OtherHook { program: origin.value.join(" "), place: origin.to_string() }))
}

/// Plans the lines that make Nix run larder's hook.
///
/// Fails if another program writes the file, or if a line that stays would take precedence.
pub(super) fn set_hook(builder: &mut PlanBuilder<'_>, chained: bool) -> Result<()> {
    let conf = read_conf(builder.tree)?;
    let path = file_for_hook(builder.tree, &conf)?;
    let before = builder.tree.read_text(&path)?;
    let after = with_lines(before.as_deref(), &hook_lines(&conf, chained));
    builder.parents(&path);
    builder.plan.manifest.edited.insert(path.clone());
    if path != NIX_CONF {
        refuse_later_hook(builder.tree, &conf)?;
    }
    if before.as_deref() != Some(after.as_str()) {
        let before = before.map(String::into_bytes);
        builder.plan.nix.push(Change::File { path, before, after: after.into(), mode: 0o644 });
    }
    Ok(())
}

/// The file for larder's lines: `nix.custom.conf` if `nix.conf` includes it, otherwise `nix.conf`.
fn file_for_hook(tree: &Tree, conf: &NixConf) -> Result<String> {
    let exists = conf.files().iter().any(|file| file.ends_with(CUSTOM_NIX_CONF));
    let text = tree.read_text(NIX_CONF)?.unwrap_or_default();
    let named = text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.ends_with("include")) && words.next() == Some(CUSTOM_NIX_CONF)
    });
    let path = if exists || named { format!("/etc/nix/{CUSTOM_NIX_CONF}") } else { NIX_CONF.to_owned() };
    match tree.link(&path) {
        None => Ok(path),
        Some(target) => Err(Error::permanent(Area::Config, format!("`{path}` is a link to `{target}`"))
            .because("another program writes it")
            .hint("on NixOS use the module `services.larder`; elsewhere set post-build-hook where that file is made, and run `larder setup --no-hook`")),
    }
}

/// The lines that set the hook, and let the agent's user connect to the daemon.
fn hook_lines(conf: &NixConf, chained: bool) -> String {
    let mut lines = format!("post-build-hook = {}\n", hook_file(chained));
    let allowed = conf.words("allowed-users", &["*"]);
    if !allowed.iter().any(|user| user == "*" || user == USER) {
        lines += &format!("extra-allowed-users = {USER}\n");
    }
    lines
}

/// The text of a file with the block of `lines`.
///
/// If the file has the block already, lines that its owner has added behind the block stay there, unless they set
/// another hook.
fn with_lines(before: Option<&str>, lines: &str) -> String {
    let block = Block::split(before);
    match before {
        Some(text)
            if block.lines.as_deref() == Some(lines)
                && text.rsplit_once(lines).is_some_and(|(_, rest)| !rest.contains("post-build-hook")) =>
        {
            text.to_owned()
        }
        _ => block.with(lines),
    }
}

/// Fails if `nix.conf` sets a hook after it includes `nix.custom.conf`: the later line takes precedence.
fn refuse_later_hook(tree: &Tree, conf: &NixConf) -> Result<()> {
    let Some(last) = conf.last("post-build-hook").filter(|last| last.file == Path::new(NIX_CONF)) else {
        return Ok(());
    };
    let text = tree.read_text(NIX_CONF)?.unwrap_or_default();
    let included_at =
        text.lines().position(|line| line.contains(CUSTOM_NIX_CONF) && !line.trim_start().starts_with('#'));
    if included_at.is_some_and(|at| at + 1 >= last.line) {
        return Ok(());
    }
    let text = format!(
        "`{last}` sets a post-build-hook after the include of {CUSTOM_NIX_CONF}, and would take precedence"
    );
    Err(Error::permanent(Area::Config, text).hint("move that line before the include, and try again"))
}
