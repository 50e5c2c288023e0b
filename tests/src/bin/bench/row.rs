//! The rows of the table: the compared programs, their costs, and the figures with their targets.

use crate::cost::Cost;

/// One comparison of larder with another program.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The name of the comparison: `large, loopback`.
    pub(crate) case: String,
    /// The runs of larder.
    pub(crate) ours: Side,
    /// The runs of the other program in the same rounds.
    pub(crate) theirs: Option<Side>,
    /// Ratios and other figures, with their targets.
    pub(crate) figures: Vec<Figure>,
    /// Lines below the figures.
    pub(crate) notes: Vec<String>,
}

/// The runs of one program.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// The name of the program: `larder`, `nix copy 2.34.8, zstd`.
    pub(crate) name: String,
    /// The cost of each counted round.
    pub(crate) costs: Vec<Cost>,
}

/// A calculated figure and its target.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The name of the figure: `speed`, `bytes sent`.
    pub(crate) name: String,
    /// The value of the figure. It is not a number if a measurement is missing.
    pub(crate) value: f64,
    /// The unit: `x` for a ratio, `MiB`, `ms`, …
    pub(crate) unit: &'static str,
    /// The target. A figure without a target is for information.
    pub(crate) target: Option<Target>,
}

/// The target of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// This value or a higher value.
    AtLeast(f64),
    /// This value or a lower value.
    AtMost(f64),
}

/// The median, the lowest and the highest of several values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The target for the peak memory of every push, in MiB.
pub(crate) const MEMORY_LIMIT: Option<Target> = Some(Target::AtMost(150.0));

/// The bytes of a MiB.
pub(crate) const MIB: f64 = 1048576.0;

impl Row {
    /// A row without another program.
    pub(crate) fn new(case: impl Into<String>, ours: Side) -> Self {
        Self { case: case.into(), ours, theirs: None, figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds the runs of another program.
    pub(crate) fn against(mut self, theirs: Side) -> Self {
        self.theirs = Some(theirs);
        self
    }

    /// Adds the speed of larder: the median time of the other program divided by the median time of larder.
    pub(crate) fn speed(self, target: Option<Target>) -> Self {
        let value = ratio(self.theirs.as_ref().and_then(Side::wall), self.ours.wall());
        self.figure("speed", value, "x", target)
    }

    /// Adds the processor time of larder divided by that of the other program.
    pub(crate) fn cpu(self, target: Option<Target>) -> Self {
        let value = ratio(self.ours.cpu(), self.theirs.as_ref().and_then(Side::cpu));
        self.figure("cpu", value, "x", target)
    }

    /// Adds the bytes that larder sent, divided by the bytes that the other program sent.
    pub(crate) fn sent(self, target: Option<Target>) -> Self {
        let value = ratio(self.ours.sent(), self.theirs.as_ref().and_then(Side::sent));
        self.figure("bytes", value, "x", target)
    }

    /// Adds the highest memory of larder in all rounds, in MiB.
    pub(crate) fn peak(self, target: Option<Target>) -> Self {
        let value = self.ours.peak().map_or(f64::NAN, |peak| peak.max / MIB);
        self.figure("peak", value, "MiB", target)
    }

    /// Adds a figure.
    pub(crate) fn figure(
        mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Option<Target>,
    ) -> Self {
        self.figures.push(Figure { name: name.into(), value, unit, target });
        self
    }

    /// Adds lines below the figures.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }
}

impl Side {
    /// The runs of a program.
    pub(crate) fn new(name: impl Into<String>, costs: Vec<Cost>) -> Self {
        Self { name: name.into(), costs }
    }

    /// The time, in seconds.
    pub(crate) fn wall(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| Some(cost.wall)))
    }

    /// The median time in seconds; not a number if there are no runs.
    pub(crate) fn median_wall(&self) -> f64 {
        self.wall().map_or(f64::NAN, |wall| wall.median)
    }

    /// The processor time, in seconds.
    pub(crate) fn cpu(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.cpu))
    }

    /// The peak memory, in bytes.
    pub(crate) fn peak(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.peak))
    }

    /// The bytes sent.
    pub(crate) fn sent(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.sent))
    }
}

impl Spread {
    /// The spread of values; `None` if a value is missing or `values` is empty.
    pub(crate) fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let mut values = values.collect::<Option<Vec<_>>>()?;
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Self { median, min, max })
    }
}

/// The median; not a number if `values` is empty.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    Spread::of(values.into_iter().map(Some)).map_or(f64::NAN, |spread| spread.median)
}

/// The ratio of two medians; not a number if one of them is missing.
fn ratio(dividend: Option<Spread>, divisor: Option<Spread>) -> f64 {
    match (dividend, divisor) {
        (Some(dividend), Some(divisor)) => dividend.median / divisor.median,
        _ => f64::NAN,
    }
}

impl Figure {
    /// Whether the figure reaches its target; `None` if it has no target.
    pub(crate) fn reached(&self) -> Option<bool> {
        Some(match self.target? {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        })
    }

    /// The result in words: `reached`, `missed by 12 %`; empty if the figure has no target.
    pub(crate) fn verdict(&self) -> String {
        let (Some(Target::AtLeast(wanted) | Target::AtMost(wanted)), Some(reached)) =
            (self.target, self.reached())
        else {
            return String::new();
        };
        match reached {
            true => "reached".to_owned(),
            false if self.value.is_finite() && wanted != 0.0 => {
                format!("missed by {:.0} %", ((self.value - wanted) / wanted * 100.0).abs())
            }
            false => "missed".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(walls: &[f64]) -> Side {
        Side::new("x", walls.iter().map(|wall| Cost { cpu: Some(2.0 * wall), ..Cost::wall(*wall) }).collect())
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_values() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied().map(Some));
        assert_eq!(spread(&[5.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 5.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]).map(|spread| spread.median), Some(3.0));
        assert_eq!(spread(&[]), None);
        assert_eq!(Spread::of([Some(1.0), None].into_iter()), None);
    }

    #[test]
    fn ratios_are_ratios_of_medians() {
        let row = Row::new("c", side(&[1.0, 2.0, 100.0]))
            .against(side(&[3.0, 5.0, 4.0]))
            .speed(Some(Target::AtLeast(2.0)))
            .cpu(Some(Target::AtMost(0.4)))
            .sent(None);
        let values: Vec<_> = row.figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values[..2], [2.0, 0.5]);
        assert!(values[2].is_nan());
        let verdicts: Vec<_> = row.figures.iter().map(Figure::verdict).collect();
        assert_eq!(verdicts, ["reached", "missed by 25 %", ""]);
    }

    #[test]
    fn a_figure_without_a_measurement_misses_its_target() {
        let row = Row::new("c", side(&[1.0])).peak(Some(Target::AtMost(150.0)));
        assert_eq!(row.figures[0].reached(), Some(false));
        assert_eq!(row.figures[0].verdict(), "missed");
    }
}
