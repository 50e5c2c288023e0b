//! Draws the plots of a table.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::Plot;
use crate::bars::{Bar, bars};
use crate::chart::{Line, Panel, Scale, chart};

const MIB: f64 = 1048576.0;

/// Draws the growth of the cost with bytes, with paths and with the round-trip time.
pub(crate) fn growth(table: &Value) -> Result<Vec<Plot>> {
    let rows = rows(table)?;
    Ok(vec![
        ("bytes.svg".to_owned(), growth_with_bytes(rows)?),
        ("paths.svg".to_owned(), growth_with_paths(rows)?),
        ("latency.svg".to_owned(), growth_with_latency(rows)?),
    ])
}

/// Draws a year of a bucket with and without collections.
pub(crate) fn year(table: &Value) -> Result<Vec<Plot>> {
    let rows = rows(table)?;
    let line = |name: &str, ours, key: &'static str, unit: f64| -> Result<Line> {
        let point = |row: &Value| Some((row["day"].as_f64()?, row[key].as_f64()? / unit));
        let points = rows.iter().map(point).collect::<Option<_>>().context("a row without numbers")?;
        Ok(Line { name: name.to_owned(), ours, points })
    };
    let lines = |with, without, unit| -> Result<Vec<Line>> {
        Ok(vec![line("collected", true, with, unit)?, line("never", false, without, unit)?])
    };
    let days = Scale::from_zero("days", |day| format!("{day}"));
    let (mib, paths) = (Scale::from_zero("MiB", |value| format!("{value}")), |value| format!("{value}"));
    let bytes = Panel::new("NARs", &days, mib, lines("withBytes", "withoutBytes", MIB)?);
    let count = Scale::from_zero("number", paths);
    let paths = Panel::new("paths", &days, count, lines("withPaths", "withoutPaths", 1.0)?);
    Ok(vec![("year.svg".to_owned(), chart("A year of three machines", &[bytes, paths]))])
}

fn growth_with_bytes(rows: &[Value]) -> Result<String> {
    const CASE: &str = "growth with bytes";
    let bytes = Scale::log("size of the NAR", bytes_text);
    let time = larder_line("", rows, CASE, seconds)?;
    let memory = larder_line("", rows, CASE, memory_mib)?;
    Ok(chart(
        "One NAR of growing size",
        &[time_panel(&bytes, vec![time]), memory_panel(&bytes, vec![memory])],
    ))
}

fn growth_with_paths(rows: &[Value]) -> Result<String> {
    let paths = Scale::log("paths in one push", |count| format!("{count}"));
    let lines = |value: fn(&Value) -> Option<f64>| -> Result<Vec<Line>> {
        Ok(vec![
            larder_line("new", rows, "growth with new paths", value)?,
            larder_line("all there", rows, "growth with present paths", value)?,
        ])
    };
    Ok(chart(
        "A push of more and more tiny paths",
        &[time_panel(&paths, lines(seconds)?), memory_panel(&paths, lines(memory_mib)?)],
    ))
}

fn growth_with_latency(rows: &[Value]) -> Result<String> {
    const CASE: &str = "growth with latency";
    let latency = Scale::from_zero("milliseconds added to each round trip", |ms| format!("{ms}"));
    let larder = larder_line("larder", rows, CASE, seconds)?;
    let copy = points(rows, CASE, |row| row["theirs"]["wall_s"]["median"].as_f64())?;
    let copy = Line { name: "nix copy".to_owned(), ours: false, points: copy };
    Ok(chart("1,000 tiny paths on a network with latency", &[time_panel(&latency, vec![larder, copy])]))
}

/// The line of larder for a value of the rows of a case.
fn larder_line(
    name: &str,
    rows: &[Value],
    case: &str,
    value: impl Fn(&Value) -> Option<f64>,
) -> Result<Line> {
    Ok(Line { name: name.to_owned(), ours: true, points: points(rows, case, value)? })
}

fn time_panel(x: &Scale, lines: Vec<Line>) -> Panel {
    Panel::new("time", x, Scale::log("seconds", |value| format!("{value}")), lines)
}

fn memory_panel(x: &Scale, lines: Vec<Line>) -> Panel {
    Panel::new("memory", x, Scale::from_zero("peak memory, MiB", |value| format!("{value}")), lines)
}

/// The median time of larder, in seconds.
fn seconds(row: &Value) -> Option<f64> {
    row["ours"]["wall_s"]["median"].as_f64()
}

