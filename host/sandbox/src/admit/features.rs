//! Tests: every proposal that is not on the list is refused, one guest for each.

use wasmparser::{Validator, WasmFeatures};

use super::admit;
use crate::engine::FEATURES;

/// A feature that is off and a component that needs it. What stands here is valid where everything is on, so that
/// nothing is refused for another reason.
const OFF: &[(WasmFeatures, &str)] = &[
    (WasmFeatures::THREADS, "(component (core module (memory 1 1 shared)))"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "(component (core module (type (shared (func)))))"),
    (
        WasmFeatures::RELAXED_SIMD,
        "(component (core module (func (param v128 v128 v128) (result v128)
           (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))))",
    ),
    (WasmFeatures::TAIL_CALL, "(component (core module (func $f (return_call $f))))"),
    (WasmFeatures::MULTI_MEMORY, "(component (core module (memory 1) (memory 1)))"),
    (WasmFeatures::EXCEPTIONS, "(component (core module (tag (param i32))))"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "(component (core module (func try catch_all end)))"),
    (WasmFeatures::MEMORY64, "(component (core module (memory i64 1)))"),
    (WasmFeatures::FUNCTION_REFERENCES, "(component (core module (type $f (func)) (func (param (ref $f)))))"),
    (
        WasmFeatures::MEMORY_CONTROL,
        "(component (core module (memory 1) (func (memory.discard (i32.const 0) (i32.const 0)))))",
    ),
    (WasmFeatures::GC, "(component (core module (type (struct))))"),
    (WasmFeatures::GC_TYPES, "(component (core module (func (param externref))))"),
    (
        WasmFeatures::CUSTOM_DESCRIPTORS,
        "(component (core module
           (rec (type $a (descriptor $b) (struct)) (type $b (describes $a) (struct)))))",
    ),
    (WasmFeatures::STACK_SWITCHING, "(component (core module (type $f (func)) (type (cont $f))))"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "(component (core module (memory 1 (pagesize 1))))"),
    (
        WasmFeatures::WIDE_ARITHMETIC,
        "(component (core module (func (param i64 i64 i64 i64) (result i64 i64)
           (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))))",
    ),
    (
        WasmFeatures::COMPACT_IMPORTS,
        r#"(component (core module (import "m" (item "a" (func)) (item "b" (func)))))"#,
    ),
    (WasmFeatures::CM_VALUES, r#"(component (import "v" (value $v string)) (export "w" (value $v)))"#),
    (WasmFeatures::CM_NESTED_NAMES, r#"(component (import "a:b:c/d" (instance)))"#),
    (WasmFeatures::CM_ASYNC, "(component (core func (canon task.return)))"),
    (
        WasmFeatures::CM_ASYNC_STACKFUL,
        r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
           (func (export "f") async (canon lift (core func $i "f") async)))"#,
    ),
    (
        WasmFeatures::CM_MORE_ASYNC_BUILTINS,
        "(component (type $s (stream u8)) (core func (canon stream.cancel-read $s async)))",
    ),
    (WasmFeatures::CM_THREADING, "(component (core func (canon thread.index)))"),
    (WasmFeatures::CM_ERROR_CONTEXT, "(component (type error-context))"),
    (WasmFeatures::CM_FIXED_LENGTH_LISTS, "(component (type (list u8 4)))"),
    (
        WasmFeatures::CM_GC,
        r#"(component (core type $t (func)) (import "f" (func $f))
           (core func (canon lower (func $f) gc (core-type $t))))"#,
    ),
    (WasmFeatures::CM_MAP, "(component (type (map string u8)))"),
    (WasmFeatures::CM64, "(component (core func (canon context.get i64 0)))"),
    (WasmFeatures::CM_IMPLEMENTS, r#"(component (import "a" (implements "b:c/d") (instance)))"#),
    (WasmFeatures::CM_CANON_NAMES, r#"(component (import "a:b/c@1" (versionsuffix ".2.3") (instance)))"#),
];

#[test]
fn a_guest_that_needs_a_feature_which_is_off_is_refused() {
    for (feature, text) in OFF {
        let component = wat::parse_str(text).unwrap_or_else(|error| panic!("{feature:?}: {error}"));
        let all = Validator::new_with_features(WasmFeatures::all()).validate_all(&component);
        assert!(all.is_ok(), "{feature:?} is refused for another reason: {}", all.err().unwrap());
        let refused = admit(&component).unwrap_err();
        assert_eq!(refused.code(), "invalid", "{feature:?}: {refused}");
    }
}

#[test]
fn every_feature_that_is_off_has_its_guest() {
    let shown = OFF.iter().fold(FEATURES, |shown, (feature, _)| shown.union(*feature));
    assert_eq!(WasmFeatures::all().difference(shown), WasmFeatures::empty());
    assert!(OFF.iter().all(|(feature, _)| !FEATURES.contains(*feature)));
}
