//! The table, as text and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::row::{Figure, MIB, Row, Side, Spread, Target};

/// Rows, and the machine on which they were measured.
#[derive(Debug)]
pub(crate) struct Table {
    machine: Machine,
    rows: Vec<Row>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, rows: Vec::new() }
    }

    /// The lines above the rows.
    pub(crate) fn head(&self) -> String {
        let columns = [("wall s", 26), ("cpu s", 18), ("peak MiB", 17), ("sent MB", 24)]
            .map(|(name, width)| format!("{name:>width$}"))
            .concat();
        format!("{}\n{:<44}{:>3}{columns}   median (least–most)\n", self.machine.text(), "", "n")
    }

    /// Adds a row and returns its lines.
    pub(crate) fn add(&mut self, row: Row) -> String {
        let text = row_text(&row);
        self.rows.push(row);
        text
    }

    /// Writes the table so far to a file as JSON.
    pub(crate) fn write_json(&self, file: &Path) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().map(row_json).collect();
        let value = json!({"format": 1, "machine": self.machine.json(), "rows": rows});
        fs::write(file, format!("{value:#}\n"))
            .with_context(|| format!("writing the table to {}", file.display()))
    }
}

fn row_text(row: &Row) -> String {
    let mut text = format!("{}\n{}", row.case, side_text(&row.ours));
    if let Some(theirs) = &row.theirs {
        text += &side_text(theirs);
    }
    for figure in &row.figures {
        text += &figure_text(figure);
    }
    for note in &row.notes {
        for line in note.lines() {
            text += &format!("    {line}\n");
        }
    }
    text
}

fn side_text(side: &Side) -> String {
    let cell = |spread: Option<Spread>, unit: f64, digits: usize| match spread {
        None => "-".to_owned(),
        Some(Spread { median, min, max }) => {
            let [median, min, max] = [median, min, max].map(|value| value / unit);
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        }
    };
    // Small times need more digits. Large times have no space for them.
    let digits = |spread: Option<Spread>| match spread {
        Some(spread) if spread.max < 0.1 => 5,
        Some(spread) if spread.max < 10.0 => 2,
        _ => 1,
    };
    let (wall, cpu) = (side.wall(), side.cpu());
    format!(
        "  {:<42}{:>3}{:>26}{:>18}{:>17}{:>24}\n",
        side.name,
        side.costs.len(),
        cell(wall, 1.0, digits(wall)),
        cell(cpu, 1.0, digits(cpu)),
        cell(side.peak(), MIB, 0),
        cell(side.sent(), 1e6, 1)
    )
}

fn figure_text(figure: &Figure) -> String {
    let value = format!("{:.2} {:<3}", figure.value, figure.unit);
    let target = match figure.target {
        Some(Target::AtLeast(least)) => format!(">= {least} {}", figure.unit),
        Some(Target::AtMost(most)) => format!("<= {most} {}", figure.unit),
        None => String::new(),
    };
    let line = format!("    {:<26}{value:>13}  {target:<14} {}", figure.name, figure.verdict());
    format!("{}\n", line.trim_end())
}

fn row_json(row: &Row) -> Value {
    json!({
        "case": row.case,
        "ours": side_json(&row.ours),
        "theirs": row.theirs.as_ref().map(side_json),
        "figures": row.figures.iter().map(figure_json).collect::<Vec<_>>(),
        "notes": row.notes,
    })
}

fn side_json(side: &Side) -> Value {
    let spread = |spread: Option<Spread>| {
        spread.map(|Spread { median, min, max }| json!({"median": median, "min": min, "max": max}))
    };
    json!({
        "name": side.name, "n": side.costs.len(), "wall_s": spread(side.wall()), "cpu_s": spread(side.cpu()),
        "peak_bytes": spread(side.peak()), "sent_bytes": spread(side.sent()),
    })
}

fn figure_json(figure: &Figure) -> Value {
    let target = figure.target.map(|target| match target {
        Target::AtLeast(least) => json!({"at_least": least}),
        Target::AtMost(most) => json!({"at_most": most}),
    });
    json!({
        "name": figure.name, "value": figure.value, "unit": figure.unit, "reach": target,
        "reached": figure.reached(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Cost;

    fn row() -> Row {
        let ours = Cost { wall: 2.0, cpu: Some(3.0), peak: Some(100.0 * MIB), sent: Some(50e6) };
        Row::new("large", Side::new("larder", vec![ours]))
            .against(Side::new("nix copy", vec![Cost { wall: 3.0, peak: None, ..ours }]))
            .speed(Some(Target::AtLeast(2.0)))
            .peak(Some(Target::AtMost(150.0)))
            .note("one\ntwo")
    }

    #[test]
    fn the_lines_of_a_row_have_all_values_and_the_same_width() {
        let text = row_text(&row());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "large");
        assert!(lines[1].contains("larder") && lines[1].contains("2.00 (2.00–2.00)"), "{text}");
        assert!(lines[1].contains("100 (100–100)") && lines[1].ends_with("50.0 (50.0–50.0)"), "{text}");
        assert!(lines[3].contains("1.50 x") && lines[3].ends_with(">= 2 x         missed by 25 %"), "{text}");
        assert!(lines[4].ends_with("reached"), "{text}");
        assert_eq!(lines[5..], ["    one", "    two"]);
        assert!(lines[1..3].iter().all(|line| line.chars().count() == lines[1].chars().count()), "{text}");
    }

    #[test]
    fn the_json_of_a_row_has_all_values() {
        let value = row_json(&row());
        assert_eq!(value["ours"]["peak_bytes"]["median"], 100.0 * MIB);
        assert_eq!(value["theirs"]["peak_bytes"], Value::Null);
        assert_eq!(value["figures"][0]["reach"]["at_least"], 2.0);
        assert_eq!(value["figures"][0]["reached"], false);
        assert_eq!(value["figures"][1]["reached"], true);
    }
}
