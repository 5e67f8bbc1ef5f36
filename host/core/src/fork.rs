//! A new run from the first rows of another: the ledger up to a row, chained anew under another identity.
//!
//! The new run's guest repeats those rows and goes on from there: it draws the random numbers of the
//! original as far as those rows go and its own afterwards, reads the same clock, and gets the outcomes that are recorded. What was open at the cut is
//! open again: timers keep their time, calls that had no outcome are made again under the new run's
//! idempotency keys, children that had none are started again as the new run's own.
//!
//! Decides only; whoever calls this writes the rows and what they set in motion.

use std::sync::Arc;

use crate::event::Event;
use crate::ids::{Chain, RunId, Seq};
use crate::limits;
use crate::projection::Projection;
use crate::random::{Seed, Source};
use crate::row::Row;
use crate::run::{Corrupt, Run};
use crate::start::{Forked, StartOptions};

/// A run to be inserted, and what it knows.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The fold over its rows.
    pub run: Run,
    /// Its ledger.
    pub rows: Vec<Row>,
    /// What it has said about itself.
    pub projection: Projection,
}

/// Why there is no such fork. The operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unforkable {
    /// The ledger is damaged.
    #[error("the ledger is damaged: {0}")]
    Corrupt(#[from] Corrupt),
    /// There is no such row.
    #[error("row {at} is not there: the ledger has {rows} rows, 0 to {}", rows.0.saturating_sub(1))]
    Beyond {
        /// The row asked for.
        at: Seq,
        /// Rows that there are.
        rows: Seq,
    },
    /// The row closes the run: nothing can follow it.
    #[error("row {at} closes the run; the last row to fork at is {}", at.0.saturating_sub(1))]
    Closing {
        /// The row asked for.
        at: Seq,
    },
}

/// The run `into`, which begins with the rows of `from` up to and including row `at`, each at its place: a guest may ask how
/// many rows there are, and draws numbers by the places of rows. If `from` was paused there, one more row resumes the new
/// run. `head` is where the ledger of a closed run ended; from `seed` the new run draws
/// what is not among those rows.
pub fn fork(
    from: RunId,
    rows: &[Row],
    head: Option<(Seq, Chain)>,
    at: Seq,
    into: RunId,
    seed: Seed,
) -> Result<Fork, Unforkable> {
    let (_, mut events) = Run::load_closed(from, rows, head)?;
    let there = Seq(u32::try_from(rows.len()).unwrap_or(u32::MAX));
    if at >= there {
        return Err(Unforkable::Beyond { at, rows: there });
    }
    events.truncate(at.0 as usize + 1);
    let cut = Seq(at.0 + 1);
    let mut forked = Fork {
        run: Run::new(into),
        rows: Vec::with_capacity(events.len()),
        projection: Projection::default(),
    };
    for (event, row) in events.into_iter().zip(rows) {
        let event = match event {
            Event::RunStarted { workflow, input, options } => {
                let options = Arc::new(descended(&options, from, at, Source { from: cut, seed }));
                Event::RunStarted { workflow, input, options }
            }
            other => other,
        };
        forked.projection.apply(&event);
        let chained = forked.run.append(row.at_ms, &event);
        let illegal = |illegal| Corrupt::Illegal { seq: row.seq, illegal };
        forked.rows.push(chained.map_err(illegal)?);
    }
    if forked.run.is_paused() {
        let resumed = Event::RunResumed { reason: format!("it goes on from row {at} of run {from}") };
        let chained = forked.run.append(rows[at.0 as usize].at_ms, &resumed);
        forked.rows.push(chained.map_err(|illegal| Corrupt::Illegal { seq: cut, illegal })?);
    }
    if forked.run.is_open() { Ok(forked) } else { Err(Unforkable::Closing { at }) }
}

/// The terms of a fork: no deadline that has passed while it was not there.
fn descended(options: &StartOptions, from: RunId, at: Seq, own: Source) -> StartOptions {
    // Of what another fork drew behind this cut, nothing is repeated.
    let mut random: Vec<Source> =
        options.random.iter().filter(|source| source.from < own.from).cloned().collect();
    if random.len() < limits::RANDOM_SOURCES_MAX {
        random.push(own);
    }
    let forked = Forked { run: from, rows: Seq(at.0 + 1), original: options.original(from) };
    StartOptions {
        forked: Some(forked),
        random,
        run_timeout_ms: None,
        execution_deadline_ms: None,
        ..options.clone()
    }
}
