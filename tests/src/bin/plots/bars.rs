//! Bars of ratios.

use crate::svg::{Anchor, Svg};

/// A ratio.
pub(crate) struct Bar {
    /// What was done.
    pub(crate) name: String,
    /// What larder is compared with.
    pub(crate) against: String,
    /// How many times as fast it is.
    pub(crate) value: f64,
    /// How many times it is to be.
    pub(crate) wanted: Option<f64>,
}

/// Longer bars are cut off, so that the others can be told apart.
const LONGEST: f64 = 6.0;

/// A chart of them: a line for "as fast", a mark for what is wanted.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const WIDTH: f64 = 760.0;
    const LEFT: f64 = 330.0;
    const EACH: f64 = 38.0;
    const TOP: f64 = 54.0;
    let most = bars.iter().flat_map(|bar| [Some(bar.value), bar.wanted]).flatten().fold(1.0, f64::max);
    let most = most.min(LONGEST);
    let x = |value: f64| LEFT + (WIDTH - LEFT - 80.0) * value.min(most) / most;
    let bottom = TOP + EACH * bars.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 36.0, title);
    for (n, bar) in bars.iter().enumerate() {
        let top = TOP + EACH * n as f64;
        svg.label(LEFT - 10.0, top + 13.0, Anchor::End, "", &bar.name);
        svg.label(LEFT - 10.0, top + 27.0, Anchor::End, "soft", &format!("against {}", bar.against));
        svg.bar("ours", (LEFT, top + 4.0), x(bar.value) - LEFT, 22.0);
        let end = x(bar.value.max(bar.wanted.unwrap_or(0.0)));
        let cut = if bar.value > most { "→ " } else { "" };
        svg.label(end + 7.0, top + 20.0, Anchor::Start, "", &format!("{cut}{:.2} ×", bar.value));
        if let Some(wanted) = bar.wanted.filter(|wanted| *wanted <= most) {
            svg.line("mark", (x(wanted), top + 1.0), (x(wanted), top + 29.0));
        }
    }
    svg.line("grid", (x(1.0), TOP - 4.0), (x(1.0), bottom));
    svg.label(x(1.0), bottom + 16.0, Anchor::Middle, "soft", "1: as fast");
    svg.label(WIDTH - 16.0, bottom + 16.0, Anchor::End, "soft", "│ what is to be reached");
    svg.finish()
}
