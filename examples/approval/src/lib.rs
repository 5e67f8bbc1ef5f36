//! Waits for a manager, but not for ever: a signal raced against a durable timer.
//!
//! Whichever loses is cancelled by being dropped; nothing has to be cleaned up. While it waits, the run
//! is a few rows and no memory, and the query `state` says what it waits for.

use backstitch_sdk::{
    ActivityOptions, Result, export_workflows, proxy_activities, select_biased, show, sleep_for, wait_for,
    workflow,
};
use example_api::Mail;
use serde::{Deserialize, Serialize};

/// Something that needs a manager's consent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// What it is about.
    pub subject: String,
    /// The address of whoever asks.
    pub requester: String,
    /// The address of whoever decides.
    pub manager: String,
    /// How long to wait, such as `"3 days"`.
    pub timeout: String,
}

/// The payload of the signal `manager-approval`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Approval {
    /// Whether it is granted.
    pub approved: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The manager consents.
    Approved,
    /// The manager does not.
    Rejected,
    /// The manager said nothing in time.
    TimedOut,
}

/// Asks the manager, waits, and tells the requester.
#[workflow(signals("manager-approval"), queries("state"))]
pub async fn approval(request: Request) -> Result<Decision> {
    let mail = proxy_activities::<dyn Mail>(ActivityOptions::default());
    mail.send_mail(request.manager, format!("Please decide: {}", request.subject)).await?;

    show("state", "waiting for the manager")?;
    let decision = select_biased! {
        approval = wait_for::<Approval>("manager-approval") => {
            if approval?.approved { Decision::Approved } else { Decision::Rejected }
        }
        timeout = sleep_for(&request.timeout) => {
            timeout?;
            Decision::TimedOut
        }
    };

    show("state", &decision)?;
    mail.send_mail(request.requester, format!("{}: {decision:?}", request.subject)).await?;
    Ok(decision)
}

export_workflows!(approval);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::{Finished, TestRun};
    use backstitch_sdk::{activity_table, duration};
    use example_activities::PostOffice;

    fn run(script: impl FnOnce(TestRun<approval>) -> TestRun<approval>) -> Finished<Decision> {
        let run = TestRun::new().activities(activity_table!(PostOffice as Mail));
        script(run).run(Request {
            subject: "a standing desk".to_owned(),
            requester: "ada@example.com".to_owned(),
            manager: "grace@example.com".to_owned(),
            timeout: "3 days".to_owned(),
        })
    }

    #[test]
    fn the_manager_decides() {
        for (approved, decision) in [(true, Decision::Approved), (false, Decision::Rejected)] {
            let run = run(|script| script.signal("manager-approval", Approval { approved }, "2 days"));
            assert_eq!(run.output(), Ok(decision));
            assert_eq!(run.elapsed(), duration!("2 days"));
            assert!(run.story().contains(&"cancel 2".to_owned()), "the timer is given up");
        }
    }

    #[test]
    fn silence_for_three_days_is_an_answer() {
        let run = run(|script| script);
        assert_eq!(run.output(), Ok(Decision::TimedOut));
        assert_eq!(run.elapsed(), duration!("3 days"));
        assert_eq!(run.query("state"), Some(r#""timed-out""#));
    }
}
