//! Reserves what an order needs, article by article, with a service that is sometimes busy.
//!
//! The workflow knows nothing of HTTP: it sees a call that gives a reservation, or fails for good.

use backstitch_sdk::{ActivityOptions, Result, RetryPolicy, export_workflows, proxy_activities, workflow};
use example_api::Stock;
use serde::{Deserialize, Serialize};

/// What is needed, and who has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Needs {
    /// The address of the inventory service, such as `https://inventory.example.com`.
    pub service: String,
    /// Articles, and how many of each.
    pub items: Vec<(String, u32)>,
}

/// Reserves everything, and gives the numbers of the reservations.
#[workflow]
pub async fn reserve_items(needs: Needs) -> Result<Vec<String>> {
    let retry = RetryPolicy::default().maximum_attempts(5).initial_interval("100ms").backoff_coefficient(2.0);
    let options = ActivityOptions::default().start_to_close("30 seconds").retry(retry);
    let stock = proxy_activities::<dyn Stock>(options);
    let mut reservations = Vec::new();
    for (sku, quantity) in needs.items {
        reservations.push(stock.reserve_stock(needs.service.clone(), sku, quantity).await?);
    }
    Ok(reservations)
}

export_workflows!(reserve_items);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::testing::TestRun;
    use backstitch_sdk::{Error, activity};

    #[test]
    fn a_busy_service_is_asked_again() {
        let run = TestRun::<reserve_items>::new()
            .activity("reserve_stock", |_| match activity::context().attempt {
                1 => Err(Error::application("http-503", "busy")),
                _ => Ok("r-1"),
            })
            .run(Needs {
                service: "https://inventory.example.com".to_owned(),
                items: vec![("desk".to_owned(), 2)],
            });
        assert_eq!(run.output().expect("reserves"), ["r-1"]);
    }
}
