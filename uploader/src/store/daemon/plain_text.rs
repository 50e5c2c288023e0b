//! Removes control characters from the texts that a daemon or its program writes for a terminal.

/// The longest text that is kept, in bytes.
const MAX_TEXT: usize = 4096;

/// The text in one line of bounded length, without terminal escapes, other control characters, and a leading `error: `.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(MAX_TEXT));
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if plain.len() >= MAX_TEXT {
            plain.push('…');
            break;
        }
        match next {
            '\u{1b}' => match rest.next() {
                // A control sequence ends with its first byte from `@` to `~`.
                Some('[') => while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // An operating-system command ends with BEL, or with ESC `\`.
                Some(']') => {
                    while let Some(c) = rest.next() {
                        if c == '\u{7}' {
                            break;
                        }
                        if c == '\u{1b}' {
                            rest.next_if_eq(&'\\');
                            break;
                        }
                    }
                }
                // The selection of a character set has one more character.
                Some('(' | ')') => {
                    rest.next();
                }
                _ => {}
            },
            c if c.is_whitespace() => {
                if !plain.is_empty() && !plain.ends_with(' ') {
                    plain.push(' ');
                }
            }
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.truncate(plain.trim_end().len());
    match plain.strip_prefix("error: ") {
        Some(rest) => rest.to_owned(),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_every_kind_are_removed() {
        assert_eq!(plain("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{7} \u{1b}(B\u{8}b"), "link b");
        assert_eq!(plain("unfinished \u{1b}["), "unfinished");
        assert_eq!(plain("unfinished \u{1b}"), "unfinished");
        assert!(plain(&"x".repeat(100_000)).len() < 5000);
    }
}
