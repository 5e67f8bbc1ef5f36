//! What the bounds on a guest's computing cost: the same core module, with and without what they put into compiled code.
//! For `bench price`, and for nothing that a host does: what is here has no budget of memory and ends when it ends.

use std::time::Duration;

use backstitch_core::Rules;
use wasmtime::{Engine, Instance, Module, Store, TypedFunc, UpdateDeadline};

use crate::engine::{Build, config};
use crate::guest_time::thread_time;
use crate::means::Clock;

/// What of the bounds is compiled into a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauged {
    /// It looks up at each loop and each call, and the epoch moves on as it does in a host.
    pub epochs: bool,
    /// It counts fuel by the list of these rules.
    pub prices: Option<Rules>,
}

/// A module under some of the bounds. Its export `run` takes a number of rounds.
pub struct Gauge {
    store: Store<()>,
    run: TypedFunc<i64, i64>,
    counts_fuel: bool,
    _clock: Option<Clock>,
}

/// A module cannot be measured.
#[derive(Debug, thiserror::Error)]
#[error("the module cannot be measured: {0}")]
pub struct GaugeError(String);

impl Gauge {
    /// Compiles a core module, as guests are compiled but for what `with` leaves out.
    pub fn new(module: &[u8], with: Gauged) -> Result<Self, GaugeError> {
        Self::compiled(module, with).map_err(|error| GaugeError(format!("{error:#}")))
    }

    fn compiled(module: &[u8], with: Gauged) -> wasmtime::Result<Self> {
        let build = with.prices.map_or(Build::Activity, Build::Workflow);
        let engine = Engine::new(config(build).epoch_interruption(with.epochs))?;
        let module = Module::new(&engine, module)?;
        let mut store = Store::new(&engine, ());
        let clock = if with.epochs {
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
            store.set_epoch_deadline(1);
            Some(Clock::start([&engine])?)
        } else {
            None
        };
        let counts_fuel = with.prices.is_some();
        if counts_fuel {
            store.set_fuel(u64::MAX)?;
        }
        let instance = Instance::new(&mut store, &module, &[])?;
        let run = instance.get_typed_func(&mut store, "run")?;
        Ok(Self { store, run, counts_fuel, _clock: clock })
    }

    /// Lets it compute for so many rounds: the processor time that this took.
    pub fn run(&mut self, rounds: u32) -> Result<Duration, GaugeError> {
        let failed = |error: wasmtime::Error| GaugeError(format!("{error:#}"));
        if self.counts_fuel {
            self.store.set_fuel(u64::MAX).map_err(failed)?;
        }
        let begun = thread_time();
        self.run.call(&mut self.store, i64::from(rounds)).map_err(failed)?;
        Ok(Duration::from_nanos(thread_time().saturating_sub(begun)))
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("counts_fuel", &self.counts_fuel).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_computes_under_each_set_of_bounds() {
        let module = wat::parse_str(
            r#"(module (func (export "run") (param i64) (result i64)
                 (loop $more
                   (local.set 0 (i64.sub (local.get 0) (i64.const 1)))
                   (br_if $more (i64.gt_s (local.get 0) (i64.const 0))))
                 (local.get 0)))"#,
        )
        .unwrap();
        for prices in [None, Some(Rules::First), Some(Rules::Second)] {
            for epochs in [false, true] {
                let mut gauge = Gauge::new(&module, Gauged { epochs, prices }).unwrap();
                let (few, many) = (gauge.run(1).unwrap(), gauge.run(20_000_000).unwrap());
                assert!(few < many, "{epochs} {prices:?}: {few:?}, {many:?}");
            }
        }
        let error = Gauge::new(b"nothing", Gauged { epochs: true, prices: None }).unwrap_err();
        assert!(error.to_string().contains("cannot be measured"), "{error}");
    }
}
