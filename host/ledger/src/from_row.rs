//! Rows of an answer as structs, field by field under their own names. `sqlx` has a macro for it, which would compile `sqlx`
//! twice.

/// Reads a struct from a row: each of these fields from the column of its name.
macro_rules! from_row {
    ($name:ident: $($field:ident),+ $(,)?) => {
        impl<'r> ::sqlx::FromRow<'r, ::sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r ::sqlx::postgres::PgRow) -> Result<Self, ::sqlx::Error> {
                use ::sqlx::Row as _;
                Ok(Self { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
}

pub(crate) use from_row;
