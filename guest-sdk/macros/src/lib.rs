//! The attribute macros of `backstitch-sdk`: `#[workflow]` and `#[activities]`.
//!
//! Promises: what cannot become a workflow or an activity is refused at the offending token, with a
//! message that says what to write instead. The expansion is small and made of public names; all
//! behaviour lives in the SDK.

mod activities;
mod workflow;

use proc_macro::TokenStream;

/// Makes a workflow of an `async fn`.
///
/// The function takes at most one argument, its input, and returns a `Result`. The input is the JSON
/// that the client sends; a function without arguments accepts `null`. Clients start it by the
/// function's name, or by another: `#[workflow(name = "order")]`. Signals and queries can be
/// declared for tools: `#[workflow(signals("manager-approval"), queries("progress"))]`.
///
/// Besides the function, the macro defines a type of the same name that implements `Workflow`, so that
/// the name can be used where a type is wanted: `export_workflows!(order_workflow)`,
/// `start_child::<order_workflow>(…)`, `TestRun::<order_workflow>::new()`.
#[proc_macro_attribute]
pub fn workflow(arguments: TokenStream, item: TokenStream) -> TokenStream {
    workflow::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes activities of a trait, for both sides: a typed proxy for workflows, and the trait itself to
/// be implemented.
///
/// Each function is an `async fn` without `self`, and its return type is what success yields: that it
/// can fail goes without saying. To implement the trait, write each function as an `async fn` that
/// returns `Result` of that type. `#[activities(task_queue = "inventory-tasks")]` names the queue of
/// all of them, `#[activity(name = "checkInventory")]` renames one.
///
/// For `trait Inventory` the macro defines `InventoryProxy`, whose methods have the same names and
/// arguments, and `with_options`; `proxy_activities::<dyn Inventory>(options)` makes one.
#[proc_macro_attribute]
pub fn activities(arguments: TokenStream, item: TokenStream) -> TokenStream {
    activities::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
