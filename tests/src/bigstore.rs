//! A realistic store: 73 Debian packages as derivations that refer to each other as the packages do (1.7 GB of NAR), and
//! 1,000 tiny outputs. It is built once for each version of Nix, in the cache directory. An interrupted build continues.

use crate::cache;
use crate::need::{Requirement, need};
use crate::nix::{NixHome, NixVersion};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// The store and its paths. All tests share it, and it is kept: read it, do not change it.
#[derive(Debug)]
pub struct BigStore {
    /// The store.
    pub nix: NixHome,
    /// The packages, sorted.
    pub large: Vec<String>,
    /// The tiny outputs, sorted.
    pub tiny: Vec<String>,
}

impl BigStore {
    /// The store of a version, which is built if it is missing (a minute or two). `None`, noted as skipped, without its
    /// inputs.
    pub fn get(version: NixVersion) -> Result<Option<Self>> {
        let (Some(packages), Some(_)) = (need(Requirement::Packages), need(version.requirement())) else {
            return Ok(None);
        };
        let dir = cache::dir().join(format!("store-{version}"));
        fs::create_dir_all(&dir)?;
        let lock = File::create(dir.join("lock"))?;
        lock.lock()?;
        let want = format!(
            "{} {}",
            fs::read_to_string(packages.join("list"))?.trim(),
            version.full().unwrap_or_default()
        );
        if fs::read_to_string(dir.join("ok")).is_ok_and(|have| have != want) {
            eprintln!("the store of Nix {version} is out of date: building it again");
            fs::remove_file(dir.join("ok"))?;
            fs::remove_dir_all(dir.join("n"))?;
        }
        let mut nix = NixHome::at(version, &dir)?;
        nix.set_timeout(Duration::from_secs(1800));
        if !dir.join("ok").exists() {
            eprintln!("building the realistic store of Nix {version}");
            build(&nix, &packages, &dir)?;
            fs::write(dir.join("ok.new"), want)?;
            fs::rename(dir.join("ok.new"), dir.join("ok"))?;
        }
        let read = |name: &str| -> Result<Vec<String>> {
            Ok(fs::read_to_string(dir.join(name))?.lines().map(str::to_owned).collect())
        };
        Ok(Some(Self { large: read("large.paths")?, tiny: read("tiny.paths")?, nix }))
    }

    /// The sum of the NAR sizes of paths, in bytes.
    pub fn nar_size(&self, paths: &[String]) -> Result<u64> {
        Ok(self.nix.path_info(paths)?.iter().map(|i| i.nar_size).sum())
    }
}

fn build(nix: &NixHome, packages: &Path, dir: &Path) -> Result<()> {
    for (name, expression) in [("large", large(packages)?), ("tiny", TINY.to_owned())] {
        let mut paths = nix.build(&expression)?;
        paths.sort();
        paths.dedup();
        let roots = dir.join(format!("n/var/gcroots/{name}"));
        fs::create_dir_all(&roots)?;
        for path in &paths {
            let link = roots.join(Path::new(path).file_name().context("store path")?);
            if !link.is_symlink() {
                std::os::unix::fs::symlink(path, link)?;
            }
        }
        fs::write(dir.join(format!("{name}.paths")), paths.join("\n") + "\n")?;
    }
    Ok(())
}

/// One derivation per package: its tree, and its dependencies written into a file.
fn large(packages: &Path) -> Result<String> {
    let mut depends: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(packages.join("trees"))? {
        let name = entry?.file_name().into_string().ok().context("package name")?;
        let text = fs::read_to_string(packages.join("depends").join(format!("{name}.deps")))?;
        depends.insert(name, text.lines().map(str::to_owned).collect());
    }
    ensure!(depends.len() >= 60, "only {} packages in {}", depends.len(), packages.display());
    let order = in_order(&depends);
    let ident = |p: &str| format!("p_{}", p.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    let mut text = String::from(LARGE);
    for (i, package) in order.iter().enumerate() {
        // Only packages before this one: packages may depend on each other in circles, store paths do not.
        let before: Vec<_> =
            order[..i].iter().filter(|p| depends[*package].contains(**p)).map(|p| ident(p)).collect();
        let tree = packages.join("trees").join(package);
        text += &format!(
            "  {} = mk \"{package}\" \"{}\" [ {} ];\n",
            ident(package),
            tree.display(),
            before.join(" ")
        );
    }
    let all: Vec<_> = order.iter().map(|p| ident(p)).collect();
    Ok(text + &format!("in [ {} ]\n", all.join(" ")))
}

/// The packages, each after its dependencies where there are no circles.
fn in_order(depends: &BTreeMap<String, BTreeSet<String>>) -> Vec<&str> {
    fn visit<'a>(
        package: &'a str,
        depends: &'a BTreeMap<String, BTreeSet<String>>,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        if let Some(needs) = depends.get(package).filter(|_| seen.insert(package)) {
            needs.iter().for_each(|need| visit(need, depends, seen, order));
            order.push(package);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    depends.keys().for_each(|package| visit(package, depends, &mut seen, &mut order));
    order
}

const LARGE: &str = r#"
let
  mk = name: tree: deps: derivation {
    inherit name tree deps;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-ec" "cp -a $tree $out; chmod -R u+rwX $out; mkdir -p $out/nix-support; echo $deps > $out/nix-support/deps" ];
  };
"#;

/// 200 bytes to 10 KB each; every eighth refers to the two before it.
const TINY: &str = r#"
let
  tiny = i: derivation {
    name = "tiny-${toString i}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    n = toString i;
    deps = if i > 1 && builtins.bitAnd i 7 == 0 then [ (builtins.elemAt all (i - 1)) (builtins.elemAt all (i - 2)) ] else [ ];
    args = [ "-c" ''
      size=$((200 + (n * 7919) % 9800)); k=0
      { echo "tiny $n $deps"; while [ $k -lt $size ]; do echo "line $k of $n $((k * n * 2654435761 % 1000003))"; k=$((k + 30)); done; } > $out
    '' ];
  };
  all = builtins.genList tiny 1000;
in all
"#;
