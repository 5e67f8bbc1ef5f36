//! What looks at a schedule lead to, as scenarios: a spec, and looks at times that a clock could show.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use backstitch_core::limits;
use backstitch_core::schedule::{
    Action, Backfill, Closing, Decision, Every, Look, Overlap, Policy, Spec, State, Stop, Terms, Times, What,
    When, decide,
};

/// One second: the interval of every schedule here.
const SECOND: u64 = 1_000;

fn spec(overlap: Overlap) -> Spec {
    let every = Every { every_ms: SECOND, offset_ms: 0 };
    let input = backstitch_core::Json::null();
    Spec {
        what: What { workflow: "w".into(), input, id_prefix: None, terms: Terms::default() },
        when: When { every: vec![every], ..When::default() },
        policy: Policy { overlap, ..Policy::default() },
    }
}

/// A schedule under a clock of its own.
struct Desk {
    spec: Spec,
    state: State,
    due_ms: Option<u64>,
}

impl Desk {
    fn new(spec: Spec) -> Self {
        spec.check("s").unwrap();
        let state = State::new(&spec, 0);
        Self { spec, state, due_ms: Some(0) }
    }

    fn times(&self, after_ms: u64, through_ms: u64, ahead: bool) -> Times {
        let end_ms = self.spec.when.end_at_ms.unwrap_or(u64::MAX);
        let every = self.spec.when.every[0];
        let mut ms = Vec::new();
        let mut next = every.after(after_ms);
        while next <= through_ms.min(end_ms) {
            ms.push(next);
            next = every.after(next);
        }
        let more = ahead && next <= end_ms;
        ms.extend(more.then_some(next));
        Times { ms, more }
    }

    fn decide(&self, now_ms: u64, closed: &[(&str, bool)]) -> Decision {
        let closed: Vec<Closing> = closed
            .iter()
            .map(|(id, failed)| Closing { workflow_id: id_of(id).into(), failed: *failed })
            .collect();
        let calendar = self.times(self.state.considered_ms, now_ms, true);
        let backfill = self.state.backfills.front();
        let backfill = backfill.map(|fill| self.times(fill.after_ms, fill.through_ms, false));
        let backfill = backfill.unwrap_or_default();
        let look = Look { name: "s", now_ms, closed: &closed, calendar: &calendar, backfill: &backfill };
        let decision = decide(&self.spec, &self.state, &look);
        // A host that dies before the state is written decides the same again.
        assert_eq!(decide(&self.spec, &self.state, &look), decision);
        decision
    }

    /// Goes over to the spec that it has, from another.
    fn replace(&mut self, old: &Spec, now_ms: u64) {
        let every = old.when.every[0];
        let ahead =
            std::iter::successors(Some(every.after(self.state.considered_ms)), |at| Some(every.after(*at)));
        let times: Vec<u64> = ahead.take_while(|at| *at <= now_ms + SECOND).collect();
        self.state.replace("s", (old, &self.spec), &times, now_ms, now_ms);
    }

    /// Looks, and says what is done: `+1` starts the run of the first second, `-1` cancels it, `x1`
    /// terminates it.
    fn look(&mut self, now_ms: u64, closed: &[(&str, bool)]) -> String {
        let Decision { actions, state, due_ms } = self.decide(now_ms, closed);
        (self.state, self.due_ms) = (state, due_ms);
        let act = |action: &Action| match action {
            Action::Start { workflow_id, .. } => format!("+{}", short(workflow_id)),
            Action::Stop { workflow_id, how: Stop::Cancel } => format!("-{}", short(workflow_id)),
            Action::Stop { workflow_id, how: Stop::Terminate } => format!("x{}", short(workflow_id)),
        };
        actions.iter().map(act).collect::<Vec<_>>().join(" ")
    }
}

/// `1` is the run of the first second, `1t` the one that was asked for then.
fn id_of(short: &str) -> String {
    match short.strip_suffix('t') {
        Some(second) => format!("{}:trigger", id_of(second)),
        None => format!("s:1970-01-01T00:00:{short:0>2}.000Z"),
    }
}

