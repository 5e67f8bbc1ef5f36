//! Database checks of the inbox: nobody waits for somebody else's messages, and what a run cannot hear is not read.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, read the clock and make their own ids"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::inbox::MessageRow;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Message, Op, RunId, RunStatus, TaskLease, TaskToken, limits};
use backstitch_ledger::{
    Append, Ledger, NewItem, NewProjection, NewTimer, Outcome, PassedOn, Posted, Reader, StatusChange,
    TaskCheck, Unread,
};
use common::*;
use uuid::Uuid;

fn signal(payload: &str) -> Message {
    Message::Signal { name: "s".into(), payload: json(payload), id: None }
}

fn reason() -> String {
    "r".to_owned()
}

async fn post(ledger: &Ledger, run: RunId, message: &Message) -> Uuid {
    let item = new_id();
    let posted = ledger.post(SCOPE, run, item, now_ms(), &message.to_row()).await.unwrap();
    assert!(matches!(posted, Posted::Accepted { .. }), "{posted:?}");
    item
}

/// Puts signals into an inbox past every bound.
async fn flood(ledger: &Ledger, run: RunId, count: i32) {
    sqlx::query(
        "insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at, owner)
         select shard, tenant, run_id, ('0190' || lpad(to_hex(n), 28, '0'))::uuid, 1, 's', '1', now(), owner
         from runs, generate_series(1, $2) n where run_id = $1",
    )
    .bind(run.0)
    .bind(count)
    .execute(&mut session(&ledger.options().url).await)
    .await
    .unwrap();
}

async fn read(ledger: &Ledger, host: &Host, readers: &[Reader], limit: i64) -> Vec<(RunId, Message)> {
    let heard = ledger.inbox_of(host.id, readers, &[], limit).await.unwrap();
    assert!(heard.unreadable.is_empty(), "{:?}", heard.unreadable);
    heard.items.into_iter().map(|item| (item.run, item.message.message().unwrap())).collect()
}

async fn host_with_runs(ledger: &Ledger, count: usize, prefix: &str) -> (Host, Vec<Grown>) {
    let mut host = Host::new(ledger).await;
    let runs: Vec<Grown> = (0..count).map(|n| Grown::named(&format!("{prefix}-{n}"))).collect();
    for run in &runs {
        host.commit(run.start()).await;
    }
    (host, runs)
}

fn reader(run: RunId) -> Reader {
    Reader { run, is_full: false, except: Vec::new() }
}

#[tokio::test]
async fn every_run_that_has_messages_gets_its_share_of_a_check() {
    let ledger = ledger().await;
    let (host, runs) = host_with_runs(&ledger, 3, "a").await;
    flood(&ledger, runs[0].id, 5_000).await;
    let (first, second) = (signal("1"), signal("2"));
    post(&ledger, runs[1].id, &first).await;
    post(&ledger, runs[1].id, &second).await;
    let walked = unread(&ledger, host.id).await;
    let mut found = walked.open.clone();
    found.sort_unstable();
    let mut expected = vec![runs[0].id, runs[1].id];
    expected.sort_unstable();
    assert_eq!((found, walked.closed, walked.next), (expected, vec![], None));
    let readers: Vec<Reader> = walked.open.iter().copied().map(reader).collect();
    let items = read(&ledger, &host, &readers, 100).await;
    assert_eq!(items.iter().filter(|(run, _)| *run == runs[0].id).count(), 50);
    let others: Vec<_> =
        items.into_iter().filter(|(run, _)| *run == runs[1].id).map(|(_, message)| message).collect();
    assert_eq!(others, [first, second]);
    // Alone, a run has the whole page.
    assert_eq!(read(&ledger, &host, &[reader(runs[0].id)], 100).await.len(), 100);
    let elsewhere = Host::new(&ledger).await;
    assert_eq!(ledger.unread(elsewhere.id, None).await.unwrap(), Unread::default());
    assert!(read(&ledger, &elsewhere, &readers, 100).await.is_empty(), "another host's");
}

