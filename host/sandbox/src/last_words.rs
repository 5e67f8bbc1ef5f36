//! What an attempt says just before it traps: where it panicked, and why. Without it a panic is a list of addresses.
//!
//! Nothing comes back to the guest, and nothing is done by it but the text of a failure that is the attempt's own:
//! a component that imports this and nothing else still cannot be seen from outside while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use backstitch_core::{limits, printable};
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// The interface's name, as components import it.
pub(crate) const INTERFACE: &str = "backstitch:workflow/last-words@0.1.0";

/// The interface's functions.
pub(crate) const FUNCTIONS: [&str; 1] = ["report-panic"];

/// The last words of one attempt, which outlive its store. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    /// What was said, if anything was.
    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn say(&self, message: &str) {
        let message = printable::line_of(message, limits::MESSAGE_BYTES_MAX).into_owned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

/// Offers the interface to a component.
pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    words: impl Fn(&T) -> &LastWords + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap(
        "report-panic",
        move |cx: StoreContextMut<'_, T>, (message,): (String,)| {
            words(cx.data()).say(&message);
            Ok(())
        },
    )
}
