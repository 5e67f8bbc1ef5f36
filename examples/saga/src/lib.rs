//! Books a trip of several parts, all or nothing: when one part fails, those booked before it are
//! cancelled in reverse order, and the failure that started it is what the run ends with.
//!
//! The list of compensations is an ordinary `Vec`. It survives crashes because the code that filled it
//! is run again.

use backstitch_sdk::{ActivityOptions, Result, export_workflows, proxy_activities, warn, workflow};
use example_api::{Part, Travel, TravelProxy};
use serde::{Deserialize, Serialize};

/// What to book.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trip {
    /// The agency's number for it.
    pub trip_id: String,
    /// Its parts, in the order to book them.
    pub parts: Vec<Part>,
}

/// A part that has been booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// Which part.
    pub part: Part,
    /// The booking's number.
    pub number: String,
}

/// Books every part, or none.
#[workflow]
pub async fn book_trip(trip: Trip) -> Result<Vec<Booking>> {
    let travel = proxy_activities::<dyn Travel>(ActivityOptions::default());
    let mut booked = Vec::new();
    match book_all(&travel, trip, &mut booked).await {
        Ok(()) => Ok(booked),
        Err(error) => {
            warn!("undoing {} bookings: {error}", booked.len());
            for Booking { part, number } in booked.into_iter().rev() {
                travel.cancel_booking(part, number).await?;
            }
            Err(error)
        }
    }
}

async fn book_all(travel: &TravelProxy, trip: Trip, booked: &mut Vec<Booking>) -> Result<()> {
    for part in trip.parts {
        let number = travel.book(part, trip.trip_id.clone()).await?;
        booked.push(Booking { part, number });
    }
    Ok(())
}

export_workflows!(book_trip);

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_sdk::activity_table;
    use backstitch_sdk::testing::{Finished, TestRun};
    use example_activities::TravelAgency;

    fn run(trip_id: &str) -> Finished<Vec<Booking>> {
        let parts = vec![Part::Flight, Part::Hotel, Part::Car];
        TestRun::<book_trip>::new()
            .activities(activity_table!(TravelAgency as Travel))
            .run(Trip { trip_id: trip_id.to_owned(), parts })
    }

    #[test]
    fn a_trip_that_can_be_booked_is_booked() {
        assert_eq!(run("lisbon").output().map(|booked| booked.len()), Ok(3));
    }

    #[test]
    fn a_failure_undoes_in_reverse_what_was_done() {
        let run = run("oslo-no-car");
        assert_eq!(run.output().expect_err("no car").code(), "sold-out");
        assert_eq!(
            run.story()[3..],
            [
                r#"activity cancel_booking ["hotel","hotel-oslo-no-car"]"#,
                r#"activity cancel_booking ["flight","flight-oslo-no-car"]"#,
            ]
        );
    }
}
