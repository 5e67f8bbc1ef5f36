//! The warehouse and the payment provider of the order example, played inside the sandbox.
//!
//! Everything follows from the arguments, so that the example ends the same way every time:
//! - the stock of an article is computed from its SKU ([`stock_of`]);
//! - articles whose SKU starts with `LEG-` lie in the legacy warehouse, which loses its connection:
//!   the first attempt (for some, the first two) to reserve one fails and is tried again.

use backstitch_sdk::{Error, Result, activity, export_activities};
use order_api::{Inventory, Payments};

/// The warehouse.
#[derive(Debug)]
pub struct Warehouse;

impl Inventory for Warehouse {
    async fn check_inventory(item_id: String) -> Result<i64> {
        Ok(stock_of(&item_id))
    }

    async fn reserve_item(item_id: String, quantity: i64) -> Result<String> {
        let stock = stock_of(&item_id);
        if quantity > stock {
            let message = format!("{quantity} of {item_id} wanted, {stock} in stock");
            return Err(Error::application("out-of-stock", message).non_retryable());
        }
        let attempt = activity::context().attempt;
        if attempt <= attempts_lost(&item_id) {
            let message = format!("the legacy warehouse did not answer attempt {attempt}");
            return Err(Error::application("connection-lost", message));
        }
        // The same for every attempt of this call: a reservation is never made twice.
        Ok(format!("res-{:08x}", hash(&activity::context().idempotency_key) & 0xffff_ffff))
    }

    async fn notify_backorder(_item_id: String) -> Result<()> {
        Ok(())
    }
}

/// The payment provider.
#[derive(Debug)]
pub struct Bank;

impl Payments for Bank {
    async fn charge(order_id: String, amount_cents: i64) -> Result<String> {
        if amount_cents <= 0 {
            let message = format!("{order_id} comes to {amount_cents} cents");
            return Err(Error::application("invalid-amount", message).non_retryable());
        }
        Ok(format!("pay-{:08x}", hash(&activity::context().idempotency_key) & 0xffff_ffff))
    }
}

/// How many of an article there are: 0 to 49.
pub fn stock_of(item_id: &str) -> i64 {
    i64::from(hash(item_id) as u8 % 50)
}

/// How many attempts to reserve an article fail before one succeeds.
pub fn attempts_lost(item_id: &str) -> u32 {
    match item_id.strip_prefix("LEG-") {
        Some(number) if hash(number).is_multiple_of(4) => 2,
        Some(_) => 1,
        None => 0,
    }
}

/// FNV-1a, 64 bits: spreads well enough and fits in four lines.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

export_activities!(Warehouse as Inventory, Bank as Payments);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::{context, run_activity};

    fn reserve(item_id: &str, quantity: i64, attempt: u32) -> Result<String> {
        let mut context = context();
        context.attempt = attempt;
        run_activity(context, Warehouse::reserve_item(item_id.to_owned(), quantity))
    }

    /// An article of the legacy warehouse that is in stock.
    fn legacy_item() -> String {
        let mut items = (1_000..10_000).map(|number| format!("LEG-{number}"));
        items.find(|item| stock_of(item) > 0).expect("most articles are in stock")
    }

    #[test]
    fn a_lost_connection_is_worth_another_attempt() {
        let item = legacy_item();
        let lost = attempts_lost(&item);
        for attempt in 1..=lost {
            let error = reserve(&item, 1, attempt).expect_err("lost");
            assert_eq!((error.code(), error.is_retryable()), ("connection-lost", true));
        }
        assert!(reserve(&item, 1, lost + 1).is_ok());
    }

    #[test]
    fn an_empty_shelf_is_final() {
        let error = reserve("MUG-141", 50, 1).expect_err("there are never fifty");
        assert_eq!((error.code(), error.is_retryable()), ("out-of-stock", false));
    }

    #[test]
    fn every_attempt_makes_the_same_reservation() {
        let item = legacy_item();
        assert_eq!(reserve(&item, 1, 3), reserve(&item, 1, 4));
    }
}
