//! The types of the wire in TypeScript, made of the OpenAPI document: types only, nothing that runs. The
//! reference page shows them in the same words.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::openapi::{document, operations};

/// The declarations, as `docs/api.d.ts` keeps them.
pub fn text() -> String {
    let mut text = String::from(
        "// The types of Backstitch's HTTP API. Made of docs/openapi.json, not by hand:\n\
         // cargo run -p backstitch -- internal openapi --typescript > docs/api.d.ts\n",
    );
    for (name, schema) in schemas() {
        let _ = write!(text, "\n{}export type {name} = {};\n", comment(schema, ""), kind(schema, ""));
    }
    text.push_str(
        "\n/** What each operation is asked and answers. Answers other than these are problems. */\n",
    );
    text.push_str("export interface Operations {\n");
    for (method, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let summary = operation["summary"].as_str().unwrap_or_default();
        let _ = writeln!(text, "  /** {summary} */\n  {id}: {{");
        let _ = writeln!(text, "    method: \"{}\";\n    route: \"{path}\";", method.to_uppercase());
        for place in ["path", "query", "header"] {
            let fields = parameters(operation, place);
            if !fields.is_empty() {
                let _ = writeln!(text, "    {place}: {{ {} }};", fields.join("; "));
            }
        }
        if let Some(body) = operation.get("requestBody") {
            let _ = writeln!(text, "    body: {};", content(body));
        }
        let _ = writeln!(text, "    answers: {{ {} }};\n  }};", answers(operation).join("; "));
    }
    text.push_str("}\n");
    text
}

/// The named types of the document.
pub(super) fn schemas() -> impl Iterator<Item = (&'static String, &'static Value)> {
    document()["components"]["schemas"].as_object().into_iter().flatten()
}

/// A schema as a type. What it consists of is on lines of its own, under `indent`.
pub(super) fn kind(schema: &Value, indent: &str) -> String {
    if let Some(place) = schema["$ref"].as_str() {
        return place.rsplit('/').next().unwrap_or_default().to_owned();
    }
    for (word, operator) in [("allOf", " & "), ("oneOf", " | "), ("anyOf", " | ")] {
        if let Some(parts) = schema[word].as_array() {
            let parts: Vec<String> = parts.iter().map(|part| kind(part, indent)).collect();
            return parts.join(operator);
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    match &schema["type"] {
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str).map(|word| simple(word, schema, indent));
            kinds.collect::<Vec<_>>().join(" | ")
        }
        Value::String(word) => simple(word, schema, indent),
        _ => "unknown".to_owned(),
    }
}

fn simple(word: &str, schema: &Value, indent: &str) -> String {
    match word {
        "integer" | "number" => "number".to_owned(),
        "array" => {
            let item = kind(&schema["items"], indent);
            if item.contains(' ') { format!("({item})[]") } else { format!("{item}[]") }
        }
        "object" => object(schema, indent),
        "string" if schema["format"] == "binary" => "Blob".to_owned(),
        other => other.to_owned(),
    }
}

fn object(schema: &Value, indent: &str) -> String {
    let Some(fields) = schema["properties"].as_object().filter(|fields| !fields.is_empty()) else {
        let values = schema.get("additionalProperties").filter(|values| values.is_object());
        return values
            .map_or("{}".to_owned(), |values| format!("{{ [name: string]: {} }}", kind(values, indent)));
    };
    let inner = format!("{indent}  ");
    let mut text = String::from("{\n");
    for (name, field) in fields {
        let mark = if is_required(schema, name) { "" } else { "?" };
        let _ = writeln!(
            text,
            "{}{inner}{}{mark}: {};",
            comment(field, &inner),
            property(name),
            kind(field, &inner)
        );
    }
    let _ = write!(text, "{indent}}}");
    text
}

/// A field's name, in quotes if it is no word of the language.
fn property(name: &str) -> String {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_word { name.to_owned() } else { format!("\"{name}\"") }
}

/// Whether an object always has a field.
fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name))
}

/// What is said of a schema; of one that may be `null`, beside that.
fn description(schema: &Value) -> Option<&str> {
    let parts = schema["oneOf"].as_array().into_iter().flatten();
    [schema].into_iter().chain(parts).find_map(|part| part["description"].as_str())
}

fn comment(schema: &Value, indent: &str) -> String {
    let Some(what) = description(schema) else { return String::new() };
    format!("{indent}/** {} */\n", what.replace("\n\n", " ").replace("*/", "* /"))
}

fn parameters(operation: &Value, place: &str) -> Vec<String> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    let of_place = all.filter(|parameter| parameter["in"] == place);
    let field = |parameter: &Value| {
        let name = parameter["name"].as_str().unwrap_or_default();
        let mark = if parameter["required"] == true { "" } else { "?" };
        format!("{}{mark}: {}", property(name), kind(&parameter["schema"], ""))
    };
    of_place.map(field).collect()
}

/// What a body or an answer holds; `undefined`: nothing.
pub(super) fn content(body: &Value) -> String {
    let media = body["content"].as_object().into_iter().flat_map(Map::values);
    let kinds: Vec<String> = media.map(|media| kind(&media["schema"], "")).collect();
    if kinds.is_empty() { "undefined".to_owned() } else { kinds.join(" | ") }
}

/// The answers that are no problems.
fn answers(operation: &Value) -> Vec<String> {
    let answers = operation["responses"].as_object().into_iter().flatten();
    let good = answers.filter(|(_, answer)| answer.get("$ref").is_none());
    good.map(|(status, answer)| format!("{status}: {}", content(answer))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_a_type() {
        for (schema, expected) in [
            (json!({}), "unknown"),
            (json!({"$ref": "#/components/schemas/RunView"}), "RunView"),
            (json!({"type": ["string", "null"]}), "string | null"),
            (json!({"type": "array", "items": {"type": ["integer", "null"]}}), "(number | null)[]"),
            (json!({"type": "string", "enum": ["a", "b"]}), "\"a\" | \"b\""),
            (json!({"oneOf": [{"type": "null"}, {"type": "boolean"}]}), "null | boolean"),
            (json!({"allOf": [{"$ref": "x/A"}, {"type": "object"}]}), "A & {}"),
            (
                json!({"type": "object", "additionalProperties": {"type": "number"}}),
                "{ [name: string]: number }",
            ),
            (
                json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b-c": {}}}),
                "{\n  a: string;\n  \"b-c\"?: unknown;\n}",
            ),
        ] {
            assert_eq!(kind(&schema, ""), expected);
        }
    }

    #[test]
    fn the_types_that_are_kept_are_those_that_are_served() {
        let command = "cargo run -p backstitch -- internal openapi --typescript > docs/api.d.ts";
        let kept = include_str!("../../../../docs/api.d.ts");
        assert!(kept == text(), "the API has changed; write its types down with:\n  {command}");
    }
}
