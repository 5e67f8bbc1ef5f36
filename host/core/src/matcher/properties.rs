//! Random polls, calls, answers and delays against a plain model of who may have what.
//!
//! The model holds of each poller what the world outside can know: what it asked for, what was reserved for it and
//! committed, whether it waits. After each move it must agree with the matcher, and nothing that a driver would
//! have to do may be left undone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::limits::{POLLER_GRACE_MS, RESERVED_WAIT_MS};

const NAMES: [&str; 3] = ["a", "b", "c"];
const WAIT: Duration = Duration::from_millis(400);

/// What happens next. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Move {
    Poll {
        queue: u8,
        kind: u8,
        worker: u8,
        max: u32,
    },
    /// A poll takes its next step; luck says what a check of the database finds.
    Advance {
        poll: u8,
        luck: u8,
    },
    HangUp(u8),
    Reserve {
        queue: u8,
        name: u8,
    },
    Commit(u8),
    Release(u8),
    Answer(u8),
    Heard(u8),
    Offer {
        queue: u8,
        name: u8,
    },
    OfferAny(u8),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let poll = (0..2u8, 0..4u8, 0..2u8, 1..5u32);
    let one = prop_oneof![
        3 => poll.prop_map(|(queue, kind, worker, max)| Move::Poll { queue, kind, worker, max }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(poll, luck)| Move::Advance { poll, luck }),
        1 => any::<u8>().prop_map(Move::HangUp),
        6 => (0..2u8, 0..3u8).prop_map(|(queue, name)| Move::Reserve { queue, name }),
        4 => any::<u8>().prop_map(Move::Commit),
        1 => any::<u8>().prop_map(Move::Release),
        1 => any::<u8>().prop_map(Move::Answer),
        1 => any::<u8>().prop_map(Move::Heard),
        2 => (0..2u8, 0..3u8).prop_map(|(queue, name)| Move::Offer { queue, name }),
        1 => (0..2u8).prop_map(Move::OfferAny),
        2 => prop_oneof![Just(1), Just(POLLER_GRACE_MS), Just(RESERVED_WAIT_MS), Just(500)].prop_map(Move::Pass),
    ];
    vec(one, 1..160)
}

fn queue(number: u8) -> Queue {
    Queue { tenant: TenantId(i32::from(number)), name: "q".into() }
}

fn request(kind: u8, worker: u8, max: u32) -> PollRequest {
    let names = |names: &[&str]| Some(Arc::new(names.iter().map(|name| (*name).to_owned()).collect()));
    let names = match kind {
        0 => None,
        1 => names(&["a"]),
        2 => names(&["a", "b"]),
        _ => names(&["c"]),
    };
    PollRequest { names, max, lease_ms: 1_000, worker: worker.to_string().into() }
}

/// Where a poller is, as the driver of its poll knows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Arrived,
    Checking { limit: u32, version: OfferVersion, offers: u64 },
    Waiting { until: Moment, collecting: bool },
    Away { until: Moment },
}

/// What the world outside knows of a poller.
#[derive(Debug)]
struct Known {
    queue: Queue,
    request: PollRequest,
    phase: Phase,
    asked: u32,
    takes: u32,
    unheard: u32,
    reserved: u32,
    tasks: Vec<u32>,
    /// It has been woken and has not resumed.
    woken: bool,
    told: bool,
    /// It waits, and is about to check.
    checks: bool,
}

impl Known {
    fn free(&self) -> u32 {
        self.takes.saturating_sub(self.reserved + self.tasks.len() as u32)
    }

    fn takes(&self, queue: &Queue, name: &str) -> bool {
        self.queue == *queue && self.request.names.as_ref().is_none_or(|names| names.contains(name))
    }

    fn is_polling(&self) -> bool {
        !matches!(self.phase, Phase::Away { .. })
    }

    fn waits_for_anything(&self) -> bool {
        matches!(self.phase, Phase::Waiting { collecting: false, .. })
            && self.tasks.is_empty()
            && self.free() > 0
    }
}

#[derive(Default)]
struct Model {
    now: Moment,
    known: BTreeMap<PollerId, Known>,
    reservations: Vec<Reservation>,
    answered: Vec<Answered>,
    leases: Vec<(TaskLease, PollerId)>,
    /// When a worker left with room for more, and whether it comes back.
    workers: BTreeMap<(Queue, Arc<str>), (Option<Moment>, bool)>,
    offers: BTreeMap<Queue, u64>,
    timers: Vec<(PollerId, Moment)>,
    /// Tasks that are neither delivered nor given back.
    open: BTreeSet<u32>,
    tasks: u32,
    /// Calls that may give a poller room: each of them puts it into two lists at most.
    calls: u64,
    asked: u64,
}

