//! Whose code is being polled: the workflow's, or that of an interceptor, whose own calls pass by all of them.

use std::cell::Cell;
use std::pin::Pin;

thread_local! {
    /// Whether the code that is being polled is an interceptor's own.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// A run begins: it is the workflow's turn.
pub(crate) fn reset() {
    OWN.set(false);
}

/// Whether the code that is being polled is an interceptor's own.
pub(crate) fn is_interceptor() -> bool {
    OWN.get()
}

/// A future that is to be polled from elsewhere, with whoever makes it now as its author.
pub(crate) fn by_the_same_author<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(OWN.get(), Box::pin(future))
}

/// Polls as the code inside is: `own`, an interceptor's.
pub(crate) fn within<F: Future + Unpin>(own: bool, mut future: F) -> impl Future<Output = F::Output> {
    std::future::poll_fn(move |cx| {
        let outer = OWN.replace(own);
        let result = Pin::new(&mut future).poll(cx);
        OWN.set(outer);
        result
    })
}
