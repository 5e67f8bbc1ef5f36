//! Keeps web pages away from a host that has no login.
//!
//! A browser on the same machine reaches loopback for any page it shows. Two checks make that useless:
//! a page of another origin says so in `Origin`, and a page whose name was rebound to 127.0.0.1 says
//! its own name in `Host`. Programs send no `Origin` and name the address they connect to.

use axum::http::request::Parts;
use axum::http::{StatusCode, header};

use super::problem::Problem;

/// Refuses what only a web page would send. `loopback` says whether the host listens there only.
pub(super) fn check(parts: &Parts, loopback: bool) -> Result<(), Problem> {
    let header = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = header(header::HOST).or_else(|| parts.uri.authority().map(axum::http::uri::Authority::as_str));
    if loopback && !host.is_some_and(is_loopback) {
        let detail = "this host listens on loopback and answers only requests addressed to it by a loopback \
                      name, such as 127.0.0.1 or localhost; start it with --listen to serve a network";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden-host", detail));
    }
    match header(header::ORIGIN) {
        Some(origin) if !is_same_origin(origin, host) => {
            let detail =
                "requests of web pages from other origins are refused, because this API has no login";
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden-origin", detail))
        }
        _ => Ok(()),
    }
}

/// Whether an authority (`name`, `name:port`, `[v6]:port`) names this machine by a name that no DNS
/// answer can change.
fn is_loopback(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if is_port_suffix(port) => {
                return v6.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
            }
            _ => return false,
        },
        None => match authority.find(':') {
            Some(colon) if !is_port_suffix(&authority[colon..]) => return false,
            Some(colon) => &authority[..colon],
            None => authority,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_port_suffix(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

fn is_same_origin(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    matches!((authority, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn code(headers: &[(&str, &str)], loopback: bool) -> Option<String> {
        let mut request = Request::builder().uri("/v1/health");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, loopback).err().map(|problem| problem.document().code)
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for name in ["127.0.0.1", "127.0.0.1:7467", "127.9.9.9:1", "localhost:80", "LOCALHOST", "[::1]:7467"]
        {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "",
            ":7467",
            "evil.test",
            "evil.test:7467",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "localhost:x",
            "localhost:1:2",
            "[::1",
            "[::1]x",
            "[::2]",
            "::1",
            "10.0.0.1",
            "0.0.0.0",
            "127.1",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused_on_loopback_only() {
        assert_eq!(code(&[("host", "evil.test:7467")], true).as_deref(), Some("forbidden-host"));
        assert_eq!(code(&[], true).as_deref(), Some("forbidden-host"));
        assert_eq!(code(&[("host", "backstitch.internal")], false), None);
        assert_eq!(code(&[("host", "127.0.0.1:7467")], true), None);
    }

    #[test]
    fn a_page_of_another_origin_is_refused_everywhere() {
        let with = |origin| [("host", "localhost:7467"), ("origin", origin)];
        for origin in ["http://evil.test", "http://localhost:3000", "null", "http://127.0.0.1:7467"] {
            for loopback in [true, false] {
                assert_eq!(code(&with(origin), loopback).as_deref(), Some("forbidden-origin"), "{origin}");
            }
        }
        assert_eq!(code(&with("http://localhost:7467"), true), None);
    }
}
