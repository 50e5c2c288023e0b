//! The tables in `docs/urls.md`: what Nix may ask, and what a bucket answers.

use anyhow::{Context, Result, bail, ensure};
use larder_tests::nix::NixVersion;
use std::fmt;

/// What the tables begin with: the questions to a cache, and the addresses that a user has put into a bucket.
const HEADS: [(&str, bool); 2] = [
    ("| question | 2.8 | 2.26 | 2.34 | 2.35 | answer |", true),
    ("| address | 2.8 | 2.26 | 2.34 | 2.35 | answer |", false),
];
/// The document, which is part of the test.
const DOCUMENT: &str = include_str!("../../../../docs/urls.md");
const NIX_BASE32: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// Whether a version asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// It does, and a recorded command shows it.
    Recorded,
    /// By its source, it may; no recorded command shows it.
    BySource,
    /// By its source, it never does.
    Never,
}

/// What the bucket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Always the object.
    Found,
    /// The object if the bucket has it, else 404.
    FoundIfThere,
    /// Always 404: larder writes no such object.
    NotFound,
    /// 403 or 405: clients cannot write.
    Refused,
}

impl Answer {
    /// Whether a status is what the table says, for a key that the bucket has or has not. A client that resumes a download gets 206.
    pub(super) fn allows(self, status: u16, is_there: bool) -> bool {
        match self {
            Self::Found => is_there && matches!(status, 200 | 206),
            Self::FoundIfThere if is_there => matches!(status, 200 | 206),
            Self::FoundIfThere => status == 404,
            Self::NotFound => !is_there && status == 404,
            Self::Refused => matches!(status, 403 | 405),
        }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// As the document has it.
    request: String,
    method: String,
    pattern: Vec<Part>,
    /// For 2.8, 2.26, 2.34 and 2.35.
    asks: [Asks; 4],
    /// Whether this is a question to a binary cache. Else it is the address of something that a user has put into the bucket.
    pub(super) is_of_a_cache: bool,
    /// What the bucket answers.
    pub(super) answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Blank(Blank),
}

/// What stands for many texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blank {
    /// Characters of nix-base32, so many.
    Base32(usize),
    /// Hexadecimal digits, so many.
    Hex(usize),
    /// `.zst`, `.xz` or nothing.
    Suffix,
    /// A name of an output.
    Name,
    /// A name of lower-case letters.
    Word,
    /// `<hash>-<name>.drv`.
    Derivation,
}

impl Blank {
    fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "hash" => Self::Base32(32),
            "NarHash" | "FileHash" => Self::Base32(52),
            "nonce" => Self::Base32(16),
            "suffix" => Self::Suffix,
            "output" => Self::Name,
            "channel" | "file" => Self::Word,
            "build-id" => Self::Hex(40),
            "sha256" => Self::Hex(64),
            "derivation" => Self::Derivation,
            _ => bail!("<{name}> has no meaning"),
        })
    }

    fn allows(self, text: &str) -> bool {
        let is_base32 = |text: &str| text.chars().all(|c| NIX_BASE32.contains(c));
        let is_name = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._?=".contains(c))
        };
        match self {
            Self::Base32(length) => text.len() == length && is_base32(text),
            Self::Hex(length) => text.len() == length && text.chars().all(|c| c.is_ascii_hexdigit()),
            Self::Suffix => matches!(text, "" | ".zst" | ".xz"),
            Self::Name => is_name(text),
            Self::Word => !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase()),
            Self::Derivation => text.split_once('-').is_some_and(|(hash, name)| {
                Self::Base32(32).allows(hash) && name.ends_with(".drv") && is_name(name)
            }),
        }
    }
}

impl Row {
    /// Whether a request is of this row. The path is relative to the bucket.
    pub(super) fn is_asked(&self, method: &str, path: &str) -> bool {
        self.method == method && matches(&self.pattern, path)
    }

    /// Whether a version asks this.
    pub(super) fn asks(&self, version: NixVersion) -> Asks {
        self.asks[version as usize]
    }

