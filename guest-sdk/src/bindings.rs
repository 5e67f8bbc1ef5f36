//! The Rust shape of `wit/workflow.wit`, and of the part of WASI that activities reach out by: generated,
//! one module per world.
//!
//! Both of our worlds share one set of types. The export macros are expanded by
//! [`export_workflows!`](crate::export_workflows) and
//! [`export_activities!`](crate::export_activities) in the author's crate, and only there do the
//! worlds' exports enter a component: linking the SDK alone exports nothing and imports only what is
//! called. Beside the allocator, the only unsafe code of the SDK is what `wit-bindgen` generates here.

#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]

/// `world workflow`.
pub mod workflow {
    wit_bindgen::generate!({
        path: "../wit",
        world: "workflow",
        pub_export_macro: true,
        export_macro_name: "export_workflow_world",
    });
}

/// `world activity`.
pub mod activity {
    wit_bindgen::generate!({
        path: "../wit",
        world: "activity",
        pub_export_macro: true,
        export_macro_name: "export_activity_world",
        with: { "backstitch:workflow/types@0.1.0": crate::bindings::workflow::backstitch::workflow::types },
    });
}

/// WASI's HTTP, as far as [`http`](crate::http) calls it.
#[cfg(target_family = "wasm")]
pub mod http_client {
    wit_bindgen::generate!({
        path: "wit",
        world: "client",
        generate_all,
    });
}

pub(crate) use workflow::backstitch::workflow::types;
