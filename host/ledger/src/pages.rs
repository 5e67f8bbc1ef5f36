//! Ledgers page by page. A page is bounded in bytes as well as in rows, and read by short statements: a row may have
//! 256 KiB in it, and refer to 2 MiB beside it, so that a number of rows says nothing about what they take.

use backstitch_core::{Row, RunId, Seq, limits};
use sqlx::postgres::PgBindIterExt;

use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::payloads::{Reference, reference};
use crate::runs::{ClosedRow, columns, ledger_row};

/// Rows of the first statement of a check; those that follow ask for more while rows are small.
const ROWS_FIRST: u32 = 64;
/// Rows of one statement, if they are small.
const ROWS_MAX: u32 = 4_096;

/// A way along a run's ledger, from its first row to its last. Each page costs one or two statements.
#[derive(Debug)]
pub struct Pages {
    ledger: Ledger,
    run: RunId,
    after: Option<Seq>,
    page_size: PageSize,
    is_over: bool,
}

/// Rows to be shown: payloads out of row stay where they are.
#[derive(Debug)]
pub struct ShownRows {
    /// In order.
    pub rows: Vec<(Row, Option<Reference>)>,
    /// Where to go on; none: these were the last ones.
    pub next: Option<Seq>,
}

impl Ledger {
    /// All rows of a run, those at places that no run has included.
    pub fn pages(&self, run: RunId) -> Pages {
        Pages { ledger: self.clone(), run, after: None, page_size: PageSize::default(), is_over: false }
    }

    /// The rows of a run from `from` on.
    pub fn pages_from(&self, run: RunId, from: Seq) -> Pages {
        Pages { after: from.0.checked_sub(1).map(Seq), ..self.pages(run) }
    }

    /// Rows of a run from `from` on, to be shown: at most `limit`, and at most `bytes_max` of text unless one row alone
    /// has more. What cannot be opened is left out. Reads only.
    pub async fn shown_rows(
        &self,
        run: RunId,
        from: Seq,
        limit: u32,
        bytes_max: usize,
    ) -> Result<ShownRows, LedgerError> {
        let mut after = from.0.checked_sub(1).map(Seq);
        let (mut closed, mut bytes, mut page_size) = (Vec::new(), 0, PageSize::default());
        let mut is_over = false;
        while !is_over && closed.len() < limit as usize {
            let asked = page_size.rows.min(limit - closed.len() as u32);
            let rows = self.rows_after(run, after, asked).await?;
            is_over = rows.len() < asked as usize;
            let fitting = fitting(&rows, bytes_max.saturating_sub(bytes), shown_bytes);
            let keep = fitting.rows.max(usize::from(closed.is_empty()));
            let is_cut = keep < rows.len();
            bytes += fitting.bytes;
            page_size.adapt(&fitting, is_cut);
            closed.extend(rows.into_iter().take(keep));
            after = closed.last().map(|row| row.row.seq).or(after);
            if is_cut {
                is_over = false;
                break;
            }
        }
        let next = after.filter(|_| !is_over && !closed.is_empty()).map(|last| Seq(last.0 + 1));
        let mut references: Vec<Option<Reference>> = Vec::with_capacity(closed.len());
        for row in &mut closed {
            let reference = row.row.payload.as_deref().and_then(reference);
            row.row.payload.take_if(|_| reference.is_some());
            references.push(reference);
        }
        self.open_some(&mut columns(&mut closed)).await?;
        Ok(ShownRows { rows: closed.into_iter().map(|row| row.row).zip(references).collect(), next })
    }