fn short(id: &str) -> String {
    let asked = if id.ends_with(":trigger") { "t" } else { "" };
    format!("{}{asked}", id["s:1970-01-01T00:00:".len()..][..2].trim_start_matches('0'))
}

const OK: bool = false;
const FAILED: bool = true;

#[test]
fn skip_leaves_out_what_comes_while_a_run_is_open() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    assert_eq!(desk.look(999, &[]), "");
    assert_eq!(desk.due_ms, Some(1_000));
    assert_eq!(desk.look(1_000, &[]), "+1");
    assert_eq!(desk.look(2_500, &[]), "");
    assert_eq!((desk.state.skipped, desk.due_ms), (1, Some(3_000)));
    assert_eq!(desk.look(3_000, &[("1", OK)]), "+3");
    assert_eq!((desk.state.started, desk.state.running.len()), (2, 1));
    assert_eq!(desk.state.recent[1].at_ms, 3_000);
}

#[test]
fn buffer_one_keeps_one_start_for_later() {
    let mut desk = Desk::new(spec(Overlap::BufferOne));
    assert_eq!(desk.look(3_000, &[]), "+1");
    assert_eq!((desk.state.skipped, desk.state.waiting.len()), (1, 1));
    assert_eq!(desk.due_ms, Some(3_000 + limits::SCHEDULE_LOOK_MS));
    assert_eq!(desk.look(3_500, &[("1", OK)]), "+2");
    assert_eq!((desk.state.waiting.len(), desk.due_ms), (0, Some(4_000)));
}

#[test]
fn buffer_all_keeps_every_start_in_order_up_to_the_bound() {
    let mut desk = Desk::new(spec(Overlap::BufferAll));
    assert_eq!(desk.look(4_000, &[]), "+1");
    assert_eq!(desk.look(4_100, &[("1", OK)]), "+2");
    assert_eq!(desk.look(4_200, &[("2", OK)]), "+3");
    assert_eq!(desk.look(5_000, &[]), "");
    assert_eq!(desk.look(5_100, &[("3", OK)]), "+4");
    let all = limits::SCHEDULE_WAITING_MAX as u64 + 10;
    assert_eq!(desk.look(all * SECOND, &[]), "");
    assert_eq!(desk.state.waiting.len(), limits::SCHEDULE_WAITING_MAX);
    assert_eq!(desk.state.skipped, 6);
}

#[test]
fn cancel_other_asks_once_and_starts_the_latest_when_the_other_has_closed() {
    let mut desk = Desk::new(spec(Overlap::CancelOther));
    assert_eq!(desk.look(1_000, &[]), "+1");
    assert_eq!(desk.look(2_000, &[]), "-1");
    assert_eq!(desk.look(3_000, &[]), "", "it has been asked");
    assert_eq!((desk.state.skipped, desk.state.waiting.len()), (1, 1));
    assert_eq!(desk.look(3_500, &[("1", OK)]), "+3");
}

#[test]
fn terminate_other_stops_what_was_only_asked_before() {
    let mut desk = Desk::new(spec(Overlap::CancelOther));
    assert_eq!(desk.look(2_000, &[]), "+1 -1");
    desk.spec.policy.overlap = Overlap::TerminateOther;
    assert_eq!(desk.look(3_000, &[]), "x1");
    assert_eq!(desk.look(3_100, &[("1", OK)]), "+3");
}

#[test]
fn allow_all_starts_every_time_and_goes_on_after_a_bounded_number() {
    let mut desk = Desk::new(spec(Overlap::AllowAll));
    assert_eq!(desk.look(3_000, &[]), "+1 +2 +3");
    let now_ms = 200 * SECOND;
    let Decision { actions, due_ms, state } = desk.decide(now_ms, &[]);
    assert_eq!(actions.len(), limits::SCHEDULE_STARTS_MAX);
    assert!(due_ms.unwrap() <= now_ms, "the rest is due at once");
    assert_eq!(state.running.len(), limits::SCHEDULE_RUNNING_MAX);
    desk.state = state;
    assert_eq!(desk.decide(now_ms, &[]).actions.len(), 97);
}

