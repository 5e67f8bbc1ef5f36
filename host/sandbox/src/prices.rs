//! What each instruction of a workflow costs, in units of fuel. See [`Rules`]: a list of prices never changes.
//!
//! Under the first rules nearly everything costs one unit. Under the second, a unit is about the time of an
//! addition, as measured on one machine; so a tank of fuel lasts for about as long whatever a guest does with it.
//! What a load takes depends on where the data is, and its price is between that of the cache and that of memory.

use backstitch_core::{Rules, limits};
use serde_json::{Map, Value};
use wasmtime::{OperatorCost, VariableOperatorCost};

/// The list of these rules.
pub(crate) fn of(rules: Rules) -> OperatorCost {
    // An instruction that leaves compiled code: a refused growth takes as long as a call of the host.
    let (list, growth) = match rules {
        Rules::First => (OperatorCost::default(), limits::HOSTCALL_FUEL_FIRST),
        Rules::Second => (second(), limits::HOSTCALL_FUEL),
    };
    let growth = u8::try_from(growth).unwrap_or(u8::MAX);
    OperatorCost {
        MemoryGrow: growth,
        TableGrow: growth,
        // Each page that is granted will be cleared.
        variable: VariableOperatorCost { memory_grow_per_page: u8::MAX, ..list.variable },
        ..list
    }
}

/// By their names, for there are some hundreds.
fn second() -> OperatorCost {
    let priced = "the list is a record of a number for each operator, and of one list more";
    let list = serde_json::to_value(OperatorCost::default()).expect(priced);
    let Value::Object(list) = list else { unreachable!("{priced}") };
    let list: Map<String, Value> = list
        .into_iter()
        .map(|(name, price)| {
            let price = if price == 0 || name == "variable" { price } else { of_operator(&name).into() };
            (name, price)
        })
        .collect();
    serde_json::from_value(Value::Object(list)).expect(priced)
}

fn of_operator(name: &str) -> u8 {
    let is_float = name.starts_with("F32") || name.starts_with("F64");
    let is_vector = ["V128", "I8x16", "I16x8", "I32x4", "I64x2", "F32x4", "F64x2"]
        .iter()
        .any(|shape| name.starts_with(shape));
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match name {
        "MemoryCopy" | "MemoryFill" | "MemoryInit" | "TableCopy" | "TableFill" | "TableInit" => 50,
        "CallIndirect" | "ReturnCallIndirect" | "CallRef" | "ReturnCallRef" | "TableGet" | "TableSet" => 12,
        "Call" | "ReturnCall" | "BrTable" => 4,
        "Br" | "BrIf" => 2,
        _ if has(&["Div", "Rem", "Sqrt"]) => 24,
        _ if has(&["Load", "Store"]) => 8,
        _ if has(&["Trunc", "Ceil", "Floor", "Nearest", "Convert"]) => 8,
        _ if is_float || is_vector => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every operator costs that costs more than nothing and other than one unit.
    fn unusual(rules: Rules) -> Map<String, Value> {
        let Value::Object(list) = serde_json::to_value(of(rules)).unwrap() else { panic!() };
        list.into_iter().filter(|(_, price)| *price != 0 && *price != 1).collect()
    }

    #[test]
    fn the_first_list_is_what_it_was() {
        let list = unusual(Rules::First);
        let names: Vec<&str> = list.keys().map(String::as_str).collect();
        assert_eq!(names, ["MemoryGrow", "TableGrow", "variable"]);
        assert_eq!((&list["MemoryGrow"], &list["TableGrow"]), (&100.into(), &100.into()));
        let variable = list["variable"].as_object().unwrap();
        for (what, price) in variable {
            let expected = if what == "memory_grow_per_page" { 255 } else { 1 };
            assert_eq!(*price, Value::from(expected), "{what}");
        }
    }

    #[test]
    fn the_second_list_is_what_it_was() {
        let list = unusual(Rules::Second);
        for (name, price) in [
            ("I32DivU", 24),
            ("I64RemS", 24),
            ("F64Sqrt", 24),
            ("F32Div", 24),
            ("F64Add", 4),
            ("I32Load", 8),
            ("I64Store8", 8),
            ("V128Load", 8),
            ("I32TruncF64S", 8),
            ("Call", 4),
            ("CallIndirect", 12),
            ("MemoryCopy", 50),
            ("MemoryGrow", 255),
            ("I32x4Add", 4),
        ] {
            assert_eq!(list.get(name), Some(&Value::from(price)), "{name}");
        }
        for one in ["I32Add", "LocalGet", "I64Const", "I32Mul", "Select"] {
            assert_eq!(list.get(one), None, "{one}");
        }
        // Operators that a later Wasmtime knows besides are looked at before they have a price.
        let sum: u64 = list.values().filter_map(Value::as_u64).sum();
        assert_eq!((list.len(), sum), (393, 3162));
    }
}
