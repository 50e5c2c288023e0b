//! Which NARs a verification reads, without I/O.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::upkeep::inventory::{Catalog, NarId, PathFault, PathId};

/// The seconds of a day.
const DAY: u64 = 24 * 3600;
/// The number of steps into which keys are divided for a percentage.
const STEPS: u64 = 1 << 32;

/// A part of the NARs in a bucket. The part of a NAR follows from its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Portion {
    /// All NARs.
    All,
    /// A random part; the fraction of all NARs, above 0 and below 1.
    Fraction(f64),
    /// One of so many parts: another one each day, so that so many days read everything once.
    Rolling(u64),
}

impl Portion {
    /// Reads `5%`, `1/30` or `100%`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no part of the NARs, such as `5%` or `1/30`");
        if let Some(parts) = text.strip_prefix("1/") {
            return match parts.parse().map_err(|_| wrong())? {
                0 => Err(wrong()),
                1 => Ok(Self::All),
                parts => Ok(Self::Rolling(parts)),
            };
        }
        let percent: f64 =
            text.strip_suffix('%').and_then(|text| text.trim().parse().ok()).ok_or_else(wrong)?;
        match percent {
            percent if percent > 0.0 && percent < 100.0 => Ok(Self::Fraction(percent / 100.0)),
            100.0 => Ok(Self::All),
            _ => Err(wrong()),
        }
    }

    /// A name of the part that is read at this time, in seconds since 1970. A verification of the same name can continue an
    /// interrupted one; a random part has no name.
    pub fn name(self, now: u64) -> Option<String> {
        match self {
            Self::All => Some("all".into()),
            Self::Fraction(_) => None,
            Self::Rolling(parts) => Some(format!("{}-of-{parts}", now / DAY % parts)),
        }
    }

    /// The NARs that belong to the part at this time, and that are younger than `since`. `salt` makes a random part. Only NARs
    /// that a narinfo names are read, and none of a wrong size: it cannot have the right contents.
    pub fn of(self, catalog: &Catalog, since: Option<Duration>, now: u64, salt: u64) -> Vec<NarId> {
        let fits = |id: &PathId| !matches!(catalog.fault(*id), Some(PathFault::NarSize(..)));
        let mut nars: Vec<_> = catalog.ids().filter(fits).filter_map(|id| catalog.nar(id)).collect();
        nars.sort_unstable();
        nars.dedup();
        nars.retain(|nar| {
            let (key, object) = catalog.nar_object(*nar);
            // An object of unknown age may be young.
            let is_young = since.is_none_or(|since| object.age().is_none_or(|age| age <= since));
            is_young && self.has(key, now, salt)
        });
        nars
    }

    fn has(self, key: &str, now: u64, salt: u64) -> bool {
        match self {
            Self::All => true,
            Self::Fraction(fraction) => ((number(key, salt) % STEPS) as f64) < fraction * STEPS as f64,
            Self::Rolling(parts) => number(key, 0) % parts == now / DAY % parts,
        }
    }
}

/// A number that is evenly distributed over keys.
fn number(key: &str, salt: u64) -> u64 {
    let hash = Sha256::new().chain_update(salt.to_le_bytes()).chain_update(key).finalize();
    u64::from_le_bytes(std::array::from_fn(|place| hash[place]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_read() {
        assert_eq!(Portion::parse("5%"), Ok(Portion::Fraction(0.05)));
        assert_eq!(Portion::parse("1/30"), Ok(Portion::Rolling(30)));
        assert_eq!((Portion::parse("100%"), Portion::parse("1/1")), (Ok(Portion::All), Ok(Portion::All)));
        for text in ["", "5", "0%", "-1%", "101%", "x%", "nan%", "1/0", "2/30", "1/x", "1/-1"] {
            assert!(Portion::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_month_of_rolling_parts_reads_each_key_once() {
        let rolling = Portion::Rolling(30);
        for key in (0..300).map(|number| format!("nar/{number}")) {
            let days = (100..130).filter(|day| rolling.has(&key, day * DAY + 77, *day)).count();
            assert_eq!(days, 1, "{key}");
        }
    }

    #[test]
    fn a_random_part_has_about_its_size_and_differs_from_run_to_run() {
        let part = |salt| {
            let keys = (0..10_000).map(|number| format!("nar/{number}"));
            keys.filter(|key| Portion::Fraction(0.05).has(key, 0, salt)).collect::<Vec<_>>()
        };
        let (one, other) = (part(1), part(2));
        assert!((350..650).contains(&one.len()), "{}", one.len());
        assert_ne!(one, other);
    }
}
