//! The outside parties of the small examples, played inside the sandbox: everything they answer
//! follows from their arguments and the call's idempotency key.

use backstitch_sdk::{Error, Result, activity, export_activities};
use example_api::{Catalogue, Echo, Mail, Part, Travel};

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

export_activities!(Wall as Echo, PostOffice as Mail, TravelAgency as Travel, PaperCatalogue as Catalogue,);
