//! The meaning of a name that a person gives for a store path. Reads links, but does not ask the daemon.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix_derivation::StorePath;

use super::location::StoreLocation;

/// The largest number of links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// The meaning of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A store path, valid or not.
    Path(StorePath),
    /// Outputs of a derivation.
    Outputs(StorePath, Outputs),
}

/// The outputs of a derivation that a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outputs {
    /// All outputs: `^*`.
    All,
    /// The outputs with these names: `^out,dev`.
    Named(Vec<String>),
}

/// The meaning of `name`: a store path, its base name, a file inside a store path, a link to any of these, or a
/// derivation with `^` or `!` and the names of outputs, or `*`.
///
/// A name without `/` that has the form of a base name means the store path, even if the current directory has a file
/// of that name. The error is the reason why the name means nothing.
pub(super) fn meaning(store: &StoreLocation, name: &Path) -> Result<Meaning, String> {
    // No store path has one of the separators in its name, but another file may have one.
    if let Some((derivation, outputs)) = split_outputs(name)
        && name.symlink_metadata().is_err()
    {
        let path = path_of(store, derivation)?;
        if !path.is_derivation() {
            return Err("only a derivation, whose name ends with `.drv`, has outputs".into());
        }
        return Ok(Meaning::Outputs(path, outputs));
    }
    path_of(store, name).map(Meaning::Path)
}

/// Splits the names of outputs off.
fn split_outputs(name: &Path) -> Option<(&Path, Outputs)> {
    let bytes = name.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|byte| b"^!".contains(byte))?;
    let wanted = std::str::from_utf8(&bytes[at + 1..]).ok()?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte))
    };
    let outputs = match wanted {
        "*" => Outputs::All,
        _ if wanted.split(',').all(is_name) => Outputs::Named(wanted.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some((Path::new(std::ffi::OsStr::from_bytes(&bytes[..at])), outputs))
}

/// The store path that `name` leads to. The error is the reason why it leads to none.
fn path_of(store: &StoreLocation, name: &Path) -> Result<StorePath, String> {
    let bytes = name.as_os_str().as_bytes();
    if !bytes.contains(&b'/')
        && let Ok(path) = StorePath::from_basename(bytes)
    {
        return Ok(path);
    }
    let mut current = std::path::absolute(name).map_err(|error| error.to_string())?;
    let mut is_link = false;
    for _ in 0..MAX_LINKS {
        if let Ok(inside) = current.strip_prefix(store.store_dir.as_str()) {
            return first_component(inside);
        }
        // A parent may be a link into the store, such as /run/current-system in /run/current-system/sw.
        let parent = current.parent().unwrap_or(&current);
        let parent = parent.canonicalize().map_err(|error| failure(&error, is_link, &current))?;
        current = parent.join(current.file_name().unwrap_or_default());
        if current.starts_with(store.store_dir.as_str()) {
            continue;
        }
        let target = std::fs::read_link(&current).map_err(|error| match error.kind() {
            // It exists and is no link.
            ErrorKind::InvalidInput => outside(store, is_link, &current),
            _ => failure(&error, is_link, &current),
        })?;
        current = parent.join(target);
        is_link = true;
    }
    Err("it leads through too many links".into())
}

/// The store path of a path that is relative to the store directory.
fn first_component(inside: &Path) -> Result<StorePath, String> {
    let Some(first) = inside.components().next() else {
        return Err("it is the store directory itself".into());
    };
    StorePath::from_basename(first.as_os_str().as_bytes()).map_err(|error| error.to_string())
}

fn outside(store: &StoreLocation, is_link: bool, end: &Path) -> String {
    let store_dir = &store.store_dir;
    if is_link {
        format!("it is a link to `{}`, which is not below `{store_dir}`", end.display())
    } else {
        format!("it is not below `{store_dir}`")
    }
}

fn failure(error: &std::io::Error, is_link: bool, end: &Path) -> String {
    match (error.kind(), is_link) {
        (ErrorKind::NotFound | ErrorKind::NotADirectory, false) => "there is no such file".into(),
        (ErrorKind::NotFound | ErrorKind::NotADirectory, true) => {
            format!("it is a link to `{}`, which does not exist", end.display())
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::{DaemonAddress, StoreDir};

    const BASE: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-x";

    /// A store directory below `dir`, and its location.
    fn store(dir: &Path) -> StoreLocation {
        let store_dir = dir.join("store");
        std::fs::create_dir(&store_dir).unwrap();
        StoreLocation {
            store_dir: StoreDir::new(store_dir.to_str().unwrap()).unwrap(),
            real_dir: store_dir,
            state_dir: "/nix/var/nix".into(),
            log_dir: "/nix/var/log/nix".into(),
            daemon: DaemonAddress::Socket("/nonexistent/socket".into()),
        }
    }

    #[test]
    fn each_form_of_a_name_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let store = store(&dir);
        let path = StorePath::from_basename(BASE.as_bytes()).unwrap();
        let derivation = StorePath::from_basename(format!("{BASE}.drv").as_bytes()).unwrap();
        let in_store = |name: &str| store.store_dir.as_str().to_owned() + "/" + name;
        symlink(in_store(BASE), dir.join("result")).unwrap();
        symlink("result", dir.join("second")).unwrap();
        symlink(in_store(&format!("{BASE}.drv")), dir.join("odd^out")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        for name in [BASE.to_owned(), in_store(BASE), format!("{}/bin/x", in_store(BASE)), at("second")] {
            assert_eq!(meaning(&store, Path::new(&name)), Ok(Meaning::Path(path.clone())), "{name}");
        }
        assert_eq!(meaning(&store, Path::new(&at("odd^out"))), Ok(Meaning::Path(derivation.clone())));
        let outputs = |names: &[&str]| Outputs::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (name, wanted) in [
            (format!("{BASE}.drv^out"), outputs(&["out"])),
            (format!("{BASE}.drv!out,dev"), outputs(&["out", "dev"])),
            (in_store(&format!("{BASE}.drv^*")), Outputs::All),
            (at("odd^out^bin"), outputs(&["bin"])),
        ] {
            let meaning = meaning(&store, Path::new(&name));
            assert_eq!(meaning, Ok(Meaning::Outputs(derivation.clone(), wanted)), "{name}");
        }
    }

    #[test]
    fn each_reason_for_a_name_without_meaning_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let store = store(&dir);
        std::fs::write(dir.join("file"), "").unwrap();
        symlink("absent", dir.join("dangling")).unwrap();
        symlink("file", dir.join("aside")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        for (name, reason) in [
            (at("absent"), "there is no such file"),
            (at("absent/file"), "there is no such file"),
            (at("file/x"), "there is no such file"),
            (at("absent.drv^out"), "there is no such file"),
            (at("file"), "it is not below"),
            ("/".into(), "it is not below"),
            (at("dangling"), "absent`, which does not exist"),
            (at("aside"), "file`, which is not below"),
            (at("loop"), "too many links"),
            (at("store"), "the store directory itself"),
            (at("store/x"), "has no `-`"),
            (format!("{BASE}^out"), "only a derivation"),
            (format!("{BASE}.drv^"), "there is no such file"),
        ] {
            let found = meaning(&store, Path::new(&name)).unwrap_err();
            assert!(found.contains(reason), "{name}: {found}");
        }
    }
}
