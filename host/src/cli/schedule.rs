//! `backstitch schedule …`: start a workflow again and again by the calendar.

use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::schedules::{
    BackfillSchedule, CreateSchedule, ListSchedules, RecentStartView, ReplaceSchedule, ScheduleView,
    TriggerSchedule,
};
use backstitch_core::schedule::{Every, Overlap, Policy, Spec, Terms, What, When};
use backstitch_core::{Json, printable};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult};
use super::input;
use super::output::{Output, cell, foreign, optional};
use super::pages::pages;
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// Make a schedule
    ///
    /// Times are those of all --cron and --every together. An expression whose hours begin with * goes by the
    /// clock: an hour that a change of the clock leaves out has no times, one that is repeated has them twice.
    /// Other expressions go by the day: a time that is left out is at the end of the gap, one that is repeated
    /// is the first of the two.
    ///
    /// Each time's run is called PREFIX:TIME, with the time in RFC 3339: each has one run, whatever happens.
    Create(CreateArgs),
    /// List schedules by name
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, conflicts_with = "all", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Show a schedule, its next five times and its latest starts
    Show { schedule: String },
    /// Change what is given and keep the rest
    ///
    /// What was left to the time before is not done again: from now on the new times hold.
    Update(UpdateArgs),
    /// Start nothing by the calendar until it is resumed
    Pause {
        schedule: String,
        /// Shown with the schedule
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Go on by the calendar; times that came meanwhile have no run
    Resume {
        schedule: String,
        /// Kept in the host's log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ask for a run now, also of a paused schedule
    Trigger {
        schedule: String,
        /// What happens if a run is open [default: what the schedule says]
        #[arg(long, value_parser = overlaps())]
        overlap: Option<Overlap>,
    },
    /// Ask for the runs of a period of the past; a time that has had its run keeps it
    Backfill {
        schedule: String,
        /// The first time, such as 2026-03-01T00:00:00Z
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        from: u64,
        /// The last time
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        to: u64,
        /// What happens if a run is open [default: what the schedule says]
        #[arg(long, value_parser = overlaps())]
        overlap: Option<Overlap>,
    },
    /// Forget a schedule; its runs go on
    Delete { schedule: String },
}

/// Arguments of `schedule create`.
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// What you call it
    schedule: String,
    /// The workflow's name
    workflow: String,
    /// JSON text, @FILE or - for stdin [default: null]
    input: Option<String>,
    /// Make it paused
    #[arg(long)]
    paused: bool,
    /// Why it is paused
    #[arg(long, default_value = "", requires = "paused")]
    note: String,
    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `schedule update`.
#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    schedule: String,
    /// The workflow's name
    #[arg(long)]
    workflow: Option<String>,
    /// JSON text, @FILE or - for stdin
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    #[command(flatten)]
    terms: TermsArgs,
}

/// What a schedule is made of, each part by itself.
#[derive(Debug, clap::Args)]
struct TermsArgs {
    /// Times, as minute, hour, day of month, month and day of week, such as '0 9 * * 1-5'
    #[arg(long, value_name = "EXPRESSION")]
    cron: Vec<String>,
    /// The IANA name of the zone of these times, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// A time every so often, counted from 1970, such as 1h, or 1h+15m for a quarter past
    #[arg(long, value_name = "TIME[+OFFSET]", value_parser = parse_every)]
    every: Vec<Every>,
    /// No time before, such as 2026-03-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    start_at: Option<u64>,
    /// No time after
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    end_at: Option<u64>,
    /// Start each run up to so much later, so that not all schedules start at once [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    jitter: Option<Duration>,
    /// What happens if a run is open when the next time comes [default: skip]
    #[arg(long, value_parser = overlaps())]
    overlap: Option<Overlap>,
    /// How late a time may be and still have its run, if no host was there [default: 365 days]
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    catch_up: Option<Duration>,
    /// Whether a run that fails or times out pauses the schedule [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pause_on_failure: Option<bool>,
    /// Start so many runs and then none [default: no bound]
    #[arg(long, value_name = "N")]
    remaining_starts: Option<u64>,
    /// What workflow ids begin with [default: the schedule's name]
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
    /// Bound on each run
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    run_timeout: Option<Duration>,
    /// 1 is served first, 5 last
    #[arg(long)]
    priority: Option<u8>,
    /// Shown with each run: JSON text, @FILE or - for stdin
    #[arg(long, value_name = "JSON")]
    memo: Option<String>,
}

