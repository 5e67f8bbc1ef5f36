//! What the small examples and their activities agree on: one trait for each kind of outside party.
//!
//! `examples/activities` implements them all in one component; each workflow calls the ones it needs.

use backstitch_sdk::activities;
use serde::{Deserialize, Serialize};

/// Says back what it hears: the cheapest durable step there is.
#[activities(task_queue = "echo-tasks")]
pub trait Echo {
    /// Returns its argument.
    async fn echo(text: String) -> String;
}

/// Keeps articles for those who will pay for them.
#[activities(task_queue = "stock-tasks")]
pub trait Stock {
    /// Reserves so many of an article with the service at an address, and returns the reservation's number.
    async fn reserve_stock(service: String, sku: String, quantity: u32) -> String;
}

/// Writes to people.
#[activities(task_queue = "mail-tasks")]
pub trait Mail {
    /// Sends a letter and returns its number.
    async fn send_mail(to: String, text: String) -> String;
}

/// Books what a trip is made of.
#[activities(task_queue = "travel-tasks")]
pub trait Travel {
    /// Books one part and returns the booking's number. `sold-out` is final.
    async fn book(part: Part, trip_id: String) -> String;

    /// Cancels a booking. Cancelling one that is cancelled already is no error.
    async fn cancel_booking(part: Part, booking: String);
}

/// A part of a trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Getting there.
    Flight,
    /// Staying there.
    Hotel,
    /// Getting about.
    Car,
}

/// Knows which articles exist.
#[activities(task_queue = "catalogue-tasks")]
pub trait Catalogue {
    /// Whether there is an article of this SKU.
    async fn is_listed(sku: String) -> bool;
}

/// Takes money.
#[activities(task_queue = "payment-tasks")]
pub trait Payments {
    /// Charges an order and returns the receipt. `invalid-amount` is final.
    async fn process_payment(order_id: String, amount_cents: i64) -> String;
}

/// Gets an order out of the house.
#[activities(task_queue = "fulfilment-tasks")]
pub trait Fulfilment {
    /// Takes an order off the shelf and returns how many are left. `out-of-stock` is final.
    async fn update_inventory(order_id: String) -> u32;

    /// Tells the warehouse and returns its ticket.
    async fn notify_warehouse(order_id: String) -> String;
}

/// Keeps what auditors ask for. Every component may write to it.
#[activities(task_queue = "shared")]
pub trait AuditLog {
    /// Notes what a workflow has done.
    async fn audit_log(workflow: String, action: String);
}

/// Runs jobs that take their time.
#[activities(task_queue = "job-tasks")]
pub trait Jobs {
    /// Whether a job is done when it is looked at for the n-th time.
    async fn is_done(job_id: String, look: u32) -> bool;
}