#[test]
fn a_time_too_late_for_the_window_is_missed_and_the_others_are_caught_up() {
    let mut desk = Desk::new(spec(Overlap::AllowAll));
    desk.spec.policy.catch_up_ms = Some(2_000);
    assert_eq!(desk.look(6_000, &[]), "+4 +5 +6");
    assert_eq!((desk.state.missed, desk.state.considered_ms), (3, 6_000));
}

#[test]
fn a_schedule_that_is_paused_lets_time_pass() {
    let mut desk = Desk::new(spec(Overlap::AllowAll));
    desk.state.pause(1_500, "lunch".into());
    assert_eq!(desk.look(3_000, &[]), "+1", "it was due before the pause");
    assert_eq!(desk.due_ms, None);
    assert_eq!(desk.look(4_000, &[]), "");
    desk.state.pause(4_200, "still".into());
    assert_eq!(desk.look(4_300, &[]), "", "a second pause changes the note alone");
    assert_eq!(desk.state.paused.as_ref().unwrap().note, "still");
    desk.state.resume(4_500);
    assert_eq!(desk.look(6_000, &[]), "+5 +6");
    assert_eq!((desk.state.missed, desk.state.skipped), (0, 0));
}

#[test]
fn what_waits_when_a_schedule_is_paused_goes_on_when_it_is_resumed() {
    let mut desk = Desk::new(spec(Overlap::BufferAll));
    assert_eq!(desk.look(2_000, &[]), "+1");
    desk.state.pause(2_100, String::new());
    assert_eq!(desk.look(2_200, &[("1", OK)]), "");
    assert_eq!(desk.due_ms, None);
    desk.state.resume(2_300);
    assert_eq!(desk.look(2_400, &[]), "+2");
}

#[test]
fn a_failure_pauses_the_schedule_that_wants_it() {
    for wants in [true, false] {
        let mut desk = Desk::new(spec(Overlap::BufferAll));
        desk.spec.policy.pause_on_failure = wants;
        assert_eq!(desk.look(2_000, &[]), "+1");
        assert_eq!(desk.look(3_000, &[("1", FAILED)]), if wants { "" } else { "+2" });
        assert_eq!(desk.state.paused.is_some(), wants);
        if let Some(paused) = &desk.state.paused {
            assert_eq!(paused.note, format!("the run {} failed", id_of("1")));
            desk.state.resume(3_500);
            assert_eq!(desk.look(3_600, &[]), "+2", "what waited goes on");
        }
    }
}

#[test]
fn a_time_that_is_due_when_a_failure_is_noticed_has_no_run() {
    let mut desk = Desk::new(spec(Overlap::AllowAll));
    desk.spec.policy.pause_on_failure = true;
    assert_eq!(desk.look(1_000, &[]), "+1");
    assert_eq!(desk.look(2_000, &[("1", FAILED)]), "");
    assert_eq!(desk.due_ms, None);
}

#[test]
fn so_many_starts_remain_and_then_none() {
    let mut desk = Desk::new(spec(Overlap::BufferAll));
    desk.state.remaining_starts = Some(2);
    assert_eq!(desk.look(4_000, &[]), "+1");
    assert_eq!(desk.look(4_500, &[("1", OK)]), "+2");
    assert_eq!((desk.state.remaining_starts, desk.state.waiting.len()), (Some(0), 0));
    assert_eq!(desk.look(9_000, &[("2", OK)]), "");
    assert_eq!(desk.due_ms, None);
    desk.state.trigger(&desk.spec, "s", 9_000, Overlap::Skip);
    assert_eq!(desk.look(9_000, &[]), "+9t", "who asks for a run is not the calendar");
    let old = desk.spec.clone();
    desk.spec.policy.remaining_starts = Some(5);
    desk.replace(&old, 10_500);
    assert_eq!(desk.look(11_000, &[("9t", OK)]), "+11", "what nobody wanted is not made up for");
    assert_eq!(desk.state.remaining_starts, Some(4));
}

