//! Schedules whose hosts die: each time has one run, whoever looks and whoever dies over it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use backstitch::failpoint::SCHEDULE_POINTS;
use backstitch_client::schedules::{BackfillSchedule, CreateSchedule, ScheduleView, TriggerSchedule};
use backstitch_core::schedule::{Every, Overlap, Policy, Spec, Terms, What, When};
use backstitch_core::{Json, RunStatus};
use futures::{FutureExt as _, StreamExt as _};

use crate::load::{deployed_database, options};
use crate::support::{TestHost, check_ledgers, connect, eventually};

/// The distance of two times.
const TICK_MS: u64 = 200;

/// A schedule of `collect`, whose runs wait for so many signals `item`.
fn ticking(name: &str, signals: u32, overlap: Overlap) -> CreateSchedule {
    let every = vec![Every { every_ms: TICK_MS, offset_ms: 0 }];
    let spec = Spec {
        what: What {
            workflow: "collect".into(),
            input: Json::new(signals.to_string()).unwrap(),
            id_prefix: None,
            terms: Terms::default(),
        },
        when: When { every, ..When::default() },
        policy: Policy { overlap, ..Policy::default() },
    };
    CreateSchedule { name: name.to_owned(), spec, paused: false, note: String::new() }
}

async fn started(host: &TestHost, name: &str, at_least: u64) -> ScheduleView {
    eventually("the schedule starts runs", async || {
        let view = host.client.schedule(name).await.ok()?;
        (view.started >= at_least).then_some(view)
    })
    .await
}

/// The times, in milliseconds, that have a run called `NAME:TIME`, in their order. Each has one.
async fn times_with_a_run(database: &str, name: &str) -> Vec<u64> {
    let ids: Vec<(String, i32)> =
        sqlx::query_as("select workflow_id, generation from runs where starts_with(workflow_id, $1 || ':')")
            .bind(name)
            .fetch_all(&mut connect(database).await)
            .await
            .unwrap();
    let time = |id: &str| {
        let time: jiff::Timestamp = id.strip_prefix(name).unwrap()[1..].parse().unwrap();
        time.as_millisecond().cast_unsigned()
    };
    let times: BTreeSet<u64> = ids.iter().map(|(id, _)| time(id)).collect();
    assert_eq!(times.len(), ids.len(), "two runs of a time: {ids:?}");
    assert!(ids.iter().all(|(_, generation)| *generation == 0));
    times.into_iter().collect()
}

/// Stops a schedule, and checks that every time since its first had one run and that it knows of each.
async fn check_times(host: &TestHost, database: &str, name: &str) {
    host.client.pause_schedule(name, "enough").await.unwrap();
    // The times before the pause may still be on their way.
    let mut before = Vec::new();
    let times = eventually("nothing more is started", async || {
        let times = times_with_a_run(database, name).await;
        let view = host.client.schedule(name).await.ok()?;
        let is_settled = times == before && view.started == times.len() as u64;
        before = times;
        is_settled.then(|| before.clone())
    })
    .await;
    let distances: BTreeSet<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(distances, [TICK_MS].into(), "a time has no run: {times:?}");
    let view = host.client.schedule(name).await.unwrap();
    assert_eq!((view.skipped, view.missed, view.failed, view.waiting), (0, 0, 0, 0), "{view:#?}");
    check_ledgers(database).await;
}

/// Where and at which visit a host dies over a schedule: at its first start, and in the thick of it.
const VISITS: [&str; 2] = ["1", "4"];

#[tokio::test]
async fn each_time_has_one_run_wherever_its_host_dies() {
    let cases = SCHEDULE_POINTS.into_iter().flat_map(|point| VISITS.map(|visit| (point, visit)));
    let checked = cases.map(|(point, visit)| async move {
        let case = format!("{point}:{visit}");
        let held = std::panic::AssertUnwindSafe(dies_alone(&case)).catch_unwind().await.is_ok();
        (!held).then_some(case)
    });
    let checked = futures::stream::iter(checked.collect::<Vec<_>>()).buffer_unordered(2);
    let failed: Vec<_> = checked.filter_map(async |case| case).collect().await;
    assert!(failed.is_empty(), "what must hold did not after a crash at {failed:?}");
}

/// A host dies at `point`, nobody is there for some times, then another one is.
async fn dies_alone(point: &str) {
    let database = deployed_database().await;
    let mut dying = TestHost::start(options(&database).crash(point)).await;
    // The reply may be lost with the host.
    let _ = dying.client.create_schedule(&ticking("tick", 0, Overlap::AllowAll)).await;
    dying.crashed().await;
    let dead_ms = backstitch::ambient::wall_ms();
    eventually("some times pass", async || {
        (backstitch::ambient::wall_ms() > dead_ms + 5 * TICK_MS).then_some(())
    })
    .await;
    let heir = TestHost::start(options(&database)).await;
    started(&heir, "tick", 12).await;
    check_times(&heir, &database, "tick").await;
}

#[tokio::test]
async fn each_time_has_one_run_when_hosts_look_together_and_one_is_killed() {
    let database = deployed_database().await;
    let mut first = TestHost::start(options(&database)).await;
    let second = TestHost::start(options(&database)).await;
    for name in ["one", "two"] {
        first.client.create_schedule(&ticking(name, 0, Overlap::AllowAll)).await.unwrap();
    }
    for name in ["one", "two"] {
        started(&second, name, 5).await;
    }
    first.kill();
    let third = TestHost::start(options(&database)).await;
    for name in ["one", "two"] {
        let now = third.client.schedule(name).await.unwrap().started;
        started(&second, name, now + 5).await;
        check_times(&third, &database, name).await;
    }
}

