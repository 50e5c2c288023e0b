//! URLs of caches that clients read.
//!
//! `nix/lib.nix` checks URLs by the same rules. `nix/tests/urls.json` holds test cases for both.

/// Describes why a URL cannot be the URL of a substituter; `None` if it can.
pub fn url_fault(url: &str) -> Option<String> {
    let fault = |text: &str| Some(text.to_owned());
    if url.contains(char::is_whitespace) {
        return fault("contains white space");
    }
    let scheme_ok = |scheme: &str| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
    };
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| scheme_ok(scheme)) else {
        return fault(
            "is no URL: write `http://HOST:PORT/BUCKET`, `https://…`, `s3://BUCKET?endpoint=…` or `file:///DIRECTORY`",
        );
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, rest) = rest.split_at(end);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return fault(
            "contains credentials, which every user of the machine could read: put the credentials into the `netrc-file`",
        );
    }
    match scheme {
        "file" => {
            if host.is_empty() && path.len() > 1 {
                None
            } else {
                fault("needs an absolute directory: `file:///DIRECTORY`")
            }
        }
        "s3" => host.is_empty().then(|| "names no bucket".to_owned()),
        "http" | "https" => {
            let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((address, port)) => (address, port.strip_prefix(':')),
                None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
            };
            let port_ok = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (name.is_empty() || !port.is_none_or(port_ok))
                .then(|| "names no host, or has a port that is not a number".to_owned())
        }
        other => Some(format!("has the scheme `{other}`, but a binary cache has http, https, s3 or file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::check_table::read;

    #[test]
    fn urls_are_checked_as_the_table_says() {
        let (good, bad) = read(include_str!("../../../nix/tests/urls.json"));
        for url in good {
            assert_eq!(url_fault(url.as_str().unwrap()), None, "{url}");
        }
        for case in bad {
            let fault = url_fault(case["url"].as_str().unwrap()).unwrap_or_default();
            assert!(fault.contains(case["says"].as_str().unwrap()), "{case}: {fault}");
        }
    }
}