#[test]
fn new_times_hold_from_now_on_and_other_changes_touch_no_time() {
    for (when, expected) in [(true, "+3"), (false, "+1 +2 +3")] {
        let mut desk = Desk::new(spec(Overlap::AllowAll));
        let old = desk.spec.clone();
        desk.spec.when.end_at_ms = when.then_some(60_000);
        desk.spec.what.workflow = "v".into();
        desk.replace(&old, 2_500);
        assert_eq!(desk.look(3_000, &[]), expected);
    }
}

#[test]
fn a_start_that_waits_for_its_jitter_is_not_lost_when_the_times_change() {
    let jittered = || {
        let mut spec = spec(Overlap::AllowAll);
        spec.when.jitter_ms = SECOND;
        spec
    };
    let due_ms = |at_ms| at_ms + jittered().jitter_ms("s", at_ms, Some(at_ms + SECOND));
    // A time whose start is late enough to be overtaken.
    let at_ms = (1..).map(|n| n * SECOND).find(|at_ms| due_ms(*at_ms) > at_ms + 100).unwrap();
    let second = (at_ms / SECOND).to_string();
    for (paused, remaining, expected) in [
        (false, None, format!("+{second}")),
        (false, Some(1), format!("+{second}")),
        (false, Some(0), String::new()),
        (true, None, String::new()),
    ] {
        let mut desk = Desk::new(jittered());
        desk.state.considered_ms = at_ms - 1;
        desk.state.remaining_starts = remaining;
        assert_eq!(desk.look(at_ms + 50, &[]), "", "not yet");
        if paused {
            desk.state.pause(at_ms + 50, String::new());
        }
        let old = desk.spec.clone();
        desk.spec.when.every[0].every_ms = 3_600 * SECOND;
        desk.replace(&old, at_ms + 50);
        assert_eq!(desk.look(at_ms + 60, &[]), expected, "{paused} {remaining:?}");
        assert_eq!(desk.state.remaining_starts, remaining.map(|_| 0), "it counts as the calendar's");
        assert_eq!(desk.look(at_ms + 2 * SECOND, &[]), "", "once");
    }
}

#[test]
fn requests_follow_their_own_policy_also_when_the_schedule_is_paused() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    desk.state.pause(0, String::new());
    let ids: Vec<_> = [Overlap::Skip, Overlap::Skip, Overlap::BufferOne, Overlap::AllowAll]
        .map(|overlap| desk.state.trigger(&desk.spec, "s", 5_000, overlap))
        .into();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), 4);
    let Decision { actions, state, due_ms } = desk.decide(5_100, &[]);
    let started: Vec<_> = actions
        .iter()
        .map(|action| match action {
            Action::Start { workflow_id, .. } => workflow_id.clone(),
            Action::Stop { .. } => panic!("{action:?}"),
        })
        .collect();
    assert_eq!(started, [ids[0].clone(), ids[3].clone()]);
    assert_eq!((state.skipped, state.waiting.len()), (1, 1));
    assert_eq!(due_ms, Some(5_100 + limits::SCHEDULE_LOOK_MS));
}

#[test]
fn a_backfill_starts_what_the_past_has_left_out() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    desk.state.considered_ms = 50_000;
    let fill = |after_ms, through_ms, overlap| Backfill { after_ms, through_ms, overlap };
    desk.state.backfills.push_back(fill(9_999, 12_000, Overlap::AllowAll));
    desk.state.backfills.push_back(fill(19_999, 22_000, Overlap::BufferAll));
    assert_eq!(desk.look(50_100, &[]), "+10 +11 +12");
    assert_eq!(desk.due_ms, Some(50_100));
    assert_eq!(desk.look(50_100, &[("10", OK), ("11", OK), ("12", OK)]), "+20");
    assert_eq!(desk.look(50_200, &[("20", OK)]), "+21");
    assert_eq!(desk.look(50_300, &[("21", OK)]), "+22");
    assert!(desk.state.backfills.is_empty());
    assert_eq!(desk.due_ms, Some(51_000));
}

