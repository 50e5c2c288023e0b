//! What changes in a text, for people.

/// The lines that go, with `-`, and those that come, with `+`; two lines around them.
pub fn diff(before: &str, after: &str) -> String {
    const AROUND: usize = 2;
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
    put(' ', &old[head.saturating_sub(AROUND)..head]);
    put('-', &old[head..old.len() - tail]);
    put('+', &new[head..new.len() - tail]);
    put(' ', &old[old.len() - tail..(old.len() - tail + AROUND).min(old.len())]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_shown_and_a_little_around() {
        assert_eq!(diff("", "a\nb\n"), "+ a\n+ b\n");
        assert_eq!(diff("1\n2\n3\n4\n5\n6\n", "1\n2\n3\nx\n5\n6\n"), "  2\n  3\n- 4\n+ x\n  5\n  6\n");
        assert_eq!(diff("a\n", "a\n"), "  a\n");
        assert_eq!(diff("a\na\n", "a\n"), "  a\n- a\n");
    }
}
