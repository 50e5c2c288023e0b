//! Finds build logs.

use std::path::PathBuf;

use nix_derivation::StorePath;

use super::location::StoreLocation;

/// The encoding of a build log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEncoding {
    /// Plain text.
    Plain,
    /// Compressed with bzip2, which is Nix's default.
    Bzip2,
}

/// A build log on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildLog {
    /// The file.
    pub path: PathBuf,
    /// Its encoding.
    pub encoding: LogEncoding,
}

/// Finds the log of a derivation's last build. It looks in the same places and in the same order as Nix.
pub fn find_build_log(location: &StoreLocation, derivation: &StorePath) -> Option<BuildLog> {
    let name = derivation.to_basename();
    let drvs = location.log_dir.join("drvs");
    let (start, rest) = name.split_at(2);
    for plain in [drvs.join(start).join(rest), drvs.join(&name)] {
        let mut compressed = plain.clone().into_os_string();
        compressed.push(".bz2");
        for (path, encoding) in [(plain, LogEncoding::Plain), (compressed.into(), LogEncoding::Bzip2)] {
            if path.is_file() {
                return Some(BuildLog { path, encoding });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::location::{DaemonAddress, StoreLocation};
    use super::*;

    #[test]
    fn a_log_is_found_in_each_of_its_places() {
        let dir = tempfile::tempdir().unwrap();
        let location = StoreLocation {
            store_dir: Default::default(),
            real_dir: "/nix/store".into(),
            state_dir: "/nix/var/nix".into(),
            log_dir: dir.path().into(),
            daemon: DaemonAddress::Socket("/socket".into()),
        };
        let name = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello-1.0.drv";
        let derivation = StorePath::from_basename(name.as_bytes()).unwrap();
        assert_eq!(find_build_log(&location, &derivation), None);
        let drvs = dir.path().join("drvs");
        std::fs::create_dir_all(drvs.join("00")).unwrap();
        // From the last place to the first: each new file has precedence over the files before it.
        for (file, encoding) in [
            (format!("{name}.bz2"), LogEncoding::Bzip2),
            (name.to_owned(), LogEncoding::Plain),
            (format!("00/{}.bz2", &name[2..]), LogEncoding::Bzip2),
            (format!("00/{}", &name[2..]), LogEncoding::Plain),
        ] {
            let path = drvs.join(file);
            std::fs::write(&path, "log").unwrap();
            assert_eq!(find_build_log(&location, &derivation), Some(BuildLog { path, encoding }));
        }
    }
}
