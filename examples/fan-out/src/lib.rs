//! The same work in two shapes: N activities at once, and N activities one after the other.
//!
//! Both do nothing but take durable steps, which is why the benchmarks run them too.

use backstitch_sdk::{
    ActivityOptions, Result, export_workflows, proxy_activities, try_join_all, wait_for, workflow,
};
use example_api::Echo;
use serde::{Deserialize, Serialize};

/// How much to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// How many activities.
    pub n: u32,
    /// What each of them echoes.
    #[serde(default)]
    pub text: String,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many activities.
    pub n: u32,
    /// How many bytes they returned in all.
    pub bytes: usize,
}

/// Calls all of them, then waits for all of them.
#[workflow]
pub async fn fan_out(load: Load) -> Result<Done> {
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    let echoes = try_join_all((0..load.n).map(|_| echo.echo(load.text.clone()))).await?;
    Ok(Done { n: load.n, bytes: echoes.iter().map(String::len).sum() })
}

/// Calls each when the one before has returned.
#[workflow]
pub async fn steps(load: Load) -> Result<Done> {
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    let mut bytes = 0;
    for _ in 0..load.n {
        bytes += echo.echo(load.text.clone()).await?.len();
    }
    Ok(Done { n: load.n, bytes })
}

/// The same, and then waits to be told to end: a long ledger that is brought back again and again.
#[workflow]
pub async fn steps_then_wait(load: Load) -> Result<Done> {
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    let mut bytes = 0;
    for _ in 0..load.n {
        bytes += echo.echo(load.text.clone()).await?.len();
    }
    wait_for::<()>("go").await?;
    Ok(Done { n: load.n, bytes })
}

export_workflows!(fan_out, steps, steps_then_wait);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::TestRun;
    use backstitch_sdk::{Workflow, activity_table, duration};
    use example_activities::Wall;

    fn run<W: Workflow<Output = Done>>() -> std::time::Duration {
        let load = Load { n: 1_000, text: "x".repeat(10) };
        let run = TestRun::<W>::new()
            .activities(activity_table!(Wall as Echo))
            .activity_takes("echo", "1 second")
            .run(&load);
        assert_eq!(run.output(), Ok(Done { n: 1_000, bytes: 10_000 }));
        assert_eq!(run.commands().len(), 1_000);
        run.elapsed()
    }

    #[test]
    fn at_once_takes_as_long_as_one() {
        assert_eq!(run::<fan_out>(), duration!("1 second"));
    }

    #[test]
    fn one_after_the_other_takes_as_long_as_all() {
        assert_eq!(run::<steps>(), duration!("1000 seconds"));
    }
}
