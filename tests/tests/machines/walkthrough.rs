//! docs/two-machines.md, command by command, on two machines; and the Nix code of the documents, evaluated.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::binary;
use larder_tests::machine::Machine;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::versions;
use std::path::Path;

use super::booted;
use super::modules::{evaluate_with, project};

/// The key in the documents.
const EXAMPLE: &str = "cache.lan-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// A fenced block: the words after the fence, and the text.
#[derive(Debug)]
struct Block {
    words: Vec<String>,
    text: String,
    line: usize,
}

fn blocks(file: &str) -> Result<Vec<Block>> {
    let text = std::fs::read_to_string(project(file))?;
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(words) = line.strip_prefix("```") {
            if !open {
                let words = words.split_whitespace().map(str::to_owned).collect();
                blocks.push(Block { words, text: String::new(), line: index + 1 });
            }
            open = !open;
        } else if let (true, Some(block)) = (open, blocks.last_mut()) {
            block.text += line;
            block.text.push('\n');
        }
    }
    ensure!(!open, "{file}: a block without an end");
    Ok(blocks)
}

/// Prepares a machine as the page requires.
fn prepare(machine: &Machine, server: Option<(&Path, &str)>) -> Result<()> {
    for program in ["larder", "larder-hook"] {
        machine.put(&binary(program)?, &format!("/usr/local/bin/{program}"))?;
    }
    if let Some((program, name)) = server {
        machine.put(program, &format!("/usr/local/bin/{name}"))?;
    }
    let hosts = std::fs::read_to_string(machine.path("/etc/hosts")).unwrap_or_default();
    machine.write("/etc/hosts", &(hosts + "127.0.0.1 cache.lan\n"))?;
    // The blocks of a machine share their variables, as in one shell.
    machine.write("/root/session", "")
}

fn walk(server: &str, program: &Path) -> Result<()> {
    let Some(first) = booted::debian(None)? else { return Ok(()) };
    let Some(second) = booted::debian(Some(&first))? else { return Ok(()) };
    prepare(&first, Some((program, if server == "seaweedfs" { "weed" } else { "minio" })))?;
    prepare(&second, None)?;
    let mut key = None;
    let mut commands = 0;
    for block in blocks("docs/two-machines.md")? {
        let Some(("sh", rest)) = block.words.split_first().map(|(kind, rest)| (kind.as_str(), rest)) else {
            continue;
        };
        let (machine, rest) = rest.split_first().context("a block for no machine")?;
        if rest.first().is_some_and(|only| only != server) {
            continue;
        }
        if key.is_none() && block.text.contains(EXAMPLE) {
            let public = first.run(&["larder", "key", "public", "/etc/larder/key.sec"])?.ok()?;
            key = Some(public.stdout.trim().to_owned());
        }
        let text = block.text.replace(EXAMPLE, key.as_deref().unwrap_or(EXAMPLE));
        let on: &[(&Machine, &str)] = match machine.as_str() {
            "first" => &[(&first, "first")],
            "second" => &[(&second, "second")],
            "both" => &[(&first, "first"), (&second, "second")],
            other => anyhow::bail!("line {}: no machine `{other}`", block.line),
        };
        for (machine, name) in on {
            let session =
                "set -e; export HOME=/root NIX_REMOTE=daemon; cd /root; set -a; . /root/session; set +a; ";
            machine.write("/root/block", &text)?;
            // The next block has the variables of this block.
            let keep =
                "; declare -p OUT HASH 2>/dev/null | sed 's/^declare -[^ ]* //' > /root/session || true";
            let output = machine.shell(&format!("{session} . /root/block{keep}"))?;
            ensure!(
                output.status.success(),
                "{server}, docs/two-machines.md:{} on the {name} machine: code {}\n{text}\n{}{}\n{}",
                block.line,
                output.code(),
                output.stdout,
                output.stderr,
                machine.shell("journalctl --no-pager | tail -30").map(|log| log.stdout).unwrap_or_default()
            );
            if text.contains("cat \"$OUT/where\"") {
                ensure!(
                    output.stdout.contains("built on first"),
                    "not from the first machine: {}",
                    output.stdout
                );
            }
        }
        commands += text.lines().count();
    }
    eprintln!("{server}: {commands} lines of commands were run");
    ensure!(commands > 60, "the page has lost its commands");
    ensure!(!first.path("/usr/local/lib/larder").exists(), "larder is still installed");
    ensure!(!second.shell("cat /etc/nix/nix.conf")?.stdout.contains("cache.lan"));
    let said = second.run(&["journalctl", "--no-pager", "-u", "larder-relay.service"])?.ok()?.stdout;
    ensure!(said.contains("lan is unavailable"), "the relay has not noticed that the cache is away: {said}");
    Ok(())
}

#[test]
fn the_walk_through_works_with_seaweedfs() -> Result<()> {
    need(Requirement::SeaweedFs).map_or(Ok(()), |weed| walk("seaweedfs", &weed))
}

#[test]
fn the_walk_through_works_with_minio() -> Result<()> {
    need(Requirement::MinIo).map_or(Ok(()), |minio| walk("minio", &minio))
}

#[test]
fn the_modules_accept_the_nix_code_of_the_documents() -> Result<()> {
    let mut shown = 0;
    let Some(version) = versions().last().copied() else { return Ok(()) };
    for file in ["README.md", "docs/two-machines.md", "docs/buckets.md", "docs/clients.md"] {
        for block in blocks(file)?.into_iter().filter(|block| block.words == ["nix"]) {
            let dir = tempfile::tempdir()?;
            let module = dir.path().join("module.nix");
            std::fs::write(&module, &block.text)?;
            let value = evaluate_with(version, &format!("\"{}\"", module.display()))
                .with_context(|| format!("{file}:{}", block.line))?;
            let failed = &value["document"]["failed"];
            ensure!(failed.is_null(), "{file}:{}: refused: {failed}", block.line);
            shown += 1;
        }
    }
    ensure!(shown >= 6, "the documents show {shown} configurations only");
    Ok(())
}
