//! Finds the store paths that a person names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_derivation::StorePath;

use super::daemon::Daemon;
use super::location::StoreLocation;
use crate::base::error::{Area, Error, Result};

/// The largest number of links that [`resolve`] follows, as in the kernel.
const MAX_LINKS: usize = 40;

/// All valid paths of the store except derivations. Blocks.
///
/// Fails where the store is empty.
pub fn all_outputs(daemon: &mut Daemon) -> Result<Vec<Arc<StorePath>>> {
    let valid = daemon.all_valid_paths()?;
    if valid.is_empty() {
        daemon.check_not_empty()?;
    }
    Ok(valid.into_iter().filter(|path| !path.is_derivation()).map(Arc::new).collect())
}

/// The store paths that `names` lead to, sorted, each once. Blocks.
///
/// Fails where a name leads to no store path, or to a path that is not valid.
pub fn valid_paths_of(
    names: &[PathBuf],
    store: &StoreLocation,
    daemon: &mut Daemon,
) -> Result<Vec<Arc<StorePath>>> {
    let mut paths =
        names.iter().map(|name| resolve(store, name).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.dedup();
    let valid = daemon.valid_paths(&paths)?;
    if let Some(path) = paths.iter().find(|path| !valid.contains(&***path)) {
        let path = store.store_dir.render_path(path);
        return Err(Error::permanent(Area::Store, format!("`{path}` is not in the store"))
            .hint("build it first, or check the path"));
    }
    Ok(paths)
}

/// The store path that `path` names: a store path, a file inside a store path, or a link to either.
pub fn resolve(store: &StoreLocation, path: &Path) -> Result<StorePath> {
    let fault = |cause: String| {
        let text = format!("`{}` is not a store path and does not lead to a store path", path.display());
        Error::permanent(Area::Usage, text).because(cause)
    };
    let mut current = std::path::absolute(path).map_err(|error| fault(error.to_string()))?;
    for _ in 0..MAX_LINKS {
        if let Ok(inside) = current.strip_prefix(store.store_dir.as_str()) {
            let first = inside.components().next();
            let base_name = first.map(|first| first.as_os_str().to_string_lossy().into_owned());
            return StorePath::from_basename(base_name.unwrap_or_default().as_bytes())
                .map_err(|error| fault(error.to_string()));
        }
        // A parent may be a link into the store, such as /run/current-system in /run/current-system/sw.
        let parent = current.parent().map(Path::to_owned).unwrap_or_default();
        let parent = parent.canonicalize().map_err(|error| fault(error.to_string()))?;
        current = parent.join(current.file_name().unwrap_or_default());
        if current.starts_with(store.store_dir.as_str()) {
            continue;
        }
        let target = std::fs::read_link(&current)
            .map_err(|_| fault(format!("it is not below `{}`", store.store_dir)))?;
        current = parent.join(target);
    }
    Err(fault("it leads through too many links".into()))
}
