//! May this request be made? Pure: compares what a guest asks for with what its deployment's manifest
//! allows, and says why not. Addresses are judged later, when they are known: see `connect`.
//!
//! | the request | is |
//! |---|---|
//! | of a component without a manifest | denied |
//! | with a name or a password in its authority, or a host that could be read in two ways | denied |
//! | `CONNECT`, `TRACE` | denied: a tunnel would be unseen, an echo would show the headers put in here |
//! | that no rule covers with its scheme, host, port and method | denied |
//! | with a header by hand that its rule sets | denied |
//! | any other | allowed by the first rule that covers it |

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::uri::Scheme;
use http::{HeaderMap, Method, Uri};

use super::manifest::{Manifest, Rule};

/// Why a request is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("its component was deployed without a manifest")]
    NoManifest,
    #[error("{0}")]
    Host(#[from] NotAHost),
    #[error("its authority names a user")]
    UserInfo,
    #[error("its port is none")]
    Port,
    #[error("its scheme is neither http nor https")]
    Scheme,
    #[error("{0} is never allowed")]
    Method(Method),
    #[error("no rule of the manifest allows {method} {scheme}://{host}:{port}")]
    NoRule {
        /// Of the request.
        method: Method,
        /// Of the request.
        scheme: Scheme,
        /// Of the request.
        host: Host,
        /// Of the request.
        port: u16,
    },
    #[error("it sets the header `{0}` by hand, which the manifest sets")]
    Header(String),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Target {
    /// Reads it from the URI that a guest gave.
    pub(crate) fn of(uri: &Uri) -> Result<Self, Denied> {
        let scheme = uri.scheme().cloned().ok_or(Denied::Scheme)?;
        let port = default_port(&scheme).ok_or(Denied::Scheme)?;
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        if authority.contains('@') {
            return Err(Denied::UserInfo);
        }
        let (host, given) = split_port(authority);
        let port =
            given.map_or(Ok(port), |given| number(given).filter(|port| *port != 0).ok_or(Denied::Port))?;
        Ok(Self { scheme, host: host.parse()?, port })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// What the `Host` header says: nothing that the guest could write otherwise.
    pub(crate) fn authority(&self) -> String {
        match default_port(&self.scheme) == Some(self.port) {
            true => self.host.to_string(),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The port of a scheme; none: it is not one of ours.
pub(crate) fn default_port(scheme: &Scheme) -> Option<u16> {
    match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

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

/// Methods that no manifest can allow.
pub(crate) fn is_never_allowed(method: &Method) -> bool {
    [Method::CONNECT, Method::TRACE].contains(method)
}

/// A host: a name in lower case, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// The text is no host, or one that programs read differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAHost {
    #[error("{0:?} is no host")]
    Malformed(String),
    #[error("{0:?} can be read as more than one address; write it as four decimal numbers")]
    Ambiguous(String),
}

impl FromStr for Host {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let malformed = || NotAHost::Malformed(text.chars().take(NAME_BYTES_MAX).collect());
        if let Some(address) = text.strip_prefix('[') {
            // Without a zone: it would name one of this host's own interfaces.
            let address = address.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
            return address.map(|address| Self::Address(address.into())).ok_or_else(malformed);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        if !is_name(text) {
            return Err(malformed());
        }
        // What resolvers take for an address (2130706433, 0177.0.0.1, 0x7f.1, 127.1) ends in a number.
        if text.rsplit('.').next().is_some_and(is_numeric) {
            return Err(NotAHost::Ambiguous(text.to_owned()));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// What a name of the DNS can hold.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Labels of letters, digits, hyphens and underscores, in ASCII. A dot at the end is refused: certificates
/// and rules are without.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

/// Whether a label is a number in one of the bases that `inet_aton` reads.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `host:port`, `[::1]:port`, or a host alone.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|colon| bracket + colon),
        None => authority.find(':'),
    };
    colon.map_or((authority, None), |colon| (&authority[..colon], Some(&authority[colon + 1..])))
}

/// Digits alone: `+80` is no port.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Which hosts a rule covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// This one.
    Exactly(Host),
    /// Every name that ends in a dot and this, however many labels stand before it.
    Below(String),
}

impl HostPattern {
    pub(crate) fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exactly(exactly), host) => exactly == host,
            (Self::Below(suffix), Host::Name(name)) => is_below(name, suffix),
            (Self::Below(_), Host::Address(_)) => false,
        }
    }

    /// Whether it matches whatever the other one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exactly(host)) => self.matches(host),
            (Self::Below(wide), Self::Below(narrow)) => wide == narrow || is_below(narrow, wide),
            (Self::Exactly(_), Self::Below(_)) => false,
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// The text is no pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAPattern {
    #[error("{0}")]
    Host(#[from] NotAHost),
    #[error("{0:?}: a wildcard stands for all that is left of a name, as in *.example.com")]
    Wildcard(String),
    #[error("{0:?} is half the internet: name at least two labels after the wildcard")]
    TooWide(String),
}

impl FromStr for HostPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let Some(suffix) = text.strip_prefix("*.") else {
            return match text.contains('*') {
                true => Err(NotAPattern::Wildcard(text.to_owned())),
                false => Ok(Self::Exactly(text.parse()?)),
            };
        };
        match suffix.parse()? {
            Host::Address(_) => Err(NotAPattern::Wildcard(text.to_owned())),
            Host::Name(name) if !name.contains('.') => Err(NotAPattern::TooWide(text.to_owned())),
            Host::Name(name) => Ok(Self::Below(name)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(host) => write!(f, "{host}"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
