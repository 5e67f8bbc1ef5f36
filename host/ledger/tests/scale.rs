//! What costs must not grow with: rows of other hosts, readers that take their time, ledgers that are large.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use backstitch_core::{HostId, Op, RunId, Seq, TaskLease, TenantId, limits};
use backstitch_ledger::{Append, ClaimedRun, Ledger, NewTimer, Partitions, Sweep, TaskCheck};
use common::*;
use sqlx::{Connection as _, PgConnection};

/// Timers of a host that is not looking.
const FOREIGN: i32 = 20_000;

/// Rows of tables and entries of indexes that `asking` has had read, by a handle of its own.
async fn read_by(url: &str, asking: impl AsyncFnOnce(&Ledger)) -> i64 {
    let mut connection = session(url).await;
    let before = read_so_far(&mut connection).await;
    let ledger = Ledger::connect(backstitch_ledger::ConnectOptions::new(url)).await.unwrap();
    asking(&ledger).await;
    // A session that ends says what it has read.
    ledger.close().await;
    let mut asker = session(url).await;
    let begun = std::time::Instant::now();
    loop {
        let sessions: Vec<String> = sqlx::query_scalar(
            "select format('%s %s %s %s', application_name, backend_type, state, query) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and application_name like 'backstitch%'
               and application_name not like '%writer'",
        )
        .fetch_all(&mut asker)
        .await
        .unwrap();
        if sessions.is_empty() {
            break;
        }
        assert!(begun.elapsed() < TIMEOUT / 4, "{sessions:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let after = eventually("what was read is told", async || {
        let mut connection = session(url).await;
        let after = read_so_far(&mut connection).await;
        (after > before).then_some(after)
    })
    .await;
    after - before
}

async fn read_so_far(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes)::bigint
              + (select coalesce(sum(seq_tup_read), 0) from pg_stat_user_tables)::bigint",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_check_of_timers_costs_nothing_for_those_of_other_hosts() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let mut foreign = Host::new(&ledger).await;
    let (mine, other) = (Grown::named("mine"), Grown::named("other"));
    host.commit(mine.start()).await;
    foreign.commit(other.start()).await;
    let now = now_ms();
    let timer = |run: RunId, op, due_ms| Append {
        timers: vec![NewTimer { run, op: Op(op), due_ms, purpose: 1 }],
        ..Append::new(SCOPE, run)
    };
    host.commit(timer(mine.id, 1, now + 60_000)).await;
    foreign.commit(timer(other.id, 1, now - 1_000)).await;
    ledger.close().await;
    // Half of them due long ago, half of them before that of the host that looks.
    let timers = "insert into timers (shard, tenant, run_id, op, due_at, purpose, owner)
                  select shard, tenant, run_id, n, due_at + (n % 2) * interval '30 seconds', purpose, owner
                  from timers, generate_series(2, $2) n where owner = $1";
    let read = read_beside(&url, timers, foreign.id, async |ledger| {
        assert_eq!(ledger.due_timers(check(host.id, now), 500).await.unwrap(), []);
        assert_eq!(ledger.next_due(check(host.id, now)).await.unwrap(), Some(now + 60_000));
    })
    .await;
    assert!(read < 1_000, "{read} entries were read to find one timer among those of others");
    let again = ledger_at(&url).await;
    assert_eq!(again.due_timers(check(foreign.id, now), 500).await.unwrap().len(), 500);
}

#[tokio::test]
async fn a_check_passes_by_timers_that_were_looked_at() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let mine = Grown::named("mine");
    host.commit(mine.start()).await;
    let timer = |op, due_ms| Append {
        timers: vec![NewTimer { run: mine.id, op: Op(op), due_ms, purpose: 1 }],
        ..Append::new(SCOPE, mine.id)
    };
    host.commit(timer(1, 10)).await;
    host.commit(timer(2, 20)).await;
    let from = |from_ms| backstitch_ledger::TimerCheck { from_ms, ..check(host.id, 30) };
    assert_eq!(ledger.due_timers(from(0), 10).await.unwrap().len(), 2);
    assert_eq!(ledger.due_timers(from(20), 10).await.unwrap()[0].op, Op(2));
    assert_eq!(ledger.due_timers(from(21), 10).await.unwrap(), []);
    let except = [mine.id];
    let without = backstitch_ledger::TimerCheck { except: &except, ..check(host.id, 30) };
    assert_eq!(ledger.due_timers(without, 10).await.unwrap(), []);
}

