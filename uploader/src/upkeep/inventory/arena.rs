//! Many short strings in one block of memory.

/// Strings that are addressed by their numbers, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena {
    bytes: String,
    /// The end of each string in `bytes`.
    ends: Vec<usize>,
}

impl Arena {
    /// Adds a string, and returns its number.
    pub(super) fn push(&mut self, text: &str) -> u32 {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
        (self.ends.len() - 1) as u32
    }

    /// The memory of all strings, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<usize>()
    }

    /// The string with this number.
    pub(super) fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.bytes[start..self.ends[number]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_numbers() {
        let mut arena = Arena::default();
        let numbers: Vec<_> = ["a", "", "longer", "é"].into_iter().map(|text| arena.push(text)).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(
            numbers.iter().map(|number| arena.get(*number)).collect::<Vec<_>>(),
            ["a", "", "longer", "é"]
        );
    }
}
