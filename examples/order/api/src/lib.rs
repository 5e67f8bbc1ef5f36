//! What the order workflow and its activities agree on: the order, its outcome, the steps between.
//!
//! The workflow calls [`Inventory`] and [`Payments`] through proxies, the activities' component
//! implements them; neither knows the other's crate.

use backstitch_sdk::activities;
use serde::{Deserialize, Serialize};

/// An order as the shop sends it: the workflow's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The shop's number for it.
    pub order_id: String,
    /// Who ordered.
    pub customer: Customer,
    /// What: the article's SKU.
    pub item_id: String,
    /// How many.
    pub quantity: i64,
    /// The price of one, in cents.
    pub unit_price_cents: i64,
}

/// Who ordered, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Customer {
    /// Full name.
    pub name: String,
    /// Where the confirmation goes.
    pub email: String,
    /// Where the parcel goes.
    pub city: String,
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Paid and set aside.
    Reserved {
        /// The warehouse's number.
        reservation_id: String,
        /// The payment provider's number.
        payment_id: String,
    },
    /// Not enough in stock; the customer has been told.
    Backordered,
}

/// The warehouse.
#[activities(task_queue = "inventory-tasks")]
pub trait Inventory {
    /// How many of an article are in stock.
    async fn check_inventory(item_id: String) -> i64;

    /// Sets articles aside and returns the reservation's number.
    async fn reserve_item(item_id: String, quantity: i64) -> String;

    /// Tells purchasing and the customer that the article has to be reordered.
    async fn notify_backorder(item_id: String);
}

/// The payment provider.
#[activities(task_queue = "payment-tasks")]
pub trait Payments {
    /// Charges the customer and returns the payment's number.
    async fn charge(order_id: String, amount_cents: i64) -> String;
}