/// Schedules of one request when many are wanted.
const PAGE_ROWS: u32 = 200;

pub(super) async fn schedule(command: ScheduleCommand, context: &Context) -> CliResult {
    let client = &context.client;
    match command {
        ScheduleCommand::Create(args) => create(args, context).await,
        ScheduleCommand::List { limit, all } => list((!all).then_some(limit), context).await,
        ScheduleCommand::Show { schedule } => {
            let shown = client.schedule(&schedule).await.map_err(failed("show", &schedule))?;
            context.out.answer(&shown, || detail(&shown, context.out))
        }
        ScheduleCommand::Update(args) => update(args, context).await,
        ScheduleCommand::Pause { schedule, reason } => {
            let paused = client.pause_schedule(&schedule, &reason).await;
            told(&paused.map_err(failed("pause", &schedule))?, "paused", context.out)
        }
        ScheduleCommand::Resume { schedule, reason } => {
            let resumed = client.resume_schedule(&schedule, &reason).await;
            told(&resumed.map_err(failed("resume", &schedule))?, "resumed", context.out)
        }
        ScheduleCommand::Trigger { schedule, overlap } => {
            let triggered = client.trigger_schedule(&schedule, TriggerSchedule { overlap }).await;
            let triggered = triggered.map_err(failed("trigger", &schedule))?;
            context.out.answer(&triggered, || printable::lines(&triggered.workflow_id).into_owned())
        }
        ScheduleCommand::Backfill { schedule, from: from_ms, to: to_ms, overlap } => {
            let backfill = BackfillSchedule { from_ms, to_ms, overlap };
            let asked = client.backfill_schedule(&schedule, backfill).await;
            asked.map_err(failed("backfill", &schedule))?;
            context.out.note("the runs will be started");
            Ok(())
        }
        ScheduleCommand::Delete { schedule } => {
            client.delete_schedule(&schedule).await.map_err(failed("delete", &schedule))?;
            context.out.note("the schedule is forgotten; its runs go on");
            Ok(())
        }
    }
}

fn failed(verb: &str, schedule: &str) -> impl FnOnce(ClientError) -> CliError {
    let what = format!("{verb} the schedule {schedule}");
    move |error| CliError::client(&what, error)
}

/// Says what has become of a schedule.
fn told(view: &ScheduleView, verb: &str, out: Output) -> CliResult {
    out.answer(view, || printable::lines(&view.name).into_owned())?;
    let next = view.next_times.first().map_or("none", String::as_str);
    out.note(&format!("{verb} {}; next time: {next}", printable::lines(&view.name)));
    Ok(())
}

async fn create(args: CreateArgs, context: &Context) -> CliResult {
    let CreateArgs { schedule: name, workflow, input, paused, note, terms } = args;
    let input = input::json(input.as_deref())?;
    let what = What { workflow: workflow.into(), input, id_prefix: None, terms: Terms::default() };
    let mut spec = Spec { what, when: When::default(), policy: Policy::default() };
    terms.apply(&mut spec)?;
    let create = CreateSchedule { name, spec, paused, note };
    let made = context.client.create_schedule(&create).await;
    told(&made.map_err(failed("create", &create.name))?, "made", context.out)
}

async fn update(args: UpdateArgs, context: &Context) -> CliResult {
    let UpdateArgs { schedule, workflow, input, terms } = args;
    let found = context.client.schedule(&schedule).await.map_err(failed("update", &schedule))?;
    let ScheduleView { mut spec, spec_revision, .. } = found;
    if let Some(workflow) = workflow {
        spec.what.workflow = workflow.into();
    }
    if input.is_some() {
        spec.what.input = input::json(input.as_deref())?;
    }
    terms.apply(&mut spec)?;
    let replace = ReplaceSchedule { spec, spec_revision: Some(spec_revision) };
    let changed = context.client.replace_schedule(&schedule, &replace).await;
    told(&changed.map_err(failed("update", &schedule))?, "changed", context.out)
}

