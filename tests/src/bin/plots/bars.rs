//! Draws a bar chart of ratios.

use crate::svg::{Anchor, Svg};

/// One bar.
pub(crate) struct Bar {
    /// The name of the comparison.
    pub(crate) name: String,
    /// The name of the other program.
    pub(crate) against: String,
    /// The speed of larder divided by the speed of the other program.
    pub(crate) value: f64,
    /// The target for this ratio.
    pub(crate) target: Option<f64>,
}

/// The highest ratio with a bar of full length. Higher ratios have a shortened bar, so the other bars remain readable.
const LONGEST: f64 = 6.0;

/// Draws a chart of bars, with a line at the ratio 1 and a mark at each target.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const WIDTH: f64 = 760.0;
    const LEFT: f64 = 330.0;
    const BAR_HEIGHT: f64 = 38.0;
    const TOP: f64 = 54.0;
    let longest = bars.iter().flat_map(|bar| [Some(bar.value), bar.target]).flatten().fold(1.0, f64::max);
    let longest = longest.min(LONGEST);
    let x = |value: f64| LEFT + (WIDTH - LEFT - 80.0) * value.min(longest) / longest;
    let bottom = TOP + BAR_HEIGHT * bars.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 36.0, title);
    for (n, bar) in bars.iter().enumerate() {
        let top = TOP + BAR_HEIGHT * n as f64;
        svg.label(LEFT - 10.0, top + 13.0, Anchor::End, "", &bar.name);
        svg.label(LEFT - 10.0, top + 27.0, Anchor::End, "soft", &format!("against {}", bar.against));
        svg.bar("ours", (LEFT, top + 4.0), x(bar.value) - LEFT, 22.0);
        let end = x(bar.value.max(bar.target.unwrap_or(0.0)));
        let arrow = if bar.value > longest { "→ " } else { "" };
        svg.label(end + 7.0, top + 20.0, Anchor::Start, "", &format!("{arrow}{:.2} ×", bar.value));
        if let Some(target) = bar.target.filter(|target| *target <= longest) {
            svg.line("mark", (x(target), top + 1.0), (x(target), top + 29.0));
        }
    }
    svg.line("grid", (x(1.0), TOP - 4.0), (x(1.0), bottom));
    svg.label(x(1.0), bottom + 16.0, Anchor::Middle, "soft", "1: as fast");
    svg.label(WIDTH - 16.0, bottom + 16.0, Anchor::End, "soft", "│ what is to be reached");
    svg.finish()
}
