//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

/// Shown for `--help` and after a mistake.
pub(crate) const USAGE: &str =
    "usage: tests/bench [--rounds N] [--json FILE] [--list] [CASE…]    (`--list` names the cases)\n";

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) rounds: Option<usize>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) list: bool,
    pub(crate) help: bool,
    /// Cases by name; none for the usual ones.
    pub(crate) cases: Vec<String>,
}

impl Arguments {
    /// Reads the words after the command's name. A case that is not among `known` is an error.
    pub(crate) fn parse(words: &[String], known: &[&str]) -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => {
                    let number = words.next().context("`--rounds` takes a number")?;
                    let rounds = number.parse().with_context(|| format!("`--rounds {number}`"))?;
                    ensure!(rounds > 0, "`--rounds 0` would measure nothing");
                    arguments.rounds = Some(rounds);
                }
                "--json" => arguments.json = Some(words.next().context("`--json` takes a file")?.into()),
                "--list" => arguments.list = true,
                "--help" | "-h" => arguments.help = true,
                flag if flag.starts_with('-') => bail!("unknown flag `{flag}`\n{USAGE}"),
                case if known.contains(&case) => arguments.cases.push(case.to_owned()),
                case => bail!("no case `{case}`; there are: {}", known.join(", ")),
            }
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments> {
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        Arguments::parse(&words, &["large", "tiny"])
    }

    #[test]
    fn flags_and_cases() -> Result<()> {
        let arguments = parse("--rounds 3 tiny --json out.json large")?;
        assert_eq!(
            (arguments.rounds, arguments.cases),
            (Some(3), vec!["tiny".to_owned(), "large".to_owned()])
        );
        assert_eq!(arguments.json, Some("out.json".into()));
        Ok(())
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("huge", "no case `huge`"),
            ("--fast", "`--fast`"),
            ("--rounds x", "--rounds x"),
            ("--rounds 0", "nothing"),
        ] {
            assert!(format!("{:#}", parse(text).unwrap_err()).contains(named), "{text}");
        }
    }
}