    /// The whole ledgers of those of these runs that are small: at most [`limits::LEDGER_ROWS_SMALL`] rows and
    /// [`limits::LEDGER_BYTES_SMALL`], in the order of `runs`. None: it is larger. Reads only.
    ///
    /// A payload that cannot be opened is left in its stored form, which its row's checksum does not fit.
    pub async fn small_ledgers(&self, runs: &[RunId]) -> Result<Vec<(RunId, Option<Vec<Row>>)>, LedgerError> {
        // A join, not `= any (…)`: only so does each run look into its own partition alone. What is too large is
        // seen by the server, and does not come here.
        let rows = sqlx::query(
            "select l.run_id, l.seq, l.kind, l.op, l.name, l.payload::text, l.detail::text, l.attempt, l.at,
                    l.chain, l.tenant, l.rows_there
             from unnest($2::uuid[]) with ordinality as wanted (run_id, place)
             cross join lateral (
                 select first.*, count(*) over () as rows_there,
                        sum(coalesce(octet_length(first.payload::text), 0)
                            + coalesce(octet_length(first.detail::text), 0)) over (order by first.seq) as bytes
                 from (select run_id, seq, kind, op, name, payload, detail, attempt, at, chain, tenant
                       from ledger where shard = $1 and ledger.run_id = wanted.run_id
                       order by seq limit $3) as first
             ) l
             where l.bytes <= $4
             order by wanted.place, l.seq",
        )
        .bind(self.shard.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .bind(i64::from(limits::LEDGER_ROWS_SMALL) + 1)
        .bind(i64::try_from(limits::LEDGER_BYTES_SMALL).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push((ledger_row(row)?, sqlx::Row::try_get::<i64, _>(row, 11)?));
        }
        let mut found = found.into_iter().peekable();
        let mut ledgers = Vec::with_capacity(runs.len());
        for run in runs {
            let (mut closed, mut there) = (Vec::new(), 0);
            while let Some((row, rows_there)) = found.next_if(|(row, _)| row.run == run.0) {
                closed.push(row);
                there = rows_there;
            }
            let bytes: usize = closed.iter().map(opened_bytes).sum();
            let is_whole = i64::try_from(closed.len()) == Ok(there)
                && there <= i64::from(limits::LEDGER_ROWS_SMALL)
                && bytes <= limits::LEDGER_BYTES_SMALL;
            // One whose very first row is large gives no row at all, as one that has none.
            ledgers.push((*run, (is_whole && !closed.is_empty()).then_some(closed)));
        }
        let mut texts: Vec<_> =
            ledgers.iter_mut().filter_map(|(_, rows)| rows.as_deref_mut()).flat_map(columns).collect();
        self.open_or_leave(&mut texts).await?;
        drop(texts);
        let opened = |rows: Vec<ClosedRow>| rows.into_iter().map(|row| row.row).collect();
        Ok(ledgers.into_iter().map(|(run, rows)| (run, rows.map(opened))).collect())
    }

    async fn rows_after(
        &self,
        run: RunId,
        after: Option<Seq>,
        limit: u32,
    ) -> Result<Vec<ClosedRow>, LedgerError> {
        let rows = sqlx::query(
            "select run_id, seq, kind, op, name, payload::text, detail::text, attempt, at, chain, tenant
             from ledger where shard = $1 and run_id = $2 and seq >= $3 order by seq limit $4",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .bind(after.map_or(i32::MIN, |after| after.0.cast_signed().saturating_add(1)))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(ledger_row).collect::<Result<_, _>>()?)
    }
}

impl Pages {
    /// The next rows, and how many bytes they take: at most [`limits::LEDGER_PAGE_BYTES`], unless one row alone has
    /// more. None: there are no more now. After an error the same rows come again. The caller checks the chain.
    ///
    /// A payload that cannot be opened is left in its stored form, which its row's checksum does not fit.
    pub async fn next(&mut self) -> Result<Option<(Vec<Row>, usize)>, LedgerError> {
        if std::mem::take(&mut self.is_over) {
            return Ok(None);
        }
        let asked = self.page_size.rows;
        let mut closed = self.ledger.rows_after(self.run, self.after, asked).await?;
        let fitting = fitting(&closed, limits::LEDGER_PAGE_BYTES, opened_bytes);
        let keep = fitting.rows.max(1).min(closed.len());
        let is_cut = keep < closed.len();
        let is_over = !is_cut && closed.len() < asked as usize;
        closed.truncate(keep);
        self.ledger.open_or_leave(&mut columns(&mut closed)).await?;
        let bytes = closed.iter().map(|row| row_bytes(&row.row)).sum();
        self.page_size.adapt(&fitting, is_cut);
        let Some(last) = closed.last() else { return Ok(None) };
        (self.after, self.is_over) = (Some(last.row.seq), is_over);
        Ok(Some((closed.into_iter().map(|row| row.row).collect(), bytes)))
    }
}

/// How many rows the next statement asks for.
#[derive(Debug)]
struct PageSize {
    rows: u32,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { rows: ROWS_FIRST }
    }
}

impl PageSize {
    fn adapt(&mut self, fitting: &Fitting, is_cut: bool) {
        if is_cut {
            // Rows beyond the cut were read for nothing.
            self.rows = u32::try_from(fitting.rows).unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
        } else if fitting.bytes < limits::LEDGER_PAGE_BYTES / 4 {
            self.rows = (self.rows * 2).min(ROWS_MAX);
        }
    }
}

/// What of some rows fits.
struct Fitting {
    rows: usize,
    bytes: usize,
}

fn fitting(rows: &[ClosedRow], bytes_max: usize, size: impl Fn(&ClosedRow) -> usize) -> Fitting {
    let mut fitting = Fitting { rows: 0, bytes: 0 };
    for row in rows {
        let bytes = fitting.bytes + size(row);
        if bytes > bytes_max {
            break;
        }
        fitting = Fitting { rows: fitting.rows + 1, bytes };
    }
    fitting
}

/// What a row takes in memory, about.
fn row_bytes(row: &Row) -> usize {
    row.text_bytes() + limits::ROW_BYTES
}

/// The same, once its payload is opened.
fn opened_bytes(row: &ClosedRow) -> usize {
    let reference = row.row.payload.as_deref().and_then(reference);
    row_bytes(&row.row)
        + reference.map_or(0, |reference| usize::try_from(reference.bytes).unwrap_or(usize::MAX / 2))
}

/// The same, as it is shown.
fn shown_bytes(row: &ClosedRow) -> usize {
    row_bytes(&row.row)
}
