//! May these bytes become a component of ours? Pure: reads bytes, answers with a kind or with
//! everything that is wrong.
//!
//! Whoever deploys learns here what would otherwise fail in the middle of somebody's run: what is not
//! a component, what asks for more than is offered (every import by name, at once), what lacks an
//! export of the world, what is too large to be compiled in good time. Nothing is compiled that was not
//! admitted, whoever asks for it: a bound that a later version adds holds for what was deployed before.

mod counts;
#[cfg(test)]
mod features;
mod nested;
mod offer;
mod refused;

use std::borrow::Cow;

use backstitch_core::{Digest, limits, printable};
use sha2::{Digest as _, Sha256};
use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::Types;
use wasmparser::{BinaryReaderError, FuncValidatorAllocations, Parser, Payload, ValidPayload, Validator};

use counts::Counts;
pub(crate) use offer::track;
pub use refused::Refused;

use crate::engine::FEATURES;
use crate::kind::ComponentKind;

/// A component that may be deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Which world it exports.
    pub kind: ComponentKind,
}

/// Looks at everything that can be known without compiling.
pub(crate) fn admit(bytes: &[u8]) -> Result<Admitted, Refused> {
    check_header(bytes)?;
    let (types, imports) = validate(bytes, &mut Validator::new_with_features(FEATURES))?;
    let kind = kind(&types)?;
    let names = offer::not_offered(&types, &imports, kind);
    if !names.is_empty() {
        return Err(Refused::UnknownImports { kind, names });
    }
    Ok(Admitted { digest: digest(bytes), kind })
}

/// SHA-256 of a component's bytes.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// What can be known from the first bytes.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), Refused> {
    const MAGIC: &[u8] = b"\0asm";
    if bytes.len() > limits::COMPONENT_BYTES_MAX {
        return Err(Refused::TooLarge {
            what: "the file has bytes:".into(),
            count: bytes.len() as u64,
            max: limits::COMPONENT_BYTES_MAX as u64,
        });
    }
    if bytes.is_empty() {
        return Err(Refused::NotWasm("the file is empty".into()));
    }
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err(Refused::NotWasm(Cow::Borrowed(match bytes {
            [b'\x7f', b'E', b'L', b'F', ..] => {
                "native code. Compiled artefacts (.cwasm) are never loaded: upload the component"
            }
            [b'(', ..] => "the text format. Convert it with `wasm-tools parse`",
            _ => "the file does not begin as WebAssembly does",
        })));
    }
    if bytes.len() < 8 {
        return Err(Refused::Truncated { offset: bytes.len() });
    }
    if Parser::is_core_wasm(bytes) {
        return Err(Refused::CoreModule);
    }
    if !Parser::is_component(bytes) {
        return Err(Refused::UnknownEncoding);
    }
    Ok(())
}

/// Validates and counts in one pass, counting first: no section is looked into that is too large.
/// Gives the component's types and the names of its imports.
fn validate(bytes: &[u8], validator: &mut Validator) -> Result<(Types, Vec<String>), Refused> {
    let refused = |error: BinaryReaderError| refused(&error, bytes);
    let mut counts = Counts::default();
    let mut imports = Vec::new();
    let mut types = None;
    let mut allocations = FuncValidatorAllocations::default();
    let mut parser = Parser::new(0);
    // What is only another way to write the same is a feature too, and refused by the parser alone.
    parser.set_features(FEATURES);
    for payload in parser.parse_all(bytes) {
        let payload = payload.map_err(refused)?;
        if matches!(payload, Payload::ComponentSection { .. }) {
            return Err(Refused::NestedComponents { names: nested::components(bytes) });
        }
        counts.add(&payload)?;
        if let (Payload::ComponentImportSection(section), 0) = (&payload, counts.depth()) {
            for import in section.clone() {
                imports.push(import.map_err(refused)?.name.name.to_owned());
            }
        }
        match validator.payload(&payload).map_err(refused)? {
            ValidPayload::Func(function, body) => {
                let mut function = function.into_validator(allocations);
                function.validate(&body).map_err(refused)?;
                allocations = function.into_allocations();
            }
            // The outermost one ends last.
            ValidPayload::End(ended) => types = Some(ended),
            ValidPayload::Ok | ValidPayload::Parser(_) => {}
        }
    }
    let types = types.ok_or(Refused::Truncated { offset: bytes.len() })?;
    Ok((types, imports))
}

fn refused(error: &BinaryReaderError, bytes: &[u8]) -> Refused {
    if error.message().starts_with("unexpected end") {
        return Refused::Truncated { offset: bytes.len() };
    }
    Refused::Invalid {
        problem: printable::line_of(error.message(), limits::LOG_LINE_BYTES_MAX).into_owned(),
        offset: error.offset(),
    }
}

/// The world whose functions are exported, all of them.
fn kind(types: &Types) -> Result<ComponentKind, Refused> {
    let missing = |kind: ComponentKind| -> Vec<String> {
        let is_function = |name: &str| {
            types
                .component_item_for_export(name)
                .is_some_and(|item| matches!(item.ty, ComponentEntityType::Func(_)))
        };
        kind.exports().iter().filter(|name| !is_function(name)).map(|name| (*name).to_owned()).collect()
    };
    let by_kind = ComponentKind::ALL.map(|kind| (kind, missing(kind)));
    if let Some((kind, _)) = by_kind.iter().find(|(_, missing)| missing.is_empty()) {
        return Ok(*kind);
    }
    let [workflow, activity] = by_kind;
    let has_any = |(kind, missing): &(ComponentKind, Vec<String>)| missing.len() < kind.exports().len();
    let nearest = if missing_but_describe(&activity.1) && has_any(&workflow) { workflow } else { activity };
    let (kind, names) = nearest;
    Err(Refused::MissingExports { kind, names })
}

/// Whether what tells an activity from a workflow is missing.
fn missing_but_describe(names: &[String]) -> bool {
    names.iter().any(|name| name == "invoke")
}
