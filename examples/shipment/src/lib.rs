//! Three departments at once: the payment, the inventory and the warehouse.
//!
//! All three calls are under way before the first is awaited, so the shipment takes as long as the
//! slowest of them. When one fails for good the others are given up, and the run fails with its error.

use backstitch_sdk::{ActivityOptions, Result, export_workflows, proxy_activities, try_join, workflow};
use example_api::{Fulfilment, Payments};
use serde::{Deserialize, Serialize};

/// What to ship.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The shop's number for it.
    pub order_id: String,
    /// What it costs.
    pub amount_cents: i64,
}

/// What each department answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// The receipt.
    pub payment: String,
    /// How many are left on the shelf.
    pub left: u32,
    /// The warehouse's ticket.
    pub ticket: String,
}

/// Asks all three, then waits for all three.
#[workflow]
pub async fn shipment(order: Order) -> Result<Shipment> {
    let payments = proxy_activities::<dyn Payments>(ActivityOptions::default());
    let fulfilment = proxy_activities::<dyn Fulfilment>(ActivityOptions::default());

    let (payment, left, ticket) = try_join!(
        payments.process_payment(order.order_id.clone(), order.amount_cents),
        fulfilment.update_inventory(order.order_id.clone()),
        fulfilment.notify_warehouse(order.order_id),
    )?;
    Ok(Shipment { payment, left, ticket })
}

export_workflows!(shipment);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::{Finished, TestRun};
    use backstitch_sdk::{activity_table, duration};
    use example_activities::{Bank, Depot};

    fn run(order_id: &str) -> Finished<Shipment> {
        TestRun::<shipment>::new()
            .activities(activity_table!(Bank as Payments))
            .activities(activity_table!(Depot as Fulfilment))
            .activity_takes("process_payment", "3 seconds")
            .activity_takes("update_inventory", "1 second")
            .activity_takes("notify_warehouse", "2 seconds")
            .run(Order { order_id: order_id.to_owned(), amount_cents: 1_990 })
    }

    #[test]
    fn it_takes_as_long_as_the_slowest() {
        let run = run("o-1");
        let shipment = run.output().expect("ships");
        assert!(shipment.payment.starts_with("receipt-"), "{shipment:?}");
        assert_eq!(shipment.ticket, "ticket-o-1");
        assert_eq!(run.elapsed(), duration!("3 seconds"));
    }

    #[test]
    fn one_failure_gives_the_others_up() {
        let run = run("o-1-no-stock");
        assert_eq!(run.output().expect_err("nothing left").code(), "out-of-stock");
        assert_eq!(run.elapsed(), duration!("1 second"));
        assert_eq!(run.story()[3..].len(), 2, "{:?}", run.story());
    }
}
