//! A deployment's manifest: where its activities may reach, and which secrets go there. Pure.
//!
//! ```json
//! {
//!   "egress": [
//!     {
//!       "host": "*.example.com",
//!       "methods": ["GET", "POST"],
//!       "scheme": "https",
//!       "ports": [443],
//!       "headers": { "authorization": "Bearer {{secret:payments_token}}" }
//!     }
//!   ],
//!   "secrets": ["payments_token"]
//! }
//! ```
//!
//! `scheme` is `https` and `ports` the scheme's own unless they are given. It is written by the author, who is not
//! trusted: what it asks for is bounded by what the operator allows, networks for addresses and hosts for
//! secrets. It holds names of secrets and never one itself. Whoever deploys is told all that is wrong
//! with it at once.

use std::collections::BTreeMap;
use std::str::FromStr;

use backstitch_core::limits;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::policy::{HostPattern, Target, default_port, is_never_allowed};
use super::secret_name::SecretName;

/// What a deployment's activities may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) rules: Vec<Rule>,
    secrets: Vec<SecretName>,
}

/// One place that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) host: HostPattern,
    scheme: Scheme,
    ports: Vec<u16>,
    methods: Vec<Method>,
    pub(crate) headers: Vec<HeaderTemplate>,
}

impl Rule {
    pub(crate) fn covers(&self, method: &Method, target: &Target) -> bool {
        self.scheme == target.scheme
            && self.ports.contains(&target.port)
            && self.methods.contains(method)
            && self.host.matches(&target.host)
    }

    /// The secrets that are sent there.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.headers.iter().flat_map(|header| &header.pieces).filter_map(|piece| match piece {
            Piece::Secret(name) => Some(name),
            Piece::Text(_) => None,
        })
    }
}

/// A header that is put into every request to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderTemplate {
    pub(crate) name: HeaderName,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Secret(SecretName),
}

/// Everything that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manifest is refused: {}", .0.join("; "))]
pub struct BadManifest(pub Vec<String>);

/// The document, before anything in it was looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    egress: Vec<Entry>,
    #[serde(default)]
    secrets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    methods: Vec<String>,
    scheme: Option<String>,
    ports: Option<Vec<u16>>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads one from JSON.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, each with its place.
    pub fn parse(json: &str) -> Result<Self, BadManifest> {
        if json.len() > limits::MANIFEST_BYTES_MAX {
            let (bytes, max) = (json.len(), limits::MANIFEST_BYTES_MAX);
            return Err(BadManifest(vec![format!("it has {bytes} bytes; the most is {max}")]));
        }
        let document: Document =
            serde_json::from_str(json).map_err(|error| BadManifest(vec![error.to_string()]))?;
        let mut faults = Vec::new();
        let manifest = read(document, &mut faults);
        if faults.is_empty() { Ok(manifest) } else { Err(BadManifest(faults)) }
    }

    /// Where it reaches, in a few words.
    pub fn places(&self) -> Vec<String> {
        self.rules.iter().map(|rule| format!("{}://{}", rule.scheme, rule.host)).collect()
    }
}

fn read(document: Document, faults: &mut Vec<String>) -> Manifest {
    let mut secrets = Vec::new();
    for (place, name) in document.secrets.iter().enumerate() {
        let place = format!("secrets[{place}]");
        let Some(name) = noted(faults, &place, name.parse::<SecretName>()) else { continue };
        match secrets.contains(&name) {
            true => faults.push(format!("{place}: {name} is there twice")),
            false => secrets.push(name),
        }
    }
    let (count, max) = (document.egress.len(), limits::EGRESS_RULES_MAX);
    if count > max {
        faults.push(format!("egress: {count} places; the most is {max}"));
    }
    let entries = document.egress.into_iter().take(max).enumerate();
    let rules: Vec<Rule> =
        entries.filter_map(|(place, entry)| rule(&format!("egress[{place}]"), entry, faults)).collect();
    if faults.is_empty() {
        let used: Vec<&SecretName> = rules.iter().flat_map(Rule::secrets).collect();
        for name in used.iter().filter(|name| !secrets.contains(name)) {
            faults.push(format!("secrets: {name} is used in a header and not declared here"));
        }
        for name in secrets.iter().filter(|name| !used.contains(name)) {
            faults.push(format!("secrets: {name} is declared and used in no header"));
        }
    }
    Manifest { rules, secrets }
}

