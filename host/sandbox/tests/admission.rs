//! What may be deployed, and what whoever deploys is told otherwise.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use backstitch_core::limits;
use backstitch_sandbox::{ComponentKind, LoadError, Refused};
use support::*;

fn admit(bytes: &[u8]) -> Result<ComponentKind, Refused> {
    sandbox().admit(bytes).map(|admitted| admitted.kind)
}

fn refused(text: &str) -> Refused {
    admit(&wat::parse_str(text).unwrap()).unwrap_err()
}

/// A component around these core modules and nothing else.
fn around(modules: &str) -> Refused {
    refused(&format!("(component {modules})"))
}

#[test]
fn the_two_worlds_are_told_apart() {
    let workflow = SLEEPS_ONCE.component();
    let admitted = sandbox().admit(&workflow).unwrap();
    assert_eq!(admitted.kind, ComponentKind::Workflow);
    assert_eq!(admitted, sandbox().admit(&workflow).unwrap());
    let activity = activity("", "(call $ok (local.get $input) (local.get $input-length))");
    assert_eq!(admit(&activity), Ok(ComponentKind::Activity));
}

#[test]
fn what_is_no_component_is_called_what_it_is() {
    let cases: [(&[u8], &str, &str); 9] = [
        (b"", "not-a-component", "the file is empty"),
        (b"hello", "not-a-component", "does not begin"),
        (b"(component)", "not-a-component", "wasm-tools parse"),
        (b"\x7fELF\x02\x01\x01", "not-a-component", "never loaded"),
        (b"\0as", "truncated", "after byte 3"),
        (b"\0asm\x0d\0", "truncated", "after byte 6"),
        (b"\0asm\x01\0\0\0", "core-module", "backstitch build"),
        (b"\0asm\x0a\0\x01\0", "not-a-component", "does not know"),
        (b"\0asm\x0d\0\x01\0", "missing-exports", "describe, invoke"),
    ];
    for (bytes, code, message) in cases {
        let refused = admit(bytes).unwrap_err();
        assert_eq!(refused.code(), code, "{bytes:?}: {refused}");
        assert!(refused.to_string().contains(message), "{bytes:?}: {refused}");
    }
}

#[test]
fn no_part_of_a_component_is_a_component() {
    let whole = SLEEPS_ONCE.component();
    let sandbox = sandbox();
    let (mut truncated, mut admitted) = (0, 0);
    for length in 0..whole.len() {
        match sandbox.admit(&whole[..length]) {
            Ok(_) => admitted += 1,
            Err(refused) => truncated += usize::from(refused.code() == "truncated"),
        }
    }
    assert_eq!(admitted, 1, "only without its last section, which holds nothing but names");
    // The other parts end where a section does, and lack exports.
    assert!(truncated > whole.len() * 9 / 10, "{truncated} of {}", whole.len());
}

#[test]
fn a_flipped_bit_is_never_a_panic() {
    let whole = SLEEPS_ONCE.component();
    let sandbox = sandbox();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            let _ = sandbox.admit(&damaged);
        }
    }
}

#[test]
fn every_unknown_import_is_named_at_once_and_in_order() {
    let world = String::from_utf8(include_bytes!("support/workflow.wat").to_vec()).unwrap();
    let imports = r#"(component
        (import "wasi:sockets/tcp@0.2.0" (instance
          (export "tcp-socket" (type $socket (sub resource)))
          (export "[method]tcp-socket.hop-limit" (func (param "self" (borrow $socket)) (result u8)))))
        (import "wasi:clocks/monotonic-clock@0.2.6" (instance
          (export "now" (func (result u64)))
          (export "subscribe-duration" (func (param "when" u64)))))
        (import "wasi:http/types@0.2.0" (instance (export "fields" (type (sub resource)))))
        (import "backstitch:workflow/host@0.2.0" (instance (export "now-ms" (func (result u64)))))
        (import "plain" (func))"#;
    let text = world.replacen("(component", imports, 1);
    let text =
        ["functions", "data"].iter().fold(text, |text, key| text.replace(&format!("{{{{{key}}}}}"), ""));
    let text = ["start", "resume", "query", "describe"]
        .iter()
        .fold(text, |text, key| text.replace(&format!("{{{{{key}}}}}"), "(unreachable)"));
    let Refused::UnknownImports { kind, names } = refused(&text) else {
        panic!("it was not refused for its imports")
    };
    assert_eq!(kind, ComponentKind::Workflow);
    assert_eq!(
        names,
        [
            "backstitch:workflow/host@0.2.0#now-ms",
            "plain",
            "wasi:clocks/monotonic-clock@0.2.6#subscribe-duration",
            "wasi:http/types@0.2.0",
            "wasi:sockets/tcp@0.2.0#[method]tcp-socket.hop-limit",
        ]
    );
}

