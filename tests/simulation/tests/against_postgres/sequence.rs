//! A sequence of operations: on both sides, and again on a model with a fault.

use std::fmt;
use std::sync::atomic::{AtomicI16, Ordering};

use backstitch_core::Shard;
use simulation::model::Mutant;

use crate::known::Known;
use crate::modelled::Modelled;
use crate::postgres::Postgres;
use crate::random::Random;
use crate::real::Real;
use crate::step::Step;

/// After how many operations all tables are compared.
const TABLES_EVERY: usize = 10;

/// The numbers that the operations of a seed are made of.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.next()).collect()
}

fn next_shard() -> Shard {
    static SHARDS: AtomicI16 = AtomicI16::new(1);
    Shard(SHARDS.fetch_add(1, Ordering::Relaxed))
}

/// What Postgres answered to each operation, and how its tables stood after some.
pub(crate) struct Sequence {
    shard: Shard,
    steps: Vec<(Step, String, Option<Vec<String>>)>,
}

/// Where the two went apart.
pub(crate) struct Difference {
    /// The number of the operation.
    pub(crate) at: usize,
    steps: Vec<Step>,
    postgres: String,
    model: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "  {}", without_nothing(&format!("{step:?}")))?;
        }
        write!(f, "Postgres: {}\nmodel:    {}", self.postgres, self.model)
    }
}

/// Without the fields that say nothing.
fn without_nothing(text: &str) -> String {
    let mut shorter = text.to_owned();
    for nothing in [": [],", ": None,", ": [] ", ": None "] {
        while let Some(at) = shorter.find(nothing) {
            let from = shorter[..at].rfind([' ', '{']).map_or(at, |space| space + 1);
            shorter.replace_range(from..at + nothing.len(), "");
        }
    }
    shorter
}

impl Sequence {
    /// Carries these out on both sides; what both answered.
    pub(crate) async fn answers(
        postgres: &mut Postgres,
        steps: impl FnOnce(Shard) -> Vec<Step>,
    ) -> Vec<String> {
        let shard = next_shard();
        let (mut real, mut model) = (Real::new(postgres, shard).await, Modelled::new(shard, None));
        let mut answers = Vec::new();
        for mut step in steps(shard) {
            let answer = real.apply(&mut step).await;
            assert_eq!(model.apply(&step), answer);
            answers.push(answer);
        }
        assert_eq!(model.shown(), real.shown().await);
        answers
    }

    /// Carries out on both sides what these numbers stand for.
    pub(crate) async fn run(postgres: &mut Postgres, numbers: &[u64]) -> Result<Self, Difference> {
        let shard = next_shard();
        let (mut real, mut model) = (Real::new(postgres, shard).await, Modelled::new(shard, None));
        let mut known = Known::new(shard);
        let mut steps: Vec<(Step, String, Option<Vec<String>>)> = Vec::new();
        for (at, number) in numbers.iter().enumerate() {
            let mut step = known.step(*number, &model);
            let answer = real.apply(&mut step).await;
            let modelled = model.apply(&step);
            known.learn(&step, &model);
            let differs = |postgres: String, model: String, step: &Step| {
                let steps = steps.iter().map(|(step, ..)| step.clone()).chain([step.clone()]).collect();
                Difference { at, steps, postgres, model }
            };
            if answer != modelled {
                return Err(differs(answer, modelled, &step));
            }
            let is_checked = (at + 1).is_multiple_of(TABLES_EVERY) || at + 1 == numbers.len();
            let tables = if is_checked { Some(real.shown().await) } else { None };
            if let Some(tables) = &tables
                && *tables != model.shown()
            {
                let missing = |these: &[String], those: &[String]| {
                    let lines = these.iter().filter(|line| !those.contains(line)).cloned();
                    lines.collect::<Vec<_>>().join("\n  ")
                };
                let shown = model.shown();
                return Err(differs(missing(tables, &shown), missing(&shown, tables), &step));
            }
            steps.push((step, answer, tables));
        }
        Ok(Self { shard, steps })
    }

    /// Whether a model with this fault answers otherwise than Postgres did.
    pub(crate) fn notices(&self, mutant: Mutant) -> bool {
        let mut model = Modelled::new(self.shard, Some(mutant));
        self.steps.iter().any(|(step, answer, tables)| {
            model.apply(step) != *answer || tables.as_ref().is_some_and(|tables| *tables != model.shown())
        })
    }
}
