//! Draws line charts: panels next to each other, with the name of each line at its end.

use crate::svg::{Anchor, Svg};

/// An axis.
#[derive(Clone)]
pub(crate) struct Scale {
    name: &'static str,
    is_log: bool,
    text: fn(f64) -> String,
}

/// A line of a panel.
pub(crate) struct Line {
    /// The name at the end of the line. It may be empty if the panel has only one line.
    pub(crate) name: String,
    /// Whether the line shows larder.
    pub(crate) ours: bool,
    /// The points of the line, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A coordinate system with lines.
pub(crate) struct Panel {
    name: &'static str,
    x: Scale,
    y: Scale,
    lines: Vec<Line>,
}

impl Scale {
    /// A logarithmic axis.
    pub(crate) fn log(name: &'static str, text: fn(f64) -> String) -> Self {
        Self { name, is_log: true, text }
    }

    /// A linear axis from zero.
    pub(crate) fn from_zero(name: &'static str, text: fn(f64) -> String) -> Self {
        Self { name, is_log: false, text }
    }

    /// The value on a linear scale.
    fn linear(&self, value: f64) -> f64 {
        if self.is_log { value.ln() } else { value }
    }

    /// The round numbers of the axis around the values: 1, 2 and 5 times powers of ten.
    fn steps(&self, values: &[f64]) -> Vec<f64> {
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let all = (-3..7).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| round(digit * 10_f64.powi(power))));
        if self.is_log {
            let from = all.clone().filter(|step| *step <= least).fold(1e-3, f64::max);
            let to = all.clone().find(|step| *step >= most).unwrap_or(most);
            return all.filter(|step| (from..=to).contains(step)).collect();
        }
        let step = all.clone().find(|step| most / step <= 5.0).unwrap_or(most);
        (0..=(most / step).ceil() as u32).map(|n| round(f64::from(n) * step)).collect()
    }
}

/// Rounds to six decimal places, which removes the errors of binary fractions.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

impl Panel {
    /// A panel with the name `name` of its vertical axis.
    pub(crate) fn new(name: &'static str, x: &Scale, y: Scale, lines: Vec<Line>) -> Self {
        Self { name, x: x.clone(), y, lines }
    }

    fn draw(&self, svg: &mut Svg, (left, top): (f64, f64), (width, height): (f64, f64)) {
        let values = |of: fn(&(f64, f64)) -> f64| -> Vec<f64> {
            let mut values: Vec<_> = self.lines.iter().flat_map(|line| line.points.iter().map(of)).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        // The horizontal axis shows the measured values. The vertical axis shows round numbers.
        let (xs, ys) = (values(|(x, _)| *x), self.y.steps(&values(|(_, y)| *y)));
        let x_range = (if self.x.is_log { xs[0] } else { 0.0 }, xs[xs.len() - 1]);
        let within = |scale: &Scale, value: f64, (from, to): (f64, f64)| {
            (scale.linear(value) - scale.linear(from)) / (scale.linear(to) - scale.linear(from))
        };
        let x = |value: f64| left + width * within(&self.x, value, x_range);
        let y = |value: f64| top + height * (1.0 - within(&self.y, value, (ys[0], ys[ys.len() - 1])));
        svg.label(left, top - 12.0, Anchor::Start, "soft", &format!("{}: {}", self.name, self.y.name));
        for step in &ys {
            svg.line("grid", (left, y(*step)), (left + width, y(*step)));
            svg.label(left - 8.0, y(*step) + 4.0, Anchor::End, "soft", &(self.y.text)(*step));
        }
        for value in &xs {
            svg.line("grid", (x(*value), top + height), (x(*value), top + height + 5.0));
            svg.label(x(*value), top + height + 20.0, Anchor::Middle, "soft", &(self.x.text)(*value));
        }
        svg.label(left + width / 2.0, top + height + 40.0, Anchor::Middle, "soft", self.x.name);
        let mut label_positions: Vec<f64> = Vec::new();
        for line in &self.lines {
            let class = if line.ours { "ours" } else { "others" };
            let points: Vec<_> = line.points.iter().map(|(a, b)| (x(*a), y(*b))).collect();
            svg.curve(class, &points);
            let Some((end_x, end_y)) = points.last() else { continue };
            // The names of lines that end close together are placed below each other.
            let mut label_y = end_y + 4.0;
            while label_positions.iter().any(|other| (other - label_y).abs() < 14.0) {
                label_y += 2.0;
            }
            label_positions.push(label_y);
            svg.label(end_x + 9.0, label_y, Anchor::Start, class, &line.name);
        }
    }
}

/// Draws a chart of one or two panels.
pub(crate) fn chart(title: &str, panels: &[Panel]) -> String {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 330.0;
    let panel_width = WIDTH / panels.len() as f64;
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    for (n, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, (n as f64 * panel_width + 52.0, 72.0), (panel_width - 132.0, HEIGHT - 130.0));
    }
    svg.finish()
}