impl TermsArgs {
    /// Changes what was given and leaves the rest as it is.
    fn apply(self, spec: &mut Spec) -> CliResult {
        let Spec { what, when, policy } = spec;
        let memo = self.memo.map(|memo| input::json(Some(&memo))).transpose()?;
        // New times are all of the times: nothing says which of the old ones they replace.
        if !self.cron.is_empty() || !self.every.is_empty() {
            when.cron = self.cron.into_iter().map(Into::into).collect();
            when.every = self.every;
        }
        set(&mut when.time_zone, self.time_zone.map(Into::into));
        set(&mut when.start_at_ms, self.start_at);
        set(&mut when.end_at_ms, self.end_at);
        when.jitter_ms = self.jitter.map_or(when.jitter_ms, milliseconds);
        policy.overlap = self.overlap.unwrap_or(policy.overlap);
        set(&mut policy.catch_up_ms, self.catch_up.map(milliseconds));
        policy.pause_on_failure = self.pause_on_failure.unwrap_or(policy.pause_on_failure);
        set(&mut policy.remaining_starts, self.remaining_starts);
        set(&mut what.id_prefix, self.id_prefix.map(Into::into));
        set(&mut what.terms.run_timeout_ms, self.run_timeout.map(milliseconds));
        set(&mut what.terms.priority, self.priority);
        set(&mut what.terms.memo, memo);
        Ok(())
    }
}

fn set<T>(place: &mut Option<T>, given: Option<T>) {
    if given.is_some() {
        *place = given;
    }
}

async fn list(limit: Option<u32>, context: &Context) -> CliResult {
    let (schedules, cursor) = pages(limit, PAGE_ROWS, context.out, async |limit, cursor| {
        let page = context.client.schedules(&ListSchedules { limit: Some(limit), cursor }).await;
        let page = page.map_err(|error| CliError::client("list schedules", error))?;
        Ok((page.schedules, page.next_cursor))
    })
    .await?;
    context.out.answer(&json!({ "schedules": schedules, "next_cursor": cursor }), || {
        let row = |view: &ScheduleView| {
            [
                foreign(&view.name),
                foreign(&view.spec.what.workflow),
                foreign(&times(&view.spec.when)),
                cell(if view.paused.is_some() { "paused" } else { "active" }),
                optional(view.next_times.first()),
                cell(view.running.len()),
                cell(view.started),
            ]
        };
        let titles = ["SCHEDULE", "WORKFLOW", "TIMES", "STATE", "NEXT", "RUNNING", "STARTED"];
        context.out.table(titles, schedules.iter().map(row).collect())
    })
}

/// The rules of a schedule on one line.
fn times(when: &When) -> String {
    let crons = when.cron.iter().map(ToString::to_string);
    let every = when.every.iter().map(|every| match every.offset_ms {
        0 => format!("every {} ms", every.every_ms),
        offset => format!("every {} ms + {offset} ms", every.every_ms),
    });
    let zone = when.time_zone.iter().map(|zone| format!("({zone})"));
    crons.chain(every).collect::<Vec<_>>().join(", ")
        + &zone.map(|zone| format!(" {zone}")).collect::<String>()
}

fn detail(view: &ScheduleView, out: Output) -> String {
    let Spec { what, when, policy } = &view.spec;
    let mut fields = vec![
        [cell("schedule"), foreign(&view.name)],
        [cell("workflow"), foreign(&what.workflow)],
        [cell("input"), foreign(what.input.as_str())],
        [cell("times"), foreign(&times(when))],
        [cell("overlap"), cell(policy.overlap.as_str())],
        [cell("created"), cell(&view.created_at)],
    ];
    let paused = view.paused.as_ref().map(|paused| format!("since {}: {}", paused.since, paused.note));
    let theirs = [
        ("workflow ids", what.id_prefix.as_ref().map(|prefix| format!("{prefix}:TIME"))),
        ("memo", what.terms.memo.as_ref().map(Json::to_string)),
        ("paused", paused),
    ];
    fields.extend(theirs.into_iter().filter_map(|(name, text)| Some([cell(name), foreign(&text?)])));
    let counts = [
        ("starts left", view.remaining_starts),
        ("waiting", Some(view.waiting).filter(|count| *count > 0)),
        ("backfills", Some(view.backfills).filter(|count| *count > 0)),
        ("started", Some(view.started)),
        ("skipped", Some(view.skipped)),
        ("missed", Some(view.missed)),
        ("refused", Some(view.failed).filter(|count| *count > 0)),
    ];
    fields.extend(counts.into_iter().filter_map(|(name, count)| Some([cell(name), cell(count?)])));
    fields.extend(view.running.iter().map(|run| [cell("running"), foreign(&run.workflow_id)]));
    let mut text = out.table(["FIELD", "VALUE"], fields);
    if !view.next_times.is_empty() {
        let next = view.next_times.iter().map(|time| [cell(time)]).collect();
        text = format!("{text}\n\n{}", out.table(["NEXT TIMES"], next));
    }
    if !view.recent.is_empty() {
        let row = |start: &RecentStartView| {
            [
                cell(&start.scheduled_at),
                cell(&start.started_at),
                foreign(&start.workflow_id),
                foreign(start.error.as_deref().unwrap_or("-")),
            ]
        };
        let recent = view.recent.iter().rev().map(row).collect();
        let titles = ["SCHEDULED", "STARTED", "WORKFLOW ID", "REFUSED"];
        text = format!("{text}\n\n{}", out.table(titles, recent));
    }
    text
}