/// The place of an entry, if it is sound; what is not goes to `faults`.
fn rule(place: &str, entry: Entry, faults: &mut Vec<String>) -> Option<Rule> {
    let before = faults.len();
    let host = noted(faults, &format!("{place}.host"), entry.host.parse::<HostPattern>());
    let scheme = match entry.scheme.as_deref() {
        None | Some("https") => Scheme::HTTPS,
        Some("http") => Scheme::HTTP,
        Some(other) => {
            faults.push(format!("{place}.scheme: {other:?} is neither http nor https"));
            Scheme::HTTPS
        }
    };
    let ports = entry.ports.unwrap_or_else(|| default_port(&scheme).into_iter().collect());
    if ports.is_empty() || ports.contains(&0) {
        faults.push(format!("{place}.ports: name at least one, from 1 to 65535, or leave it away"));
    }
    if entry.methods.is_empty() {
        faults.push(format!("{place}.methods: name at least one, such as GET"));
    }
    let mut methods = Vec::new();
    for text in &entry.methods {
        methods.extend(noted(faults, &format!("{place}.methods"), method(text)));
    }
    let (count, max) = (entry.headers.len(), limits::EGRESS_HEADERS_MAX);
    if count > max {
        faults.push(format!("{place}.headers: {count} of them; the most is {max}"));
    }
    let mut headers: Vec<HeaderTemplate> = Vec::new();
    for (name, value) in entry.headers.iter().take(max) {
        let place = format!("{place}.headers.{name}");
        let Some(header) = noted(faults, &place, header(name, value)) else { continue };
        match headers.iter().any(|other| other.name == header.name) {
            true => faults.push(format!("{place}: it is there twice")),
            false => headers.push(header),
        }
    }
    if faults.len() > before { None } else { Some(Rule { host: host?, scheme, ports, methods, headers }) }
}

fn noted<T>(faults: &mut Vec<String>, place: &str, read: Result<T, impl ToString>) -> Option<T> {
    read.map_err(|error| faults.push(format!("{place}: {}", error.to_string()))).ok()
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_str(text).map_err(|_| format!("{text:?} is no method"))?;
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(format!("{text:?}: methods are written in capitals"));
    }
    if is_never_allowed(&method) {
        return Err(format!("{method} is never allowed"));
    }
    Ok(method)
}

/// Headers that say how a message travels, not what it says: they are the host's.
const OF_THE_HOST: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Whether a header belongs to the connection, or to a proxy on its way.
pub(crate) fn is_of_the_host(name: &HeaderName) -> bool {
    OF_THE_HOST.contains(&name.as_str()) || name.as_str().starts_with("proxy-")
}

fn header(name: &str, template: &str) -> Result<HeaderTemplate, String> {
    let name = HeaderName::from_str(name).map_err(|_| format!("{name:?} is no name of a header"))?;
    if is_of_the_host(&name) {
        return Err("it is the host's to set".to_owned());
    }
    Ok(HeaderTemplate { name, pieces: pieces(template)? })
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, opened)) = rest.split_once("{{") {
        let (name, after) = opened.split_once("}}").ok_or("a {{ without its }}")?;
        let name = name.trim().strip_prefix("secret:");
        let name = name.ok_or("between {{ and }} stands secret:NAME and nothing else")?;
        pieces.extend([self::text(text)?, Piece::Secret(name.parse()?)]);
        rest = after;
    }
    pieces.push(text(rest)?);
    pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
    Ok(pieces)
}

