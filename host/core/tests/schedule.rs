//! What looks at a schedule lead to, as scenarios: a spec, and looks at times that a clock could show.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use backstitch_core::limits;
use backstitch_core::schedule::{
    Action, Backfill, Closing, Decision, Every, Overlap, Policy, Snapshot, Spec, State, Stop, Terms, Times,
    What, When, decide,
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
struct Scenario {
    spec: Spec,
    state: State,
    due_ms: Option<u64>,
}

impl Scenario {
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
        let snapshot =
            Snapshot { name: "s", now_ms, closed: &closed, calendar: &calendar, backfill: &backfill };
        let decision = decide(&self.spec, &self.state, &snapshot);
        // A host that dies before the state is written decides the same again.
        assert_eq!(decide(&self.spec, &self.state, &snapshot), decision);
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
    fn check(&mut self, now_ms: u64, closed: &[(&str, bool)]) -> String {
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
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    assert_eq!(scenario.check(999, &[]), "");
    assert_eq!(scenario.due_ms, Some(1_000));
    assert_eq!(scenario.check(1_000, &[]), "+1");
    assert_eq!(scenario.check(2_500, &[]), "");
    assert_eq!((scenario.state.skipped, scenario.due_ms), (1, Some(3_000)));
    assert_eq!(scenario.check(3_000, &[("1", OK)]), "+3");
    assert_eq!((scenario.state.started, scenario.state.running.len()), (2, 1));
    assert_eq!(scenario.state.recent[1].at_ms, 3_000);
}

#[test]
fn buffer_one_keeps_one_start_for_later() {
    let mut scenario = Scenario::new(spec(Overlap::BufferOne));
    assert_eq!(scenario.check(3_000, &[]), "+1");
    assert_eq!((scenario.state.skipped, scenario.state.waiting.len()), (1, 1));
    assert_eq!(scenario.due_ms, Some(3_000 + limits::SCHEDULE_CHECK_MS));
    assert_eq!(scenario.check(3_500, &[("1", OK)]), "+2");
    assert_eq!((scenario.state.waiting.len(), scenario.due_ms), (0, Some(4_000)));
}

#[test]
fn buffer_all_keeps_every_start_in_order_up_to_the_bound() {
    let mut scenario = Scenario::new(spec(Overlap::BufferAll));
    assert_eq!(scenario.check(4_000, &[]), "+1");
    assert_eq!(scenario.check(4_100, &[("1", OK)]), "+2");
    assert_eq!(scenario.check(4_200, &[("2", OK)]), "+3");
    assert_eq!(scenario.check(5_000, &[]), "");
    assert_eq!(scenario.check(5_100, &[("3", OK)]), "+4");
    let all = limits::SCHEDULE_WAITING_MAX as u64 + 10;
    assert_eq!(scenario.check(all * SECOND, &[]), "");
    assert_eq!(scenario.state.waiting.len(), limits::SCHEDULE_WAITING_MAX);
    assert_eq!(scenario.state.skipped, 6);
}

#[test]
fn cancel_other_asks_once_and_starts_the_latest_when_the_other_has_closed() {
    let mut scenario = Scenario::new(spec(Overlap::CancelOther));
    assert_eq!(scenario.check(1_000, &[]), "+1");
    assert_eq!(scenario.check(2_000, &[]), "-1");
    assert_eq!(scenario.check(3_000, &[]), "", "it has been asked");
    assert_eq!((scenario.state.skipped, scenario.state.waiting.len()), (1, 1));
    assert_eq!(scenario.check(3_500, &[("1", OK)]), "+3");
}

#[test]
fn terminate_other_stops_what_was_only_asked_before() {
    let mut scenario = Scenario::new(spec(Overlap::CancelOther));
    assert_eq!(scenario.check(2_000, &[]), "+1 -1");
    scenario.spec.policy.overlap = Overlap::TerminateOther;
    assert_eq!(scenario.check(3_000, &[]), "x1");
    assert_eq!(scenario.check(3_100, &[("1", OK)]), "+3");
}

#[test]
fn allow_all_starts_every_time_and_goes_on_after_a_bounded_number() {
    let mut scenario = Scenario::new(spec(Overlap::AllowAll));
    assert_eq!(scenario.check(3_000, &[]), "+1 +2 +3");
    let now_ms = 200 * SECOND;
    let Decision { actions, due_ms, state } = scenario.decide(now_ms, &[]);
    assert_eq!(actions.len(), limits::SCHEDULE_STARTS_MAX);
    assert!(due_ms.unwrap() <= now_ms, "the rest is due at once");
    assert_eq!(state.running.len(), limits::SCHEDULE_RUNNING_MAX);
    scenario.state = state;
    assert_eq!(scenario.decide(now_ms, &[]).actions.len(), 97);
}

#[test]
fn a_time_too_late_for_the_window_is_missed_and_the_others_are_caught_up() {
    let mut scenario = Scenario::new(spec(Overlap::AllowAll));
    scenario.spec.policy.catch_up_ms = Some(2_000);
    assert_eq!(scenario.check(6_000, &[]), "+4 +5 +6");
    assert_eq!((scenario.state.missed, scenario.state.considered_ms), (3, 6_000));
}

#[test]
fn a_schedule_that_is_paused_lets_time_pass() {
    let mut scenario = Scenario::new(spec(Overlap::AllowAll));
    scenario.state.pause(1_500, "lunch".into());
    assert_eq!(scenario.check(3_000, &[]), "+1", "it was due before the pause");
    assert_eq!(scenario.due_ms, None);
    assert_eq!(scenario.check(4_000, &[]), "");
    scenario.state.pause(4_200, "still".into());
    assert_eq!(scenario.check(4_300, &[]), "", "a second pause changes the note alone");
    assert_eq!(scenario.state.paused.as_ref().unwrap().note, "still");
    scenario.state.resume(4_500);
    assert_eq!(scenario.check(6_000, &[]), "+5 +6");
    assert_eq!((scenario.state.missed, scenario.state.skipped), (0, 0));
}

#[test]
fn what_waits_when_a_schedule_is_paused_goes_on_when_it_is_resumed() {
    let mut scenario = Scenario::new(spec(Overlap::BufferAll));
    assert_eq!(scenario.check(2_000, &[]), "+1");
    scenario.state.pause(2_100, String::new());
    assert_eq!(scenario.check(2_200, &[("1", OK)]), "");
    assert_eq!(scenario.due_ms, None);
    scenario.state.resume(2_300);
    assert_eq!(scenario.check(2_400, &[]), "+2");
}

#[test]
fn a_failure_pauses_the_schedule_that_wants_it() {
    for wants in [true, false] {
        let mut scenario = Scenario::new(spec(Overlap::BufferAll));
        scenario.spec.policy.pause_on_failure = wants;
        assert_eq!(scenario.check(2_000, &[]), "+1");
        assert_eq!(scenario.check(3_000, &[("1", FAILED)]), if wants { "" } else { "+2" });
        assert_eq!(scenario.state.paused.is_some(), wants);
        if let Some(paused) = &scenario.state.paused {
            assert_eq!(paused.note, format!("the run {} failed", id_of("1")));
            scenario.state.resume(3_500);
            assert_eq!(scenario.check(3_600, &[]), "+2", "what waited goes on");
        }
    }
}

#[test]
fn a_time_that_is_due_when_a_failure_is_noticed_has_no_run() {
    let mut scenario = Scenario::new(spec(Overlap::AllowAll));
    scenario.spec.policy.pause_on_failure = true;
    assert_eq!(scenario.check(1_000, &[]), "+1");
    assert_eq!(scenario.check(2_000, &[("1", FAILED)]), "");
    assert_eq!(scenario.due_ms, None);
}

#[test]
fn so_many_starts_remain_and_then_none() {
    let mut scenario = Scenario::new(spec(Overlap::BufferAll));
    scenario.state.remaining_starts = Some(2);
    assert_eq!(scenario.check(4_000, &[]), "+1");
    assert_eq!(scenario.check(4_500, &[("1", OK)]), "+2");
    assert_eq!((scenario.state.remaining_starts, scenario.state.waiting.len()), (Some(0), 0));
    assert_eq!(scenario.check(9_000, &[("2", OK)]), "");
    assert_eq!(scenario.due_ms, None);
    scenario.state.trigger(&scenario.spec, "s", 9_000, Overlap::Skip);
    assert_eq!(scenario.check(9_000, &[]), "+9t", "who asks for a run is not the calendar");
    let old = scenario.spec.clone();
    scenario.spec.policy.remaining_starts = Some(5);
    scenario.replace(&old, 10_500);
    assert_eq!(scenario.check(11_000, &[("9t", OK)]), "+11", "what nobody wanted is not made up for");
    assert_eq!(scenario.state.remaining_starts, Some(4));
}

#[test]
fn new_times_hold_from_now_on_and_other_changes_touch_no_time() {
    for (when, expected) in [(true, "+3"), (false, "+1 +2 +3")] {
        let mut scenario = Scenario::new(spec(Overlap::AllowAll));
        let old = scenario.spec.clone();
        scenario.spec.when.end_at_ms = when.then_some(60_000);
        scenario.spec.what.workflow = "v".into();
        scenario.replace(&old, 2_500);
        assert_eq!(scenario.check(3_000, &[]), expected);
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
        let mut scenario = Scenario::new(jittered());
        scenario.state.considered_ms = at_ms - 1;
        scenario.state.remaining_starts = remaining;
        assert_eq!(scenario.check(at_ms + 50, &[]), "", "not yet");
        if paused {
            scenario.state.pause(at_ms + 50, String::new());
        }
        let old = scenario.spec.clone();
        scenario.spec.when.every[0].every_ms = 3_600 * SECOND;
        scenario.replace(&old, at_ms + 50);
        assert_eq!(scenario.check(at_ms + 60, &[]), expected, "{paused} {remaining:?}");
        assert_eq!(scenario.state.remaining_starts, remaining.map(|_| 0), "it counts as the calendar's");
        assert_eq!(scenario.check(at_ms + 2 * SECOND, &[]), "", "once");
    }
}

#[test]
fn requests_follow_their_own_policy_also_when_the_schedule_is_paused() {
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    scenario.state.pause(0, String::new());
    let ids: Vec<_> = [Overlap::Skip, Overlap::Skip, Overlap::BufferOne, Overlap::AllowAll]
        .map(|overlap| scenario.state.trigger(&scenario.spec, "s", 5_000, overlap))
        .into();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), 4);
    let Decision { actions, state, due_ms } = scenario.decide(5_100, &[]);
    let started: Vec<_> = actions
        .iter()
        .map(|action| match action {
            Action::Start { workflow_id, .. } => workflow_id.clone(),
            Action::Stop { .. } => panic!("{action:?}"),
        })
        .collect();
    assert_eq!(started, [ids[0].clone(), ids[3].clone()]);
    assert_eq!((state.skipped, state.waiting.len()), (1, 1));
    assert_eq!(due_ms, Some(5_100 + limits::SCHEDULE_CHECK_MS));
}