fn overlaps() -> impl TypedValueParser<Value = Overlap> {
    let parser = PossibleValuesParser::new(Overlap::ALL.map(Overlap::as_str));
    parser.map(|text| {
        let found = Overlap::ALL.into_iter().find(|overlap| overlap.as_str() == text);
        found.expect("the parser takes these names alone")
    })
}

fn parse_time(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no time: write 2026-03-01T09:00:00Z, or with an offset such as +01:00");
    let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
    u64::try_from(time.as_millisecond()).map_err(|_| bad())
}

fn parse_every(text: &str) -> Result<Every, String> {
    let (every, offset) = text.split_once('+').unwrap_or((text, "0s"));
    Ok(Every {
        every_ms: milliseconds(config::parse_duration(every)?),
        offset_ms: milliseconds(config::parse_duration(offset)?),
    })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_times_are_read_as_people_write_them() {
        let every = |every_ms, offset_ms| Ok(Every { every_ms, offset_ms });
        assert_eq!(parse_every("1h"), every(3_600_000, 0));
        assert_eq!(parse_every("1h+15m"), every(3_600_000, 900_000));
        assert!(parse_every("1 week").is_err());
        assert_eq!(parse_time("1970-01-01T01:00:01+01:00"), Ok(1_000));
        for text in ["tomorrow", "2026-03-01", "1969-12-31T23:59:59Z", "2026-03-01T09:00:00"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_update_changes_what_is_given_and_keeps_the_rest() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            terms: TermsArgs,
        }
        let apply = |spec: &mut Spec, line: &[&str]| {
            let line =
                Line::try_parse_from(["x"].iter().chain(line)).unwrap_or_else(|error| panic!("{error}"));
            line.terms.apply(spec).unwrap();
        };
        let what =
            What { workflow: "w".into(), input: Json::null(), id_prefix: None, terms: Terms::default() };
        let mut spec = Spec { what, when: When::default(), policy: Policy::default() };
        let line = [
            "--cron=0 9 * * 1-5",
            "--every=1h+1m",
            "--time-zone=Europe/Berlin",
            "--jitter=30s",
            "--overlap=buffer-one",
            "--pause-on-failure",
            "--remaining-starts=3",
            "--run-timeout=1m",
        ];
        apply(&mut spec, &line);
        assert_eq!(times(&spec.when), "0 9 * * 1-5, every 3600000 ms + 60000 ms (Europe/Berlin)");
        assert_eq!((spec.when.jitter_ms, spec.policy.overlap), (30_000, Overlap::BufferOne));
        assert_eq!((spec.policy.remaining_starts, spec.what.terms.run_timeout_ms), (Some(3), Some(60_000)));
        assert!(spec.policy.pause_on_failure);
        let before = spec.clone();
        apply(&mut spec, &[]);
        assert_eq!(spec, before);
        apply(&mut spec, &["--every=2s", "--pause-on-failure=false"]);
        assert_eq!(times(&spec.when), "every 2000 ms (Europe/Berlin)");
        assert_eq!((spec.policy.pause_on_failure, spec.policy.overlap), (false, Overlap::BufferOne));
    }
}