#[test]
fn heartbeats_are_offered_to_activities_and_to_nobody_else() {
    assert_eq!(admit(&beating_activity("(unreachable)")), Ok(ComponentKind::Activity));
    assert_eq!(admit(&deferring_activity("(unreachable)")), Ok(ComponentKind::Activity));
    let attempt = |function: &str| {
        format!(
            r#"(component (import "backstitch:workflow/attempt@0.1.0" (instance
              (export "{function}" (func (param "details" (option string)) (result bool)))))"#
        )
    };
    let workflow = String::from_utf8(include_bytes!("support/workflow.wat").to_vec()).unwrap();
    let workflow = ["start", "resume", "query", "describe", "functions", "data"]
        .iter()
        .fold(workflow, |text, key| {
            let body = if matches!(*key, "functions" | "data") { "" } else { "(unreachable)" };
            text.replace(&format!("{{{{{key}}}}}"), body)
        })
        .replacen("(component", &attempt("heartbeat"), 1);
    let activity = ["imports", "core-imports", "with", "functions"]
        .iter()
        .fold(include_str!("support/activity.wat").to_owned(), |text, key| {
            text.replace(&format!("{{{{{key}}}}}"), "")
        })
        .replace("{{invoke}}", "(unreachable)")
        .replacen("(component", &attempt("stop"), 1);
    for (text, beyond) in [
        (workflow, "backstitch:workflow/attempt@0.1.0#heartbeat"),
        (activity, "backstitch:workflow/attempt@0.1.0#stop"),
    ] {
        let Refused::UnknownImports { names, .. } = refused(&text) else { panic!("{beyond} is not refused") };
        assert_eq!(names, [beyond]);
    }
}

#[test]
fn http_is_for_activities_alone() {
    assert_eq!(admit(&http_activity("(unreachable)")), Ok(ComponentKind::Activity));
    let workflow =
        include_str!("support/workflow.wat").replacen("(component", &format!("(component {HTTP}"), 1);
    let workflow =
        ["functions", "data"].iter().fold(workflow, |text, key| text.replace(&format!("{{{{{key}}}}}"), ""));
    let workflow = ["start", "resume", "query", "describe"]
        .iter()
        .fold(workflow, |text, key| text.replace(&format!("{{{{{key}}}}}"), "(unreachable)"));
    let Refused::UnknownImports { kind, names } = refused(&workflow) else { panic!("it is not refused") };
    assert_eq!(
        (kind, &names[..]),
        (ComponentKind::Workflow, &["wasi:http/types@0.2.0#[constructor]fields".to_owned()][..])
    );
}

