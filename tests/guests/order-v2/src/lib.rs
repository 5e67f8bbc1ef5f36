//! The order workflow under its own name, with its steps in another order: what a careless deployment
//! looks like. Replayed against a ledger of `examples/order` it diverges
//! - at op 1 where the article was in stock: the ledger holds `charge`, this asks for `reserve_item`;
//! - at op 1 where it was not: the ledger holds `notify_backorder`, this asks for `reserve_item`.

use backstitch_sdk::{ActivityOptions, Result, export_workflows, proxy_activities, workflow};
use order_api::{Inventory, Order, Outcome, Payments};

/// Reserves before it charges, and whether or not there is enough.
#[workflow]
pub async fn order_workflow(order: Order) -> Result<Outcome> {
    let inventory = proxy_activities::<dyn Inventory>(ActivityOptions::default());
    let payments = proxy_activities::<dyn Payments>(ActivityOptions::default());

    inventory.check_inventory(order.item_id.clone()).await?;
    let reservation_id = inventory.reserve_item(order.item_id, order.quantity).await?;
    let payment_id = payments.charge(order.order_id, order.quantity * order.unit_price_cents).await?;
    Ok(Outcome::Reserved { reservation_id, payment_id })
}

export_workflows!(order_workflow);
