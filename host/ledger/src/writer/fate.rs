//! What became of a statement: from its reply, from the ledger if there was none, or from its error.

use std::collections::HashSet;

use backstitch_core::{Chain, Row, RunId, Scope, Seq};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::append::{self, Appended, Item, PoisonKind};
use crate::confirm::confirm;

/// Says so if a run did not change that should have. While the lease lives that cannot be, so it is a
/// defect of the host, or someone else's hand in the table.
pub(super) fn check_changes(items: &[Item], appended: &Appended) {
    let expected = items.iter().filter(|item| item.append.status.is_some()).count();
    if appended.changed.cast_unsigned() != expected as u64 {
        tracing::error!(
            expected,
            changed = appended.changed,
            "the status of some runs was not changed: they are closed, or have another owner"
        );
    }
}

/// The new runs of the batch that the statement did not start.
pub(super) fn refused(items: &[Item], appended: &Appended) -> Vec<RunId> {
    let new_runs = || items.iter().flat_map(|item| &item.append.new_runs).map(|new| new.run);
    if new_runs().count() == appended.started.len() {
        return Vec::new();
    }
    let started: HashSet<_> = appended.started.iter().copied().collect();
    new_runs().filter(|run| !started.contains(&run.0)).collect()
}

fn keys<'a>(rows: impl Iterator<Item = (RunId, &'a Row)>) -> Vec<(RunId, Seq, Chain)> {
    rows.map(|(run, row)| (run, row.seq, row.chain)).collect()
}

/// The starts of the batch that are in the ledger just as given.
pub(super) async fn starts_of_ours(
    connection: &mut PgConnection,
    scope: Scope,
    items: &[Item],
) -> Result<HashSet<RunId>, sqlx::Error> {
    let starts = items.iter().flat_map(|item| &item.append.new_runs).map(|new| (new.run, &new.first));
    let found = append::read_back(connection, scope, &keys(starts)).await?;
    Ok(found.into_iter().map(|(run, _)| run).collect())
}

/// Whether a statement of unknown fate was committed: a row of an open run tells for all of it. None:
/// it was not, or it has no such row and may be repeated.
pub(super) async fn probe_commit(
    connection: &mut PgConnection,
    scope: Scope,
    items: &[Item],
) -> Result<Option<Settled>, sqlx::Error> {
    // Not one that is started here: it may have been refused.
    let grown =
        items.iter().find(|Item { append, .. }| !append.rows.is_empty() && !append.starts(append.run));
    let Some(append) = grown.map(|item| &item.append) else { return Ok(None) };
    let rows = keys(append.rows.iter().map(|row| (append.run, row)));
    if append::read_back(connection, scope, &rows).await?.is_empty() {
        return Ok(None);
    }
    let ours = starts_of_ours(connection, scope, items).await?;
    let new_runs = items.iter().flat_map(|item| &item.append.new_runs).map(|new| new.run);
    Ok(Some(Settled::Committed { refused: new_runs.filter(|run| !ours.contains(run)).collect() }))
}

/// What an error of the data means. For one item whose rows are all there already, exactly as given, it
/// means that it was sent twice.
pub(super) async fn classify_data_error(
    connection: &mut PgConnection,
    scope: Scope,
    items: &[Item],
    error: &sqlx::Error,
) -> Result<Settled, sqlx::Error> {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    let kind = if code.as_deref() == Some("23505") { PoisonKind::SeqTaken } else { PoisonKind::BadData };
    if let ([item], PoisonKind::SeqTaken) = (items, kind) {
        let rows = keys(item.append.rows.iter().map(|row| (item.append.run, row)));
        let found = append::read_back(connection, scope, &rows).await?;
        if !rows.is_empty() && found.len() == rows.len() {
            confirm(&mut *connection).await?;
            let ours = starts_of_ours(connection, scope, items).await?;
            let new_runs = item.append.new_runs.iter().map(|new| new.run);
            return Ok(Settled::Committed { refused: new_runs.filter(|run| !ours.contains(run)).collect() });
        }
    }
    Ok(Settled::Guilty { kind, message: error.to_string() })
}

/// What became of one statement.
pub(super) enum Settled {
    Committed {
        refused: Vec<RunId>,
    },
    Fenced,
    /// Nothing was written, for the ledgers of these runs do not go as far as their items say.
    Behind {
        runs: Vec<Uuid>,
    },
    /// It took too long, most likely for a lock. Nothing of it was written. If the statement had several items, it is not
    /// known whose.
    LockTimeout {
        /// A statement with the same items was of unknown fate once.
        repeated: bool,
    },
    /// The data is at fault. If the statement had several items, it is not known whose.
    Guilty {
        kind: PoisonKind,
        message: String,
    },
}