/// The highest memory of larder, in MiB.
fn memory_mib(row: &Value) -> Option<f64> {
    row["ours"]["peak_bytes"]["max"].as_f64().map(|bytes| bytes / MIB)
}

/// Draws the speed of larder against other programs, from the rows that have a speed.
pub(crate) fn comparison(table: &Value) -> Result<Vec<Plot>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut speeds = Vec::new();
    for row in rows(table)? {
        if let Some(figure) = figure(row, "speed") {
            speeds.push(Bar {
                name: text(&row["case"]),
                against: text(&row["theirs"]["name"]),
                value: figure["value"].as_f64().context("a figure `speed` has no value")?,
                target: figure["reach"]["at_least"].as_f64(),
            });
        }
    }
    ensure!(!speeds.is_empty(), "no row of the table has a speed");
    Ok(vec![("comparison.svg".to_owned(), bars("How many times as fast as the other", &speeds))])
}

fn rows(table: &Value) -> Result<&[Value]> {
    ensure!(table["format"] == 1, "the file is not a table of `tests/bench` in format 1");
    Ok(table["rows"].as_array().context("the table has no rows")?)
}

/// The figure of a row with a name.
fn figure<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    row["figures"].as_array()?.iter().find(|figure| figure["name"] == name)
}

/// The points of a line: the figure `at` and a value of each row whose name begins with `case:`. Rows without the value have
/// no point.
fn points(rows: &[Value], case: &str, value: impl Fn(&Value) -> Option<f64>) -> Result<Vec<(f64, f64)>> {
    let belongs = |row: &&Value| {
        row["case"].as_str().and_then(|name| name.split_once(':')).is_some_and(|(name, _)| name == case)
    };
    let at = |row: &Value| figure(row, "at")?["value"].as_f64();
    let points: Vec<_> =
        rows.iter().filter(belongs).filter_map(|row| Some((at(row)?, value(row)?))).collect();
    ensure!(points.len() >= 2, "`{case}` has {} points; a line needs at least 2", points.len());
    Ok(points)
}

/// A number of bytes with its unit.
fn bytes_text(bytes: f64) -> String {
    let mib = bytes / MIB;
    if mib < 1024.0 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(case: &str, at: f64, wall: f64, theirs: Option<f64>) -> Value {
        json!({
            "case": case, "figures": [{"name": "at", "value": at}, {"name": "speed", "value": 2.5, "reach": {"at_least": 2}}],
            "ours": {"wall_s": {"median": wall}, "peak_bytes": {"max": 90.0 * MIB}},
            "theirs": theirs.map(|wall| json!({"name": "nix copy", "wall_s": {"median": wall}})),
        })
    }

    fn table() -> Value {
        let kinds = ["bytes", "new paths", "present paths", "latency"];
        let rows: Vec<_> = kinds
            .iter()
            .flat_map(|kind| {
                [1.0, 2.0, 4.0].map(|n| {
                    row(&format!("growth with {kind}: {n}"), n * 64.0 * MIB, n, (n < 4.0).then_some(n * 9.0))
                })
            })
            .collect();
        json!({"format": 1, "rows": rows})
    }

    #[test]
    fn every_plot_is_small_and_names_its_lines_and_axes() -> Result<()> {
        let plots = growth(&table())?;
        assert_eq!(
            plots.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
            ["bytes.svg", "paths.svg", "latency.svg"]
        );
        for (name, text) in &plots {
            assert!(text.len() < 30_000, "{name}: {}", text.len());
            assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{name}");
            assert!(text.contains("seconds"), "{name}");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{name}");
        }
        assert!(plots[0].1.contains(">64 MiB<") && plots[0].1.contains("peak memory, MiB"));
        assert!(plots[1].1.contains(">all there<"));
        // The value that is missing in the table has no point.
        let circles = plots[2].1.matches("<circle").count();
        assert_eq!((circles, plots[2].1.contains(">nix copy<")), (5, true));
        Ok(())
    }

    #[test]
    fn each_row_with_a_speed_has_a_bar() -> Result<()> {
        let plots = comparison(&table())?;
        assert_eq!(plots[0].1.matches(">2.50 ×<").count(), 12);
        Ok(())
    }

    #[test]
    fn a_table_without_the_rows_is_an_error() {
        let error = growth(&json!({"format": 1, "rows": []})).unwrap_err();
        assert!(error.to_string().contains("growth with bytes"), "{error}");
    }
}
