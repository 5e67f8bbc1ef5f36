//! What the two kinds of component are offered to import, and what one asks for beyond it.

use wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType};
use wasmparser::types::Types;

use crate::kind::ComponentKind;
use crate::{heartbeat, host, last_words, wasi};

/// What of an interface is offered.
enum Offer {
    /// These functions and resources.
    Some(&'static [&'static str]),
    /// All of it, as published.
    All,
}

/// Interfaces that activities get whole: all of WASI 0.2's `command` world, where files and sockets
/// find neither a directory nor a network, and outgoing HTTP, which reaches what a manifest allows.
const ACTIVITY: [&str; 29] = [
    "wasi:cli/environment@0.2",
    "wasi:cli/exit@0.2",
    "wasi:cli/stdin@0.2",
    "wasi:cli/stdout@0.2",
    "wasi:cli/stderr@0.2",
    "wasi:cli/terminal-input@0.2",
    "wasi:cli/terminal-output@0.2",
    "wasi:cli/terminal-stdin@0.2",
    "wasi:cli/terminal-stdout@0.2",
    "wasi:cli/terminal-stderr@0.2",
    "wasi:clocks/monotonic-clock@0.2",
    "wasi:clocks/wall-clock@0.2",
    "wasi:filesystem/preopens@0.2",
    "wasi:filesystem/types@0.2",
    "wasi:http/outgoing-handler@0.2",
    "wasi:http/types@0.2",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
    "wasi:random/insecure@0.2",
    "wasi:random/insecure-seed@0.2",
    "wasi:random/random@0.2",
    "wasi:sockets/instance-network@0.2",
    "wasi:sockets/ip-name-lookup@0.2",
    "wasi:sockets/network@0.2",
    "wasi:sockets/tcp@0.2",
    "wasi:sockets/tcp-create-socket@0.2",
    "wasi:sockets/udp@0.2",
    "wasi:sockets/udp-create-socket@0.2",
];

/// Every import that a component of this kind is not given: functions and resources by their full
/// names, sorted.
pub(super) fn not_offered(types: &Types, imports: &[String], kind: ComponentKind) -> Vec<String> {
    let mut names: Vec<String> =
        imports.iter().flat_map(|name| beyond(types, name, offer(kind, &track(name)))).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn offer(kind: ComponentKind, interface: &str) -> Offer {
    match kind {
        ComponentKind::Workflow if interface == track(host::INTERFACE) => Offer::Some(&host::FUNCTIONS),
        ComponentKind::Workflow => Offer::Some(wasi::offered(interface)),
        ComponentKind::Activity if interface == track(heartbeat::INTERFACE) => {
            Offer::Some(&heartbeat::FUNCTIONS)
        }
        ComponentKind::Activity if interface == track(last_words::INTERFACE) => {
            Offer::Some(&last_words::FUNCTIONS)
        }
        ComponentKind::Activity if ACTIVITY.contains(&interface) => Offer::All,
        ComponentKind::Activity => Offer::Some(&[]),
    }
}

/// What one import asks for beyond its offer: functions, or the interface if it has only resources.
/// Types need no offer.
fn beyond(types: &Types, import: &str, offer: Offer) -> Vec<String> {
    let Offer::Some(offered) = offer else { return Vec::new() };
    let id = match types.component_item_for_import(import).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(id)) => id,
        Some(ComponentEntityType::Type { .. }) | None => return Vec::new(),
        Some(_) => return vec![import.to_owned()],
    };
    let mut beyond = Vec::new();
    for (name, item) in &types[id].exports {
        match item.ty {
            ComponentEntityType::Type { referenced: ComponentAnyTypeId::Resource(_), .. }
                if offered.is_empty() =>
            {
                beyond.push(import.to_owned());
            }
            ComponentEntityType::Type { .. } => {}
            _ if offered.contains(&name.as_str()) => {}
            _ => beyond.push(format!("{import}#{name}")),
        }
    }
    if beyond.iter().any(|name| name.contains('#')) {
        beyond.retain(|name| name.contains('#'));
    }
    beyond
}

/// An interface's name without what a compatible version may change: `a:b/c@0.2.3` is `a:b/c@0.2`.
pub(crate) fn track(name: &str) -> String {
    let Some((interface, version)) = name.split_once('@') else { return name.to_owned() };
    let mut parts = version.split(['.', '-', '+']);
    match (parts.next(), parts.next()) {
        (Some("0"), Some(minor)) => format!("{interface}@0.{minor}"),
        (Some(major), _) => format!("{interface}@{major}"),
        (None, _) => name.to_owned(),
    }
}
