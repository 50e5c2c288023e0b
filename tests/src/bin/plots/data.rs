//! From tables to plots.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bars::{Bar, bars};
use crate::chart::{Line, Panel, Scale, chart};

const MIB: f64 = 1048576.0;

type Plots = Vec<(String, String)>;

/// How cost grows.
pub(crate) fn growth(table: &Value) -> Result<Plots> {
    let rows = rows(table)?;
    let seconds = |row: &Value, side: &str| row[side]["wall_s"]["median"].as_f64();
    let memory = |row: &Value| row["ours"]["peak_bytes"]["max"].as_f64().map(|bytes| bytes / MIB);
    let time = |case: &str| points(rows, case, |row| seconds(row, "ours"));
    let bytes = Scale::log("size of the NAR", bytes_text);
    let paths = Scale::log("paths in one push", |count| format!("{count}"));
    let time_log = || Scale::log("seconds", |value| format!("{value}"));
    let time_axis = "time";
    let memory_axis = || Scale::from_zero("peak memory, MiB", |value| format!("{value}"));
    let line = |name: &str, ours: bool, points: Result<Vec<_>>| -> Result<Line> {
        Ok(Line { name: name.to_owned(), ours, points: points? })
    };
    Ok(vec![
        (
            "bytes.svg".to_owned(),
            chart(
                "One NAR of growing size",
                &[
                    Panel::new(
                        time_axis,
                        &bytes,
                        time_log(),
                        vec![line("", true, time("growth with bytes"))?],
                    ),
                    Panel::new(
                        "memory",
                        &bytes,
                        memory_axis(),
                        vec![line("", true, points(rows, "growth with bytes", memory))?],
                    ),
                ],
            ),
        ),
        (
            "paths.svg".to_owned(),
            chart(
                "A push of more and more tiny paths",
                &[
                    Panel::new(
                        time_axis,
                        &paths,
                        time_log(),
                        vec![
                            line("new", true, time("growth with new paths"))?,
                            line("all there", true, time("growth with present paths"))?,
                        ],
                    ),
                    Panel::new(
                        "memory",
                        &paths,
                        memory_axis(),
                        vec![
                            line("new", true, points(rows, "growth with new paths", memory))?,
                            line("all there", true, points(rows, "growth with present paths", memory))?,
                        ],
                    ),
                ],
            ),
        ),
        (
            "latency.svg".to_owned(),
            chart(
                "1,000 tiny paths on a network with latency",
                &[Panel::new(
                    time_axis,
                    &Scale::from_zero("milliseconds added to each round trip", |ms| format!("{ms}")),
                    time_log(),
                    vec![
                        line("larder", true, time("growth with latency"))?,
                        line(
                            "nix copy",
                            false,
                            points(rows, "growth with latency", |row| seconds(row, "theirs")),
                        )?,
                    ],
                )],
            ),
        ),
    ])
}

/// How many times as fast larder is, of each row that says so.
pub(crate) fn comparison(table: &Value) -> Result<Plots> {
    let figure =
        |row: &Value| row["figures"].as_array()?.iter().find(|figure| figure["name"] == "speed").cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for row in rows(table)? {
        if let Some(figure) = figure(row) {
            all.push(Bar {
                name: text(&row["case"]),
                against: text(&row["theirs"]["name"]),
                value: figure["value"].as_f64().context("a speed without a value")?,
                wanted: figure["reach"]["at_least"].as_f64(),
            });
        }
    }
    ensure!(!all.is_empty(), "no row has a speed");
    Ok(vec![("comparison.svg".to_owned(), bars("How many times as fast as the other", &all))])
}

fn rows(table: &Value) -> Result<&[Value]> {
    ensure!(table["format"] == 1, "not a table of `tests/bench`, or of another format");
    Ok(table["rows"].as_array().context("no rows")?)
}

/// Of the rows whose case begins with `case:`, the figure `at` and a value; rows without the value are left out.
fn points(rows: &[Value], case: &str, value: impl Fn(&Value) -> Option<f64>) -> Result<Vec<(f64, f64)>> {
    let is = |row: &&Value| {
        row["case"].as_str().and_then(|name| name.split_once(':')).is_some_and(|(name, _)| name == case)
    };
    let at = |row: &Value| row["figures"].as_array()?.iter().find(|f| f["name"] == "at")?["value"].as_f64();
    let points: Vec<_> = rows.iter().filter(is).filter_map(|row| Some((at(row)?, value(row)?))).collect();
    ensure!(points.len() >= 2, "`{case}` has {} points", points.len());
    Ok(points)
}

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
        // What took too long was left out: one line has a point less.
        let circles = plots[2].1.matches("<circle").count();
        assert_eq!((circles, plots[2].1.contains(">nix copy<")), (5, true));
        Ok(())
    }

    #[test]
    fn bars_show_the_speeds() -> Result<()> {
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
