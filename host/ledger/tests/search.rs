//! What each condition finds: runs that differ in everything that they can be searched by.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::sync::Arc;

use backstitch_core::{
    Attribute, AttributeChanges, Event, Filter, Op, Run, RunId, RunStatus, Scope, Seq, TenantId, limits,
};
use backstitch_ledger::{Append, Close, Head, Ledger, NewProjection, NewRun, Page, RunFilter, StatusChange};
use common::*;

/// A run under the name of a letter.
struct Told {
    id: &'static str,
    workflow: &'static str,
    started_ms: u64,
    /// When it completed.
    closed_ms: Option<u64>,
    /// Which of the runs before it started it.
    parent: Option<usize>,
    attributes: &'static [(&'static str, Said)],
}

enum Said {
    Text(&'static str),
    Number(f64),
    Flag(bool),
    TimeMs(u64),
    /// It was a text, and was removed.
    Removed,
}

use Said::{Flag, Number, Removed, Text, TimeMs};

const ORDER: Told =
    Told { id: "", workflow: "order", started_ms: 0, closed_ms: None, parent: None, attributes: &[] };
const MAIL: Told = Told { workflow: "mail", ..ORDER };

const RUNS: [Told; 6] = [
    Told {
        id: "a",
        started_ms: 1_000,
        attributes: &[
            ("customer", Text("acme")),
            ("total", Number(10.0)),
            ("express", Flag(true)),
            ("due", TimeMs(5_000)),
        ],
        ..ORDER
    },
    Told {
        id: "b",
        started_ms: 2_000,
        attributes: &[
            ("customer", Text("acme")),
            ("total", Number(20.5)),
            ("express", Flag(false)),
            ("due", TimeMs(6_000)),
        ],
        ..ORDER
    },
    Told {
        id: "c",
        started_ms: 3_000,
        parent: Some(0),
        attributes: &[("customer", Text("Zoë")), ("total", Number(-30.0))],
        ..ORDER
    },
    Told {
        id: "d",
        started_ms: 4_000,
        closed_ms: Some(4_500),
        attributes: &[("customer", Number(5.0)), ("my name", Text("it's \"d\""))],
        ..MAIL
    },
    Told { id: "e", started_ms: 5_000, attributes: &[("customer", Removed)], ..MAIL },
    Told {
        id: "f",
        started_ms: 6_000,
        closed_ms: Some(7_000),
        attributes: &[("customer", Text("acme"))],
        ..MAIL
    },
];

/// Conditions, and the runs that meet them, newest first.
const FOUND: [(&str, &str); 56] = [
    ("status = 'running'", "ecba"),
    ("status != 'running'", "fd"),
    ("status in ('completed', 'failed')", "fd"),
    ("status = 'parked'", ""),
    ("status = 'running' and status = 'completed'", ""),
    ("not status = 'running'", "fd"),
    ("workflow = 'mail'", "fed"),
    ("workflow != 'mail'", "cba"),
    ("workflow < 'order'", "fed"),
    ("workflow <= 'order'", "fedcba"),
    ("workflow > 'mail'", "cba"),
    ("workflow >= 'n'", "cba"),
    ("workflow in ('mail', 'nothing')", "fed"),
    ("workflow_id = 'a'", "a"),
    ("workflow_id in ('a', 'f', 'x')", "fa"),
    ("workflow_id > 'd'", "fe"),
    ("run_id = '{a}'", "a"),
    ("run_id != '{a}'", "fedcb"),
    ("run_id in ('{b}', '{e}')", "eb"),
    ("parent = '{a}'", "c"),
    ("parent in ('{a}', '{b}')", "c"),
    ("parent != '{b}'", "c"),
    ("not parent = '{a}'", "fedba"),
    ("started = 'ms:3000'", "c"),
    ("started < 'ms:3000'", "ba"),
    ("started <= time('ms:3000')", "cba"),
    ("started > 'ms:3000' and started < 'ms:6000'", "ed"),
    ("started in ('ms:1000', time('ms:6000'))", "fa"),
    ("closed >= 'ms:1000'", "fd"),
    ("closed > 'ms:4500'", "f"),
    ("closed != 'ms:4500'", "f"),
    ("not closed > 'ms:4500'", "edcba"),
    ("attributes.customer = 'acme'", "fba"),
    ("attributes.customer != 'acme'", "c"),
    ("not attributes.customer = 'acme'", "edc"),
    ("attributes.customer = 'Zoë'", "c"),
    ("attributes.customer < 'acme'", "c"),
    ("attributes.customer in ('acme', 'Zoë')", "fcba"),
    ("attributes.customer = 5", "d"),
    ("attributes.'my name' = 'it\\'s \"d\"'", "d"),
    ("attributes.total = 20.5", "b"),
    ("attributes.total != 20.5", "ca"),
    ("attributes.total < 0", "c"),
    ("attributes.total <= 10", "ca"),
    ("attributes.total > 10", "b"),
    ("attributes.total >= 1e1", "ba"),
    ("attributes.total in (-30, 10)", "ca"),
    ("attributes.express = true", "a"),
    ("attributes.express != true", "b"),
    ("attributes.express in (true, false)", "ba"),
    ("attributes.due > time('ms:5000')", "b"),
    ("attributes.due in (time('ms:5000'))", "a"),
    ("attributes.due = 'ms:5000'", ""),
    ("attributes.customer = 'acme' and attributes.total > 5 and not attributes.express = true", "b"),
    ("attributes.customer = 'Zoë' or attributes.total = 10 or status = 'completed'", "fdca"),
    ("not (workflow = 'mail' or attributes.total < 15) and (started > 'ms:0')", "b"),
];

#[tokio::test]
async fn a_search_finds_what_meets_its_condition_page_by_page_and_counts_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let ids = tell_all(&mut host).await;
    for (condition, found) in FOUND {
        let searched = search(condition, &ids);
        for limit in [1, 2, 9] {
            let (paged, _) = list(&ledger, SCOPE, &searched, limit).await;
            assert_eq!(paged, found, "{condition}, {limit} to a page");
        }
        let (_, mut statuses) = list(&ledger, SCOPE, &searched, 9).await;
        let counts = ledger.count_runs(SCOPE, &searched).await.unwrap();
        let mut counted: Vec<_> =
            counts.iter().flat_map(|(status, runs)| (0..*runs).map(move |_| *status)).collect();
        statuses.sort_by_key(|status| status.tag());
        counted.sort_by_key(|status| status.tag());
        assert_eq!(counted, statuses, "{condition}");
    }
}