#[test]
fn missing_exports_are_named_for_the_nearest_world() {
    let exports = |names: &[&str]| {
        let exports: String = names
            .iter()
            .map(|name| format!("(func (export {name:?}) (canon lift (core func $i \"f\")))"))
            .collect();
        refused(&format!(
            "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) {exports})"
        ))
    };
    let missing = |kind, names: &[&str]| Refused::MissingExports {
        kind,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    assert_eq!(exports(&["describe", "start"]), missing(ComponentKind::Workflow, &["resume", "query"]));
    assert_eq!(exports(&["invoke"]), missing(ComponentKind::Activity, &["describe"]));
    assert_eq!(exports(&[]), missing(ComponentKind::Activity, &["describe", "invoke"]));
}

#[test]
fn what_is_too_large_is_refused_with_its_size() {
    let too_large = |refused: Refused| match refused {
        Refused::TooLarge { count, max, .. } => (count, max),
        other => panic!("{other}"),
    };
    let functions = "(func)".repeat(100_001);
    let modules = format!("(core module {functions})(core module {functions})");
    assert_eq!(too_large(around(&modules)), (200_002, limits::COMPONENT_FUNCTIONS_MAX.into()));
    let memories = "(core module (memory 1))".repeat(limits::MEMORIES_MAX + 1);
    assert_eq!(too_large(around(&memories)).0, limits::MEMORIES_MAX as u64 + 1);
    assert_eq!(too_large(around("(core module (memory 5000))")).0, 5000);
    let tables = format!("(core module {})", "(table 1 funcref)".repeat(limits::TABLES_MAX + 1));
    assert_eq!(too_large(around(&tables)).0, limits::TABLES_MAX as u64 + 1);
    assert_eq!(too_large(around("(core module (table 100001 funcref))")).0, 100_001);
    let instances = "(core instance (instantiate $m))".repeat(limits::CORE_INSTANCES_MAX + 1);
    assert_eq!(too_large(around(&format!("(core module $m) {instances}"))).0, 65);
    let bytes = vec![0; limits::COMPONENT_BYTES_MAX + 1];
    assert_eq!(too_large(admit(&bytes).unwrap_err()).0, bytes.len() as u64);
}

/// A component around this many of a part, for parts that a validator or a compiler, an instance or a backtrace takes
/// something for each of.
#[test]
fn whatever_can_be_many_is_counted() {
    let too_large = |bytes: &[u8]| match admit(bytes).unwrap_err() {
        Refused::TooLarge { what, count, max } => (what.into_owned(), count, max),
        other => panic!("{other}"),
    };
    let text = |text: String| too_large(&wat::parse_str(format!("(component {text})")).unwrap());
    let many = |part: &str, max: u32| part.repeat(max as usize + 1);
    let module = |fields: String| text(format!("(core module {fields})"));
    let params = |count: u32| format!("(param {})", "i32 ".repeat(count as usize));
    let cases = [
        ("modules:", limits::CORE_MODULES_MAX, text(many("(core module)", limits::CORE_MODULES_MAX))),
        ("types:", limits::COMPONENT_TYPES_MAX, module(many("(type (func))", limits::COMPONENT_TYPES_MAX))),
        (
            "imports:",
            limits::COMPONENT_IMPORTS_MAX,
            module(many(r#"(import "" "" (func))"#, limits::COMPONENT_IMPORTS_MAX)),
        ),
        (
            "exports:",
            limits::COMPONENT_EXPORTS_MAX,
            module((0..=limits::COMPONENT_EXPORTS_MAX).fold("(func)".to_owned(), |mut text, n| {
                text.push_str(&format!(r#"(export "{n}" (func 0))"#));
                text
            })),
        ),
        (
            "globals:",
            limits::COMPONENT_GLOBALS_MAX,
            module(many("(global i32 (i32.const 0))", limits::COMPONENT_GLOBALS_MAX)),
        ),
        (
            "segments:",
            limits::COMPONENT_SEGMENTS_MAX,
            module(format!("(memory 1){}", many("(data)", limits::COMPONENT_SEGMENTS_MAX))),
        ),
        (
            "segments:",
            limits::COMPONENT_SEGMENTS_MAX,
            module(many("(elem func)", limits::COMPONENT_SEGMENTS_MAX)),
        ),
        (
            "definitions that link its modules:",
            limits::COMPONENT_ITEMS_MAX,
            text(format!(
                r#"(core module $m (func (export ""))) (core instance $i (instantiate $m)) {}"#,
                many(r#"(alias core export $i "" (core func))"#, limits::COMPONENT_ITEMS_MAX)
            )),
        ),
        (
            "custom sections:",
            limits::CUSTOM_SECTIONS_MAX,
            module(many(r#"(@custom "x" "")"#, limits::CUSTOM_SECTIONS_MAX)),
        ),
        (
            "parameters or results of one type:",
            limits::FUNCTION_PARAMS_MAX,
            module(format!("(type (func {}))", params(limits::FUNCTION_PARAMS_MAX + 1))),
        ),
        (
            "locals of one function:",
            limits::FUNCTION_LOCALS_MAX,
            module(format!("(func (local {}))", "i32 ".repeat(limits::FUNCTION_LOCALS_MAX as usize + 1))),
        ),
    ];
    for (what, most, (told, count, max)) in cases {
        assert_eq!((told.as_str(), max), (what, most.into()));
        // A section is counted before it is read.
        assert!(count > max, "{what} {count}");
    }
    let code = module(format!("(func {})", many("nop ", limits::FUNCTION_BYTES_MAX)));
    assert_eq!((code.0.as_str(), code.2), ("bytes of one function:", limits::FUNCTION_BYTES_MAX.into()));
}

#[test]
fn no_name_is_longer_than_a_backtrace_can_bear() {
    let name = |bytes: u32| format!("\"{}\"", "x".repeat(bytes as usize));
    for (place, kind) in [("(func $f (@name {}))", "function"), ("(@name {})", "module")] {
        let with = |bytes| around(&format!("(core module {})", place.replace("{}", &name(bytes))));
        let Refused::TooLarge { count, max, .. } = with(limits::SYMBOL_BYTES_MAX + 1) else {
            panic!("a long name of a {kind} is not refused")
        };
        assert_eq!((count, max), (max + 1, limits::SYMBOL_BYTES_MAX.into()));
        assert_eq!(with(limits::SYMBOL_BYTES_MAX).code(), "missing-exports", "{kind}");
    }
}

/// Two components that pass texts to each other: what Wasmtime copies between them burns no fuel.
#[test]
fn components_within_a_component_are_named() {
    let inner = r#"(component $inner
        (core module $m
          (memory (export "memory") 1)
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
          (func (export "take") (param i32 i32)))
        (core instance $i (instantiate $m))
        (func (export "take") (param "text" string)
          (canon lift (core func $i "take") (memory $i "memory") (realloc (func $i "realloc")))))"#;
    let outer = r#"(component $outer (import "take" (func (param "text" string))))"#;
    let linked = format!(
        r#"(component {inner} {outer} (component)
             (instance $a (instantiate $inner))
             (instance (instantiate $outer (with "take" (func $a "take")))))"#
    );
    let Refused::NestedComponents { names } = refused(&linked) else { panic!("it is not refused") };
    assert_eq!(names.len(), 3);
    assert!(names[0].starts_with("$inner (at byte "), "{names:?}");
    assert!(names[1].starts_with("$outer (at byte "), "{names:?}");
    assert!(names[2].starts_with("component 2 (at byte "), "{names:?}");
    let message = refused(&linked).to_string();
    assert!(message.contains("$outer") && message.contains("workflows and activities"), "{message}");
    // One that is not even used is one more thing to look into.
    assert_eq!(refused("(component (component))").code(), "nested-components");
}

#[test]
fn a_body_that_does_not_type_check_is_found_without_compiling() {
    let mut ill =
        wat::parse_str("(component (core module (func (result i32) (i32.const 7) (drop) (i32.const 7))))")
            .unwrap();
    let at = ill.windows(3).position(|bytes| bytes == [0x41, 7, 0x1a]).unwrap();
    ill[at + 2] = 0x01;
    assert_eq!(admit(&ill).unwrap_err().code(), "invalid");
}

#[test]
fn every_offer_of_wasi_is_kept() {
    let world = SLEEPS_ONCE;
    let workflow = include_str!("support/workflow.wat")
        .replacen("(component", include_str!("support/wasi.wat"), 1)
        .replace("{{functions}}", world.functions)
        .replace("{{start}}", world.start)
        .replace("{{resume}}", world.resume)
        .replace("{{query}}", world.query)
        .replace("{{describe}}", world.describe)
        .replace("{{data}}", world.data);
    let component = wat::parse_str(workflow).unwrap();
    block_on(async { load(&sandbox(), component).await });
}

#[test]
fn a_world_of_other_types_does_not_load() {
    let lifts = |names: [&str; 4]| {
        let exports: String = names
            .iter()
            .map(|name| format!("(func (export {name:?}) (canon lift (core func $i \"f\")))"))
            .collect();
        format!(
            "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) {exports})"
        )
    };
    let component = wat::parse_str(lifts(["describe", "start", "resume", "query"])).unwrap();
    let sandbox = sandbox();
    let admitted = sandbox.admit(&component).unwrap();
    let fetch = || async { Ok::<_, std::io::Error>(component) };
    let loaded = block_on(sandbox.load(admitted.digest, admitted.kind, fetch));
    assert!(matches!(&loaded, Err(error @ LoadError::Unfit { .. }) if error.is_final()), "{loaded:?}");
}
