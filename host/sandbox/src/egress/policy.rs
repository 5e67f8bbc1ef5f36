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
use http::{Method, Uri};

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
