//! An order, from the question whether it is in stock to its reservation or its backorder notice.
//!
//! Three durable steps for an order that can be served, two for one that cannot. However often the
//! host dies in between, each step's outcome is recorded once and the next begins where it stopped.

use backstitch_sdk::{
    ActivityOptions, Result, RetryPolicy, export_workflows, info, proxy_activities, workflow,
};
use order_api::{Inventory, Order, Outcome, Payments};

/// Charges and reserves what is in stock; orders the rest anew.
#[workflow]
pub async fn order_workflow(order: Order) -> Result<Outcome> {
    let inventory = proxy_activities::<dyn Inventory>(options());
    let payments = proxy_activities::<dyn Payments>(options());

    let available = inventory.check_inventory(order.item_id.clone()).await?;
    if available >= order.quantity {
        let amount_cents = order.quantity * order.unit_price_cents;
        let payment_id = payments.charge(order.order_id, amount_cents).await?;
        let reservation_id = inventory.reserve_item(order.item_id, order.quantity).await?;
        Ok(Outcome::Reserved { reservation_id, payment_id })
    } else {
        info!("{}: {available} of {} in stock", order.order_id, order.quantity);
        inventory.notify_backorder(order.item_id).await?;
        Ok(Outcome::Backordered)
    }
}

/// Tried again after 200, 400, 800 and 1,600 ms.
fn options() -> ActivityOptions {
    let retry = RetryPolicy::default()
        .maximum_attempts(5)
        .initial_interval("200ms")
        .backoff_coefficient(2.0)
        .maximum_interval("5 seconds");
    ActivityOptions::default().start_to_close("10 seconds").retry(retry)
}

export_workflows!(order_workflow);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::{Ending, Finished, TestRun};
    use backstitch_sdk::{activity_table, duration};
    use order_activities::{Bank, Warehouse, attempts_lost, stock_of};
    use serde_json::{Value, json};

    fn script() -> TestRun<order_workflow> {
        TestRun::new()
            .activities(activity_table!(Warehouse as Inventory))
            .activities(activity_table!(Bank as Payments))
    }

    fn order(item_id: &str, quantity: i64) -> Value {
        json!({
            "order_id": "order-1",
            "customer": { "name": "Ada Novak", "email": "ada.novak@example.com", "city": "Lisbon" },
            "item_id": item_id,
            "quantity": quantity,
            "unit_price_cents": 1_990,
        })
    }

    fn run(stock: i64) -> Finished<Outcome> {
        script().activity("check_inventory", move |_| Ok(stock)).run(order("MUG-141", 2))
    }

    #[test]
    fn an_order_in_stock_is_charged_and_reserved() {
        let run = run(2);
        assert!(matches!(run.output(), Ok(Outcome::Reserved { .. })));
        assert_eq!(
            run.story(),
            [
                r#"activity check_inventory ["MUG-141"]"#,
                r#"activity charge ["order-1",3980]"#,
                r#"activity reserve_item ["MUG-141",2]"#,
            ]
        );
    }

    #[test]
    fn an_order_that_is_not_is_backordered_and_never_charged() {
        let run = run(1);
        assert_eq!(run.output(), Ok(Outcome::Backordered));
        assert_eq!(
            run.story(),
            [r#"activity check_inventory ["MUG-141"]"#, r#"activity notify_backorder ["MUG-141"]"#]
        );
    }

    #[test]
    fn the_legacy_warehouse_is_asked_again() {
        for (lost, waited) in [(1, duration!("200ms")), (2, duration!("600ms"))] {
            let mut items = (1_000..10_000).map(|number| format!("LEG-{number}"));
            let item = items.find(|item| stock_of(item) > 0 && attempts_lost(item) == lost);
            let run = script().run(order(&item.expect("there are some of each kind"), 1));
            assert!(matches!(run.output(), Ok(Outcome::Reserved { .. })));
            assert_eq!(run.elapsed(), waited);
        }
    }

    #[test]
    fn an_order_without_a_quantity_is_refused_before_any_step() {
        let mut order = order("MUG-141", 2);
        order.as_object_mut().expect("an object").remove("quantity");
        let run = script().run(order);
        let error = run.output().expect_err("incomplete");
        assert_eq!(error.code(), "invalid-input");
        assert!(error.message().contains("missing field `quantity`"), "{error}");
        assert!(run.commands().is_empty());
    }

    #[test]
    fn every_sample_order_comes_to_a_good_end() {
        let (mut orders, mut backordered, mut retried) = (0, 0, 0);
        for line in include_str!("../../orders.jsonl").lines() {
            let sample: Value = serde_json::from_str(line).expect("a line of JSON");
            assert_eq!(sample["id"], sample["input"]["order_id"]);
            let run = script().run(&sample["input"]);
            match run.ending() {
                Ending::Completed(outcome) if outcome.contains("backordered") => backordered += 1,
                Ending::Completed(_) if !run.elapsed().is_zero() => retried += 1,
                Ending::Completed(_) => {}
                other => panic!("{line}: {other:?}"),
            }
            orders += 1;
        }
        assert_eq!((orders, backordered, retried), (250, 38, 25));
    }
}
