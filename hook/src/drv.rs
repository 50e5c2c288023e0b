//! Reads the output paths from a derivation file. Nix writes `*.drv` files in the ATerm format.

/// The name and the path of each output of a derivation; `None` if `text` is no derivation.
///
/// The path of a floating content-addressed output is empty, because it is known only after the build.
pub fn outputs(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = match text.strip_prefix("Derive(") {
        Some(rest) => rest,
        // A dynamic derivation: DrvWithVersion("xp-dyn-drv",[…
        None => {
            let rest = text.strip_prefix("DrvWithVersion(")?;
            let (_, rest) = string(rest)?;
            rest.strip_prefix(',')?
        }
    };
    rest = rest.strip_prefix('[')?;
    let mut outputs = Vec::new();
    loop {
        let tuple = rest.strip_prefix('(')?;
        let (name, tuple) = string(tuple)?;
        let (path, tuple) = string(tuple.strip_prefix(',')?)?;
        let (_, tuple) = string(tuple.strip_prefix(',')?)?;
        let (_, tuple) = string(tuple.strip_prefix(',')?)?;
        rest = tuple.strip_prefix(')')?;
        outputs.push((name, path));
        if rest.starts_with(']') {
            return Some(outputs);
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// Reads a quoted string at the start of `text`. Returns the string without escapes, and the rest of the text.
fn string(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_outputs() {
        let text = r#"Derive([("dev","/nix/store/a-x-dev","",""),("out","/nix/store/b-x","sha256","00")],[],[],"x","sh",[],[])"#;
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            outputs(text),
            Some(vec![pair("dev", "/nix/store/a-x-dev"), pair("out", "/nix/store/b-x")])
        );
        let floating = r#"Derive([("out","","r:sha256","")],[],[],"x","sh",[],[])"#;
        assert_eq!(outputs(floating), Some(vec![pair("out", "")]));
        let dynamic = r#"DrvWithVersion("xp-dyn-drv",[("o\"ut","/p","","")],[])"#;
        assert_eq!(outputs(dynamic), Some(vec![pair("o\"ut", "/p")]));
    }

    #[test]
    fn other_texts_give_none() {
        for text in
            ["", "Derive(", "Derive([])", "Derive([(\"out\"", "Derive([(\"out\",\"/p\",\"\",\"\")", "ELF\\"]
        {
            assert_eq!(outputs(text), None, "{text:?}");
        }
    }
}