#[test]
fn a_backfill_starts_what_the_past_has_left_out() {
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    scenario.state.considered_ms = 50_000;
    let fill = |after_ms, through_ms, overlap| Backfill { after_ms, through_ms, overlap };
    scenario.state.backfills.push_back(fill(9_999, 12_000, Overlap::AllowAll));
    scenario.state.backfills.push_back(fill(19_999, 22_000, Overlap::BufferAll));
    assert_eq!(scenario.check(50_100, &[]), "+10 +11 +12");
    assert_eq!(scenario.due_ms, Some(50_100));
    assert_eq!(scenario.check(50_100, &[("10", OK), ("11", OK), ("12", OK)]), "+20");
    assert_eq!(scenario.check(50_200, &[("20", OK)]), "+21");
    assert_eq!(scenario.check(50_300, &[("21", OK)]), "+22");
    assert!(scenario.state.backfills.is_empty());
    assert_eq!(scenario.due_ms, Some(51_000));
}

#[test]
fn a_long_backfill_goes_on_where_the_last_check_ended() {
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    scenario.state.considered_ms = 500_000;
    let all = limits::SCHEDULE_STARTS_MAX as u64 + 50;
    let through_ms = all * SECOND;
    scenario.state.backfills.push_back(Backfill { after_ms: 0, through_ms, overlap: Overlap::AllowAll });
    let mut started = std::collections::BTreeSet::new();
    while !scenario.state.backfills.is_empty() {
        let Decision { actions, state, .. } = scenario.decide(500_100, &[]);
        for action in actions {
            let Action::Start { at_ms, .. } = action else { panic!("{action:?}") };
            assert!(started.insert(at_ms), "{at_ms} is started twice");
        }
        scenario.state = state;
    }
    assert_eq!(started.len() as u64, all);
}

