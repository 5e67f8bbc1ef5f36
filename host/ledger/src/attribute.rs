//! An attribute as the database has it: one column for each type, of which one is set. No value: the attribute goes.

use backstitch_core::Attribute;

use crate::time::Timestamp;

/// Of a text.
pub(crate) fn text(value: &Option<Attribute>) -> Option<&str> {
    match value {
        Some(Attribute::Text(text)) => Some(text),
        _ => None,
    }
}

/// Of a number.
pub(crate) fn number(value: &Option<Attribute>) -> Option<f64> {
    match value {
        Some(Attribute::Number(number)) => Some(*number),
        _ => None,
    }
}

/// Of a flag.
pub(crate) fn flag(value: &Option<Attribute>) -> Option<bool> {
    match value {
        Some(Attribute::Flag(flag)) => Some(*flag),
        _ => None,
    }
}

/// Of a time.
pub(crate) fn time(value: &Option<Attribute>) -> Option<Timestamp> {
    match value {
        Some(Attribute::TimeMs(ms)) => Some(Timestamp(*ms)),
        _ => None,
    }
}
