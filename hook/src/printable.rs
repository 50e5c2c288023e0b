//! Makes texts that others wrote harmless on a terminal and in a log.

use std::borrow::Cow;
use std::fmt::Write;

/// The text as one line, in which each character that controls a terminal, or hides or reorders other characters, is
/// written as `\u001b`. These are the control characters except the tab, marks of the direction of writing, characters
/// without a width, and other ends of lines.
///
/// JSON has the same escapes, so JSON in one line stays the same value.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unprintable(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(character);
        }
    }
    Cow::Owned(plain)
}

fn is_unprintable(character: char) -> bool {
    match character {
        '\t' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => true,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays() {
        for text in ["", "cannot read `a`: Größe 3 µs\t→ ok", "日本語", "\\u001b"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn no_character_that_controls_a_terminal_stays() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{7f}\u{9b}"), "a\\u001b[2Jb\\u000d\\u000ac\\u007f\\u009b");
        assert_eq!(
            printable("\u{202e}x\u{2066}\u{200b}\u{feff}\u{e0041}"),
            "\\u202ex\\u2066\\u200b\\ufeff\\udb40\\udc41"
        );
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let plain = printable(&all);
        assert!(!plain.contains(|c: char| c.is_control() && c != '\t') && !plain.contains('\u{202e}'));
        assert_eq!(printable(&plain), plain, "twice is once");
    }

    #[test]
    fn json_stays_the_same_value() {
        // JSON itself escapes only the first 32 characters.
        let json = "{\"reason\":\"\u{7f}\u{9b}\u{202e}\u{e0041}\"}";
        assert_eq!(printable(json), "{\"reason\":\"\\u007f\\u009b\\u202e\\udb40\\udc41\"}");
    }
}
