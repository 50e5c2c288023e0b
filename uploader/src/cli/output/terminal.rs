//! Lines on standard output and standard error. A reader that has closed its end of the pipe is not an error.
//!
//! Every text that larder prints passes through [`print`]. Servers, daemons and files of others write parts of these texts,
//! so the characters that control a terminal are escaped there.

use std::io::{IsTerminal, Write};

use larder_hook::printable;

use crate::base::error::Error;

/// The width of a terminal that does not tell its width, in columns.
const DEFAULT_WIDTH: usize = 79;

/// Prints an error and its hint to standard error.
pub(in crate::cli) fn error(error: &Error) {
    message("error:", Colour::Red, &error.to_string());
    if let Some(hint) = error.hint_text() {
        say("");
        message("hint:", Colour::Cyan, hint);
    }
}

/// Prints a warning to standard error.
pub(in crate::cli) fn warn(text: &str) {
    message("warning:", Colour::Yellow, text);
}

/// Prints a line for people to standard error.
pub(in crate::cli) fn say(text: &str) {
    print(std::io::stderr(), "", text);
}

/// Prints a line of data to standard output.
pub(in crate::cli) fn data(text: &str) {
    print(std::io::stdout(), "", text);
}

/// Prints lines of data to standard output. Only for texts that larder has divided into lines.
pub(in crate::cli) fn data_lines(text: &str) {
    text.lines().for_each(data);
}

/// Prints why the arguments cannot be used, or a text about larder that the arguments ask for.
pub(in crate::cli) fn usage(error: &clap::Error) {
    if error.use_stderr() {
        error.to_string().lines().for_each(say);
    } else {
        let _ = error.print();
    }
}

/// Whether standard error is a terminal.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// The width of the terminal that shows standard error, in columns.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0).unwrap_or(DEFAULT_WIDTH)
}

fn message(kind: &str, colour: Colour, text: &str) {
    print(std::io::stderr(), &format!("{} ", bold(kind, colour)), text);
}

/// Prints one line: `own`, which larder wrote, and `text`, of which others may have written a part.
fn print(mut to: impl Write, own: &str, text: &str) {
    let _ = writeln!(to, "{own}{}", printable(text));
}

#[derive(Clone, Copy)]
enum Colour {
    Red,
    Yellow,
    Cyan,
}

/// The text with escape sequences for bold and colour, where standard error is a terminal and `NO_COLOR` is not set.
fn bold(text: &str, colour: Colour) -> String {
    if !is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => 31,
        Colour::Yellow => 33,
        Colour::Cyan => 36,
    };
    format!("\u{1b}[1;{code}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_controls_no_terminal() {
        let mut printed = Vec::new();
        print(&mut printed, "\u{1b}[1merror:\u{1b}[0m ", "said `a\u{1b}[2J\nerror: b\u{9b}\u{202e}`");
        let expected = "\u{1b}[1merror:\u{1b}[0m said `a\\u001b[2J\\u000aerror: b\\u009b\\u202e`\n";
        assert_eq!(String::from_utf8(printed).unwrap(), expected);
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "reason\u{9b}": "\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}\n\\u009b" });
        let printed = printable(&value.to_string()).into_owned();
        assert!(!printed.contains(|c: char| c.is_control() || c == '\u{202e}'), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }
}
