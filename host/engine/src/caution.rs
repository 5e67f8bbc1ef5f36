//! Whether hosts were lost of late, so that guests begin with care.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether hosts of this database were lost of late. Cheap to clone: all clones are one.
///
/// A start may be a draft: its guest is at work before anything of the run is in the database. If that takes the host down,
/// nothing tells of it, and whoever repeats the start takes down the next one. So a guest begins behind its first row where
/// there is reason to: its component has not come back from a start on this host yet, or hosts were lost of late,
/// nobody knows over what.
#[derive(Clone, Debug)]
pub struct Caution(Arc<AtomicBool>);

impl Default for Caution {
    /// Until it is known that none was.
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Caution {
    /// Whether some were lost.
    pub fn set(&self, lost: bool) {
        if self.0.swap(lost, Ordering::Relaxed) != lost {
            tracing::debug!(lost, "whether guests begin behind their first rows");
        }
    }

    /// Whether guests are to begin behind their first rows.
    pub fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
