//! The database that sequences run in, one after the other.

use backstitch_ledger::{ConnectOptions, Ledger};
use sqlx::{Connection as _, PgConnection};

use crate::tables;

/// A database, and a session of the test's own.
pub(crate) struct Postgres {
    pub(crate) url: String,
    pub(crate) session: PgConnection,
    /// Sessions of writers that were seen.
    pub(crate) known: Vec<i32>,
}

impl Postgres {
    pub(crate) async fn new(url: String) -> Self {
        Ledger::connect(ConnectOptions::new(&url)).await.unwrap().migrate().await.unwrap();
        let mut session = PgConnection::connect(&url).await.unwrap();
        tables::prepare(&mut session).await;
        Self { url, session, known: Vec::new() }
    }
}