struct Run {
    matcher: Matcher<u32, ()>,
    model: Model,
}

/// The one that a number chooses.
fn chosen<T>(number: u8, of: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let mut of = of;
    let count = of.len().max(1);
    of.nth(usize::from(number) % count)
}

impl Run {
    fn new() -> Self {
        Self { matcher: Matcher::new(1), model: Model::default() }
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action<u32, ()>>) {
        for action in actions {
            match action {
                Action::Wake(poller, ()) => {
                    let known = self.model.known.get_mut(&poller).expect("who is woken is there");
                    assert!(matches!(known.phase, Phase::Waiting { .. }), "nobody waits: {known:?}");
                    // With nothing to take it is told to check, or hears now what it was told.
                    let is_told = known.tasks.is_empty();
                    assert!(!is_told || known.free() > 0, "woken for nothing: {known:?}");
                    known.woken = true;
                    known.told |= is_told;
                }
                Action::GiveBack(_, tasks) => tasks.into_iter().for_each(|task| self.end(task)),
                Action::SetTimer(poller, at) => self.model.timers.push((poller, at)),
            }
        }
    }

    /// A task is delivered or given back.
    fn end(&mut self, task: u32) {
        assert!(self.model.open.remove(&task), "task {task} comes twice");
    }

    fn polling(&self, number: u8) -> Option<PollerId> {
        let polling = self.model.known.iter().filter(|(_, known)| known.is_polling());
        let polling: Vec<PollerId> = polling.map(|(id, _)| *id).collect();
        chosen(number, polling.into_iter())
    }

    fn counted(&mut self) -> &mut Matcher<u32, ()> {
        self.model.calls += 1;
        &mut self.matcher
    }

