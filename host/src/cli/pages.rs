//! Listings that take several requests.

use super::exit::CliResult;
use super::output::Output;

/// What comes of a page: its rows, and where the next one begins.
pub(super) type Page<T> = (Vec<T>, Option<String>);

/// Rows of as many pages as it takes for `limit` of them (none: all), each of at most `page_rows`. `ask` gets a
/// page: so many rows, from this cursor on. Says so if there are more.
pub(super) async fn pages<T>(
    limit: Option<u32>,
    page_rows: u32,
    out: Output,
    mut ask: impl AsyncFnMut(u32, Option<String>) -> CliResult<Page<T>>,
) -> CliResult<Page<T>> {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut rows = Vec::new();
    let mut cursor = None;
    while rows.len() < limit {
        let left = u32::try_from(limit - rows.len()).unwrap_or(page_rows);
        let (page, next) = ask(page_rows.min(left), cursor).await?;
        rows.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    if cursor.is_some() {
        out.note("there are more: --limit or --all shows them");
    }
    Ok((rows, cursor))
}
