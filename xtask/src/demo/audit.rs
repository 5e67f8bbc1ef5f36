//! What must be true after the crash, checked against two witnesses: the ledgers, which Postgres kept,
//! and the hosts' logs, to which each attempt was written when it began.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use backstitch_client::views::{RowView, RunView};
use jiff::Timestamp;
use serde::Deserialize;

/// One attempt of an activity, as a host logged it when it began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub(super) run: String,
    pub(super) op: u32,
    pub(super) attempt: u32,
}

/// Everything that was seen.
pub(super) struct Story {
    /// When the second host was started: nothing ran between the kill and this moment.
    pub(super) respawned_ms: u64,
    /// By workflow id.
    pub(super) runs: BTreeMap<String, RunView>,
    /// By run id.
    pub(super) ledgers: BTreeMap<String, Vec<RowView>>,
    /// Of the first and the second host.
    pub(super) attempts: [Vec<Attempt>; 2],
    /// Ledgers that their component repeats.
    pub(super) identical: usize,
}

/// Reads the attempts out of a host's log. A line that the kill cut off is none.
pub(super) fn attempts(log: &str) -> Vec<Attempt> {
    #[derive(Deserialize)]
    struct Line {
        target: String,
        run: Option<String>,
        op: Option<Number>,
        attempt: Option<Number>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(u32),
        Text(String),
    }
    let number = |number| match number {
        Number::Number(number) => Some(number),
        Number::Text(text) => text.parse().ok(),
    };
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let lines = lines.filter(|line| line.target == "backstitch::activity");
    lines
        .filter_map(|line| {
            Some(Attempt { run: line.run?, op: number(line.op?)?, attempt: number(line.attempt?)? })
        })
        .collect()
}

impl Story {
    /// Outcomes of attempts that the ledgers hold: of those before the kill, or of all.
    pub(super) fn recorded(&self, before_kill: bool) -> BTreeSet<Attempt> {
        let rows = self.ledgers.iter().flat_map(|(run, rows)| rows.iter().map(move |row| (run, row)));
        let outcomes = rows.filter(|(_, row)| {
            matches!(row.kind.as_str(), "activity-completed" | "activity-failed" | "activity-attempt-failed")
        });
        outcomes
            .filter(|(_, row)| !before_kill || at_ms(row) < self.respawned_ms)
            .filter_map(|(run, row)| Some(Attempt { run: run.clone(), op: row.op?.0, attempt: row.attempt? }))
            .collect()
    }

    /// Attempts whose outcome was recorded before the kill and that ran again nevertheless.
    pub(super) fn repeated_in_vain(&self) -> Vec<Attempt> {
        let recorded = self.recorded(true);
        self.attempts[1].iter().filter(|attempt| recorded.contains(attempt)).cloned().collect()
    }

    /// Attempts that were under way at the kill: begun, not recorded, and begun again.
    pub(super) fn repeated_in_flight(&self) -> usize {
        let first: BTreeSet<&Attempt> = self.attempts[0].iter().collect();
        let second: BTreeSet<&Attempt> = self.attempts[1].iter().collect();
        first.intersection(&second).count()
    }

    /// How many runs had closed, and how many were open, when the host was killed.
    pub(super) fn at_kill(&self) -> (usize, usize) {
        let before = |row: Option<&RowView>| row.is_some_and(|row| at_ms(row) < self.respawned_ms);
        let started = self.ledgers.values().filter(|rows| before(rows.first())).count();
        let closed = self.ledgers.values().filter(|rows| before(rows.last())).count();
        (closed, started - closed)
    }

    /// When the second host recorded its first row.
    pub(super) fn first_row_after_ms(&self) -> Option<u64> {
        let rows = self.ledgers.values().flatten().map(at_ms);
        rows.filter(|at_ms| *at_ms >= self.respawned_ms).min()
    }
}

/// When a row was recorded.
pub(super) fn at_ms(row: &RowView) -> u64 {
    let at: Option<Timestamp> = row.at.parse().ok();
    at.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or(u64::MAX)
}