fn text(text: &str) -> Result<Piece, String> {
    let is_visible = |b: u8| (b' '..=b'~').contains(&b);
    match HeaderValue::from_str(text) {
        Ok(_) if text.bytes().all(is_visible) => Ok(Piece::Text(text.to_owned())),
        _ => Err("a header's value is visible ASCII".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Vec<String> {
        Manifest::parse(json).map(|_| Vec::new()).unwrap_or_else(|BadManifest(faults)| faults)
    }

    #[test]
    fn a_manifest_says_where_and_with_what() {
        let json = r#"{
            "egress": [{
                "host": "*.example.com", "methods": ["GET", "PATCH"],
                "headers": { "Authorization": "Bearer {{secret:token}}", "x-two": "{{ secret:a }}/{{secret:token}}" }
            }, { "host": "10.0.0.1", "methods": ["POST"], "scheme": "http", "ports": [8080, 81] }],
            "secrets": ["token", "a"]
        }"#;
        let manifest = Manifest::parse(json).unwrap();
        assert_eq!(manifest.places(), ["https://*.example.com", "http://10.0.0.1"]);
        let [first, second] = &manifest.rules[..] else { panic!("{manifest:?}") };
        assert_eq!((&first.ports[..], &second.ports[..]), (&[443][..], &[8080, 81][..]));
        let secret = |name: &str| Piece::Secret(name.parse().unwrap());
        assert_eq!(first.headers[0].pieces, [Piece::Text("Bearer ".into()), secret("token")]);
        assert_eq!(first.headers[1].pieces, [secret("a"), Piece::Text("/".into()), secret("token")]);
        assert_eq!(Manifest::parse("{}").unwrap().places(), Vec::<String>::new());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_place() {
        let json = r#"{
            "egress": [
                { "host": "*.com", "methods": [] },
                { "host": "0x7f.1", "methods": ["TRACE", "get"], "scheme": "gopher", "ports": [0] },
                { "host": "a.example", "methods": ["GET"], "headers": {
                    "host": "b.example", "x-a": "{{secret:../x}}", "x-b": "{{token}}", "x-c": "a\nb", "x y": "",
                    "proxy-authorization": "x" } }
            ],
            "secrets": ["no/path", "t", "t"]
        }"#;
        let faults = faults(json);
        let places: Vec<&str> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(
            places,
            [
                "secrets[0]",
                "secrets[2]",
                "egress[0].host",
                "egress[0].methods",
                "egress[1].host",
                "egress[1].scheme",
                "egress[1].ports",
                "egress[1].methods",
                "egress[1].methods",
                "egress[2].headers.host",
                "egress[2].headers.proxy-authorization",
                "egress[2].headers.x y",
                "egress[2].headers.x-a",
                "egress[2].headers.x-b",
                "egress[2].headers.x-c",
            ],
            "{faults:#?}"
        );
    }

    #[test]
    fn a_secret_is_declared_and_used() {
        let with = |header: &str, secrets: &str| {
            faults(&format!(
                r#"{{"egress": [{{"host": "a.example", "methods": ["GET"], "headers": {{"x": "{header}"}}}}],
                    "secrets": {secrets}}}"#
            ))
        };
        assert_eq!(with("{{secret:a}}", r#"["a"]"#), Vec::<String>::new());
        assert_eq!(with("{{secret:a}}", "[]"), ["secrets: a is used in a header and not declared here"]);
        assert_eq!(with("none", r#"["a"]"#), ["secrets: a is declared and used in no header"]);
    }

    #[test]
    fn what_is_unknown_or_too_much_is_refused() {
        assert!(faults(r#"{"egres": []}"#)[0].contains("unknown field `egres`"));
        assert!(faults(r#"{"egress": [{"host": "a.example"}]}"#)[0].contains("missing field `methods`"));
        assert!(faults("[")[0].contains("EOF"));
        let many = vec![r#"{"host":"a.example","methods":["GET"]}"#; limits::EGRESS_RULES_MAX + 1].join(",");
        assert_eq!(faults(&format!(r#"{{"egress":[{many}]}}"#)), ["egress: 65 places; the most is 64"]);
        let long = format!("{{{}}}", " ".repeat(limits::MANIFEST_BYTES_MAX));
        assert!(faults(&long)[0].contains("the most is 16384"));
    }
}
