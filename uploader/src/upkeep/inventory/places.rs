//! Where digests are in a sorted table. A search in a table of a million rows touches twenty of them, far from each other;
//! an index of the first two bytes leaves a few neighbours.

use std::cmp::Ordering;

/// The number of different beginnings of a digest.
const BEGINNINGS: usize = 1 << 16;

/// The places of the digests that begin with the same two bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The number of digests before each beginning; empty for an empty table.
    starts: Vec<u32>,
}

impl Places {
    /// The index of a table of these digests, which are sorted.
    pub(super) fn of<'d>(digests: impl Iterator<Item = &'d [u8; 20]>) -> Self {
        let mut starts = vec![0; BEGINNINGS + 1];
        digests.for_each(|digest| starts[beginning(digest) + 1] += 1);
        (1..starts.len()).for_each(|place| starts[place] += starts[place - 1]);
        Self { starts }
    }

    /// The place of a digest in the table, whose digests `get` gives.
    pub(super) fn find<'d>(&self, digest: &[u8; 20], get: impl Fn(usize) -> &'d [u8; 20]) -> Option<usize> {
        let at = beginning(digest);
        let (mut low, mut high) = (*self.starts.get(at)? as usize, *self.starts.get(at + 1)? as usize);
        while low < high {
            let middle = low.midpoint(high);
            match get(middle).cmp(digest) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}

fn beginning(digest: &[u8; 20]) -> usize {
    usize::from(u16::from_be_bytes([digest[0], digest[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digest_is_found_and_no_other() {
        let digest = |number: u32, end: u8| {
            let mut digest = [end; 20];
            digest[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
            digest
        };
        let mut digests: Vec<_> = (0..5000).map(|number| digest(number, 1)).collect();
        // Many with one beginning, and the ends of the table.
        digests.extend((0..300_u16).map(|number| {
            let mut digest = [9; 20];
            digest[10..12].copy_from_slice(&number.to_be_bytes());
            digest
        }));
        digests.extend([[0; 20], [255; 20]]);
        digests.sort_unstable();
        digests.dedup();
        let places = Places::of(digests.iter());
        for (place, one) in digests.iter().enumerate() {
            assert_eq!(places.find(one, |place| &digests[place]), Some(place));
        }
        for other in (0..5000).map(|number| digest(number, 2)).chain([[9; 20].map(|byte| byte + 1)]) {
            assert_eq!(places.find(&other, |place| &digests[place]), None);
        }
        assert_eq!(Places::default().find(&[0; 20], |_| unreachable!()), None);
    }
}