#[tokio::test]
async fn timers_go_with_their_run_to_its_next_owner() {
    let ledger = ledger().await;
    let mut first = Host::new(&ledger).await;
    let run = Grown::named("handed on");
    first.commit(run.start()).await;
    let timers = vec![NewTimer { run: run.id, op: Op(1), due_ms: 5, purpose: 1 }];
    first.commit(Append { timers, ..Append::new(SCOPE, run.id) }).await;
    ledger.heartbeat().unwrap().release(first.lease).await.unwrap();
    let second = Host::new(&ledger).await;
    assert_eq!(ledger.due_timers(check(second.id, 10), 10).await.unwrap(), []);
    assert_eq!(ledger.claim_runs(second.lease, 10).await.unwrap().len(), 1);
    assert_eq!(ledger.due_timers(check(second.id, 10), 10).await.unwrap().len(), 1);
    assert_eq!(ledger.due_timers(check(first.id, 10), 10).await.unwrap(), []);
}

/// The year 2100: nothing else here has its weeks.
const FAR_MS: u64 = 4_102_444_800_000;

#[tokio::test]
async fn a_week_is_made_without_waiting_for_a_long_reader() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let mut reader = session(&url).await;
    let mut reading = reader.begin().await.unwrap();
    let _: i64 = sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut *reading).await.unwrap();
    assert_eq!(ledger.ensure_partitions(FAR_MS).await.unwrap(), Partitions { made: 0, put_off: 6 });
    // Nobody is left waiting behind it.
    host.commit(Grown::named("meanwhile").start()).await;
    reading.commit().await.unwrap();
    let made = eventually("nobody else is in the way", async || {
        let partitions = ledger.ensure_partitions(FAR_MS).await.unwrap();
        (partitions.put_off == 0).then_some(partitions.made)
    })
    .await;
    assert_eq!(made, 6);
    assert_eq!(ledger.ensure_partitions(FAR_MS).await.unwrap(), Partitions::default());
}

#[tokio::test]
async fn a_week_that_was_detached_is_not_taken_for_one_that_is_there() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    assert_eq!(ledger.ensure_partitions(FAR_MS).await.unwrap().made, 6);
    let mut connection = session(&url).await;
    let weeks: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'ledger'::regclass and c.relname <> 'ledger_default' order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    // The week before, and two weeks to come.
    for week in [&weeks[0], &weeks[3], &weeks[5]] {
        let detach = format!("alter table ledger detach partition {week}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(detach)).execute(&mut connection).await.unwrap();
    }
    assert_eq!(ledger.ensure_partitions(FAR_MS).await.unwrap(), Partitions { made: 2, put_off: 0 });
    let attached: bool = sqlx::query_scalar("select relispartition from pg_class where relname = $1")
        .bind(&weeks[0])
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!attached, "a week that is past stays as its operator left it");
}

#[tokio::test]
async fn a_page_of_a_ledger_is_bounded_in_bytes() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("wide");
    host.commit(run.start()).await;
    let large = format!("\"{}\"", "x".repeat(200 << 10));
    for _ in 0..40 {
        host.commit(run.grown_by(|run| vec![run.signal(&large)])).await;
    }
    let (mut from, mut seen) = (Some(Seq(0)), Vec::new());
    while let Some(seq) = from {
        let page = ledger.shown_rows(run.id, seq, 1_000, 1 << 20).await.unwrap();
        let bytes: usize = page.rows.iter().map(|(row, _)| row.text_bytes()).sum();
        assert!(bytes <= 1 << 20, "a page of {bytes} bytes");
        seen.extend(page.rows.into_iter().map(|(row, _)| row));
        from = page.next;
    }
    assert_eq!(seen, checked_rows(&ledger, run.id).await);
    let whole = ledger.shown_rows(run.id, Seq(0), 1_000, 64 << 20).await.unwrap();
    assert_eq!((whole.rows.len(), whole.next), (41, None));
    let some = ledger.shown_rows(run.id, Seq(2), 3, 64 << 20).await.unwrap();
    assert_eq!((some.rows.len(), some.next), (3, Some(Seq(5))));

    let (mut pages, mut rows) = (ledger.pages(run.id), Vec::new());
    while let Some((page, bytes)) = pages.next().await.unwrap() {
        assert!(bytes <= limits::LEDGER_PAGE_BYTES, "a page of {bytes} bytes");
        rows.extend(page);
    }
    assert_eq!(rows, seen);
}

