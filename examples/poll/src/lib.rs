//! Looks whether a job is done, again and again, for as long as it takes.
//!
//! Each look adds rows to the run's ledger. Before there are many, the run continues as a new one with
//! an empty ledger, the same workflow id and what it has to remember as its input.

use backstitch_sdk::{
    ActivityOptions, Result, continue_as_new, export_workflows, proxy_activities, show, sleep_for, workflow,
};
use example_api::Jobs;
use serde::{Deserialize, Serialize};

/// What to look at, and what a run hands to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The job.
    pub job_id: String,
    /// How long to wait between two looks, such as `"5 minutes"` or `"PT5M"`.
    pub every: String,
    /// How many looks one run takes.
    #[serde(default = "hundred")]
    pub looks_per_run: u32,
    /// How many were taken by the runs before.
    #[serde(default)]
    pub looks: u32,
}

fn hundred() -> u32 {
    100
}

/// Returns how many looks it took.
#[workflow(queries("looks"))]
pub async fn poll(mut watch: Watch) -> Result<u32> {
    let jobs = proxy_activities::<dyn Jobs>(ActivityOptions::default());
    for _ in 0..watch.looks_per_run {
        watch.looks += 1;
        show("looks", &watch.looks)?;
        if jobs.is_done(watch.job_id.clone(), watch.looks).await? {
            return Ok(watch.looks);
        }
        sleep_for(&watch.every).await?;
    }
    continue_as_new(watch)
}

export_workflows!(poll);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::{Ending, Finished, TestRun};
    use backstitch_sdk::{activity_table, duration};
    use example_activities::Machine;

    fn run(input: &str) -> Finished<u32> {
        TestRun::<poll>::new().activities(activity_table!(Machine as Jobs)).run_json(input)
    }

    #[test]
    fn a_job_that_ends_soon_takes_one_run() {
        let run = run(r#"{"job_id":"job-4","every":"PT5M"}"#);
        assert_eq!(run.output(), Ok(4));
        assert_eq!(run.elapsed(), duration!("15 minutes"));
        assert_eq!(run.query("looks"), Some("4"));
    }

    #[test]
    fn a_long_job_takes_runs_that_hand_over_to_each_other() {
        let mut input = r#"{"job_id":"job-250","every":"1 hour"}"#.to_owned();
        for handed_over in [100, 200] {
            let run = run(&input);
            let Ending::ContinuedAsNew(next) = run.ending() else { panic!("{:?}", run.ending()) };
            assert!(next.contains(&format!(r#""looks":{handed_over}"#)), "{next}");
            assert_eq!(run.elapsed(), duration!("100 hours"));
            input.clone_from(next);
        }
        assert_eq!(run(&input).output(), Ok(250));
    }
}