    fn known(&mut self, poller: PollerId) -> &mut Known {
        self.model.known.get_mut(&poller).expect("a poller that is there")
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Poll { queue: number, kind, worker, max } => {
                self.poll(queue(number), request(kind, worker, max));
            }
            Move::Advance { poll, luck } => {
                if let Some(poller) = self.polling(poll) {
                    self.advance(poller, luck);
                }
            }
            Move::HangUp(poll) => {
                if let Some(poller) = self.polling(poll) {
                    self.hang_up(poller);
                }
            }
            Move::Reserve { queue: number, name } => self.reserve(&queue(number), NAMES[usize::from(name)]),
            Move::Commit(number) => self.end_reservation(number, true),
            Move::Release(number) => self.end_reservation(number, false),
            Move::Answer(number) => self.answer(number),
            Move::Heard(number) => {
                if let Some(at) = chosen(number, 0..self.model.answered.len()) {
                    let answered = self.model.answered.swap_remove(at);
                    if let Some(known) = self.model.known.get_mut(&answered.0) {
                        known.unheard -= 1;
                    }
                    self.matcher.heard(answered);
                }
            }
            Move::Offer { queue: number, name } => self.offer(&queue(number), Some(NAMES[usize::from(name)])),
            Move::OfferAny(number) => self.offer(&queue(number), None),
            Move::Pass(ms) => self.pass(Duration::from_millis(ms)),
        }
    }

    fn poll(&mut self, queue: Queue, request: PollRequest) {
        if let Some((left, comes_back)) = self.model.workers.get_mut(&(queue.clone(), request.worker.clone()))
            && let Some(left) = left.take()
        {
            *comes_back = self.model.now.since(left) <= Duration::from_millis(POLLER_GRACE_MS);
        }
        let is_kept = |known: &Known| {
            let same = known.queue == queue && known.request.of_the_worker() == request.of_the_worker();
            !known.is_polling() && same
        };
        let kept = self.model.known.iter().find(|(_, known)| is_kept(known)).map(|(id, _)| *id);
        let (poller, ()) = self.matcher.poll(self.model.now, &queue, request.clone(), || ());
        let max = request.max;
        match kept {
            Some(kept) => {
                assert_eq!(poller, kept, "the poller that is kept for the worker");
                let known = self.known(poller);
                (known.asked, known.takes, known.phase) = (max, max + known.unheard, Phase::Arrived);
            }
            None => {
                let (phase, tasks) = (Phase::Arrived, Vec::new());
                let (unheard, reserved) = (0, 0);
                let (woken, told, checks) = (false, false, false);
                let (asked, takes) = (max, max);
                let known = Known {
                    queue,
                    request,
                    phase,
                    asked,
                    takes,
                    unheard,
                    reserved,
                    tasks,
                    woken,
                    told,
                    checks,
                };
                assert!(self.model.known.insert(poller, known).is_none(), "an id of its own");
            }
        }
    }

    /// What a driver does with a poll.
    fn advance(&mut self, poller: PollerId, luck: u8) {
        let now = self.model.now;
        let queue = self.known(poller).queue.clone();
        let offers = self.model.offers.get(&queue).copied().unwrap_or_default();
        let checks = std::mem::take(&mut self.known(poller).checks);
        match self.known(poller).phase {
            Phase::Away { .. } => {}
            phase if checks || phase == Phase::Arrived => {
                let backlog = self.matcher.backlog(poller).expect("it is there");
                if backlog.is_known_empty {
                    return self.wait(poller, backlog.version, true);
                }
                let limit = self.counted().check(poller);
                let known = self.known(poller);
                assert!(limit <= known.asked.min(known.free()), "{limit} of {known:?}");
                known.phase = Phase::Checking { limit, version: backlog.version, offers };
                (known.told, known.woken) = (false, false);
                if limit > 0 {
                    let lease = self.new_lease();
                    assert_eq!(self.matcher.grant(poller, lease).map(|grant| grant.lease), Some(lease));
                    self.model.leases.push((lease, poller));
                }
            }
            Phase::Checking { limit, version, offers: before } => {
                let found = (0..u32::from(luck % 4).min(limit)).map(|_| self.new_task()).collect::<Vec<_>>();
                let left_some = found.len() == limit as usize && luck >= 128;
                if left_some {
                    self.count_offer(&queue);
                }
                let actions = self.matcher.checked(poller, version, left_some);
                self.carry_out(actions);
                if found.is_empty() {
                    self.wait(poller, version, before == offers && !left_some);
                } else {
                    self.leave(poller, found);
                }
            }
            Phase::Arrived => {}
            Phase::Waiting { until, .. } => {
                let step = self.matcher.resume(now, poller);
                let known = self.known(poller);
                assert!(
                    known.woken || now >= until || step == Step::Wait(until),
                    "{step:?} unheard: {known:?}"
                );
                self.step(poller, step);
            }
        }
    }

    fn wait(&mut self, poller: PollerId, version: OfferVersion, is_fresh: bool) {
        let until = self.model.now + WAIT;
        let now = self.model.now;
        let step = self.counted().wait(now, poller, until, version);
        assert!(is_fresh || step == Step::Check, "an offer fell between");
        self.known(poller).phase = Phase::Waiting { until, collecting: false };
        self.step(poller, step);
    }

    fn step(&mut self, poller: PollerId, step: Step) {
        let now = self.model.now;
        let known = self.known(poller);
        known.woken = false;
        match step {
            Step::Deliver => {
                assert!(!known.tasks.is_empty());
                self.leave(poller, Vec::new());
            }
            Step::Over => {
                assert!(known.tasks.is_empty() && !known.told);
                self.leave(poller, Vec::new());
            }
            Step::Check => (known.checks, known.told) = (true, false),
            Step::Wait(until) => {
                assert!(until > now, "it would turn round and round");
                known.phase = Phase::Waiting { until, collecting: !known.tasks.is_empty() };
            }
        }
    }

    fn leave(&mut self, poller: PollerId, found: Vec<u32>) {
        let now = self.model.now;
        let known = self.known(poller);
        let taken = (known.asked as usize).saturating_sub(found.len()).min(known.tasks.len());
        let expected: Vec<u32> = found.iter().copied().chain(known.tasks.drain(..taken)).collect();
        assert!(expected.len() <= known.asked as usize, "no poll gets more than it asks for");
        known.takes = known.takes.saturating_sub(expected.len() as u32);
        (known.woken, known.told) = (false, false);
        let has_room = known.takes > 0;
        let worker = (known.queue.clone(), known.request.worker.clone());
        let comes_back = self.model.workers.get(&worker).is_some_and(|(_, comes_back)| *comes_back);
        self.model.workers.insert(worker, (has_room.then_some(now), comes_back));
        if has_room && comes_back {
            self.known(poller).phase = Phase::Away { until: now + Duration::from_millis(POLLER_GRACE_MS) };
        }
        let passed_on = self.passes_on(poller);
        let (delivered, actions) = self.counted().leave(now, poller, found);
        assert_eq!(delivered, expected);
        if !(has_room && comes_back) {
            self.gone(poller, &actions);
        }
        delivered.into_iter().for_each(|task| self.end(task));
        self.carry_out(actions);
        self.has_passed_on(passed_on);
    }

    fn hang_up(&mut self, poller: PollerId) {
        let passed_on = self.passes_on(poller);
        let actions = self.matcher.hang_up(poller);
        self.gone(poller, &actions);
        self.carry_out(actions);
        self.has_passed_on(passed_on);
    }

    /// What a poller had goes back, all of it.
    fn gone(&mut self, poller: PollerId, actions: &[Action<u32, ()>]) {
        let known = self.model.known.remove(&poller).expect("it was there");
        let given_back = actions.iter().filter_map(|action| match action {
            Action::GiveBack(tenant, tasks) => Some((*tenant, tasks.clone())),
            _ => None,
        });
        let expected = (!known.tasks.is_empty()).then_some((known.queue.tenant, known.tasks));
        assert_eq!(given_back.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }

    fn reserve(&mut self, queue: &Queue, name: &str) {
        let lease = self.new_lease();
        let Some((reservation, grant)) = self.counted().reserve(queue, name, || lease) else {
            let missed = self
                .model
                .known
                .values()
                .find(|known| known.takes(queue, name) && known.waits_for_anything());
            return assert!(missed.is_none(), "{missed:?} would have had it");
        };
        let known = self.known(reservation.poller);
        assert!(known.takes(queue, name) && known.free() > 0, "no room: {known:?}");
        if let Phase::Checking { limit, .. } = known.phase {
            assert!(known.free() > limit, "the database may give as much: {known:?}");
        }
        known.reserved += 1;
        assert_eq!((grant.lease, &grant.worker), (lease, &known.request.worker));
        self.model.leases.push((lease, reservation.poller));
        self.model.reservations.push(reservation);
    }

    fn end_reservation(&mut self, number: u8, is_committed: bool) {
        let Some(at) = chosen(number, 0..self.model.reservations.len()) else { return };
        let reservation = self.model.reservations.swap_remove(at);
        let (poller, tenant) = (reservation.poller, reservation.tenant);
        let task = is_committed.then(|| self.new_task());
        if let Some(known) = self.model.known.get_mut(&poller) {
            known.reserved -= 1;
            known.tasks.extend(task);
        } else if let Some(task) = task {
            let action = self.matcher.commit(reservation, task);
            assert_eq!(action, Some(Action::GiveBack(tenant, vec![task])));
            return self.carry_out(action);
        }
        let action = match task {
            Some(task) => self.matcher.commit(reservation, task),
            None => self.counted().release(reservation),
        };
        self.carry_out(action);
    }

    fn answer(&mut self, number: u8) {
        let Some((lease, poller)) = chosen(number, self.model.leases.iter().copied()) else { return };
        let answered = self.counted().answered(lease);
        assert_eq!(answered.is_some(), self.model.known.contains_key(&poller));
        if let Some(known) = self.model.known.get_mut(&poller) {
            (known.takes, known.unheard) = (known.takes + 1, known.unheard + 1);
        }
        self.model.answered.extend(answered);
    }

    fn offer(&mut self, queue: &Queue, name: Option<&str>) {
        self.count_offer(queue);
        let idle = self.idle(queue, name);
        let told_before = self.told();
        match name {
            Some(name) => {
                let action = self.matcher.offered(queue, name);
                self.carry_out(action);
                assert!(idle.is_empty() || self.told() == told_before + 1, "one is told");
            }
            None => {
                let actions = self.matcher.offered_any(queue);
                self.carry_out(actions);
                assert!(self.told() >= told_before + self.kinds(&idle), "one of each kind is told");
            }
        }
    }

    /// Pollers that have to be found by an offer.
    fn idle(&self, queue: &Queue, name: Option<&str>) -> Vec<PollerId> {
        let is_idle = |known: &Known| {
            let takes = name.map_or(known.queue == *queue, |name| known.takes(queue, name));
            takes && known.waits_for_anything() && !known.told && !known.checks
        };
        self.model.known.iter().filter(|(_, known)| is_idle(known)).map(|(id, _)| *id).collect()
    }

    fn kinds(&self, of: &[PollerId]) -> usize {
        let names: BTreeSet<&Names> = of.iter().map(|id| &self.model.known[id].request.names).collect();
        names.len()
    }

    /// What a poller was told that leaves without having checked, one of each kind has been told after.
    fn passes_on(&self, poller: PollerId) -> (usize, Vec<PollerId>) {
        let mut idle = match self.matcher.pollers[&poller].is_told() {
            true => self.idle(&self.model.known[&poller].queue, None),
            false => Vec::new(),
        };
        idle.retain(|id| *id != poller);
        (self.told() - usize::from(self.matcher.pollers[&poller].is_told()), idle)
    }

    fn has_passed_on(&self, (told_before, idle): (usize, Vec<PollerId>)) {
        assert!(self.told() >= told_before + self.kinds(&idle), "one of each kind is told in its place");
    }

    /// Pollers that are told to check, and have not.
    fn told(&self) -> usize {
        let is_told = |id: &PollerId| self.matcher.pollers[id].is_told();
        self.model.known.keys().filter(|id| is_told(id)).count()
    }

    fn count_offer(&mut self, queue: &Queue) {
        *self.model.offers.entry(queue.clone()).or_default() += 1;
    }

    fn pass(&mut self, time: Duration) {
        self.model.now = self.model.now + time;
        let now = self.model.now;
        let (due, later) = self.model.timers.drain(..).partition(|(_, at)| *at <= now);
        self.model.timers = later;
        for (poller, _) in due {
            let known = self.model.known.get(&poller);
            let is_over =
                known.is_some_and(|known| matches!(known.phase, Phase::Away { until } if now >= until));
            let actions = self.matcher.tick(now, poller);
            if is_over {
                self.gone(poller, &actions);
            }
            self.carry_out(actions);
        }
    }

    fn new_task(&mut self) -> u32 {
        self.model.tasks += 1;
        self.model.open.insert(self.model.tasks);
        self.model.tasks
    }

    fn new_lease(&self) -> TaskLease {
        TaskLease(Uuid::from_u128(self.model.leases.len() as u128 + 1))
    }

    /// What holds after every move.
    fn check(&mut self) {
        assert_eq!(self.matcher.pollers.len(), self.model.known.len());
        let ids: Vec<PollerId> = self.model.known.keys().copied().collect();
        for id in ids {
            let known = &self.model.known[&id];
            let (poller, index) = (&self.matcher.pollers[&id], &self.matcher.queues[&known.queue]);
            let (room, is_idle) = (poller.room(), poller.is_idle());
            match known.phase {
                Phase::Arrived => {}
                Phase::Checking { limit, .. } => {
                    assert!(room <= known.free().saturating_sub(limit), "{known:?}");
                }
                Phase::Waiting { collecting: true, .. } => assert!(room == 0 || room == known.free()),
                Phase::Waiting { .. } | Phase::Away { .. } => assert_eq!(room, known.free(), "{known:?}"),
            }
            assert!(room == 0 || index.has(List::Ready, id), "nobody would find it: {known:?}");
            assert!(!is_idle || known.checks || index.has(List::Idle, id), "nobody would tell it: {known:?}");
            if let Phase::Waiting { until, .. } = known.phase
                && !known.woken
                && !known.checks
                && self.model.now < until
            {
                assert_eq!(self.matcher.resume(self.model.now, id), Step::Wait(until), "nobody has woken it");
            }
        }
        for (queue, index) in &self.matcher.queues {
            let of_queue = self.model.known.iter().filter(|(_, known)| known.queue == *queue);
            let of_queue: Vec<PollerId> = of_queue.map(|(id, _)| *id).collect();
            assert_eq!(index.kinds().len(), self.kinds(&of_queue), "no kind is kept that has left");
        }
        let held: usize = self.model.known.values().map(|known| known.tasks.len()).sum();
        assert_eq!(held, self.model.open.len(), "what is open is with a poller");
        let (asked, calls) = (self.model.asked, self.model.calls);
        assert!(asked <= 2 * calls, "{asked} pollers were asked in {calls} calls");
    }

    /// Everything ends, in a matcher that keeps nothing of it.
    fn finish(mut self) {
        while let Some(poller) = self.polling(0) {
            self.hang_up(poller);
        }
        for number in 0..=u8::try_from(self.model.reservations.len()).unwrap_or(u8::MAX) {
            self.end_reservation(number, number % 2 == 0);
        }
        self.pass(Duration::from_millis(POLLER_GRACE_MS));
        self.check();
        assert!(self.model.open.is_empty() && self.model.known.is_empty());
        assert!(self.matcher.queues.is_empty() && self.matcher.pollers.is_empty());
    }

    /// How many pollers were asked, of all queues that there are.
    fn asked(&self) -> u64 {
        self.matcher.queues.values().map(|index| index.asked).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_task_is_lost_and_nobody_gets_more_or_is_asked_more_often_than_it_must(moves in moves()) {
        let mut run = Run::new();
        for next in moves {
            let before = run.asked();
            run.make(next);
            run.model.asked += run.asked().saturating_sub(before);
            run.check();
        }
        run.finish();
    }
}
