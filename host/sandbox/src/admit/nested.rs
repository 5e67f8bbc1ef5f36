//! Components within a component, by name.
//!
//! There are to be none. Between two instances of components that are linked to each other, Wasmtime copies, checks
//! and converts what they pass, in code of its own that burns no fuel: a loop of such calls computes for as long as
//! it likes. With one component there is nobody to pass anything to but the host, whose calls are charged; a
//! component that lowers its own lifted functions traps when it calls them.

use backstitch_core::{limits, printable};
use wasmparser::{ComponentName, KnownCustom, Parser, Payload};

/// How many of them are named.
const SHOWN_MAX: usize = 16;

/// The components that the outermost one defines: their index, their name if they have one, and where they begin.
/// Reads no more than headers of sections and the outermost names.
pub(super) fn components(bytes: &[u8]) -> Vec<String> {
    let mut depth = 0_u32;
    let mut begins = Vec::new();
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match payload {
            Payload::ComponentSection { unchecked_range, .. } => {
                if depth == 0 && begins.len() < SHOWN_MAX {
                    begins.push(unchecked_range.start);
                }
                depth += 1;
            }
            Payload::ModuleSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 => {
                if let KnownCustom::ComponentName(subsections) = section.as_known() {
                    names.extend(subsections.into_iter().map_while(Result::ok).filter_map(of_components));
                }
            }
            _ => {}
        }
    }
    let named = |index: usize| {
        let mut namings = names.iter().flat_map(Clone::clone).map_while(Result::ok);
        namings.find(|naming| naming.index as usize == index).map(|naming| naming.name)
    };
    let shown = begins.iter().enumerate().map(|(index, begin)| match named(index) {
        Some(name) => format!("${} (at byte {begin})", printable::line_of(name, limits::NAME_BYTES_MAX)),
        None => format!("component {index} (at byte {begin})"),
    });
    shown.collect()
}

fn of_components(name: ComponentName<'_>) -> Option<wasmparser::NameMap<'_>> {
    match name {
        ComponentName::Components(names) => Some(names),
        _ => None,
    }
}