    fn parse(line: &str, is_of_a_cache: bool) -> Result<Self> {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        ensure!(cells.len() == 7, "{} cells", cells.len());
        let request = cells[0].strip_prefix('`').and_then(|text| text.strip_suffix('`'));
        let (method, pattern) = request.and_then(|text| text.split_once(" /")).context("no request")?;
        let asks = |cell: &str| {
            Ok(match cell {
                "yes" => Asks::Recorded,
                "source" => Asks::BySource,
                "no" => Asks::Never,
                _ => bail!("`{cell}` is none of yes, source, no"),
            })
        };
        let answer = match cells[5] {
            "200" => Answer::Found,
            "200 or 404" => Answer::FoundIfThere,
            "404" => Answer::NotFound,
            "403 or 405" => Answer::Refused,
            other => bail!("`{other}` is no answer"),
        };
        ensure!(!cells[6].is_empty(), "no consequence");
        Ok(Self {
            request: format!("{method} /{pattern}"),
            method: method.to_owned(),
            pattern: parts(pattern)?,
            asks: [asks(cells[1])?, asks(cells[2])?, asks(cells[3])?, asks(cells[4])?],
            is_of_a_cache,
            answer,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.request)
    }
}

fn parts(pattern: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((text, after)) = rest.split_once('<') {
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let (name, after) = after.split_once('>').context("`<` without `>`")?;
        parts.push(Part::Blank(Blank::named(name)?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

fn matches(parts: &[Part], text: &str) -> bool {
    match parts.split_first() {
        None => text.is_empty(),
        Some((Part::Text(start), rest)) => {
            text.strip_prefix(start.as_str()).is_some_and(|text| matches(rest, text))
        }
        Some((Part::Blank(blank), rest)) => (0..=text.len())
            .filter(|end| text.is_char_boundary(*end))
            .any(|end| blank.allows(&text[..end]) && matches(rest, &text[end..])),
    }
}

/// The rows of both tables in the document.
pub(super) fn rows() -> Result<Vec<Row>> {
    read(DOCUMENT)
}

fn read(document: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (head, is_of_a_cache) in HEADS {
        let (_, table) = document.split_once(head).with_context(|| format!("no table `{head}`"))?;
        let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let before = rows.len();
        for line in lines {
            rows.push(Row::parse(line, is_of_a_cache).with_context(|| line.to_owned())?);
        }
        ensure!(rows.len() > before, "the table `{head}` is empty");
    }
    Ok(rows)
}

#[test]
fn a_row_is_asked_by_the_requests_of_its_pattern_alone() -> Result<()> {
    let row =
        |request: &str| Row::parse(&format!("| `{request}` | yes | no | source | no | 200 | text |"), true);
    let narinfo = row("GET /<hash>.narinfo")?;
    assert!(narinfo.is_asked("GET", "0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo"));
    for (method, path) in [
        ("HEAD", "0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo"),
        ("GET", "0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo2"),
        ("GET", "0c5b8vw40dy178xlpddw65q9gf1h218.narinfo"),
        ("GET", "x/0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo"),
        ("GET", ""),
    ] {
        assert!(!narinfo.is_asked(method, path), "{method} {path}");
    }
    assert_eq!(
        [NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34].map(|v| narinfo.asks(v)),
        [Asks::Recorded, Asks::Never, Asks::BySource]
    );
    let trace = row("GET /build-trace-v2/<derivation>/<output>.doi")?;
    assert!(trace.is_asked("GET", "build-trace-v2/0c5b8vw40dy178xlpddw65q9gf1h2186-a.drv/out.doi"));
    assert!(!trace.is_asked("GET", "build-trace-v2/0c5b8vw40dy178xlpddw65q9gf1h2186-a/out.doi"));
    for wrong in ["GET <hash>", "GET /<unheard>", "GET /<hash"] {
        assert!(row(wrong).is_err(), "{wrong}");
    }
    assert!(read("no table").is_err());
    Ok(())
}

#[test]
fn an_answer_is_held_against_what_the_bucket_has() {
    for (answer, status, is_there, expected) in [
        (Answer::Found, 200, true, true),
        (Answer::Found, 404, false, false),
        (Answer::FoundIfThere, 404, true, false),
        (Answer::FoundIfThere, 404, false, true),
        (Answer::FoundIfThere, 403, false, false),
        (Answer::NotFound, 404, false, true),
        (Answer::NotFound, 200, true, false),
        (Answer::Refused, 405, false, true),
        (Answer::Refused, 200, true, false),
    ] {
        assert_eq!(answer.allows(status, is_there), expected, "{answer:?} {status} {is_there}");
    }
}