#[test]
fn a_start_with_jitter_is_late_but_keeps_its_name() {
    let mut scenario = Scenario::new(spec(Overlap::AllowAll));
    scenario.spec.when.jitter_ms = 900;
    let late = scenario.spec.jitter_ms("s", 1_000, Some(2_000));
    assert!(late > 0, "choose another name for this test");
    assert_eq!(scenario.check(1_000, &[]), "");
    assert_eq!(scenario.due_ms, Some(1_000 + late));
    let before = scenario.state.clone();
    scenario.state.pause(1_000 + late - 1, String::new());
    assert_eq!(scenario.check(1_000 + late, &[]), "", "it was not due when the schedule was paused");
    scenario.state = before;
    assert_eq!(scenario.check(1_000 + late, &[]), "+1");
}

#[test]
fn the_last_time_of_a_page_is_left_to_the_next_look() {
    let spec = spec(Overlap::AllowAll);
    let calendar = Times { ms: vec![1_000, 2_000], more: true };
    let none = Times::default();
    let snapshot = Snapshot { name: "s", now_ms: 9_000, closed: &[], calendar: &calendar, backfill: &none };
    let Decision { state, due_ms, .. } = decide(&spec, &State::new(&spec, 0), &snapshot);
    assert_eq!((state.considered_ms, state.started, due_ms), (1_000, 1, Some(2_000)));
}

#[test]
fn after_the_last_time_nobody_looks_again() {
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    scenario.spec.when.end_at_ms = Some(2_500);
    assert_eq!(scenario.check(1_000, &[]), "+1");
    assert_eq!(scenario.due_ms, Some(2_000));
    assert_eq!(scenario.check(9_000, &[("1", OK)]), "+2");
    assert_eq!(scenario.due_ms, None);
}

#[test]
fn a_start_that_was_refused_is_told_and_leaves_room() {
    let mut scenario = Scenario::new(spec(Overlap::Skip));
    assert_eq!(scenario.check(1_000, &[]), "+1");
    scenario.state.refused(&id_of("1"), "nobody".into());
    assert_eq!((scenario.state.started, scenario.state.failed), (0, 1));
    assert_eq!(scenario.state.recent[0].error.as_deref(), Some("nobody"));
    assert_eq!(scenario.check(2_000, &[]), "+2");
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
