//! `nix.conf` as Nix reads it: `name = value` lines, `#` comments, `include` and `!include`, `extra-` for appending.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The words behind the `=`.
    pub value: Vec<String>,
}

/// What takes effect of `nix.conf` and what it includes.
#[derive(Clone, Debug, Default)]
pub struct NixConf {
    settings: BTreeMap<String, Vec<Origin>>,
    files: Vec<PathBuf>,
}

/// Reads a file; `None` where there is none.
pub type Read<'a> = &'a dyn Fn(&Path) -> std::io::Result<Option<String>>;

/// Other names that Nix still takes.
const ALIASES: &[(&str, &str)] = &[
    ("binary-caches", "substituters"),
    ("trusted-binary-caches", "trusted-substituters"),
    ("binary-cache-public-keys", "trusted-public-keys"),
];

/// Includes in each other are followed so deep.
const DEPTH: usize = 10;

impl NixConf {
    /// Reads `path` and what it includes. A file that cannot be read is left out, as for `!include`.
    pub fn read(path: &Path, read: Read<'_>) -> std::io::Result<Self> {
        let mut conf = Self::default();
        conf.take(path, read, DEPTH)?;
        Ok(conf)
    }

    fn take(&mut self, path: &Path, read: Read<'_>, depth: usize) -> std::io::Result<()> {
        let (Some(text), true) = (read(path)?, depth > 0) else { return Ok(()) };
        self.files.push(path.to_owned());
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["include" | "!include", file] => {
                    let file = path.parent().unwrap_or(Path::new("/")).join(file);
                    self.take(&file, read, depth - 1)?;
                }
                [name, "=", ref value @ ..] => {
                    let origin = Origin {
                        file: path.to_owned(),
                        line: index + 1,
                        value: value.iter().map(|word| (*word).to_owned()).collect(),
                    };
                    let (name, extra) =
                        name.strip_prefix("extra-").map_or((name, false), |name| (name, true));
                    let name =
                        ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
                    let settings = self.settings.entry(name.to_owned()).or_default();
                    if !extra {
                        settings.clear();
                        // Marks that Nix's own default is gone.
                        settings.push(Origin { line: 0, value: Vec::new(), ..origin.clone() });
                    }
                    settings.push(origin);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that were read, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The lines that make up a setting.
    pub fn origins(&self, name: &str) -> impl Iterator<Item = &Origin> {
        self.settings.get(name).into_iter().flatten().filter(|origin| origin.line > 0)
    }

    /// The words of a setting, as far as files say; `default` where they only add to it or say nothing.
    pub fn words(&self, name: &str, default: &[&str]) -> Vec<String> {
        let settings = self.settings.get(name).map(Vec::as_slice).unwrap_or_default();
        let replaced = settings.first().is_some_and(|origin| origin.line == 0);
        let default = default.iter().filter(|_| !replaced).map(|word| (*word).to_owned());
        default.chain(settings.iter().flat_map(|origin| origin.value.clone())).collect()
    }

    /// The last line that sets it.
    pub fn last(&self, name: &str) -> Option<&Origin> {
        self.origins(name).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(files: &[(&str, &str)]) -> NixConf {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            Ok(found.map(|(_, text)| (*text).to_owned()))
        };
        NixConf::read(Path::new("/etc/nix/nix.conf"), &read).unwrap()
    }

    #[test]
    fn later_lines_win_and_extra_lines_add() {
        let conf = conf(&[(
            "/etc/nix/nix.conf",
            "substituters = http://a # not http://b\nextra-substituters = http://c\nbinary-caches=x\nfallback = true\nextra-allowed-users = me\n",
        )]);
        assert_eq!(conf.words("substituters", &["https://cache.nixos.org"]), ["http://a", "http://c"]);
        assert_eq!(conf.words("allowed-users", &["*"]), ["*", "me"]);
        assert_eq!(conf.last("fallback").unwrap().line, 4);
        assert!(conf.last("post-build-hook").is_none());
    }

    #[test]
    fn includes_stand_where_they_are_and_circles_end() {
        let conf = conf(&[
            ("/etc/nix/nix.conf", "post-build-hook = /a\n!include nix.custom.conf\n!include none.conf\n"),
            ("/etc/nix/nix.custom.conf", "post-build-hook = /b\ninclude nix.custom.conf\n"),
        ]);
        let hook = conf.last("post-build-hook").unwrap();
        assert_eq!((hook.value.join(" ").as_str(), hook.line), ("/b", 1));
        assert_eq!(hook.file, Path::new("/etc/nix/nix.custom.conf"));
        assert!(conf.files().len() <= DEPTH);
    }
}
