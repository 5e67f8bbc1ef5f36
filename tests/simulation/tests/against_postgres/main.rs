//! The model of the database against Postgres: the same random operations go to both, and every answer is compared, and
//! ever again all tables. What the model is worth as a stand-in, and what it proves, stands and falls with this.
//!
//! Postgres' clock decides nothing here: leases are long, what has to run out is backdated on both sides, and bounds are in a
//! far past or future. Where Postgres is free to choose (which of several runs a claim takes, in which order a sweep finds
//! tasks), the model is told what it has chosen.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod appends;
mod generate;
mod known;
mod modelled;
mod postgres;
mod random;
mod real;
mod sender;
mod sequence;
mod step;
mod tables;

use std::sync::OnceLock;
use std::time::Instant;

use backstitch_core::inbox::{Message, MessageRow};
use backstitch_core::{Epoch, HostId, Json, RunId, TenantId, limits};
use backstitch_ledger::{Append, Cluster, Lease, NewItem};
use simulation::model::Mutant;
use uuid::Uuid;

use crate::postgres::Postgres;
use crate::sequence::{Difference, Sequence, numbers};
use crate::step::Step;

/// How many sequences there are, and of how many operations each. `SEEDS` asks for more, `SEED` for one.
const SEEDS: u64 = 100;
/// See [`SEEDS`].
const OPERATIONS: usize = 60;
/// How many go on at once.
const THREADS: usize = 2;
/// After how many of them it is certain enough that a fault is noticed.
const NOTICES_MAX: usize = 5;
/// How often a sequence is run to find out what of it is needed.
const TRIES_MAX: usize = 300;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    }
}

/// All sequences, as they went in Postgres and in the model; both tests need them.
fn sequences() -> &'static [Sequence] {
    static SEQUENCES: OnceLock<Result<Vec<Sequence>, String>> = OnceLock::new();
    let sequences = SEQUENCES.get_or_init(|| {
        let began = Instant::now();
        let threads: Vec<_> = (0..THREADS).map(|place| std::thread::spawn(move || share(place))).collect();
        let mut sequences = Vec::new();
        for thread in threads {
            sequences.extend(thread.join().unwrap()?);
        }
        let (count, took) = (sequences.len(), began.elapsed());
        println!("{count} sequences in {took:.1?}: {:.1}/s", count as f64 / took.as_secs_f64());
        Ok(sequences)
    });
    sequences.as_ref().unwrap_or_else(|difference| panic!("{difference}"))
}

/// A database of its own, in the cluster of this program. It goes when the program ends.
async fn postgres(name: &str) -> Postgres {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Cluster::ephemeral().unwrap());
    Postgres::new(cluster.create_database(name).await.unwrap()).await
}

/// Every [`THREADS`]th sequence.
fn share(place: usize) -> Result<Vec<Sequence>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut postgres = postgres(&format!("sequences_{place}")).await;
        let mut sequences = Vec::new();
        for seed in seeds().skip(place).step_by(THREADS) {
            match Sequence::run(&mut postgres, &numbers(seed, OPERATIONS)).await {
                Ok(sequence) => sequences.push(sequence),
                Err(difference) => {
                    let (numbers, difference) = minimal(&mut postgres, seed, difference).await;
                    return Err(format!("seed {seed}, {} operations:\n{difference}", numbers.len()));
                }
            }
        }
        Ok(sequences)
    })
}

/// A sequence that still shows a difference, and of which nothing can be left out.
async fn minimal(postgres: &mut Postgres, seed: u64, first: Difference) -> (Vec<u64>, Difference) {
    let mut needed = numbers(seed, OPERATIONS);
    needed.truncate(first.at + 1);
    let (mut difference, mut tries, mut size) = (first, 0, needed.len() / 2);
    while size > 0 && tries < TRIES_MAX {
        let (mut from, mut shorter) = (0, false);
        while from < needed.len() && tries < TRIES_MAX {
            let mut fewer = needed.clone();
            fewer.drain(from..(from + size).min(fewer.len()));
            tries += 1;
            match Sequence::run(postgres, &fewer).await {
                Err(found) => {
                    fewer.truncate(found.at + 1);
                    (needed, difference, shorter) = (fewer, found, true);
                }
                Ok(_) => from += size,
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    (needed, difference)
}

#[test]
fn the_model_does_what_postgres_does() {
    assert!(!sequences().is_empty());
}

/// Too many for a sequence.
#[tokio::test]
async fn a_full_inbox_is_full_on_both_sides() {
    let mut postgres = postgres("full").await;
    let answers = Sequence::answers(&mut postgres, |shard| {
        let (host, run) = (HostId(Uuid::from_u128(1)), RunId(Uuid::from_u128(2)));
        let (lease, scope) = (Lease { host, epoch: Epoch(1) }, step::scope(shard, TenantId::DEFAULT));
        let signal = Message::Signal { name: "s".into(), payload: Json::null(), id: None }.to_row();
        let pause = Message::Pause { reason: "r".to_owned() }.to_row();
        let items = |numbers: std::ops::Range<u32>| {
            let item = |number: u32| NewItem {
                run,
                item_id: Uuid::from_u128(u128::from(number)),
                at_ms: 1,
                message: signal.clone(),
            };
            Append { inbox: numbers.map(item).collect(), ..Append::new(scope, run) }
        };
        let send = |append| Step::Append { lease, appends: vec![append], fault: None };
        let post = |number: u32, message: &MessageRow| Step::Post {
            tenant: scope.tenant,
            run,
            item: Uuid::from_u128(u128::from(number)),
            message: message.clone(),
        };
        let (most, all) = (limits::INBOX_ITEMS_MAX, limits::INBOX_ITEMS_MAX + limits::INBOX_REQUESTS_MAX);
        vec![
            Step::Register { host },
            send(appends::bare_start(scope, run)),
            send(items(1..most)),
            post(most, &signal),
            post(most + 1, &signal),
            post(most + 2, &pause),
            send(items(most + 3..all + 1)),
            post(all + 1, &pause),
            post(all + 2, &pause),
            // One that is there.
            post(1, &signal),
        ]
    })
    .await;
    let accepted = "Accepted { owner: Some(HostId(00000000-0000-0000-0000-000000000001)) }";
    let posted = [3, 4, 5, 7, 8, 9].map(|place: usize| answers[place].as_str());
    assert_eq!(posted, [accepted, "Full", accepted, accepted, "Full", "Full"]);
}

#[test]
fn every_planted_fault_of_the_model_is_noticed() {
    let mut unnoticed = Vec::new();
    for mutant in Mutant::ALL {
        let notice = sequences().iter().enumerate().filter(|(_, sequence)| sequence.notices(mutant));
        let places: Vec<usize> = notice.map(|(place, _)| place + 1).take(NOTICES_MAX).collect();
        println!("{mutant:?}: noticed by {} of {} sequences", places.len(), places.last().unwrap_or(&0));
        if places.is_empty() {
            unnoticed.push(mutant);
        }
    }
    // Of fewer sequences, each for itself, that much is not asked.
    assert!(unnoticed.is_empty() || seeds().count() < SEEDS as usize, "{unnoticed:?}");
}
