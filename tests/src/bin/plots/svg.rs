//! Writes the elements of an SVG that is readable on light and dark pages.

use std::fmt::Write as _;

/// An unfinished SVG.
pub(crate) struct Svg {
    text: String,
}

/// The part of a text that is at its point.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 14px; font-weight: 600 }
path { fill: none; stroke-width: 2 }
.soft { fill: #59636e } .page { fill: #ffffff } .grid { stroke: #d1d9e0 } .mark { stroke: #1f2328 }
.ours { fill: #0969da } path.ours { stroke: #0969da; fill: none }
.others { fill: #bc4c00 } path.others { stroke: #bc4c00; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.soft { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #3d444d } .mark { stroke: #f0f6fc }
.ours { fill: #4493f8 } path.ours { stroke: #4493f8 }
.others { fill: #f0883e } path.others { stroke: #f0883e }
}
</style>
";

impl Svg {
    /// An empty page with a title. Sizes are in pixels.
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = Self { text: String::new() };
        let _ = write!(
            svg.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n{STYLE}<rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n",
            escaped(title)
        );
        svg.label(16.0, 26.0, Anchor::Start, "title", title);
        svg
    }

    /// Adds a line with a CSS class.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.text,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// Adds points and the line that connects them.
    pub(crate) fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(self.text, "<path class=\"{class}\" d=\"M{}\"/>", path.join(" L"));
        for (x, y) in points {
            let _ = writeln!(self.text, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
        }
    }

    /// Adds a rectangle.
    pub(crate) fn bar(&mut self, class: &str, (x, y): (f64, f64), width: f64, height: f64) {
        let _ = writeln!(
            self.text,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\"/>"
        );
    }

    /// Adds a text at a point.
    pub(crate) fn label(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.text,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(text)
        );
    }

    /// The text of the file.
    pub(crate) fn finish(self) -> String {
        self.text + "</svg>\n"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
