//! What is compared, and how it came out.

use crate::cost::Cost;

/// One comparison: larder and what it is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was done: `large, loopback`.
    pub(crate) case: String,
    /// larder's runs.
    pub(crate) ours: Side,
    /// The others', in the same rounds.
    pub(crate) theirs: Option<Side>,
    /// Ratios and other figures, with what they are to reach.
    pub(crate) figures: Vec<Figure>,
    /// Lines to stand below, such as a plot.
    pub(crate) notes: Vec<String>,
}

/// One contestant's runs.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// What ran: `larder`, `nix copy 2.34.8, zstd`.
    pub(crate) name: String,
    /// A cost for each round.
    pub(crate) costs: Vec<Cost>,
}

/// A figure that was worked out, and what it is to reach.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What it is: `speed`, `bytes sent`.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: f64,
    /// `x`, `MiB`, `ms`, …
    pub(crate) unit: &'static str,
    /// What it is to reach, if anything.
    pub(crate) reach: Option<Reach>,
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reach {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The memory, in MiB, that no push may exceed, whatever it pushes.
pub(crate) const MOST_MEMORY: Option<Reach> = Some(Reach::AtMost(150.0));

/// A MiB.
pub(crate) const MIB: f64 = 1048576.0;

impl Row {
    /// A row with one side.
    pub(crate) fn new(case: impl Into<String>, ours: Side) -> Self {
        Self { case: case.into(), ours, theirs: None, figures: Vec::new(), notes: Vec::new() }
    }

    /// Compares with another side.
    pub(crate) fn against(mut self, theirs: Side) -> Self {
        self.theirs = Some(theirs);
        self
    }

    /// How many times as fast as theirs ours is, by the medians.
    pub(crate) fn speed(self, reach: Option<Reach>) -> Self {
        let value = ratio(self.theirs.as_ref().and_then(Side::wall), self.ours.wall());
        self.figure("speed", value, "x", reach)
    }

    /// Our processor time over theirs.
    pub(crate) fn cpu(self, reach: Option<Reach>) -> Self {
        let value = ratio(self.ours.cpu(), self.theirs.as_ref().and_then(Side::cpu));
        self.figure("cpu", value, "x", reach)
    }

    /// Our bytes over theirs.
    pub(crate) fn sent(self, reach: Option<Reach>) -> Self {
        let value = ratio(self.ours.sent(), self.theirs.as_ref().and_then(Side::sent));
        self.figure("bytes", value, "x", reach)
    }

    /// Our highest memory of all rounds, in MiB.
    pub(crate) fn peak(self, reach: Option<Reach>) -> Self {
        let value = self.ours.peak().map_or(f64::NAN, |peak| peak.max / MIB);
        self.figure("peak", value, "MiB", reach)
    }

    /// Any other figure.
    pub(crate) fn figure(
        mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        reach: Option<Reach>,
    ) -> Self {
        self.figures.push(Figure { name: name.into(), value, unit, reach });
        self
    }

    /// Adds lines to stand below.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }
}

impl Side {
    /// A contestant and its costs.
    pub(crate) fn new(name: impl Into<String>, costs: Vec<Cost>) -> Self {
        Self { name: name.into(), costs }
    }

    /// Seconds.
    pub(crate) fn wall(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| Some(cost.wall)))
    }

    /// Seconds of processor time.
    pub(crate) fn cpu(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.cpu))
    }

    /// Bytes of memory.
    pub(crate) fn peak(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.peak))
    }

    /// Bytes sent.
    pub(crate) fn sent(&self) -> Option<Spread> {
        Spread::of(self.costs.iter().map(|cost| cost.sent))
    }
}

impl Spread {
    /// Of values; `None` when one is missing, or there are none.
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

/// The ratio of two medians; not a number where one is missing.
fn ratio(one: Option<Spread>, other: Option<Spread>) -> f64 {
    match (one, other) {
        (Some(one), Some(other)) => one.median / other.median,
        _ => f64::NAN,
    }
}

impl Figure {
    /// Whether it reaches what it is to; `None` where it is for information.
    pub(crate) fn reached(&self) -> Option<bool> {
        Some(match self.reach? {
            Reach::AtLeast(least) => self.value >= least,
            Reach::AtMost(most) => self.value <= most,
        })
    }

    /// The verdict in words: `reached`, `missed by 12 %`; empty where it is for information.
    pub(crate) fn verdict(&self) -> String {
        let (Some(Reach::AtLeast(wanted) | Reach::AtMost(wanted)), Some(reached)) =
            (self.reach, self.reached())
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
    fn medians() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied().map(Some));
        assert_eq!(spread(&[5.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 5.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]).map(|spread| spread.median), Some(3.0));
        assert_eq!(spread(&[]), None);
        assert_eq!(Spread::of([Some(1.0), None].into_iter()), None);
    }

    #[test]
    fn ratios_are_those_of_medians() {
        let row = Row::new("c", side(&[1.0, 2.0, 100.0]))
            .against(side(&[3.0, 5.0, 4.0]))
            .speed(Some(Reach::AtLeast(2.0)))
            .cpu(Some(Reach::AtMost(0.4)))
            .sent(None);
        let values: Vec<_> = row.figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values[..2], [2.0, 0.5]);
        assert!(values[2].is_nan());
        let verdicts: Vec<_> = row.figures.iter().map(Figure::verdict).collect();
        assert_eq!(verdicts, ["reached", "missed by 25 %", ""]);
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let row = Row::new("c", side(&[1.0])).peak(Some(Reach::AtMost(150.0)));
        assert_eq!(row.figures[0].reached(), Some(false));
        assert_eq!(row.figures[0].verdict(), "missed");
    }
}
