//! Sleeps for 30 days, then writes to the customer.
//!
//! For those 30 days the run is a timer's row: no process, no memory, no connection.

use backstitch_sdk::{ActivityOptions, Result, export_workflows, proxy_activities, sleep_for, workflow};
use example_api::Mail;
use serde::{Deserialize, Serialize};

/// Whom to write to, and when.
#[derive(Debug, Serialize, Deserialize)]
pub struct FollowUp {
    /// The customer's address.
    pub customer: String,
    /// How long after the start, such as `"30 days"`, which is also what a missing value means.
    #[serde(default = "thirty_days")]
    pub after: String,
}

fn thirty_days() -> String {
    "30 days".to_owned()
}

/// Returns the letter's number.
#[workflow]
pub async fn follow_up(input: FollowUp) -> Result<String> {
    let mail = proxy_activities::<dyn Mail>(ActivityOptions::default());
    sleep_for(&input.after).await?;
    mail.send_mail(input.customer, "How do you like it so far?".to_owned()).await
}

export_workflows!(follow_up);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::TestRun;
    use backstitch_sdk::{activity_table, duration};
    use example_activities::PostOffice;

    fn script() -> TestRun<follow_up> {
        TestRun::new().activities(activity_table!(PostOffice as Mail))
    }

    #[test]
    fn the_letter_goes_out_after_thirty_days() {
        let run = script().run_json(r#"{"customer":"ada@example.com"}"#);
        assert!(run.output().expect("completes").starts_with("mail-"));
        assert_eq!(run.elapsed(), duration!("30 days"));
    }

    #[test]
    fn a_bad_duration_in_the_input_fails_the_run_and_sets_no_timer() {
        let run = script().run_json(r#"{"customer":"ada@example.com","after":"a while"}"#);
        assert_eq!(run.output().expect_err("no duration").code(), "invalid-duration");
        assert!(run.commands().is_empty());
    }
}
