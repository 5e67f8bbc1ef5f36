//! How much of a page of messages one check brings: so many bytes, whatever waits. A page is bounded in rows, and a row may
//! refer to 2 MiB.
//!
//! The oldest of each run come first, so whoever sends large ones without end keeps nobody else's from being read. What
//! does not fit stays in the database with what its run has behind it, and is found by the next check.

use std::collections::{HashMap, HashSet};

use backstitch_core::limits;
use uuid::Uuid;

use super::ItemRow;
use crate::payloads::reference;

/// Those of these messages that fit [`limits::INBOX_CHECK_BYTES_MAX`], in their order: those of one run from its first on.
pub(super) fn fitting(rows: Vec<ItemRow>) -> Vec<ItemRow> {
    let sizes: Vec<_> = rows.iter().map(|row| (row.run_id, row.item_id, bytes(row))).collect();
    let mut fit = chosen(&sizes, limits::INBOX_CHECK_BYTES_MAX).into_iter();
    rows.into_iter().filter(|_| fit.next().unwrap_or(false)).collect()
}

/// What a message takes once its payload is there.
fn bytes(row: &ItemRow) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let out_of_row = row.payload.as_deref().and_then(reference).map_or(0, |reference| reference.bytes);
    text(&row.payload) + text(&row.detail) + usize::try_from(out_of_row).unwrap_or(usize::MAX / 2)
}

/// Which of these messages fit, each by its run, its id and its size; those of one run are in order. One always does.
fn chosen(messages: &[(Uuid, Uuid, usize)], bytes_max: usize) -> Vec<bool> {
    let mut before: HashMap<Uuid, u32> = HashMap::new();
    let mut order: Vec<(u32, Uuid, usize)> = Vec::with_capacity(messages.len());
    for (index, (run, item, _)) in messages.iter().enumerate() {
        let rank = before.entry(*run).or_default();
        order.push((*rank, *item, index));
        *rank += 1;
    }
    order.sort_unstable();
    let (mut fit, mut taken, mut is_first) = (vec![false; messages.len()], 0_usize, true);
    let mut cut: HashSet<Uuid> = HashSet::new();
    for (_, _, index) in order {
        let (run, _, bytes) = messages[index];
        if cut.contains(&run) {
            continue;
        }
        if taken.saturating_add(bytes) > bytes_max && !is_first {
            cut.insert(run);
            continue;
        }
        (fit[index], taken, is_first) = (true, taken.saturating_add(bytes), false);
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(messages: &[(u128, u128, usize)], bytes_max: usize) -> Vec<u128> {
        let known: Vec<_> = messages
            .iter()
            .map(|(run, item, bytes)| (Uuid::from_u128(*run), Uuid::from_u128(*item), *bytes))
            .collect();
        let fit = chosen(&known, bytes_max);
        messages.iter().zip(fit).filter_map(|((_, item, _), fits)| fits.then_some(*item)).collect()
    }

    #[test]
    fn a_check_brings_so_many_bytes_the_oldest_of_each_run_first() {
        assert_eq!(fits(&[(1, 1, 4), (1, 2, 4), (2, 3, 4)], 12), [1, 2, 3]);
        // The first of each come before the second of any.
        assert_eq!(fits(&[(1, 1, 4), (1, 2, 4), (2, 3, 4)], 8), [1, 3]);
        // The oldest of those, whatever the order of their runs.
        assert_eq!(fits(&[(1, 9, 8), (2, 3, 8), (3, 5, 8)], 8), [3]);
        // A small one finds room behind a large one that has none, and nothing passes its own run's.
        assert_eq!(fits(&[(1, 1, 4), (2, 2, 9), (2, 3, 1), (3, 4, 2)], 8), [1, 4]);
        // One always comes.
        assert_eq!(fits(&[(1, 1, 100), (2, 2, 1)], 8), [1]);
        assert_eq!(fits(&[], 8), [0; 0]);
    }
}
