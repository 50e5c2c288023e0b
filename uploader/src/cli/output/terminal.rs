//! Lines on standard output and standard error. A reader that has closed its end of the pipe is not an error.

use std::io::{IsTerminal, Write};

use crate::base::error::Error;

/// Prints an error and its hint to standard error.
pub(in crate::cli) fn error(error: &Error) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{} {error}", bold("error:", Colour::Red));
    if let Some(hint) = error.hint_text() {
        let _ = writeln!(stderr, "\n{} {hint}", bold("hint:", Colour::Cyan));
    }
}

/// Prints a warning to standard error.
pub(in crate::cli) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{} {text}", bold("warning:", Colour::Yellow));
}

/// Prints a line for people to standard error.
pub(in crate::cli) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a line of data to standard output.
pub(in crate::cli) fn data(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[derive(Clone, Copy)]
enum Colour {
    Red,
    Yellow,
    Cyan,
}

/// The text with escape sequences for bold and colour, where standard error is a terminal and `NO_COLOR` is not set.
fn bold(text: &str, colour: Colour) -> String {
    if !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => 31,
        Colour::Yellow => 33,
        Colour::Cyan => 36,
    };
    format!("\u{1b}[1;{code}m{text}\u{1b}[0m")
}
