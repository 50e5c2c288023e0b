//! Checks the `Host` of a request.
//!
//! A web page can make a browser send requests to this machine under a name of the page's own (DNS rebinding). The page
//! may then read the answers, but it cannot choose the `Host`, which is its name.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header::HOST};

/// Whether a request names the relay by its address `local`, or by a name of the loopback interface.
pub(super) fn is_ours(uri: &Uri, headers: &HeaderMap, local: IpAddr) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let hosts = [host.to_str().ok(), uri.authority().map(|authority| authority.as_str())];
    // A request for a whole URL has a second host.
    host.to_str().is_ok() && hosts.into_iter().flatten().all(|host| names_relay(host, local))
}

fn names_relay(host: &str, local: IpAddr) -> bool {
    let address = host.parse::<SocketAddr>().map(|address| address.ip());
    let bare =
        || host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    match address.or_else(|_| bare()) {
        Ok(address) => address.is_loopback() || address.to_canonical() == local.to_canonical(),
        Err(_) => {
            let (name, port) = host.split_once(':').unwrap_or((host, "0"));
            name.eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_and_the_address_of_the_relay_are_hosts() {
        let local: IpAddr = "192.0.2.7".parse().unwrap();
        for host in [
            "127.0.0.1:8390",
            "127.3.2.1",
            "localhost:8390",
            "LOCALHOST",
            "[::1]:8390",
            "[::1]",
            "192.0.2.7:1",
        ] {
            assert!(names_relay(host, local), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8390",
            "localhost.evil.example",
            "192.0.2.8:8390",
            "localhost:x",
            "a@127.0.0.1",
            "127.0.0.1.evil.example:80",
        ] {
            assert!(!names_relay(host, local), "{host}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let ask = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            is_ours(&uri.parse().unwrap(), &headers, local)
        };
        assert!(ask("/lan", &["localhost:1"]) && ask("http://127.0.0.1:1/lan", &["127.0.0.1:1"]));
        assert!(!ask("/lan", &[]) && !ask("/lan", &["localhost", "localhost"]));
        assert!(!ask("http://evil.example/lan", &["localhost"]));
    }
}
