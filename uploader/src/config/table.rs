//! The table of configuration keys in `docs/configuration.md`, which this test writes and compares.

use std::fmt::Write as _;
use std::path::Path;

use super::config_keys::ROWS;
use super::typed_key::{KeyDefault, Row};
use super::value::Value;

const BEGIN: &str = "<!-- keys: begin (written by the program) -->\n";
const END: &str = "<!-- keys: end -->";
/// The environment variable that lets the test write the documents instead of comparing them.
const WRITE: &str = "LARDER_WRITE_DOCS";

/// The Markdown text of the section: the table, long defaults, and the keys that the hook reads.
fn render(rows: &[&Row]) -> String {
    let mut text = String::from("\n| key | kind | default | meaning |\n|---|---|---|---|\n");
    let mut long = String::new();
    for row in rows {
        let kind = row.kind.name();
        let help = row.help.replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {kind} | {} | {help} |", row.name, default(row));
        if let Some(Value::List(list)) = row.default().filter(is_long) {
            let list: Vec<_> = list.iter().map(|item| format!("`{item}`")).collect();
            let _ = writeln!(long, "\nThe default of `{}`: {}.", row.name, list.join(", "));
        }
    }
    let hook: Vec<_> = rows.iter().filter(|row| row.hook).map(|row| format!("`{}`", row.name)).collect();
    let _ = writeln!(text, "{long}\n`larder-hook` reads {}.\n", hook.join(", "));
    text
}

fn default(row: &Row) -> String {
    match (row.default, row.default()) {
        (KeyDefault::Unset, _) => "–".into(),
        (KeyDefault::Found(how), _) => how.into(),
        (KeyDefault::Value(_), Some(value)) if is_long(&value) => "see below".into(),
        (KeyDefault::Value(text), _) => format!("`{text}`"),
    }
}

/// Whether the value is too long for a cell of the table.
fn is_long(value: &Value) -> bool {
    matches!(value, Value::List(list) if list.len() > 1)
}

#[test]
fn the_documents_hold_the_table_of_the_program() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let begin = text.find(BEGIN).expect("the marker of the beginning") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("the marker of the end");
    let table = render(ROWS);
    if text[begin..end] == table {
        return;
    }
    assert!(
        std::env::var_os(WRITE).is_some_and(|value| value == "1"),
        "docs/configuration.md does not hold the table of the program; write the table with `{WRITE}=1 cargo test --locked -p larder --lib config::table`"
    );
    std::fs::write(&file, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
}