#[tokio::test]
async fn payloads_out_of_row_count_for_a_page_with_all_they_have() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("far out");
    host.commit(run.start()).await;
    for n in 0..4 {
        let text = format!("\"{n}{}\"", "y".repeat(900 << 10));
        host.commit(run.grown_by(|run| vec![run.signal(&text)])).await;
    }
    let (mut pages, mut sizes) = (ledger.pages(run.id), Vec::new());
    while let Some((page, _)) = pages.next().await.unwrap() {
        sizes.push(page.len());
    }
    assert_eq!(sizes, [2, 1, 1, 1], "the start and the first payload, and each of the others for itself");
}

#[tokio::test]
async fn small_ledgers_are_read_together_and_large_ones_are_not() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let [mut small, mut long, mut wide, mut far] = ["small", "long", "wide", "far"].map(Grown::named);
    for run in [&small, &long, &wide, &far] {
        host.commit(run.start()).await;
    }
    host.commit(small.step(3)).await;
    host.commit(long.step(limits::LEDGER_ROWS_SMALL as usize)).await;
    for (run, bytes) in [(&mut wide, 100 << 10), (&mut far, 300 << 10)] {
        let text = format!("\"{}\"", "z".repeat(bytes));
        host.commit(run.grown_by(|run| vec![run.signal(&text)])).await;
    }
    let unknown = RunId(new_id());
    let ids = [wide.id, small.id, unknown, far.id, long.id];
    let ledgers = ledger.small_ledgers(&ids).await.unwrap();
    assert_eq!(ledgers.iter().map(|(run, _)| *run).collect::<Vec<_>>(), ids);
    let sizes: Vec<_> = ledgers.iter().map(|(_, rows)| rows.as_ref().map(Vec::len)).collect();
    assert_eq!(sizes, [None, Some(4), None, None, None]);
    assert_eq!(ledgers[1].1.as_deref(), Some(&*checked_rows(&ledger, small.id).await));
}

/// What is known against a run that its next owner has claimed.
async fn claimed(ledger: &Ledger, host: &Host) -> (u16, bool, Option<Op>) {
    let mut claimed = ledger.claim_runs(host.lease, 10).await.unwrap();
    let ClaimedRun { losses, unreplayed, lost_attempt, .. } = claimed.pop().unwrap();
    assert_eq!(claimed, []);
    (losses, unreplayed, lost_attempt)
}

/// The next owner, after this one has died.
async fn heir(ledger: &Ledger, host: HostId) -> Host {
    assert!(ledger.declare_dead(host).await.unwrap());
    Host::new(ledger).await
}

#[tokio::test]
async fn only_a_host_that_dies_over_a_run_on_trial_is_the_third_that_is_lost() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = Grown::named("suspect");
    host.commit(run.start()).await;
    let mut host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (1, false, None), "any host may die");
    for _ in 0..5 {
        host = heir(&ledger, host.id).await;
        assert_eq!(claimed(&ledger, &host).await, (2, true, None), "of anything, whatever it owns");
    }
    assert_eq!(ledger.note_progress(host.id, &[run.id], &[]).await.unwrap(), [run.id]);
    host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (2, false, None), "it was led, and waits");
    assert!(ledger.begin_trial(host.lease, run.id, Some(Op(7))).await.unwrap());
    host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (2, true, Some(Op(7))), "an attempt is no fault of its run");
    assert!(ledger.begin_trial(host.lease, run.id, None).await.unwrap());
    ledger.end_trial(host.id, run.id, false).await.unwrap();
    host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (2, false, None), "a trial that its host survives is none");
    assert!(ledger.begin_trial(host.lease, run.id, None).await.unwrap());
    host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (3, true, None));
}