#[tokio::test]
async fn a_condition_narrows_what_else_is_asked_and_stays_with_its_tenant() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let ids = tell_all(&mut host).await;
    let acme = search("attributes.customer = 'acme'", &ids);
    let of = |statuses: &[RunStatus], workflow: Option<&str>| RunFilter {
        statuses: statuses.to_vec(),
        workflow: workflow.map(str::to_owned),
        ..acme.clone()
    };
    let table = [
        (of(&[RunStatus::Running], None), "ba"),
        (of(&[], Some("mail")), "f"),
        (of(&[RunStatus::Running], Some("mail")), ""),
    ];
    for (filter, found) in table {
        assert_eq!(list(&ledger, SCOPE, &filter, 9).await.0, found, "{filter:?}");
        let counts = ledger.count_runs(SCOPE, &filter).await.unwrap();
        assert_eq!(counts.iter().map(|(_, runs)| runs).sum::<u64>(), found.len() as u64, "{filter:?}");
    }
    let elsewhere = ledger.scope(TenantId(2));
    assert_eq!(list(&ledger, elsewhere, &acme, 9).await.0, "");
    assert!(ledger.count_runs(elsewhere, &acme).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_largest_conditions_are_answered() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let ids = tell_all(&mut host).await;
    let comparisons = |joint: &str| {
        let each = (0..limits::FILTER_COMPARISONS_MAX).map(|n| format!("attributes.total != {n}.25"));
        each.collect::<Vec<_>>().join(joint)
    };
    let numbers = (0..limits::FILTER_BYTES_MAX / 5).map(|n| (n % 100).to_string()).collect::<Vec<_>>();
    let depth = limits::FILTER_DEPTH_MAX;
    let table = [
        (comparisons(" and "), "cba"),
        (comparisons(" or "), "cba"),
        (format!("attributes.total in ({})", numbers.join(", ")), "a"),
        (format!("{}attributes.total = 10", "not ".repeat(depth)), "a"),
        (format!("{}attributes.total = 10{}", "(".repeat(depth), ")".repeat(depth)), "a"),
    ];
    for (condition, found) in table {
        let searched = search(&condition, &ids);
        assert_eq!(list(&ledger, SCOPE, &searched, 9).await.0, found, "{condition}");
        let counts = ledger.count_runs(SCOPE, &searched).await.unwrap();
        assert_eq!(counts.iter().map(|(_, runs)| runs).sum::<u64>(), found.len() as u64, "{condition}");
    }
}