/// Whom the messages of a run name, each once.
async fn named(ledger: &Ledger, run: RunId) -> Vec<Uuid> {
    sqlx::query_scalar("select distinct owner from inbox where run_id = $1 order by owner")
        .bind(run.0)
        .fetch_all(&mut session(&ledger.options().url).await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_message_is_found_by_whoever_owns_its_run_whomever_it_names() {
    let ledger = ledger().await;
    let (dead, runs) = host_with_runs(&ledger, 3, "a").await;
    let [first, second, quiet] = [0, 1, 2].map(|place: usize| runs[place].id);
    post(&ledger, first, &signal("1")).await;
    post(&ledger, second, &signal("2")).await;
    assert_eq!(named(&ledger, first).await, [dead.id.0]);
    // As a host of an earlier version sends it.
    let unnamed = "insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at)
                   values (0, 1, $1, $2, 1, 's', '3', now())";
    let mut sql = session(&ledger.options().url).await;
    sqlx::query(unnamed).bind(second.0).bind(new_id()).execute(&mut sql).await.unwrap();
    ledger.declare_dead(dead.id).await.unwrap();
    let [heir, other] = [Host::new(&ledger).await, Host::new(&ledger).await];
    assert_eq!(unread(&ledger, heir.id).await, Unread::default(), "they are nobody's as yet");
    assert_eq!(ledger.claim_runs(heir.lease, 10).await.unwrap().len(), 3);
    // They name a host that is dead, and nobody: both are looked for.
    assert_eq!(unread(&ledger, other.id).await, Unread::default());
    let mut found = unread(&ledger, heir.id).await.open;
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [first, second]);
    assert_eq!(inbox(&ledger, heir.id, &[]).await.len(), 3);
    // From then on they name their host, which needs no more than one step.
    for run in [first, second] {
        assert_eq!(named(&ledger, run).await, [heir.id.0]);
    }
    let step = ledger.unread(heir.id, None).await.unwrap();
    assert_eq!((step.open, step.next), (found, None));
    post(&ledger, quiet, &signal("4")).await;
    assert_eq!(named(&ledger, quiet).await, [heir.id.0]);
}

#[tokio::test]
async fn a_walk_goes_on_where_it_stopped() {
    let ledger = ledger().await;
    let host = Host::new(&ledger).await;
    let runs = "with made as (
                    insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status, owner,
                                      started_at)
                    select 0, 1, gen_random_uuid(), 'run-' || n, 0, 'w', decode(repeat('07', 32), 'hex'), 1, $1, now()
                    from generate_series(1, 1100) n
                    returning *
                )
                insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at, owner)
                select shard, tenant, run_id, gen_random_uuid(), 1, 's', '1', now(), owner from made, generate_series(1, 3)";
    sqlx::query(runs).bind(host.id.0).execute(&mut session(&ledger.options().url).await).await.unwrap();
    let (mut steps, mut from, mut found) = (Vec::new(), None, Vec::new());
    loop {
        let step = ledger.unread(host.id, from).await.unwrap();
        steps.push(step.open.len());
        found.extend(step.open);
        from = step.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(steps, [500, 500, 100]);
    assert!(found.is_sorted_by(|one, next| one < next), "each once");
}