#[tokio::test]
async fn a_run_that_went_on_or_was_given_back_has_nothing_against_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = Grown::named("harmless");
    host.commit(run.start()).await;
    for _ in 0..2 {
        host = heir(&ledger, host.id).await;
        claimed(&ledger, &host).await;
    }
    assert_eq!(ledger.note_progress(host.id, &[], &[run.id]).await.unwrap(), [run.id]);
    host = heir(&ledger, host.id).await;
    assert_eq!(claimed(&ledger, &host).await, (1, false, None));
    for _ in 0..3 {
        ledger.heartbeat().unwrap().release(host.lease).await.unwrap();
        host = Host::new(&ledger).await;
        assert_eq!(claimed(&ledger, &host).await, (1, false, None), "a host that stops did not die");
    }
    let late = Host::new(&ledger).await;
    assert!(ledger.declare_dead(host.id).await.unwrap());
    ledger.heartbeat().unwrap().release(host.lease).await.unwrap();
    assert_eq!(claimed(&ledger, &late).await, (1, false, None), "nor did one that was only slow");
}

/// Has `checks` made often enough that their plans are made while tables are empty, and again beside `foreign` rows; what
/// that reads.
async fn read_beside(url: &str, foreign: &'static str, owner: HostId, checks: impl AsyncFn(&Ledger)) -> i64 {
    read_by(url, async |ledger| {
        for _ in 0..10 {
            checks(ledger).await;
        }
        let insert = sqlx::query(foreign).bind(owner.0).bind(FOREIGN);
        insert.execute(&mut session(url).await).await.unwrap();
        for _ in 0..10 {
            checks(ledger).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_check_of_the_inbox_costs_nothing_for_messages_of_other_hosts() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let foreign = Host::new(&ledger).await;
    let mine = Grown::named("mine");
    host.commit(mine.start()).await;
    let message = backstitch_core::Message::Retry.to_row();
    ledger.post(SCOPE, mine.id, new_id(), 1, &message).await.unwrap();
    ledger.close().await;
    let messages = "with made as (
                        insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status, owner,
                                          started_at)
                        select 0, 1, gen_random_uuid(), 'foreign-' || n, 0, 'w', decode(repeat('07', 32), 'hex'), 1, $1,
                               now()
                        from generate_series(1, $2 / 4) n
                        returning *
                    )
                    insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at, owner)
                    select shard, tenant, run_id, gen_random_uuid(), 1, 's', '1', now(), owner
                    from made, generate_series(1, 4)";
    let read = read_beside(&url, messages, foreign.id, async |ledger| {
        assert_eq!(unread(ledger, host.id).await.open, [mine.id]);
        assert_eq!(inbox(ledger, host.id, &[]).await.len(), 1);
        assert_eq!(ledger.claim_runs(host.lease, 500).await.unwrap(), []);
        assert_eq!(ledger.timers_lacking(host.id, None, 200).await.unwrap().0.len(), 1);
    })
    .await;
    assert!(read < 1_000, "{read} entries were read to find one message among those of others");
}

