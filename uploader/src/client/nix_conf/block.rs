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
        let ends = text.find(&format!("{END}\n"));
        let Some(end) = ends.filter(|at| *at == 0 || text[..*at].ends_with('\n')) else { return whole() };
        let Some(begin) = text[..end].rfind(BEGIN).filter(|at| *at == 0 || text[..*at].ends_with('\n'))
        else {
            return whole();
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_the_block_restores_the_file_to_the_byte() {
        for before in
            [None, Some(""), Some("a = b\n"), Some("a = b"), Some("\n\n"), Some("# larder setup: begin")]
        {
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
