//! Draws the plots of `docs/performance` from the tables in this folder, which `tests/bench --json` writes.
//!
//! | table | cases | plots |
//! |---|---|---|
//! | `growth.json` | `growth` | `bytes.svg`, `paths.svg`, `latency.svg` |
//! | `year.json` | the test of a year with collections, with `LARDER_WRITE_YEAR=1` | `year.svg` |
//! | `comparison.json` | the other cases | `comparison.svg`: the speed of larder against other programs |
//!
//! `tests/plots` runs this program. Equal tables give equal bytes.

mod bars;
mod chart;
mod data;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

fn main() -> Result<()> {
    let dir = dir();
    for (file, text) in plots(&dir)? {
        fs::write(dir.join(&file), text)?;
        println!("{file}");
    }
    Ok(())
}

/// The directory of the tables and the plots.
fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance")
}

/// A function that draws the plots of a table.
type Draw = fn(&Value) -> Result<Vec<Plot>>;

/// A plot: the name of its file, and the text of the file.
type Plot = (String, String);

/// Draws the plots of the tables in a directory.
fn plots(dir: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    let tables: [(&str, Draw); 3] =
        [("growth.json", data::growth), ("comparison.json", data::comparison), ("year.json", data::year)];
    for (table, draw) in tables {
        let file = dir.join(table);
        if file.exists() {
            let table = serde_json::from_str(&fs::read_to_string(&file)?)?;
            plots.extend(draw(&table).with_context(|| format!("drawing {}", file.display()))?);
        }
    }
    Ok(plots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_plots_are_those_of_the_committed_tables() -> Result<()> {
        let plots = plots(&dir())?;
        for (file, text) in &plots {
            let committed = fs::read_to_string(dir().join(file)).unwrap_or_default();
            assert!(committed == *text, "{file} differs from its table: run tests/plots");
        }
        for entry in fs::read_dir(dir()).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_known = !name.ends_with(".svg") || plots.iter().any(|(file, _)| *file == name);
            assert!(is_known, "no table has the plot {name}: delete the file");
        }
        Ok(())
    }
}
