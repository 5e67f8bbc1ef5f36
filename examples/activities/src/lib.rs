//! The outside parties of the small examples, played inside the sandbox: everything they answer
//! follows from their arguments and the call's idempotency key.

use backstitch_sdk::{Error, Result, activity, export_activities};
use example_api::{AuditLog, Catalogue, Echo, Fulfilment, Jobs, Mail, Part, Payments, Travel};

/// Says back what it hears.
#[derive(Debug)]
pub struct Wall;

impl Echo for Wall {
    async fn echo(text: String) -> Result<String> {
        Ok(text)
    }
}

/// Sends every letter it can.
#[derive(Debug)]
pub struct PostOffice;

impl Mail for PostOffice {
    async fn send_mail(to: String, _text: String) -> Result<String> {
        if !to.contains('@') {
            return Err(Error::application("bad-address", format!("{to:?} is no address")).non_retryable());
        }
        Ok(format!("mail-{}", activity::context().idempotency_key))
    }
}

/// Has flights and hotels, and cars except for trips whose id ends in `-no-car`.
#[derive(Debug)]
pub struct TravelAgency;

impl Travel for TravelAgency {
    async fn book(part: Part, trip_id: String) -> Result<String> {
        if part == Part::Car && trip_id.ends_with("-no-car") {
            return Err(Error::application("sold-out", "no car left").non_retryable());
        }
        Ok(format!("{part:?}-{trip_id}").to_lowercase())
    }

    async fn cancel_booking(_part: Part, _booking: String) -> Result<()> {
        Ok(())
    }
}

/// Lists every SKU of the form `SKU-…`.
#[derive(Debug)]
pub struct PaperCatalogue;

impl Catalogue for PaperCatalogue {
    async fn is_listed(sku: String) -> Result<bool> {
        Ok(sku.starts_with("SKU-"))
    }
}

/// Charges every amount above nothing.
#[derive(Debug)]
pub struct Bank;

impl Payments for Bank {
    async fn process_payment(order_id: String, amount_cents: i64) -> Result<String> {
        if amount_cents <= 0 {
            let message = format!("{order_id} comes to {amount_cents} cents");
            return Err(Error::application("invalid-amount", message).non_retryable());
        }
        Ok(format!("receipt-{}", activity::context().idempotency_key))
    }
}

/// Has everything, except for orders whose id ends in `-no-stock`.
#[derive(Debug)]
pub struct Depot;

impl Fulfilment for Depot {
    async fn update_inventory(order_id: String) -> Result<u32> {
        if order_id.ends_with("-no-stock") {
            return Err(Error::application("out-of-stock", "the shelf is empty").non_retryable());
        }
        Ok(u32::try_from(order_id.len())?)
    }

    async fn notify_warehouse(order_id: String) -> Result<String> {
        Ok(format!("ticket-{order_id}"))
    }
}

/// Takes every note. A real one would store it under the call's idempotency key.
#[derive(Debug)]
pub struct Archive;

impl AuditLog for Archive {
    async fn audit_log(_workflow: String, _action: String) -> Result<()> {
        Ok(())
    }
}

/// Has the job `job-5` done at the fifth look.
#[derive(Debug)]
pub struct Machine;

impl Jobs for Machine {
    async fn is_done(job_id: String, look: u32) -> Result<bool> {
        let looks = job_id.strip_prefix("job-").and_then(|looks| looks.parse::<u32>().ok());
        let Some(looks) = looks else {
            return Err(Error::application("no-such-job", format!("{job_id:?} is no job")).non_retryable());
        };
        Ok(look >= looks)
    }
}

export_activities!(
    Wall as Echo,
    PostOffice as Mail,
    TravelAgency as Travel,
    PaperCatalogue as Catalogue,
    Bank as Payments,
    Depot as Fulfilment,
    Archive as AuditLog,
    Machine as Jobs,
);
