//! Draws the plots of `docs/performance` from the tables that `tests/bench --json` has left there.
//!
//! | table | case | drawn as |
//! |---|---|---|
//! | `growth.json` | `growth` | `bytes.svg`, `paths.svg`, `latency.svg` |
//! | `comparison.json` | the others | `comparison.svg`: how many times as fast larder is |
//!
//! Started by `tests/plots`. The same tables make the same bytes.

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

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance")
}

/// From a table to files and their text.
type Draw = fn(&Value) -> Result<Vec<(String, String)>>;

/// The plots of the tables in a directory: files and their text.
fn plots(dir: &Path) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    let tables: [(&str, Draw); 2] = [("growth.json", data::growth), ("comparison.json", data::comparison)];
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
    fn the_plots_show_the_tables() -> Result<()> {
        let plots = plots(&dir())?;
        for (file, text) in &plots {
            let committed = fs::read_to_string(dir().join(file)).unwrap_or_default();
            assert!(committed == *text, "{file} is not what its table shows: run tests/plots");
        }
        for entry in fs::read_dir(dir()).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let drawn = !name.ends_with(".svg") || plots.iter().any(|(file, _)| *file == name);
            assert!(drawn, "{name} comes of no table");
        }
        Ok(())
    }
}
