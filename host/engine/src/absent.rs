//! Runs that are not in memory, and whose timers are known to be due.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use backstitch_core::RunId;

/// Runs that are being read and whose timers have been found due: nobody needs to find them again until then. Cheap to
/// clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Absent(Arc<Mutex<HashSet<RunId>>>);

impl Absent {
    /// All of them.
    pub fn runs(&self) -> Vec<RunId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// A timer of this run is due.
    pub fn add(&self, run: RunId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
    }

    /// Whether it was among them.
    pub fn remove(&self, run: RunId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&run)
    }
}
