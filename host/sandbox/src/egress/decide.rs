//! Whether a request is made: by the word of the manifest.

use http::{HeaderMap, Method};

use super::manifest::{Manifest, Rule};
use super::policy::{Denied, Target, is_never_allowed};

/// Decides. `headers` are those that the guest set by hand.
pub(crate) fn decide<'a>(
    manifest: Option<&'a Manifest>,
    method: &Method,
    target: &Target,
    headers: &HeaderMap,
) -> Result<&'a Rule, Denied> {
    let manifest = manifest.ok_or(Denied::NoManifest)?;
    if is_never_allowed(method) {
        return Err(Denied::Method(method.clone()));
    }
    let rule =
        manifest.rules.iter().find(|rule| rule.covers(method, target)).ok_or_else(|| Denied::NoRule {
            method: method.clone(),
            scheme: target.scheme.clone(),
            host: target.host.clone(),
            port: target.port,
        })?;
    match rule.headers.iter().find(|header| headers.contains_key(&header.name)) {
        Some(set) => Err(Denied::Header(set.name.to_string())),
        None => Ok(rule),
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{HostPattern, NotAHost, NotAPattern};
    use super::*;
    use http::Uri;

    fn manifest() -> Manifest {
        Manifest::parse(
            r#"{
                "egress": [
                    { "host": "api.example.com", "methods": ["GET", "POST"],
                      "headers": { "authorization": "Bearer {{secret:token}}" } },
                    { "host": "*.shop.example", "methods": ["GET"], "ports": [443, 8443] },
                    { "host": "10.0.0.7", "methods": ["PUT"], "scheme": "http" },
                    { "host": "[fd00::1]", "methods": ["GET"], "scheme": "http", "ports": [8080] }
                ],
                "secrets": ["token"]
            }"#,
        )
        .unwrap()
    }

    fn decided(method: &str, uri: &str, header: Option<&'static str>) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        if let Some(name) = header {
            headers.insert(name, http::HeaderValue::from_static("x"));
        }
        let target = Target::of(&uri.parse().unwrap())?;
        let manifest = manifest();
        let rule = decide(Some(&manifest), &method.parse().unwrap(), &target, &headers)?;
        Ok(format!("{} at {}", rule.host, target.authority()))
    }

    #[test]
    fn what_a_rule_covers_is_allowed() {
        for (method, uri, expected) in [
            ("GET", "https://api.example.com/x", "api.example.com at api.example.com"),
            ("POST", "https://API.Example.COM:443/", "api.example.com at api.example.com"),
            ("GET", "https://eu.shop.example/", "*.shop.example at eu.shop.example"),
            ("GET", "https://a.b.shop.example:8443/", "*.shop.example at a.b.shop.example:8443"),
            ("PUT", "http://10.0.0.7/", "10.0.0.7 at 10.0.0.7"),
            ("GET", "http://[fd00:0::1]:8080/", "[fd00::1] at [fd00::1]:8080"),
        ] {
            assert_eq!(decided(method, uri, Some("accept")).as_deref(), Ok(expected), "{method} {uri}");
        }
    }

    #[test]
    fn what_no_rule_covers_is_denied() {
        for (method, uri) in [
            ("DELETE", "https://api.example.com/"),
            ("get", "https://api.example.com/"),
            ("GET", "http://api.example.com/"),
            ("GET", "https://api.example.com:444/"),
            ("GET", "https://example.com/"),
            ("GET", "https://api.example.com.evil.example/"),
            ("GET", "https://shop.example/"),
            ("GET", "https://evilshop.example/"),
            ("POST", "https://eu.shop.example/"),
            ("GET", "https://eu.shop.example:80/"),
            ("PUT", "http://10.0.0.8/"),
            ("PUT", "https://10.0.0.7/"),
            ("GET", "http://[fd00::2]:8080/"),
            ("GET", "http://[::ffff:10.0.0.7]/"),
        ] {
            let denied = decided(method, uri, None);
            assert!(matches!(denied, Err(Denied::NoRule { .. })), "{method} {uri}: {denied:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_denied_whatever_the_rules() {
        for host in [
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "127.1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "foo.0x7f",
            "foo.1",
        ] {
            let uri = format!("http://{host}/");
            assert_eq!(decided("GET", &uri, None), Err(NotAHost::Ambiguous(host.into()).into()), "{uri}");
        }
        for uri in ["http://api.example.com./", "http://a..b/", "http://[fe80::1%25eth0]/", "http://[::1/"] {
            let Ok(parsed) = uri.parse::<Uri>() else { continue };
            let denied = Target::of(&parsed);
            assert!(matches!(denied, Err(Denied::Host(NotAHost::Malformed(_)))), "{uri}: {denied:?}");
        }
        assert_eq!(decided("GET", "https://api.example.com@evil.example/", None), Err(Denied::UserInfo));
        assert_eq!(decided("GET", "https://u:p@api.example.com/", None), Err(Denied::UserInfo));
        for uri in
            ["https://api.example.com:/", "https://api.example.com:0/", "https://api.example.com:65979/"]
        {
            let Ok(parsed) = uri.parse::<Uri>() else { continue };
            assert_eq!(Target::of(&parsed), Err(Denied::Port), "{uri}");
        }
        assert_eq!(decided("GET", "ftp://api.example.com/", None), Err(Denied::Scheme));
    }

    #[test]
    fn a_tunnel_an_echo_and_a_header_of_the_manifest_are_denied() {
        for method in ["CONNECT", "TRACE"] {
            let denied = decided(method, "https://api.example.com/", None);
            assert_eq!(denied, Err(Denied::Method(method.parse().unwrap())));
        }
        let by_hand = decided("GET", "https://api.example.com/", Some("authorization"));
        assert_eq!(by_hand, Err(Denied::Header("authorization".into())));
        let elsewhere = decided("GET", "https://eu.shop.example/", Some("authorization"));
        assert!(elsewhere.is_ok(), "this rule sets none: {elsewhere:?}");
    }

    #[test]
    fn without_a_manifest_everything_is_denied() {
        let target = Target::of(&"https://example.com/".parse().unwrap()).unwrap();
        let denied = decide(None, &Method::GET, &target, &HeaderMap::new());
        assert_eq!(denied.unwrap_err(), Denied::NoManifest);
    }

    #[test]
    fn a_pattern_is_a_host_or_all_that_is_left_of_one() {
        let pattern = |text: &str| text.parse::<HostPattern>();
        for (text, shown) in
            [("A.Example", "a.example"), ("*.A.Example", "*.a.example"), ("127.0.0.1", "127.0.0.1")]
        {
            assert_eq!(pattern(text).unwrap().to_string(), shown);
        }
        for text in ["*", "*example.com", "api.*.com", "*.*.com", "*.1.2.3.4", "a.*"] {
            assert!(pattern(text).is_err(), "{text}");
        }
        assert_eq!(pattern("*.com"), Err(NotAPattern::TooWide("*.com".into())));
        let covers = |wide: &str, narrow: &str| pattern(wide).unwrap().covers(&pattern(narrow).unwrap());
        assert!(covers("*.a.example", "x.a.example") && covers("*.a.example", "*.x.a.example"));
        assert!(covers("*.a.example", "*.a.example") && covers("a.example", "a.example"));
        assert!(!covers("*.a.example", "a.example") && !covers("x.a.example", "*.a.example"));
        assert!(!covers("*.a.example", "*.example.com") && !covers("*.a.example", "*.xa.example"));
    }
}
