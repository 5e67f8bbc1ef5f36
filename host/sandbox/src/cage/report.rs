//! What a cage lacks on this kernel.

use serde::{Deserialize, Serialize};

/// How much a process takes from itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CageReport {
    /// What this kernel does not do for the cage, in words.
    pub missing: Vec<String>,
    /// What was tried from within and worked nevertheless.
    pub escapes: Vec<String>,
}