#[tokio::test]
async fn what_a_run_cannot_hear_now_is_left_out_and_kept() {
    let ledger = ledger().await;
    let (mut host, runs) = host_with_runs(&ledger, 5, "a").await;
    let [parked, paused, delayed, full, free] = [0, 1, 2, 3, 4].map(|place: usize| runs[place].id);
    let cancel = Message::Cancel { reason: reason(), id: None };
    let terminate = Message::Terminate { reason: reason(), only_this: false };
    let wanted = Message::AttemptWanted { op: Op(1) };
    let resume = Message::Resume { reason: reason() };
    let sent =
        [signal("1"), cancel.clone(), wanted.clone(), resume.clone(), Message::Retry, terminate.clone()];
    for run in [parked, paused, delayed, full, free] {
        for message in &sent {
            post(&ledger, run, message).await;
        }
    }
    let status = |run, status| Append { status: Some(status), ..Append::new(SCOPE, run) };
    host.commit(status(parked, StatusChange::Park { fault: "{}".into() })).await;
    host.commit(status(paused, StatusChange::Pause)).await;
    let start = NewTimer { run: delayed, op: Op(u32::MAX), due_ms: 1, purpose: 3 };
    host.commit(Append { timers: vec![start], ..Append::new(SCOPE, delayed) }).await;
    let heard = async |run| -> Vec<Message> {
        let readers = [Reader { is_full: run == full, ..reader(run) }];
        read(&ledger, &host, &readers, 100).await.into_iter().map(|(_, message)| message).collect()
    };
    let held = [signal("1"), resume.clone(), Message::Retry, terminate.clone()];
    assert_eq!(heard(parked).await, [Message::Retry, terminate.clone()]);
    assert_eq!(heard(paused).await, held);
    assert_eq!(heard(delayed).await, held);
    assert_eq!(heard(full).await, [cancel, wanted, resume, Message::Retry, terminate]);
    assert_eq!(heard(free).await, sent);
    // When it goes on, it hears all of it, in order.
    host.commit(status(parked, StatusChange::Run)).await;
    let readers = [reader(parked)];
    let all = read(&ledger, &host, &readers, 100).await;
    assert_eq!(all.into_iter().map(|(_, message)| message).collect::<Vec<_>>(), sent);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_told_and_hides_nobody_elses() {
    let ledger = ledger().await;
    let (host, runs) = host_with_runs(&ledger, 2, "a").await;
    let bad = post(&ledger, runs[0].id, &signal("1")).await;
    post(&ledger, runs[0].id, &signal("2")).await;
    post(&ledger, runs[1].id, &signal("3")).await;
    let damage =
        "update inbox set payload = '{\"backstitch.payload\":{\"sealed\":\"AAAA\"}}' where item_id = $1";
    sqlx::query(damage).bind(bad).execute(&mut session(&ledger.options().url).await).await.unwrap();
    let readers = [reader(runs[0].id), reader(runs[1].id)];
    let heard = ledger.inbox_of(host.id, &readers, &[], 100).await.unwrap();
    assert_eq!(heard.unreadable, [(runs[0].id, bad)]);
    assert_eq!(heard.items.len(), 2);
    let heard = ledger.inbox_of(host.id, &readers, &[bad], 100).await.unwrap();
    assert_eq!((heard.items.len(), heard.unreadable.len()), (2, 0));
    let in_hand = [Reader { except: vec![heard.items[0].item_id, bad], ..reader(runs[0].id) }];
    assert!(ledger.inbox_of(host.id, &in_hand, &[], 100).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn so_many_messages_wait_for_a_run_and_no_more() {
    let ledger = ledger().await;
    let (_host, runs) = host_with_runs(&ledger, 2, "a").await;
    let post = async |run, message: &Message| {
        ledger.post(SCOPE, run, new_id(), now_ms(), &message.to_row()).await.unwrap()
    };
    flood(&ledger, runs[0].id, limits::INBOX_ITEMS_MAX.cast_signed() - 1).await;
    assert!(matches!(post(runs[0].id, &signal("1")).await, Posted::Accepted { .. }));
    assert_eq!(post(runs[0].id, &signal("2")).await, Posted::Full);
    assert!(matches!(post(runs[1].id, &signal("2")).await, Posted::Accepted { .. }), "another run");
    // What ends that has room all the same, and a bound too.
    for _ in 0..limits::INBOX_REQUESTS_MAX {
        let posted = post(runs[0].id, &Message::Terminate { reason: reason(), only_this: false }).await;
        assert!(matches!(posted, Posted::Accepted { .. }), "{posted:?}");
    }
    assert_eq!(post(runs[0].id, &Message::Retry).await, Posted::Full);
}

#[tokio::test]
async fn a_run_hears_what_was_sent_to_the_one_before_it_first() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut before, mut after) = (Grown::named("a"), Grown::named("a"));
    after.new.generation = 1;
    host.commit(before.start()).await;
    let early = post(&ledger, before.id, &signal("1")).await;
    let only_it = Message::Terminate { reason: reason(), only_this: true };
    for message in [&only_it, &Message::Retry] {
        post(&ledger, before.id, message).await;
    }
    let mut close = before.complete("1");
    if let Some(StatusChange::Close(close)) = &mut close.status {
        close.status = RunStatus::Continued;
    }
    host.commit(Append { new_runs: vec![after.new.clone()], ..close }).await;
    let late = post(&ledger, after.id, &signal("2")).await;
    let walked = unread(&ledger, host.id).await;
    assert_eq!((walked.open, walked.closed), (vec![after.id], vec![(before.id, RunStatus::Continued)]));
    assert!(inbox(&ledger, host.id, &[]).await.is_empty(), "it waits");
    // What nobody can read is not waited for.
    let readers = [reader(after.id)];
    let others: Vec<Uuid> = sqlx::query_scalar("select item_id from inbox where run_id = $1")
        .bind(before.id.0)
        .fetch_all(&mut session(&ledger.options().url).await)
        .await
        .unwrap();
    assert_eq!(ledger.inbox_of(host.id, &readers, &others, 10).await.unwrap().items.len(), 1);
    // Sent once more by who did not know that it was accepted.
    ledger.post(SCOPE, after.id, early, now_ms(), &signal("1").to_row()).await.unwrap();
    assert_eq!(ledger.pass_on(before.id, &[]).await.unwrap(), PassedOn { items: 0, owner: Some(host.id) });
    let items = inbox(&ledger, host.id, &[]).await;
    assert_eq!(
        items.iter().map(|item| (item.run, item.item_id)).collect::<Vec<_>>(),
        [(after.id, early), (after.id, late)]
    );
    assert_eq!(unread(&ledger, host.id).await.closed, []);
}

#[tokio::test]
async fn nothing_is_left_of_a_child_that_is_refused() {
    let ledger = ledger().await;
    let (mut host, _) = host_with_runs(&ledger, 1, "a").await;
    let mut parent = Grown::named("parent");
    let (child, orphan) = (Grown::named("a-0"), Grown::named("never"));
    host.commit(parent.start()).await;
    let note = |run| NewItem {
        run,
        item_id: new_id(),
        at_ms: 1,
        message: Message::Cancel { reason: reason(), id: None }.to_row(),
    };
    let projection =
        NewProjection { run: child.id, entity: Some("{}".into()), attributes: Default::default() };
    let append = Append {
        new_runs: vec![child.new.clone()],
        timers: vec![NewTimer { run: child.id, op: Op(1), due_ms: 1, purpose: 1 }],
        projections: vec![projection],
        inbox: vec![note(child.id), note(parent.id)],
        ..parent.step(1)
    };
    assert_eq!(host.append(append).await, Outcome::Committed { refused: vec![child.id] });
    // In an append of its own, when its sender does not know yet.
    let late = Append { inbox: vec![note(child.id), note(orphan.id)], ..parent.step(1) };
    host.commit(late).await;
    // To one that is started by the same append.
    let second = Grown::named("second");
    let starts =
        Append { new_runs: vec![second.new.clone()], inbox: vec![note(second.id)], ..parent.step(1) };
    host.commit(starts).await;
    let mut sql = session(&ledger.options().url).await;
    let messages: Vec<Uuid> =
        sqlx::query_scalar("select run_id from inbox order by item_id").fetch_all(&mut sql).await.unwrap();
    assert_eq!(messages, [parent.id.0, second.id.0]);
    for table in ["timers", "attributes", "entities", "ledger"] {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from {table} where run_id = $1"));
        let left: i64 = sqlx::query_scalar(query).bind(child.id.0).fetch_one(&mut sql).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test]
async fn who_settles_a_task_and_who_appends_take_their_locks_in_one_order() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut grown = Grown::named("a");
    host.commit(grown.start()).await;
    let append = grown.step(1);
    let task = task(Op(0), append.rows[0].seq, "work");
    host.commit(Append { tasks: vec![task], ..append }).await;
    let grant = LeaseGrant { lease: TaskLease(new_id()), lease_ms: Some(60_000), worker: "w".into() };
    let check = TaskCheck { task_queue: "q", names: None, limit: 1 };
    let token: TaskToken = ledger.take_tasks(SCOPE, check, &grant).await.unwrap().tasks[0].token;
    // As an append does that writes a payload out of row.
    let usage = "insert into payload_usage (shard, tenant, bytes) values (0, 1, 0)
                 on conflict (shard, tenant) do update set bytes = payload_usage.bytes";
    let mut append = session(&ledger.options().url).await;
    for statement in ["begin", "set local lock_timeout = '20s'", usage] {
        sqlx::query(statement).execute(&mut append).await.unwrap();
    }
    let large = format!("\"{}\"", "x".repeat(limits::PAYLOAD_INLINE_BYTES_MAX + 1));
    let message =
        Message::AttemptEnded { op: token.op, attempt: 1, outcome: Ok(json(&large)), heartbeat: None };
    let item = NewItem { run: grown.id, item_id: new_id(), at_ms: 1, message: message.to_row() };
    let settling = {
        let (ledger, item) = (Arc::new(ledger.clone()), item.clone());
        tokio::spawn(async move { ledger.settle_task(SCOPE, token, &item).await })
    };
    let url = ledger.options().url.clone();
    eventually("it waits for the usage", || async {
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut session(&url).await).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    sqlx::query("delete from tasks where shard = 0").execute(&mut append).await.unwrap();
    sqlx::query("commit").execute(&mut append).await.unwrap();
    let settled = tokio::time::timeout(Duration::from_secs(30), settling).await.unwrap().unwrap();
    assert_eq!(settled.unwrap(), backstitch_ledger::Settled::Stale);
    // What it had stored for an answer that does not count is gone with it.
    for query in
        ["select count(*) from payloads", "select coalesce(sum(bytes), 0)::bigint from payload_usage"]
    {
        let left: i64 = sqlx::query_scalar(query).fetch_one(&mut session(&url).await).await.unwrap();
        assert_eq!(left, 0, "{query}");
    }
}

#[tokio::test]
async fn an_outcome_is_looked_for_among_the_latest_rows() {
    let ledger = ledger().await;
    let (host, runs) = host_with_runs(&ledger, 1, "a").await;
    let token = TaskToken { run: runs[0].id, op: Op(4), attempt: 2, lease: TaskLease(new_id()) };
    let mut sql = session(&ledger.options().url).await;
    // Rows by hand: how many there are is all that matters.
    let last = i32::try_from(limits::OUTCOME_ROWS_MAX).unwrap() + 2;
    sqlx::query(
        "insert into ledger (shard, tenant, run_id, seq, kind, op, attempt, payload, at, chain)
         select 0, 1, $1, n, case when n in (2, $2 - 1) then 20 else 3 end, n % $2, 2, '1', now(), 0
         from generate_series(1, $2) n",
    )
    .bind(token.run.0)
    .bind(last)
    .execute(&mut sql)
    .await
    .unwrap();
    let found = async |op: i32| {
        let token = TaskToken { op: Op(op.cast_unsigned()), ..token };
        ledger.outcome_of(SCOPE, token, &[backstitch_core::Kind::ActivityCompleted]).await.unwrap()
    };
    assert_eq!(found(last - 1).await.as_deref(), Some("1"));
    assert_eq!(found(2).await, None, "too long ago");
    let answer = MessageRow { kind: 9, ..MessageRow::default() };
    assert_eq!(ledger.answer_waiting(SCOPE, token, &answer).await.unwrap(), None);
    drop(host);
}