async fn tell_all(host: &mut Host) -> Vec<RunId> {
    let mut ids = Vec::new();
    for told in &RUNS {
        ids.push(tell(host, told, &ids).await);
    }
    ids
}

/// Makes a run as `told` says.
async fn tell(host: &mut Host, told: &Told, before: &[RunId]) -> RunId {
    let id = RunId(new_id());
    let mut run = Run::new(id);
    let event =
        Event::RunStarted { workflow: told.workflow.into(), input: json("null"), options: Arc::default() };
    let first = run.append(told.started_ms, &event).unwrap();
    let new = NewRun {
        run: id,
        workflow_id: told.id.into(),
        generation: 0,
        workflow: told.workflow.into(),
        digest: DIGEST,
        parent: told.parent.map(|place| (before[place], Op(0))),
        first,
        further: Vec::new(),
    };
    let projection = |attributes| NewProjection { run: id, entity: None, attributes };
    let at_first = told.attributes.iter().map(|(name, said)| ((*name).into(), Some(attribute(said))));
    let projections = vec![projection(at_first.collect())];
    host.commit(Append { projections, ..Append::start(SCOPE, new) }).await;
    let gone = told.attributes.iter().filter(|(_, said)| matches!(said, Removed));
    let gone: AttributeChanges = gone.map(|(name, _)| ((*name).into(), None)).collect();
    let after = Some(Head { seq: Seq(0), chain: run.chain() });
    let mut last = Append { after, projections: vec![projection(gone)], ..Append::new(SCOPE, id) };
    if let Some(closed_ms) = told.closed_ms {
        let row = run.append(closed_ms, &Event::RunCompleted { output: json("null") }).unwrap();
        last.status = Some(StatusChange::Close(Close {
            status: RunStatus::Completed,
            at_ms: row.at_ms,
            output: row.payload.clone(),
            error: None,
            rows: run.next_seq(),
            chain: row.chain,
        }));
        last.rows.push(row);
    }
    host.commit(last).await;
    id
}

fn attribute(said: &Said) -> Attribute {
    match said {
        Text(text) => Attribute::Text((*text).into()),
        Number(number) => Attribute::Number(*number),
        Flag(flag) => Attribute::Flag(*flag),
        TimeMs(ms) => Attribute::TimeMs(*ms),
        Removed => Attribute::Text("acme".into()),
    }
}

/// A condition in which `{a}` stands for the run id of run `a`.
fn search(condition: &str, ids: &[RunId]) -> RunFilter {
    let named = RUNS.iter().zip(ids).fold(condition.to_owned(), |condition, (told, id)| {
        condition.replace(&format!("{{{}}}", told.id), &id.to_string())
    });
    let time_ms = |text: &str| text.trim_start_matches("ms:").parse().map_err(|_| "no time".to_owned());
    RunFilter { condition: Some(Filter::parse(&named, time_ms).unwrap()), ..RunFilter::default() }
}

/// The letters and the statuses of the runs found, from page to page.
async fn list(ledger: &Ledger, scope: Scope, filter: &RunFilter, limit: u32) -> (String, Vec<RunStatus>) {
    let (mut letters, mut statuses, mut before) = (String::new(), Vec::new(), None);
    loop {
        let page = ledger.list(scope, filter, Page { before, limit }).await.unwrap();
        let Some(last) = page.last() else { return (letters, statuses) };
        assert!(page.len() <= limit as usize);
        before = Some(last.run);
        letters.extend(page.iter().map(|run| run.workflow_id.as_str()));
        statuses.extend(page.iter().map(|run| run.status));
    }
}
