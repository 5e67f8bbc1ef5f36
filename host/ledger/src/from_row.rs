//! Structs that are read from the rows of an answer, each field from the column of its name. `sqlx` has a macro for it, which
//! would compile `sqlx` twice.

/// Defines a struct, and reads it from a row.
macro_rules! from_row {
    ($(#[$of_struct:meta])* $vis:vis struct $name:ident {
        $($(#[$of_field:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$of_struct])*
        $vis struct $name {
            $($(#[$of_field])* $field_vis $field: $type),+
        }

        impl<'r> ::sqlx::FromRow<'r, ::sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r ::sqlx::postgres::PgRow) -> Result<Self, ::sqlx::Error> {
                use ::sqlx::Row as _;
                Ok(Self { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
}

pub(crate) use from_row;
