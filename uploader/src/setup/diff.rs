//! The difference between two texts, for people.

/// The removed lines with `-` and the added lines with `+`, and up to two unchanged lines before and after.
///
/// The texts are compared from both ends, so the result is one block.
pub fn diff(before: &str, after: &str) -> String {
    const CONTEXT: usize = 2;
    let (old, new): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let same = |a: &mut dyn Iterator<Item = (&&str, &&str)>| a.take_while(|(a, b)| a == b).count();
    let head = same(&mut old.iter().zip(&new));
    let tail = same(&mut old[head..].iter().rev().zip(new[head..].iter().rev()));
    let mut text = String::new();
    let mut put = |mark: char, lines: &[&str]| {
        for line in lines {
            text += &format!("{mark} {line}\n");
        }
    };
    put(' ', &old[head.saturating_sub(CONTEXT)..head]);
    put('-', &old[head..old.len() - tail]);
    put('+', &new[head..new.len() - tail]);
    put(' ', &old[old.len() - tail..(old.len() - tail + CONTEXT).min(old.len())]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_shown_with_their_context() {
        assert_eq!(diff("", "a\nb\n"), "+ a\n+ b\n");
        assert_eq!(diff("1\n2\n3\n4\n5\n6\n", "1\n2\n3\nx\n5\n6\n"), "  2\n  3\n- 4\n+ x\n  5\n  6\n");
        assert_eq!(diff("a\n", "a\n"), "  a\n");
        assert_eq!(diff("a\na\n", "a\n"), "  a\n- a\n");
    }
}
