//! Lines of ours in a file of somebody else's, which can be taken out again to the byte.

const BEGIN: &str = "# larder setup: begin";
const END: &str = "# larder setup: end";
const NO_NEWLINE: &str = " (behind a line without an end)";
const NEW_FILE: &str = " (in a file of its own)";

/// What is in a file besides our lines, and whether those lines made the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The file without our lines; `None` where there would be no file.
    pub rest: Option<String>,
    /// Our lines, where there are some.
    pub ours: Option<String>,
}

impl Block {
    /// Takes a file apart.
    pub fn split(text: Option<&str>) -> Self {
        let whole = || Self { rest: text.map(str::to_owned), ours: None };
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
        Self { rest, ours: Some(text[first..end].to_owned()) }
    }

    /// The file with `lines` (each with its end) at its end.
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
    fn what_was_there_before_comes_back_to_the_byte() {
        for before in
            [None, Some(""), Some("a = b\n"), Some("a = b"), Some("\n\n"), Some("# larder setup: begin")]
        {
            let lines = "post-build-hook = /x\n";
            let first = Block::split(before).with(lines);
            assert!(first.contains(lines));
            let again = Block::split(Some(&first));
            assert_eq!(again.ours.as_deref(), Some(lines), "{before:?}");
            assert_eq!(again.with(lines), first, "twice is once");
            assert_eq!(Block::split(Some(&again.with("y = z\n"))).rest.as_deref(), before);
        }
    }

    #[test]
    fn what_was_added_behind_stays() {
        let text = Block::split(Some("a = b")).with("x = y\n") + "c = d\n";
        assert_eq!(Block::split(Some(&text)).rest.as_deref(), Some("a = b\nc = d\n"));
    }
}