#[test]
fn a_long_backfill_goes_on_where_the_last_look_ended() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    desk.state.considered_ms = 500_000;
    let all = limits::SCHEDULE_STARTS_MAX as u64 + 50;
    let through_ms = all * SECOND;
    desk.state.backfills.push_back(Backfill { after_ms: 0, through_ms, overlap: Overlap::AllowAll });
    let mut started = std::collections::BTreeSet::new();
    while !desk.state.backfills.is_empty() {
        let Decision { actions, state, .. } = desk.decide(500_100, &[]);
        for action in actions {
            let Action::Start { at_ms, .. } = action else { panic!("{action:?}") };
            assert!(started.insert(at_ms), "{at_ms} is started twice");
        }
        desk.state = state;
    }
    assert_eq!(started.len() as u64, all);
}

#[test]
fn a_start_with_jitter_is_late_but_keeps_its_name() {
    let mut desk = Desk::new(spec(Overlap::AllowAll));
    desk.spec.when.jitter_ms = 900;
    let late = desk.spec.jitter_ms("s", 1_000, Some(2_000));
    assert!(late > 0, "choose another name for this test");
    assert_eq!(desk.look(1_000, &[]), "");
    assert_eq!(desk.due_ms, Some(1_000 + late));
    let before = desk.state.clone();
    desk.state.pause(1_000 + late - 1, String::new());
    assert_eq!(desk.look(1_000 + late, &[]), "", "it was not due when the schedule was paused");
    desk.state = before;
    assert_eq!(desk.look(1_000 + late, &[]), "+1");
}

#[test]
fn the_last_time_of_a_page_is_left_to_the_next_look() {
    let spec = spec(Overlap::AllowAll);
    let calendar = Times { ms: vec![1_000, 2_000], more: true };
    let none = Times::default();
    let look = Look { name: "s", now_ms: 9_000, closed: &[], calendar: &calendar, backfill: &none };
    let Decision { state, due_ms, .. } = decide(&spec, &State::new(&spec, 0), &look);
    assert_eq!((state.considered_ms, state.started, due_ms), (1_000, 1, Some(2_000)));
}

#[test]
fn after_the_last_time_nobody_looks_again() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    desk.spec.when.end_at_ms = Some(2_500);
    assert_eq!(desk.look(1_000, &[]), "+1");
    assert_eq!(desk.due_ms, Some(2_000));
    assert_eq!(desk.look(9_000, &[("1", OK)]), "+2");
    assert_eq!(desk.due_ms, None);
}

#[test]
fn a_start_that_was_refused_is_told_and_leaves_room() {
    let mut desk = Desk::new(spec(Overlap::Skip));
    assert_eq!(desk.look(1_000, &[]), "+1");
    desk.state.refused(&id_of("1"), "nobody".into());
    assert_eq!((desk.state.started, desk.state.failed), (0, 1));
    assert_eq!(desk.state.recent[0].error.as_deref(), Some("nobody"));
    assert_eq!(desk.look(2_000, &[]), "+2");
}

#[test]
fn a_spec_that_cannot_be_kept_is_refused() {
    type Spoil = fn(&mut Spec);
    let wrong: [Spoil; 11] = [
        |spec| spec.when.every.clear(),
        |spec| spec.when.every[0].every_ms = 0,
        |spec| spec.when.every[0].offset_ms = SECOND,
        |spec| spec.when.end_at_ms = Some(u64::MAX),
        |spec| (spec.when.start_at_ms, spec.when.end_at_ms) = (Some(2), Some(1)),
        |spec| spec.when.every = vec![spec.when.every[0]; limits::SCHEDULE_RULES_MAX + 1],
        |spec| spec.what.workflow = "".into(),
        |spec| spec.what.id_prefix = Some("x".repeat(limits::SCHEDULE_NAME_BYTES_MAX + 1).into()),
        |spec| spec.what.terms.priority = Some(6),
        |spec| {
            let flag = backstitch_core::Attribute::Flag(true);
            spec.what.terms.attributes.insert("schedule".into(), flag);
        },
        |spec| spec.policy.remaining_starts = Some(0),
    ];
    for (index, spoil) in wrong.into_iter().enumerate() {
        let mut spec = spec(Overlap::Skip);
        spec.check("s").unwrap();
        spoil(&mut spec);
        assert!(spec.check("s").is_err(), "{index}");
    }
}
