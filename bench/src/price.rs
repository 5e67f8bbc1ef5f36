//! `bench price`: what the bounds on a guest's computing cost. The same core modules run with nothing of them in their
//! code, with looking up at epochs, with fuel, and with both, by each list of prices; in turns, so that all meet the same
//! neighbours. What is shown is processor time beside that of the bare module.

use std::time::Duration;

use anyhow::{Context, Result};
use backstitch_core::Rules;
use backstitch_sandbox::{Gauge, Gauged};
use serde::Serialize;

use crate::rig;

/// Options of `bench price`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Turns of each module under each set of bounds.
    #[arg(long, default_value_t = 15)]
    turns: usize,
    /// How long a turn of the bare module takes, in milliseconds.
    #[arg(long, default_value_t = 200)]
    ms: u64,
}

/// Sets of bounds. The first is what the others are compared with, the last what workflows have.
const BOUNDS: [(&str, Gauged); 6] = [
    ("bare", Gauged { epochs: false, prices: None }),
    ("epochs", Gauged { epochs: true, prices: None }),
    ("fuel 1", Gauged { epochs: false, prices: Some(Rules::First) }),
    ("fuel 1, epochs", Gauged { epochs: true, prices: Some(Rules::First) }),
    ("fuel 2", Gauged { epochs: false, prices: Some(Rules::Second) }),
    ("fuel 2, epochs", Gauged { epochs: true, prices: Some(Rules::Second) }),
];

/// What modules do in each of their rounds: a name, what the module has besides, and code that takes `$n`, the rounds that
/// are left, and `$x`, and changes `$x`.
const MODULES: [(&str, &str, &str); 6] = [
    // The tightest loop: what is put into it shows most.
    ("adds", "", "(local.set $x (i64.add (i64.xor (local.get $x) (local.get $n)) (i64.const 7)))"),
    (
        "divisions",
        "",
        "(local.set $x (i64.add (i64.div_u (i64.const 0x7fffffffffff) (i64.or (local.get $x) (i64.const 1))) (local.get $n)))",
    ),
    (
        "floats",
        "",
        "(local.set $x (i64.trunc_sat_f64_s
            (f64.add (f64.mul (f64.convert_i64_s (local.get $x)) (f64.const 0.5)) (f64.const 3))))",
    ),
    (
        "memory",
        "(memory 16)",
        "(i64.store (i32.and (i32.wrap_i64 (local.get $n)) (i32.const 0xffff8)) (local.get $x))
         (local.set $x (i64.add (local.get $x)
            (i64.load (i32.and (i32.wrap_i64 (local.get $x)) (i32.const 0xffff8)))))",
    ),
    (
        "calls",
        "(func $step (param i64) (result i64)
            (if (result i64) (i64.eqz (i64.and (local.get 0) (i64.const 7)))
              (then (i64.add (local.get 0) (i64.const 1)))
              (else (call $step (i64.sub (local.get 0) (i64.const 1))))))",
        "(local.set $x (i64.add (call $step (local.get $x)) (i64.const 5)))",
    ),
    (
        "copies",
        "(memory 16)",
        "(memory.copy (i32.const 0) (i32.add (i32.const 65536) (i32.wrap_i64 (i64.and (local.get $n) (i64.const 4095))))
                      (i32.const 1024))",
    ),
];

fn module(besides: &str, round: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module {besides}
             (func (export "run") (param $n i64) (result i64) (local $x i64)
               (loop $more
                 {round}
                 (local.set $n (i64.sub (local.get $n) (i64.const 1)))
                 (br_if $more (i64.gt_s (local.get $n) (i64.const 0))))
               (local.get $x)))"#
    );
    wat::parse_str(text).context("a module of this bench")
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    turns: usize,
    bounds: Vec<&'static str>,
    modules: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    module: &'static str,
    rounds: u32,
    bare_ms: f64,
    /// Medians of the turns' own, in the order of `bounds`.
    ratios: Vec<f64>,
}

/// Measures.
pub(crate) fn run(args: &Args) -> Result<serde_json::Value> {
    let turns = args.turns.max(1);
    let mut modules = Vec::new();
    for (name, besides, round) in MODULES {
        modules.push(measure(name, &module(besides, round)?, turns, Duration::from_millis(args.ms))?);
    }
    let bounds = BOUNDS.map(|(name, _)| name).to_vec();
    let report = Report { bench: "price", turns, bounds, modules };
    println!("{}", rig::machine());
    println!("bench price: processor time beside that of the bare module, medians of {turns} turns");
    println!("{:10}{:>12}{}", "", "bare, ms", header(&report.bounds[1..]));
    for measured in &report.modules {
        let ratios: String = measured.ratios[1..].iter().map(|ratio| format!("{ratio:>16.2}")).collect();
        println!("{:10}{:>12.1}{ratios}", measured.module, measured.bare_ms);
    }
    Ok(serde_json::to_value(report)?)
}

fn header(bounds: &[&str]) -> String {
    bounds.iter().map(|name| format!("{name:>16}")).collect()
}

fn measure(name: &'static str, module: &[u8], turns: usize, takes: Duration) -> Result<Measured> {
    let mut gauges = Vec::with_capacity(BOUNDS.len());
    for (_, with) in BOUNDS {
        gauges.push(Gauge::new(module, with)?);
    }
    let mut rounds: u32 = 1_000;
    while gauges[0].run(rounds)? < takes && rounds < u32::MAX / 2 {
        rounds *= 2;
    }
    let mut bare = Vec::with_capacity(turns);
    let mut ratios = vec![Vec::with_capacity(turns); BOUNDS.len()];
    for _ in 0..turns {
        let mut times = Vec::with_capacity(BOUNDS.len());
        for gauge in &mut gauges {
            times.push(gauge.run(rounds)?.as_secs_f64());
        }
        bare.push(times[0] * 1e3);
        for (ratios, time) in ratios.iter_mut().zip(&times) {
            ratios.push(time / times[0]);
        }
    }
    let ratios = ratios.into_iter().map(median).collect();
    Ok(Measured { module: name, rounds, bare_ms: median(bare), ratios })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_is_measured_under_each_set_of_bounds() {
        let report = run(&Args { turns: 3, ms: 20 }).unwrap();
        let modules = report["modules"].as_array().unwrap();
        assert_eq!(modules.len(), MODULES.len());
        for module in modules {
            let ratios = module["ratios"].as_array().unwrap();
            assert!(ratios.len() == BOUNDS.len() && ratios[0] == 1.0, "{module}");
        }
    }
}
