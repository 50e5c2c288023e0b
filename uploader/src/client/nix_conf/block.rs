//! A block of lines that larder adds to a file of another owner. Removing the block restores the file to the byte.

const BEGIN: &str = "# larder setup: begin";
const END: &str = "# larder setup: end";
// Notes behind the first line. Installed machines have them, so they must not change.
const NO_NEWLINE: &str = " (behind a line without an end)";
const NEW_FILE: &str = " (in a file of its own)";

/// A file taken apart into the block and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The file without the block; `None` if the file would not exist.
    pub rest: Option<String>,
    /// The lines of the block; `None` if the file has no block.
    pub lines: Option<String>,
}

impl Block {
    /// Takes a file apart. `None` stands for a file that does not exist.
    pub fn split(text: Option<&str>) -> Self {
        let whole = || Self { rest: text.map(str::to_owned), lines: None };
        let Some(text) = text else { return whole() };
        let Some((begin, end)) = find(text) else { return whole() };
        let Some(first) = text[begin..end].find('\n').map(|at| begin + at + 1) else { return whole() };
        let notes = &text[begin + BEGIN.len()..first];
        let (mut before, after) = (&text[..begin], &text[end + END.len() + 1..]);
        if notes.contains(NO_NEWLINE) && after.is_empty() {
            before = before.strip_suffix('\n').unwrap_or(before);
        }
        let rest = format!("{before}{after}");
        let rest = Some(rest).filter(|rest| !(rest.is_empty() && notes.contains(NEW_FILE)));
        Self { rest, lines: Some(text[first..end].to_owned()) }
    }

    /// The rest of the file, with a block of `lines` at the end. Each line ends with a newline.
    pub fn with(&self, lines: &str) -> String {
        let (rest, note) = match &self.rest {
            None => (String::new(), NEW_FILE),
            Some(rest) if !rest.is_empty() && !rest.ends_with('\n') => (format!("{rest}\n"), NO_NEWLINE),
            Some(rest) => (rest.clone(), ""),
        };
        format!("{rest}{BEGIN}{note}\n{lines}{END}\n")
    }
}

/// The places of the first and of the last line of the block. larder adds the block at the end of a file, so the block is
/// the last one: the rest of the file may hold such lines, too.
fn find(text: &str) -> Option<(usize, usize)> {
    let starts_a_line = |at: usize| at == 0 || text[..at].ends_with('\n');
    let first_line = |at: usize| {
        let notes = text[at + BEGIN.len()..].split('\n').next().unwrap_or_default();
        starts_a_line(at) && ["", NO_NEWLINE, NEW_FILE].contains(&notes)
    };
    let end_after = |begin: usize| {
        let mut ends = text[begin..].match_indices(END).map(|(at, _)| begin + at);
        ends.find(|at| starts_a_line(*at) && text[at + END.len()..].starts_with('\n'))
    };
    let mut begins = text.rmatch_indices(BEGIN).map(|(at, _)| at).filter(|at| first_line(*at));
    begins.find_map(|begin| Some((begin, end_after(begin)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_the_block_restores_the_file_to_the_byte() {
        for before in [
            None,
            Some(""),
            Some("a = b\n"),
            Some("a = b"),
            Some("\n\n"),
            Some("# larder setup: begin"),
            Some("a = b\n# larder setup: end\nc = d\n"),
            Some("# larder setup: begin\n"),
            Some("# larder setup: beginning\n"),
        ] {
            let lines = "post-build-hook = /x\n";
            let first = Block::split(before).with(lines);
            assert!(first.contains(lines));
            let again = Block::split(Some(&first));
            assert_eq!(again.lines.as_deref(), Some(lines), "{before:?}");
            assert_eq!(again.with(lines), first, "twice is once");
            assert_eq!(Block::split(Some(&again.with("y = z\n"))).rest.as_deref(), before);
        }
    }

    #[test]
    fn lines_after_the_block_stay() {
        let text = Block::split(Some("a = b")).with("x = y\n") + "c = d\n";
        assert_eq!(Block::split(Some(&text)).rest.as_deref(), Some("a = b\nc = d\n"));
    }
}
