//! Who may ask at all: programs on this machine, and not web pages that somebody visits.
//!
//! A page of another site can make a browser send requests to loopback. Its `Origin` and
//! `Sec-Fetch-Site` (W3C Fetch Metadata) give it away; when it has pointed a name of its own at
//! 127.0.0.1 (DNS rebinding), the `Host` does.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri, Version, request};
use macula_proto::Code;

use super::problem::Problem;

/// Refuses a request that came from elsewhere.
pub(super) fn check(head: &request::Parts) -> Result<(), Problem> {
    check_host(&head.headers, head.version)?;
    // The target's authority outranks the header (RFC 9112 §3.2.2).
    if let Some(authority) = head.uri.authority()
        && !is_loopback(authority)
    {
        return Err(foreign_host(authority.as_str()));
    }
    check_origin(&head.headers)
}

fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.to_str().ok().and_then(|host| host.parse().ok()) {
            Some(host) if is_loopback(&host) => Ok(()),
            Some(_) | None => Err(foreign_host(&String::from_utf8_lossy(host.as_bytes()))),
        },
        // Only HTTP/1.0 goes without, and browsers do not speak that.
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Problem::new(Code::InvalidRequest, "the request has no Host header")),
        (Some(_), Some(_)) => {
            Err(Problem::new(Code::InvalidRequest, "the request has more than one Host header"))
        }
    }
}

fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    for origin in headers.get_all(ORIGIN) {
        let local = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let local = local.is_some_and(|origin| {
            matches!(origin.scheme_str(), Some("http" | "https"))
                && origin.authority().is_some_and(is_loopback)
        });
        if !local {
            let origin = shown(&String::from_utf8_lossy(origin.as_bytes()));
            let because = format!("the Origin is {origin}, which is not this machine");
            return Err(Problem::new(Code::ForbiddenOrigin, because));
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if site == "cross-site" || site == "same-site" {
            let because = "a browser sent it for a page of another origin (Sec-Fetch-Site)";
            return Err(Problem::new(Code::ForbiddenOrigin, because));
        }
    }
    Ok(())
}

/// Whether this names loopback itself: a literal address or `localhost`, with any port, and no
/// user. No name is looked up.
pub(super) fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

fn foreign_host(host: &str) -> Problem {
    Problem::new(Code::ForbiddenHost, format!("the Host is {}", shown(host)))
}

/// What a stranger sent, as far as it is worth repeating.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn refusal(headers: &[(&str, &str)]) -> Option<Code> {
        let mut request = Request::get("/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head).err().map(|problem| problem.code())
    }

    #[test]
    fn lets_in_whoever_names_loopback() {
        for host in
            ["127.0.0.1:7780", "127.9.9.9", "[::1]:7780", "[::1]", "localhost", "LocalHost:1"]
        {
            assert_eq!(refusal(&[("host", host)]), None, "{host}");
        }
    }

    #[test]
    fn refuses_every_other_host() {
        for host in [
            "macula.io",
            "localhost.macula.io",
            "127.0.0.1.macula.io",
            "10.0.0.1:7780",
            "[::2]",
            "0.0.0.0",
            "user@localhost",
            "macula.io@127.0.0.1",
            "2130706433",
            "",
        ] {
            assert_eq!(refusal(&[("host", host)]), Some(Code::ForbiddenHost), "{host}");
        }
    }

    #[test]
    fn refuses_no_host_and_two() {
        assert_eq!(refusal(&[]), Some(Code::InvalidRequest));
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(refusal(&two), Some(Code::InvalidRequest));
    }

    #[test]
    fn refuses_a_target_that_is_elsewhere() {
        let request = Request::get("http://macula.io/v1/status").header("host", "localhost");
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(check(&head).unwrap_err().code(), Code::ForbiddenHost);
    }

    #[test]
    fn refuses_pages_of_other_sites() {
        let with = |name, value| refusal(&[("host", "localhost"), (name, value)]);
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:80"] {
            assert_eq!(with("origin", origin), None, "{origin}");
        }
        for origin in ["null", "https://macula.io", "file://localhost", "localhost", ""] {
            assert_eq!(with("origin", origin), Some(Code::ForbiddenOrigin), "{origin}");
        }
        for (site, code) in [
            ("same-origin", None),
            ("none", None),
            ("same-site", Some(Code::ForbiddenOrigin)),
            ("cross-site", Some(Code::ForbiddenOrigin)),
        ] {
            assert_eq!(with("sec-fetch-site", site), code, "{site}");
        }
    }
}
