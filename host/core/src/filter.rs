//! The conditions by which runs are searched: a small language, read into a tree of typed comparisons.
//!
//! ```text
//! condition   = conjunction { "or" conjunction }
//! conjunction = term { "and" term }
//! term        = "not" term | "(" condition ")" | comparison
//! comparison  = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//!             | field "in" "(" value { "," value } ")"
//! field       = "status" | "workflow" | "workflow_id" | "run_id" | "parent" | "started" | "closed"
//!             | "attributes" "." ( name | text )
//! value       = text | number | "true" | "false" | "time" "(" text ")"
//! ```
//!
//! Texts stand in double or single quotes, with `\\`, `\"`, `\'`, `\n`, `\r` and `\t`. Words of the
//! grammar may be written in capitals, fields may not. A name without quotes holds letters, digits, `_`
//! and `-`, and begins with a letter or `_`.
//!
//! What it means:
//!
//! * A comparison is true or false, never unknown. What a run does not have (the attribute, its end, its
//!   parent) makes each comparison with it false, `!=` too; so does an attribute of another type.
//! * `not` turns that round: `not attributes.a = 1` finds the runs without `a`, `attributes.a != 1` does
//!   not.
//! * `started` and `closed` are compared with RFC 3339 times. An attribute is compared with a time only
//!   as `time("…")`: a text is a text there.
//! * Texts are ordered by their bytes, numbers are 64-bit floats.
//!
//! It refuses what can have no answer, with its place: unknown fields and statuses, comparisons between
//! types, an order of what has none. Times are read by a function of the caller, so that no calendar is
//! needed here. Nothing here decides which runs meet a condition: that is left to the database, which has
//! the indexes.

mod condition;
mod parse;
mod tokens;

pub use condition::{AttributeTest, Comparator, Condition, Filter, FilterError, Test};

impl Filter {
    /// Reads a condition. `time_ms` reads an RFC 3339 time as milliseconds since the epoch, or says what
    /// is wrong with it.
    ///
    /// # Errors
    ///
    /// [`FilterError`] at the first mistake.
    pub fn parse(text: &str, time_ms: fn(&str) -> Result<u64, String>) -> Result<Self, FilterError> {
        parse::parse(text, time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunStatus;

    fn filter(text: &str) -> Filter {
        Filter::parse(text, |_| Ok(0)).unwrap()
    }

    fn admitted(text: &str) -> Vec<RunStatus> {
        let filter = filter(text);
        RunStatus::ALL.into_iter().filter(|status| filter.admits(*status)).collect()
    }

    #[test]
    fn a_search_leaves_out_only_statuses_that_cannot_match() {
        use RunStatus::{Failed, Parked, Running};
        assert_eq!(admitted(r#"status = "failed" and attributes.a = 1"#), [Failed]);
        assert_eq!(admitted(r#"status in ("failed", "running")"#), [Running, Failed]);
        assert_eq!(admitted(r#"status = "failed" or status = "parked""#), [Parked, Failed]);
        assert_eq!(admitted(r#"status = "failed" and status = "parked""#), []);
        assert_eq!(admitted(r#"status != "failed""#).len(), RunStatus::ALL.len() - 1);
        assert_eq!(admitted(r#"status = "failed" or attributes.a = 1"#), RunStatus::ALL);
        let negated = r#"not (status = "failed" and attributes.a = 1)"#;
        assert_eq!(admitted(negated), RunStatus::ALL, "a failed run with another a meets it");
    }
}
