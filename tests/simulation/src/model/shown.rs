//! The tables as text, a line for each row: what is compared with another database, or with the same one of another time.

use std::fmt::Display;

use backstitch_core::Attribute;

use super::database::Database;
use super::rows::Trial;

/// The columns of a row, as `concat_ws` puts them together.
macro_rules! line {
    ($table:literal, $($column:expr),+ $(,)?) => {
        [$table.to_owned(), $($column.to_string()),+].join("|")
    };
}

impl Database {
    /// Every row of every table, sorted. A time that the database has made itself is shown as past or future.
    pub fn shown(&self, now_ms: u64) -> Vec<String> {
        let tables = self.tables();
        let mut lines = Vec::new();
        for (host, lease) in tables.leases.iter() {
            let is_overdue = lease.heartbeat_ms.saturating_add(lease.lease_ms) < now_ms;
            lines.push(line!(
                "lease",
                host,
                lease.epoch,
                lease.lease_ms,
                lease.dead,
                lease.released,
                is_overdue
            ));
        }
        for (id, run) in tables.runs.iter() {
            let (trial, trial_op) = match run.trial {
                Trial::Over => (0, None),
                Trial::Unreplayed => (1, None),
                Trial::On(op) => (2, op),
            };
            lines.push(line!(
                "run",
                id,
                run.tenant,
                run.workflow_id,
                run.generation,
                run.workflow,
                run.status.tag(),
                or_dash(run.owner),
                or_dash(run.parent.map(|(run, _)| run)),
                or_dash(run.parent.map(|(_, op)| op)),
                or_dash(run.output.as_deref()),
                or_dash(run.error.as_deref()),
                or_dash(run.fault.as_deref()),
                or_dash(run.end.map(|(rows, _)| rows)),
                or_dash(run.end.map(|(_, chain)| chain.0.cast_signed())),
                run.losses,
                trial,
                or_dash(trial_op),
                run.started_ms,
                or_dash(run.closed_ms),
            ));
        }
        self.show_rows(&mut lines);
        for ((run, op), timer) in tables.timers.iter() {
            let (op, owner) = (op.0.cast_signed(), or_dash(timer.owner));
            lines.push(line!("timer", run, timer.tenant, op, timer.due_ms, timer.purpose, owner));
        }
        self.show_tasks(now_ms, &mut lines);
        for (run, (tenant, document)) in tables.entities.iter() {
            lines.push(line!("entity", run, tenant, document));
        }
        for ((run, name), (tenant, value)) in tables.attributes.iter() {
            lines.push(line!("attribute", run, tenant, name, or_dash(value.as_ref().map(shown_value))));
        }
        lines.sort_unstable();
        lines
    }

    fn show_rows(&self, lines: &mut Vec<String>) {
        let tables = self.tables();
        for (run, rows) in tables.ledger.iter() {
            lines.extend(rows.values().map(|(tenant, row)| {
                line!(
                    "row",
                    run,
                    tenant,
                    row.seq,
                    row.kind,
                    or_dash(row.op),
                    or_dash(row.name.as_deref()),
                    or_dash(row.payload.as_deref()),
                    or_dash(row.detail.as_deref()),
                    or_dash(row.attempt),
                    row.at_ms,
                    row.chain.0.cast_signed(),
                )
            }));
        }
        for ((run, item), message) in tables.inbox.iter() {
            let row = &message.row;
            lines.push(line!(
                "item",
                run,
                item,
                message.tenant,
                row.kind,
                or_dash(row.op),
                or_dash(row.name.as_deref()),
                or_dash(row.payload.as_deref()),
                or_dash(row.detail.as_deref()),
                message.at_ms,
                or_dash(message.owner),
            ));
        }
    }

    fn show_tasks(&self, now_ms: u64, lines: &mut Vec<String>) {
        let when = |bound: Option<u64>| match bound {
            None => "-",
            Some(bound) if bound <= now_ms => "past",
            Some(_) => "future",
        };
        for ((run, op), task) in self.tables().tasks.iter() {
            lines.push(line!(
                "task",
                run,
                task.tenant,
                op,
                task.seq,
                task.attempt,
                task.task_queue,
                task.name,
                task.priority,
                or_dash(task.start_by_ms),
                or_dash(task.close_by_ms),
                or_dash(task.attempt_ms),
                or_dash(task.heartbeat_timeout_ms),
                or_dash(task.heartbeat.as_deref()),
                or_dash(task.lease.map(|lease| lease.0)),
                or_dash(task.lease_ms),
                when(task.leased_until_ms),
                when(task.deadline_ms),
                or_dash(task.worker.as_deref()),
                task.given_up,
            ));
        }
    }
}

fn shown_value(value: &Attribute) -> String {
    match value {
        Attribute::Text(text) => format!("t{text}"),
        Attribute::Number(number) => format!("n{number}"),
        Attribute::Flag(flag) => format!("f{flag}"),
        Attribute::TimeMs(ms) => format!("m{ms}"),
    }
}

fn or_dash(column: Option<impl Display>) -> String {
    column.map_or_else(|| "-".to_owned(), |column| column.to_string())
}
