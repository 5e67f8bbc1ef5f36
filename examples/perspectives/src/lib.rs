//! Several views of one question, formed at the same time inside one run.
//!
//! Each view is a hook: a function that goes on beside the main one, raises its opinion when it has one,
//! and files it afterwards, which nobody has to wait for. A last hook weighs what the others raised.

use backstitch_sdk::{
    ActivityOptions, Result, exec_hook, export_workflows, hook, proxy_activities, raise, show, try_join,
    workflow,
};
use example_api::Echo;

/// Returns the verdict.
#[workflow(queries("stage"))]
pub async fn perspectives(question: String) -> Result<String> {
    show("stage", "forming opinions")?;
    let (hopeful, doubtful) = try_join!(
        exec_hook::<String>("hopeful", opinion("hopeful", question.clone())),
        exec_hook::<String>("doubtful", opinion("doubtful", question)),
    )?;
    show("stage", "weighing")?;
    hook(verdict(hopeful, doubtful)).await
}

async fn opinion(mood: &'static str, question: String) -> Result<()> {
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    let opinion = echo.echo(format!("{mood} about {question}")).await?;
    raise(mood, &opinion)?;
    echo.echo(format!("filed: {opinion}")).await?;
    Ok(())
}

async fn verdict(hopeful: String, doubtful: String) -> Result<String> {
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    echo.echo(format!("{hopeful}, {doubtful}")).await
}

export_workflows!(perspectives);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::TestRun;
    use backstitch_sdk::{activity_table, duration};
    use example_activities::Wall;

    #[test]
    fn opinions_form_at_the_same_time_and_are_weighed() {
        let run = TestRun::<perspectives>::new()
            .activities(activity_table!(Wall as Echo))
            .activity_takes("echo", "1 hour")
            .run("rain");
        assert_eq!(run.output(), Ok("hopeful about rain, doubtful about rain".to_owned()));
        assert_eq!(run.elapsed(), duration!("2 hours"), "the opinions, then the verdict");
        let filed = run.story().iter().filter(|line| line.contains("filed")).count();
        assert_eq!(filed, 2, "in the background");
        assert_eq!(run.query("stage"), Some(r#""weighing""#));
    }
}
