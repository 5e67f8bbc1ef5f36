//! A parent that has its orders validated by children, all at once, and an archive that outlives it.
//!
//! A child is a run of its own, with its own ledger and its own id: clients can look at it, and a
//! failure in it is an error in the parent like any other.

use backstitch_sdk::{
    ActivityOptions, ChildOptions, Error, ParentClose, Result, exec_child, export_workflows, join_all,
    proxy_activities, start_child, workflow,
};
use example_api::Catalogue;
use serde::{Deserialize, Serialize};

/// One order of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The shop's number for it.
    pub order_id: String,
    /// The article.
    pub sku: String,
    /// How many.
    pub quantity: u32,
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The numbers of the orders that can be served.
    pub valid: Vec<String>,
    /// The numbers of the others, and why.
    pub refused: Vec<(String, String)>,
}

/// Fails with the reason when an order cannot be served.
#[workflow]
pub async fn validate_order(order: Order) -> Result<()> {
    if order.quantity == 0 {
        return Err(Error::application("empty-order", "nothing is ordered"));
    }
    let catalogue = proxy_activities::<dyn Catalogue>(ActivityOptions::default());
    if !catalogue.is_listed(order.sku.clone()).await? {
        return Err(Error::application("unknown-sku", format!("no article {}", order.sku)));
    }
    Ok(())
}

/// Counts what a batch came to. Stands for what may take longer than its parent lives.
#[workflow]
pub async fn archive_batch(report: Report) -> Result<usize> {
    Ok(report.valid.len() + report.refused.len())
}

/// Starts a child for every order, waits for all of them, and reports.
#[workflow]
pub async fn validate_batch(orders: Vec<Order>) -> Result<Report> {
    let children = orders.iter().map(|order| {
        let options = ChildOptions::default().workflow_id(format!("validate-{}", order.order_id));
        start_child::<validate_order>(order.clone(), options).result()
    });
    let mut report = Report { valid: Vec::new(), refused: Vec::new() };
    for (order, validated) in orders.iter().zip(join_all(children).await) {
        match validated {
            Ok(()) => report.valid.push(order.order_id.clone()),
            // Only what the child said about the order. A cancelled run has no report.
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => report.refused.push((order.order_id.clone(), error.code().to_owned())),
        }
    }
    let abandoned = ChildOptions::default().parent_close(ParentClose::Abandon);
    start_child::<archive_batch>(report.clone(), abandoned).detach();
    Ok(report)
}

/// Validates a single order: the shortest way to call another workflow.
#[workflow]
pub async fn validate_one(order: Order) -> Result<()> {
    exec_child::<validate_order>(order, ChildOptions::default()).await
}

export_workflows!(validate_batch, validate_one, validate_order, archive_batch);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::activity_table;
    use backstitch_sdk::testing::TestRun;
    use example_activities::PaperCatalogue;

    fn order(order_id: &str, sku: &str, quantity: u32) -> Order {
        Order { order_id: order_id.to_owned(), sku: sku.to_owned(), quantity }
    }

    #[test]
    fn a_batch_reports_what_its_children_found() {
        let run = TestRun::<validate_batch>::new()
            .child("validate_order", |order| match order["sku"].as_str() {
                Some("SKU-1") => Ok(()),
                _ => Err(Error::application("unknown-sku", "no such article")),
            })
            .child("archive_batch", |_| Ok(2))
            .run([order("a", "SKU-1", 1), order("b", "ABC", 1)]);
        let report = run.output().expect("reports");
        assert_eq!(report.valid, ["a"]);
        assert_eq!(report.refused, [("b".to_owned(), "unknown-sku".to_owned())]);
        assert!(!run.story().iter().any(|line| line.starts_with("cancel")), "the archive goes on");
    }

    #[test]
    fn a_single_order_fails_as_its_child_does() {
        let run = TestRun::<validate_one>::new()
            .child("validate_order", |_| Err::<(), _>(Error::application("empty-order", "nothing")))
            .run(order("a", "SKU-1", 0));
        assert_eq!(run.output().expect_err("empty").code(), "empty-order");
    }

    #[test]
    fn an_order_is_valid_when_its_article_is_listed() {
        let validate = |order| {
            let table = activity_table!(PaperCatalogue as Catalogue);
            TestRun::<validate_order>::new().activities(table).run(order).output()
        };
        assert_eq!(validate(order("a", "SKU-7", 2)), Ok(()));
        assert_eq!(validate(order("a", "XYZ", 2)).expect_err("unlisted").code(), "unknown-sku");
        assert_eq!(validate(order("a", "SKU-7", 0)).expect_err("empty").code(), "empty-order");
    }
}
