//! Reads `nix.conf` as Nix does: lines `name = value`, comments from `#` on, `include` and `!include`, and the prefix
//! `extra-`, which appends to a setting.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A line of a file that sets or extends a setting. Displays as `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The number of the line, from 1 on.
    pub line: usize,
    /// The words after the `=`.
    pub value: Vec<String>,
}

/// The settings of `nix.conf` and the files that it includes.
#[derive(Clone, Debug, Default)]
pub struct NixConf {
    settings: BTreeMap<String, Setting>,
    files: Vec<PathBuf>,
}

/// The lines that make up a setting.
#[derive(Clone, Debug, Default)]
struct Setting {
    /// Whether a line without `extra-` replaces Nix's default.
    replaces_default: bool,
    lines: Vec<Origin>,
}

/// Reads a file; `None` if it does not exist.
pub type Read<'a> = &'a dyn Fn(&Path) -> std::io::Result<Option<String>>;

/// Old names of settings that Nix accepts.
const ALIASES: &[(&str, &str)] = &[
    ("binary-caches", "substituters"),
    ("trusted-binary-caches", "trusted-substituters"),
    ("binary-cache-public-keys", "trusted-public-keys"),
];

/// How deep includes may be nested. This ends circles.
const MAX_DEPTH: usize = 10;
/// How many files are read. A file that includes itself more than once would be read without an end in sight.
const MAX_FILES: usize = 1_000;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl NixConf {
    /// Reads `path` and the files that it includes. A file that does not exist counts as empty, even for `include`.
    ///
    /// Fails if `read` does, and if the files include each other a thousand times.
    pub fn read(path: &Path, read: Read<'_>) -> std::io::Result<Self> {
        let mut conf = Self::default();
        conf.add_file(path, read, MAX_DEPTH)?;
        Ok(conf)
    }

    fn add_file(&mut self, path: &Path, read: Read<'_>, depth: usize) -> std::io::Result<()> {
        if depth == 0 {
            return Ok(());
        }
        let Some(text) = read(path)? else { return Ok(()) };
        if self.files.len() >= MAX_FILES {
            let cause = format!("the files include each other more than {MAX_FILES} times");
            return Err(std::io::Error::other(cause));
        }
        self.files.push(path.to_owned());
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["include" | "!include", file] => {
                    let file = path.parent().unwrap_or(Path::new("/")).join(file);
                    self.add_file(&file, read, depth - 1)?;
                }
                [name, "=", ref value @ ..] => {
                    let value = value.iter().map(|word| (*word).to_owned()).collect();
                    self.add_line(name, Origin { file: path.to_owned(), line: index + 1, value });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add_line(&mut self, name: &str, origin: Origin) {
        let (name, extends) = name.strip_prefix("extra-").map_or((name, false), |name| (name, true));
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
        let setting = self.settings.entry(name.to_owned()).or_default();
        if !extends {
            *setting = Setting { replaces_default: true, lines: Vec::new() };
        }
        setting.lines.push(origin);
    }

    /// The files that were read, in the order of reading.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The lines that make up a setting, in the order of reading.
    pub fn origins(&self, name: &str) -> impl Iterator<Item = &Origin> {
        self.settings.get(name).into_iter().flat_map(|setting| &setting.lines)
    }

    /// The words of a setting. `default` is part of them unless a line replaces it.
    pub fn words(&self, name: &str, default: &[&str]) -> Vec<String> {
        let replaced = self.settings.get(name).is_some_and(|setting| setting.replaces_default);
        let default = default.iter().filter(|_| !replaced).map(|word| (*word).to_owned());
        default.chain(self.origins(name).flat_map(|origin| origin.value.clone())).collect()
    }

    /// The last line that sets or extends a setting.
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
        assert!(conf.files().len() <= MAX_DEPTH);
    }

    #[test]
    fn files_that_include_themselves_often_end_in_an_error() {
        let text = "include nix.conf\n".repeat(100);
        let read = |_: &Path| Ok(Some(text.clone()));
        let error = NixConf::read(Path::new("/etc/nix/nix.conf"), &read).expect_err("no end");
        assert!(error.to_string().contains("include each other"), "{error}");
    }
}
