//! A payment with an audit log and measured calls, of which no workflow has to think.
//!
//! Both interceptors stand around every run of the component. The audit writes to the log through an activity
//! of its own: a durable step like any other, tried again when it fails, never written twice for being
//! replayed. Whoever carries the activity out learns from its context which run it is.

use backstitch_sdk::{
    ActivityCall, ActivityOptions, Execution, Interceptor, Next, Result, RetryPolicy, export_workflows, info,
    now_ms, proxy_activities, workflow,
};
use example_api::{AuditLog, Mail, Payments};
use serde::{Deserialize, Serialize};

/// What to charge, and whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payment {
    /// The shop's number for the order.
    pub order_id: String,
    /// The address that gets the receipt.
    pub customer: String,
    /// How much.
    pub amount_cents: i64,
}

/// Charges, sends the receipt and returns it.
#[workflow]
pub async fn payment(payment: Payment) -> Result<String> {
    let payments = proxy_activities::<dyn Payments>(ActivityOptions::default());
    let mail = proxy_activities::<dyn Mail>(ActivityOptions::default());

    let receipt = payments.process_payment(payment.order_id, payment.amount_cents).await?;
    mail.send_mail(payment.customer, receipt.clone()).await?;
    Ok(receipt)
}

/// Notes the start and the end of every run.
#[derive(Debug, Clone)]
pub struct Audit;

impl Interceptor for Audit {
    async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
        let retry = RetryPolicy::default().maximum_attempts(3);
        let log = proxy_activities::<dyn AuditLog>(ActivityOptions::default().retry(retry));
        let workflow = run.workflow.to_owned();

        log.audit_log(workflow.clone(), "started".to_owned()).await?;
        let output = next.run(run).await;
        let action = match &output {
            Ok(_) => "completed".to_owned(),
            Err(error) => format!("failed: {}", error.code()),
        };
        log.audit_log(workflow, action).await?;
        output
    }
}

/// Logs how long every call took, the audit's own excepted.
#[derive(Debug, Clone)]
pub struct Stopwatch;

impl Interceptor for Stopwatch {
    async fn activity(&self, call: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        let (name, begun_ms) = (call.name.clone(), now_ms());
        let output = next.run(call).await;
        info!("{name} took {} ms", now_ms() - begun_ms);
        output
    }
}

export_workflows!(payment; interceptors: [Audit, Stopwatch]);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::activity_table;
    use backstitch_sdk::testing::{Finished, TestRun};
    use example_activities::{Archive, Bank, PostOffice};

    fn run(amount_cents: i64) -> Finished<String> {
        TestRun::<payment>::new()
            .interceptor(Audit)
            .interceptor(Stopwatch)
            .activity_takes("process_payment", "250ms")
            .activities(activity_table!(Archive as AuditLog))
            .activities(activity_table!(Bank as Payments))
            .activities(activity_table!(PostOffice as Mail))
            .run(Payment { order_id: "o-1".to_owned(), customer: "ada@example.com".to_owned(), amount_cents })
    }

    #[test]
    fn a_payment_is_framed_by_its_audit() {
        let run = run(1_990);
        let receipt = run.output().expect("pays");
        assert_eq!(
            run.story(),
            [
                r#"activity audit_log ["payment","started"]"#.to_owned(),
                r#"activity process_payment ["o-1",1990]"#.to_owned(),
                format!(r#"activity send_mail ["ada@example.com","{receipt}"]"#),
                r#"activity audit_log ["payment","completed"]"#.to_owned(),
            ]
        );
    }

    #[test]
    fn calls_are_measured() {
        let run = run(1_990);
        let lines: Vec<_> = run.logs().iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(lines, ["process_payment took 250 ms", "send_mail took 0 ms"]);
    }

    #[test]
    fn a_refused_payment_is_in_the_audit_too() {
        let run = run(0);
        assert_eq!(run.output().expect_err("nothing to pay").code(), "invalid-amount");
        assert_eq!(run.story()[2], r#"activity audit_log ["payment","failed: invalid-amount"]"#);
    }
}
