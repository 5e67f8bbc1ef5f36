//! The floor: what Postgres alone charges for making as many rows durable, in batches of the same
//! size, with one client and one statement at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{Connection, PgConnection};

use crate::cpu::Cpu;
use crate::rig::Server;

/// What bare inserts cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// CPU of client and server for one row, in microseconds.
    pub(crate) cpu_us_per_row: f64,
    /// Rows made durable in a second.
    pub(crate) rows_per_s: f64,
}

/// Inserts `rows` rows of about the size of a ledger row, `batch` in one transaction.
pub(crate) async fn measure(server: &Server, rows: usize, batch: usize) -> Result<Floor> {
    let batch = batch.max(1);
    let mut connection = server.connect().await?;
    // A statement per call: the extended protocol takes one at a time.
    for statement in [
        "drop table if exists floor",
        "create table floor (shard smallint, run_id uuid, seq integer, kind smallint, payload json, at timestamptz,
                             primary key (shard, run_id, seq))",
    ] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    insert(&mut connection, 0, batch).await?;
    let (before, begun) = (server.cpu()?, Instant::now());
    let batches = rows.div_ceil(batch);
    for number in 1..=batches {
        insert(&mut connection, number, batch).await?;
    }
    let (spent, took) = (server.cpu()?.since(before), begun.elapsed());
    sqlx::query("drop table floor").execute(&mut connection).await?;
    connection.close().await?;
    let made = (batches * batch) as f64;
    Ok(Floor { cpu_us_per_row: spent.us() / made, rows_per_s: made / took.as_secs_f64() })
}

async fn insert(connection: &mut PgConnection, number: usize, batch: usize) -> Result<()> {
    let seqs: Vec<i32> =
        (0..batch).map(|row| i32::try_from(number * batch + row).unwrap_or(i32::MAX)).collect();
    let payloads = vec![r#"["a payload of about the size that a small step has"]"#; batch];
    sqlx::query(
        "insert into floor select 0, '00000000-0000-7000-8000-000000000000', r.seq, 1, r.payload::json, now()
         from unnest($1::integer[], $2::text[]) as r (seq, payload)",
    )
    .bind(&seqs)
    .bind(&payloads)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Bare commits of one row each, one at a time.
pub(crate) struct Commits {
    connection: PgConnection,
}

impl Commits {
    /// Makes the table.
    pub(crate) async fn new(server: &Server) -> Result<Self> {
        let mut connection = server.connect().await?;
        sqlx::query("create table if not exists commits (n integer)").execute(&mut connection).await?;
        Ok(Self { connection })
    }

    /// How long one takes.
    pub(crate) async fn one(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        sqlx::query("insert into commits values (1)").execute(&mut self.connection).await?;
        Ok(begun.elapsed())
    }

    /// Drops the table.
    pub(crate) async fn end(mut self) -> Result<()> {
        sqlx::query("drop table commits").execute(&mut self.connection).await?;
        Ok(self.connection.close().await?)
    }
}

/// What a measured span of `count` things cost, for one, in microseconds.
pub(crate) fn us_per(spent: Cpu, count: usize) -> f64 {
    spent.us() / count.max(1) as f64
}
