//! The arguments of the benchmark.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

/// The usage, for `--help` and for errors in the arguments.
pub(crate) const USAGE: &str =
    "usage: tests/bench [--rounds N] [--json FILE] [--list] [CASE…]    (`--list` names the cases)\n";

/// The parsed arguments.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    /// The number of rounds, instead of the default of each case.
    pub(crate) rounds: Option<usize>,
    /// The file for the table as JSON.
    pub(crate) json: Option<PathBuf>,
    /// Whether to list the cases.
    pub(crate) list: bool,
    /// Whether to show the usage.
    pub(crate) help: bool,
    /// The names of the cases to run. If this is empty, the usual cases run.
    pub(crate) cases: Vec<String>,
}

impl Arguments {
    /// Parses the words after the name of the program. `known` has the names of all cases; any other name is an error.
    pub(crate) fn parse(words: &[String], known: &[&str]) -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => {
                    let number = words.next().context("`--rounds` needs a number")?;
                    let rounds = number
                        .parse()
                        .with_context(|| format!("`--rounds {number}` is not a number of rounds"))?;
                    ensure!(rounds > 0, "`--rounds 0` measures nothing; give at least 1");
                    arguments.rounds = Some(rounds);
                }
                "--json" => arguments.json = Some(words.next().context("`--json` needs a file")?.into()),
                "--list" => arguments.list = true,
                "--help" | "-h" => arguments.help = true,
                flag if flag.starts_with('-') => bail!("unknown option `{flag}`\n{USAGE}"),
                case if known.contains(&case) => arguments.cases.push(case.to_owned()),
                case => bail!("no case `{case}`; the cases are: {}", known.join(", ")),
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
    fn options_and_cases_are_parsed() -> Result<()> {
        let arguments = parse("--rounds 3 tiny --json out.json large")?;
        assert_eq!(
            (arguments.rounds, arguments.cases),
            (Some(3), vec!["tiny".to_owned(), "large".to_owned()])
        );
        assert_eq!(arguments.json, Some("out.json".into()));
        Ok(())
    }

    #[test]
    fn an_error_names_the_wrong_argument() {
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