#[tokio::test]
async fn a_start_that_waits_follows_the_close_on_whatever_host() {
    let database = deployed_database().await;
    let mut first = TestHost::start(options(&database)).await;
    first.client.create_schedule(&ticking("tick", 1, Overlap::BufferOne)).await.unwrap();
    let open = eventually("one runs and one waits", async || {
        let view = first.client.schedule("tick").await.ok()?;
        (view.running.len() == 1 && view.waiting == 1 && view.skipped > 2).then_some(view)
    })
    .await;
    assert_eq!(open.started, 1);
    first.kill();
    let second = TestHost::start(options(&database)).await;
    let one = &open.running[0].workflow_id;
    second.client.signal(one, "item", &Json::new("7").unwrap()).await.unwrap();
    let next = started(&second, "tick", 2).await;
    assert_eq!(second.output(one).await, "[7]");
    let waited: jiff::Timestamp = next.recent[1].scheduled_at.parse().unwrap();
    let before: jiff::Timestamp = open.recent[0].scheduled_at.parse().unwrap();
    assert_eq!(waited.as_millisecond() - before.as_millisecond(), TICK_MS.cast_signed());

    // The open one makes room when the next one says so.
    let mut spec = next.spec.clone();
    spec.policy.overlap = Overlap::CancelOther;
    let replace = backstitch_client::schedules::ReplaceSchedule {
        spec,
        spec_revision: Some(next.spec_revision.clone()),
    };
    second.client.replace_schedule("tick", &replace).await.unwrap();
    let two = next.recent[1].workflow_id.as_str();
    assert_eq!(second.ended_run(two).await.status, RunStatus::Cancelled);
    started(&second, "tick", 3).await;
    let stale = second.client.replace_schedule("tick", &replace).await.unwrap_err();
    assert_eq!(stale.code(), Some("schedule-changed"));
}

#[tokio::test]
async fn a_failure_pauses_and_people_ask_for_runs_all_the_same() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    // A start without a number is a failure of the workflow.
    let mut create = ticking("bad", 0, Overlap::Skip);
    create.spec.what.workflow = "book_trip".into();
    create.spec.what.input =
        Json::new(r#"{"trip_id":"oslo-no-car","parts":["flight","hotel","car"]}"#).unwrap();
    create.spec.policy.pause_on_failure = true;
    host.client.create_schedule(&create).await.unwrap();
    let paused = eventually("the schedule is paused", async || {
        let view = host.client.schedule("bad").await.ok()?;
        view.paused.is_some().then_some(view)
    })
    .await;
    let failed = &paused.recent.last().unwrap().workflow_id;
    assert_eq!(host.ended_run(failed).await.status, RunStatus::Failed);
    assert_eq!(paused.paused.unwrap().note, format!("the run {failed} failed"));

    let trigger = TriggerSchedule { overlap: Some(Overlap::AllowAll) };
    let asked = host.client.trigger_schedule("bad", trigger).await.unwrap();
    let view =
        eventually("the run is started", async || host.client.run(&asked.workflow_id).await.ok()).await;
    assert_eq!(view.run.workflow, "book_trip");
    let now_ms = backstitch::ambient::wall_ms() / TICK_MS * TICK_MS;
    let (from_ms, to_ms) = (now_ms - 100 * TICK_MS, now_ms - 98 * TICK_MS);
    let backfill = BackfillSchedule { from_ms, to_ms, overlap: Some(Overlap::BufferAll) };
    let before = host.client.schedule("bad").await.unwrap().started;
    host.client.backfill_schedule("bad", backfill).await.unwrap();
    let filled = started(&host, "bad", before + 3).await;
    assert!(filled.paused.is_some());
    // The same again finds the runs that there are.
    host.client.backfill_schedule("bad", backfill).await.unwrap();
    started(&host, "bad", before + 6).await;
    let mut connection = connect(&database).await;
    let runs: i64 = sqlx::query_scalar("select count(*) from runs where starts_with(workflow_id, 'bad:')")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(runs, before.cast_signed() + 3);
}

/// Starts that wait for each other, and how soon all of them have been made: looks that are due come every half second,
/// and would take three times as long.
const ONE_BY_ONE: u64 = 60;
const ONE_BY_ONE_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn starts_that_wait_for_each_other_wait_for_nothing_else() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let create = CreateSchedule { paused: true, ..ticking("queue", 0, Overlap::BufferAll) };
    host.client.create_schedule(&create).await.unwrap();
    let to_ms = backstitch::ambient::wall_ms() / TICK_MS * TICK_MS - 10 * TICK_MS;
    let from_ms = to_ms - (ONE_BY_ONE - 1) * TICK_MS;
    let begun = Instant::now();
    let backfill = BackfillSchedule { from_ms, to_ms, overlap: None };
    host.client.backfill_schedule("queue", backfill).await.unwrap();
    let filled = started(&host, "queue", ONE_BY_ONE).await;
    let took = begun.elapsed();
    assert_eq!((filled.started, filled.waiting, filled.skipped), (ONE_BY_ONE, 0, 0));
    assert!(took < ONE_BY_ONE_WITHIN, "{ONE_BY_ONE} starts took {took:?}");
    check_ledgers(&database).await;
}
