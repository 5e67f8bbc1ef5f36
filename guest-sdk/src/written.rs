//! Values as the JSON that leaves the guest.

use serde::Serialize;

use crate::error::{Error, Result};

/// JSON text, or an `invalid-input` that says which value could not be written.
pub(crate) fn written(value: &(impl Serialize + ?Sized), what: impl FnOnce() -> String) -> Result<String> {
    serde_json::to_string(value).map_err(|error| {
        Error::application("invalid-input", format!("{} cannot be written as JSON: {error}", what()))
            .non_retryable()
    })
}