/// Fails with what is not as promised.
pub(super) fn verdict(story: &Story, orders: usize) -> anyhow::Result<()> {
    ensure!(story.runs.len() == orders, "{orders} orders, {} runs", story.runs.len());
    let (closed, open) = story.at_kill();
    ensure!(open > 0, "the kill came too late to prove anything: {closed} runs had closed, none was open");
    let twice = story.repeated_in_vain();
    ensure!(twice.is_empty(), "recorded before the kill, and done again: {twice:?}");
    let begun: BTreeSet<&Attempt> = story.attempts.iter().flatten().collect();
    let recorded = story.recorded(false);
    let unseen: Vec<&Attempt> = recorded.iter().filter(|attempt| !begun.contains(attempt)).collect();
    ensure!(unseen.is_empty(), "recorded, but no host ever began it: {unseen:?}");
    ensure!(story.identical == orders, "{} of {orders} ledgers do not replay", orders - story.identical);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{Op, Seq};

    const KILLED_MS: u64 = 1_767_225_600_000;

    fn row(seq: u32, kind: &str, op: Option<u32>, offset_ms: i64) -> RowView {
        let at = Timestamp::from_millisecond(KILLED_MS as i64 + offset_ms).unwrap();
        RowView {
            seq: Seq(seq),
            kind: kind.into(),
            op: op.map(Op),
            name: None,
            stored: None,
            payload: None,
            detail: None,
            attempt: op.map(|_| 1),
            at: at.to_string(),
        }
    }

    fn attempt(op: u32) -> Attempt {
        Attempt { run: "r".into(), op, attempt: 1 }
    }

    /// Op 0 was recorded before the kill, op 1 was under way, op 2 came after.
    fn story(second: Vec<Attempt>) -> Story {
        let rows = vec![
            row(0, "run-started", None, -30),
            row(1, "activity-completed", Some(0), -20),
            row(2, "activity-completed", Some(1), 40),
            row(3, "activity-completed", Some(2), 50),
            row(4, "run-completed", None, 60),
        ];
        Story {
            respawned_ms: KILLED_MS,
            runs: BTreeMap::new(),
            ledgers: BTreeMap::from([("r".into(), rows)]),
            attempts: [vec![attempt(0), attempt(1)], second],
            identical: 0,
        }
    }

    #[test]
    fn work_under_way_may_be_repeated_but_nothing_that_was_recorded() {
        let good = story(vec![attempt(1), attempt(2)]);
        assert_eq!(good.repeated_in_vain(), []);
        assert_eq!((good.repeated_in_flight(), good.at_kill()), (1, (0, 1)));
        assert_eq!(good.first_row_after_ms(), Some(KILLED_MS + 40));
        assert!(verdict(&good, 0).is_ok());
        let bad = story(vec![attempt(0), attempt(1), attempt(2)]);
        assert_eq!(bad.repeated_in_vain(), [attempt(0)]);
        assert!(verdict(&bad, 0).unwrap_err().to_string().starts_with("recorded before the kill"));
    }

    #[test]
    fn an_outcome_that_nobody_worked_for_is_noticed() {
        let error = verdict(&story(vec![attempt(1)]), 0).unwrap_err().to_string();
        assert!(error.starts_with("recorded, but no host ever began it"), "{error}");
    }

    #[test]
    fn attempts_are_read_from_a_log_that_breaks_off() {
        let log = concat!(
            r#"{"level":"DEBUG","target":"backstitch::activity","run":"r","op":"0","attempt":1,"name":"x"}"#,
            "\n",
            r#"{"level":"INFO","target":"backstitch::host","message":"registered"}"#,
            "\n",
            r#"{"level":"DEBUG","target":"backstitch::activity","run":"r","op":1,"attempt":1}"#,
            "\n",
            r#"{"level":"DEBUG","target":"backstitch::acti"#,
        );
        assert_eq!(attempts(log), [attempt(0), attempt(1)]);
    }
}