#[tokio::test]
async fn a_check_of_tasks_costs_nothing_for_those_that_others_wait_for() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let foreign = Host::new(&ledger).await;
    ledger.close().await;
    // On offer until later, with a worker that is heard of, and given up while a worker still has them.
    let tasks = "with made as (
                     insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status, owner,
                                       started_at)
                     select 0, 1, gen_random_uuid(), 'foreign-' || n, 0, 'w', decode(repeat('07', 32), 'hex'), 1, $1, now()
                     from generate_series(1, $2) n
                     returning *
                 )
                 insert into tasks (shard, tenant, run_id, op, seq, attempt, task_queue, name, priority, offered_at,
                                    start_by, lease, leased_until, given_up)
                 select shard, tenant, run_id, 1, 1, 1, 'theirs', 'work', 3, now(), now() + interval '1 hour',
                        case when place % 3 > 0 then gen_random_uuid() end,
                        case when place % 3 > 0 then now() + interval '1 hour' end, place % 3 = 2
                 from (select *, row_number() over () as place from made) m";
    let queue = (TenantId(1), "mine".to_owned());
    let served = [("mine".to_owned(), "work".to_owned())];
    let taking = backstitch_core::task::LeaseGrant {
        lease: TaskLease(new_id()),
        lease_ms: Some(60_000),
        worker: "w".into(),
    };
    let read = read_beside(&url, tasks, foreign.id, async |ledger| {
        assert_eq!(ledger.sweep_tasks(now_ms(), 500, new_id).await.unwrap(), Sweep::default());
        ledger.next_sweep_ms().await.unwrap();
        assert_eq!(ledger.queues_with_tasks(std::slice::from_ref(&queue)).await.unwrap(), []);
        let wanted = TaskCheck { task_queue: "mine", names: None, limit: 10 };
        assert!(ledger.take_tasks(SCOPE, wanted, &taking).await.unwrap().tasks.is_empty());
        assert_eq!(ledger.free_tasks(SCOPE, &served, now_ms(), 500, new_id).await.unwrap(), Sweep::default());
    })
    .await;
    assert!(read < 1_000, "{read} entries were read to find no task");
}

#[tokio::test]
async fn a_check_of_schedules_costs_nothing_for_those_that_are_not_due_and_those_that_were() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    ledger.close().await;
    let schedules = "insert into schedules (shard, tenant, name, spec, state, revision, due_at, created_at)
                     select 0, 1, 'schedule-' || n, '{}', '{}', 1, now() + n * interval '1 second', now()
                     from generate_series(100, 99 + $2) n where $1 is not null";
    let from = now_ms();
    let checks = async |ledger: &Ledger| {
        assert_eq!(ledger.due_schedules(from, from + 1_000, 500).await.unwrap(), []);
        ledger.next_schedule_due(from).await.unwrap();
    };
    let read = read_beside(&url, schedules, HostId(new_id()), checks).await;
    assert!(read < 1_000, "{read} entries were read to find no schedule");
    // Each of them was due an hour ago, and somebody still looks at the database as it was then.
    let mut sql = session(&url).await;
    let hour_ago = "update schedules set due_at = due_at - interval '10 hours'";
    let by_now = "update schedules set due_at = due_at + interval '10 hours'";
    sqlx::raw_sql(hour_ago).execute(&mut sql).await.unwrap();
    let mut reader = session(&url).await;
    let reading = "begin isolation level repeatable read; select count(*) from runs";
    sqlx::raw_sql(reading).execute(&mut reader).await.unwrap();
    sqlx::raw_sql(by_now).execute(&mut sql).await.unwrap();
    let read = read_by(&url, async |ledger| {
        for _ in 0..10 {
            checks(ledger).await;
        }
    })
    .await;
    assert!(read < 1_000, "{read} entries of times that are past were read to find no schedule");
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
}

#[tokio::test]
async fn an_append_reads_the_row_that_it_follows_and_no_other() {
    const APPENDS: usize = 20;
    const OTHERS: usize = 20;
    const ROWS: usize = 500;
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let (mut mine, mut other) = (Grown::named("mine"), Grown::named("other"));
    host.commit(mine.start()).await;
    host.commit(other.start()).await;
    // A plan is made, and kept, while there is next to nothing.
    for _ in 0..APPENDS {
        let append = mine.step(1);
        host.commit(append).await;
    }
    for _ in 0..OTHERS {
        let append = other.step(ROWS);
        host.commit(append).await;
    }
    for _ in 0..APPENDS {
        let append = mine.step(1);
        host.commit(append).await;
    }
    // A session that ends says what it has read.
    let Host { items, task, .. } = host;
    drop(items);
    task.await.unwrap();
    ledger.close().await;
    eventually("the writer's session is gone", async || {
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name like '%writer'",
        )
        .fetch_one(&mut session(&url).await)
        .await
        .unwrap();
        (sessions == 0).then_some(())
    })
    .await;
    let read = read_so_far(&mut session(&url).await).await;
    assert!(read < 3_000, "{read} entries were read for {} appends", 2 * APPENDS + OTHERS);
}
