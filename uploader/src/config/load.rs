//! Reads the sources of the configuration, in the order of their precedence, and checks the result.

use std::path::Path;

use larder_hook::settings;

use super::config_keys::{
    self, BUILD_LOGS, COMPRESSION, COMPRESSION_LEVEL, JOBS, PIN_KEEP_LAST, PRIORITY, ROWS, STATE_DIR,
};
use super::effective::{Config, Source};
use super::typed_key::{Flag, Row};
use super::value::Value;
use crate::base::error::{Area, Error, Result};
use crate::format::build_logs::BuildLogs;
use crate::format::object_keys::Compression;

impl Config {
    /// Reads the configuration files, then the environment, then `flags`.
    ///
    /// # Errors
    /// A file cannot be read, a key is unknown, or a value is wrong.
    pub fn load(variable: settings::Variables<'_>, flags: &[Flag<'_>]) -> Result<Self> {
        let mut config = Self::default();
        for file in settings::config_files(variable) {
            config.lay_file(&file)?;
        }
        for row in ROWS {
            let name = row.variable();
            if let Some(text) = variable(&name) {
                config.lay_text(row, &text, Source::Environment(name))?;
            }
        }
        for Flag { key, text, given } in flags {
            let row = config_keys::find(key).map_err(|error| error.because(format!("in `{given}`")))?;
            config.lay_text(row, text, Source::Flag(given.clone()))?;
        }
        config.check()?;
        Ok(config)
    }

    fn lay_file(&mut self, file: &Path) -> Result<()> {
        let failed =
            || Error::permanent(Area::Config, format!("cannot use the configuration `{}`", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| failed().because(error))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            failed().because(error.to_string().trim().replace('\n', "\n  "))
        })?;
        let place = |error: Error| error.because(format!("in `{}`", file.display()));
        for (name, value) in table {
            let row = config_keys::find(&name).map_err(place)?;
            let value = Value::from_toml(row.kind, value).ok_or_else(|| place(row.wrong_kind()))?;
            self.lay(row, value, Source::File(file.to_owned()));
        }
        Ok(())
    }

    fn lay_text(&mut self, row: &'static Row, text: &str, source: Source) -> Result<()> {
        let wrong = || row.wrong_kind().because(format!("in `{source}`"));
        let value = Value::from_text(row.kind, text).ok_or_else(wrong)?;
        self.lay(row, value, source);
        Ok(())
    }

    /// Checks what the kind of a single value does not show.
    fn check(&self) -> Result<()> {
        let wrong = |key: &Row, what: String| {
            Error::permanent(Area::Config, what).because(format!("in `{}`", self.source(key)))
        };
        let name = self.get(COMPRESSION);
        if !Compression::ALL.iter().any(|known| known.name() == name) {
            return Err(wrong(COMPRESSION.row(), format!("`compression = \"{name}\"` is unknown"))
                .hint("use `zstd`, `xz` or `none`"));
        }
        let logs = self.get(BUILD_LOGS);
        if !BuildLogs::ALL.iter().any(|known| known.name() == logs) {
            return Err(wrong(BUILD_LOGS.row(), format!("`build-logs = \"{logs}\"` is unknown"))
                .hint("use `all`, `successful`, `failed` or `none`"));
        }
        let highest = match self.compression() {
            Compression::Zstd => 22,
            Compression::Xz => 9,
            Compression::None => i32::MAX as u64,
        };
        if let Some(level) = self.get(COMPRESSION_LEVEL).filter(|level| *level > highest) {
            return Err(wrong(COMPRESSION_LEVEL.row(), format!("`compression-level = {level}` is too high"))
                .hint(format!("the highest level of {name} is {highest}")));
        }
        if let Some(priority) = Some(self.get(PRIORITY)).filter(|priority| i32::try_from(*priority).is_err())
        {
            return Err(wrong(PRIORITY.row(), format!("`priority = {priority}` is too high"))
                .hint("Nix reads numbers up to 2147483647"));
        }
        // The hook, the agent and the commands have different current directories.
        if let Some(dir) = self.get(STATE_DIR).filter(|dir| !dir.is_absolute())
            && !matches!(self.source(STATE_DIR.row()), Source::Flag(_))
        {
            return Err(wrong(STATE_DIR.row(), format!("`state-dir = \"{}\"` is relative", dir.display()))
                .hint("give an absolute path, such as `/var/lib/larder`"));
        }
        if self.get(PIN_KEEP_LAST).is_some_and(|most| most == 0 || u32::try_from(most).is_err()) {
            return Err(wrong(PIN_KEEP_LAST.row(), "`pin-keep-last` is no number of generations".into())
                .hint("give a number from 1 on, or remove it to keep all generations"));
        }
        if self.get(JOBS) == Some(0) {
            return Err(wrong(JOBS.row(), "`jobs = 0` would upload nothing".into())
                .hint("remove it to use the default"));
        }
        Ok(())
    }

    /// The names of environment variables that look like configuration keys and are not.
    pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
        let known = |name: &String| name == "LARDER_CONFIG" || ROWS.iter().any(|row| row.variable() == *name);
        names
            .filter(|name| name.starts_with("LARDER_") && !name.starts_with("LARDER_TEST"))
            .filter(|name| !known(name))
            .collect()
    }
}
