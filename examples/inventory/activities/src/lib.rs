//! Reserves articles with an inventory service, by HTTP.
//!
//! There is no token here: the manifest in `Cargo.toml` names it, and the host puts it into each request. The
//! idempotency key is what makes a second attempt harmless when the answer to the first was lost.

use backstitch_sdk::http::Request;
use backstitch_sdk::{Error, Result, activity, export_activities};
use example_api::Stock;
use serde::{Deserialize, Serialize};

/// Asks the service.
#[derive(Debug)]
pub struct InventoryService;

/// What the service is asked for.
#[derive(Serialize)]
struct Wanted {
    sku: String,
    quantity: u32,
}

/// What it answers.
#[derive(Deserialize)]
struct Reserved {
    reservation: String,
}

impl Stock for InventoryService {
    async fn reserve_stock(service: String, sku: String, quantity: u32) -> Result<String> {
        let response = Request::post(format!("{service}/reservations"))
            .header("idempotency-key", activity::context().idempotency_key)
            .json(&Wanted { sku: sku.clone(), quantity })
            .timeout("10 seconds")
            .send()?;
        if response.status() == 404 {
            return Err(Error::application("unknown-article", format!("there is no {sku}")).non_retryable());
        }
        // 503: tried again as the policy says. 429: not before the service's `retry-after`.
        let reserved: Reserved = response.error_for_status()?.json()?;
        Ok(reserved.reservation)
    }
}

export_activities!(InventoryService as Stock);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::http::Response;
    use backstitch_sdk::{activity_table, testing};

    fn reserved(answer: Response) -> Result<String> {
        let service = move |request: &Request| {
            assert_eq!(
                (request.method(), request.url()),
                ("POST", "https://inventory.example.com/reservations")
            );
            assert_eq!(request.body_bytes(), br#"{"sku":"desk","quantity":2}"#);
            assert_eq!(
                request.header_value("idempotency-key"),
                Some(testing::context().idempotency_key.as_str())
            );
            Ok(answer.clone())
        };
        let table = activity_table!(InventoryService as Stock);
        let input = r#"["https://inventory.example.com","desk",2]"#;
        testing::with_http(service, || testing::invoke(table, "reserve_stock", input, testing::context()))
    }

    #[test]
    fn what_the_service_answers_decides_who_tries_again() {
        let made = Response::new(201).with_body(r#"{"reservation":"r-1"}"#);
        assert_eq!(reserved(made).expect("reserves"), "\"r-1\"");
        let busy = reserved(Response::new(503)).expect_err("busy");
        assert_eq!((busy.code(), busy.is_retryable()), ("http-503", true));
        let patience = reserved(Response::new(429).with_header("retry-after", "2")).expect_err("too many");
        assert_eq!((patience.code(), patience.is_retryable()), ("http-429", true));
        let unknown = reserved(Response::new(404)).expect_err("unknown");
        assert_eq!((unknown.code(), unknown.is_retryable()), ("unknown-article", false));
    }
}
