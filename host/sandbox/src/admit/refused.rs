//! Why a component is not taken.

use std::borrow::Cow;

use backstitch_core::limits;
use serde::{Deserialize, Serialize};

use crate::kind::ComponentKind;

/// Why a component may not be deployed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Not WebAssembly at all.
    #[error("not WebAssembly: {0}")]
    NotWasm(Cow<'static, str>),
    /// A core module, or a component in an encoding that nobody writes any more.
    #[error(
        "a core WebAssembly module, not a component. Build it with `backstitch build`, or wrap it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// WebAssembly of another version.
    #[error("WebAssembly in an encoding that this host does not know. Build it with a current toolchain")]
    UnknownEncoding,
    /// The file ends too early.
    #[error("truncated: the component should go on after byte {offset}. Upload the whole file")]
    Truncated {
        /// Where the bytes end.
        offset: usize,
    },
    /// A bound of [`limits`].
    #[error("too large: {what} {count}; the most is {max}")]
    TooLarge {
        /// What there is too much of, with a verb.
        what: Cow<'static, str>,
        /// How much.
        count: u64,
        /// The bound.
        max: u64,
    },
    /// Looking at it takes longer than anybody should have to wait.
    #[error("it takes more than {} s to look at. Make its functions smaller", limits::ADMIT_MS_MAX / 1000)]
    TooCostly,
    /// It holds components of its own.
    #[error(
        "it holds components of its own: {}. Link its parts into one component of core modules, or deploy them apart, \
         as workflows and activities that call each other; an interface that it exports is wrapped into a component \
         too: export functions alone",
        names.join(", ")
    )]
    NestedComponents {
        /// The first of them, each with where it begins.
        names: Vec<String>,
    },
    /// It does not follow the specification, or uses a proposal that this host does not run.
    #[error("not a valid component: {problem} (at byte {offset})")]
    Invalid {
        /// What the validator said.
        problem: String,
        /// Where.
        offset: usize,
    },
    /// It exports neither world, or one of them in part.
    #[error("no {kind} component: it does not export {}", names.join(", "))]
    MissingExports {
        /// The world that it comes nearest to.
        kind: ComponentKind,
        /// The functions it lacks.
        names: Vec<String>,
    },
    /// It asks for what no component of its kind gets.
    #[error("it imports what no {kind} is given: {}. {}", names.join(", "), advice(*kind))]
    UnknownImports {
        /// The world it exports.
        kind: ComponentKind,
        /// Every function, by its full name, sorted.
        names: Vec<String>,
    },
}

impl Refused {
    /// A stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotWasm(_) | Self::UnknownEncoding => "not-a-component",
            Self::CoreModule => "core-module",
            Self::Truncated { .. } => "truncated",
            Self::TooLarge { .. } => "too-large",
            Self::TooCostly => "too-costly",
            Self::NestedComponents { .. } => "nested-components",
            Self::Invalid { .. } => "invalid",
            Self::MissingExports { .. } => "missing-exports",
            Self::UnknownImports { .. } => "unknown-imports",
        }
    }
}

fn advice(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::Workflow => {
            "A workflow has no files, sockets, timers or threads: reach the world through activities, \
             sleep with `sleep-for`"
        }
        ComponentKind::Activity => {
            "An activity is given WASI 0.2, outgoing HTTP and heartbeats, nothing else"
        }
    }
}
