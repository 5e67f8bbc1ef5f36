//! What the API says of itself: the OpenAPI 3.1 document, made of the routes as they are registered.

use std::sync::LazyLock;

use serde_json::Value;

use super::routes;

/// The document of `/v1` as it is served and kept in `docs/openapi.json`.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let mut text = serde_json::to_string_pretty(document()).expect("JSON always serialises");
        text.push('\n');
        text
    });
    &TEXT
}

/// The document of `/v1`.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| routes::routes().document());
    &DOCUMENT
}

/// Every operation of the document: method, path, and what is said of it.
pub(super) fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = document()["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let operations = item.as_object().into_iter().flatten();
        operations.map(|(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every object of the document, with the names on the way to it.
    fn objects() -> Vec<(String, &'static serde_json::Map<String, Value>)> {
        let mut found = Vec::new();
        let mut rest = vec![(String::new(), document())];
        while let Some((way, value)) = rest.pop() {
            match value {
                Value::Array(values) => {
                    rest.extend(values.iter().enumerate().map(|(at, value)| (format!("{way}/{at}"), value)));
                }
                Value::Object(fields) => {
                    found.push((way.clone(), fields));
                    rest.extend(fields.iter().map(|(name, value)| (format!("{way}/{name}"), value)));
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        assert_eq!(document()["openapi"], "3.1.0");
        let mut references = 0;
        for (way, object) in objects() {
            if let Some(place) = object.get("$ref").and_then(Value::as_str) {
                let pointer = place.strip_prefix('#').expect("nothing outside the document");
                assert!(document().pointer(pointer).is_some(), "{way} refers to {place}");
                references += 1;
            }
        }
        assert!(references > 400, "{references}");
    }

    #[test]
    fn every_operation_says_what_it_takes_and_answers() {
        let mut ids = std::collections::BTreeSet::new();
        for (method, path, operation) in operations() {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{what}: the id is taken");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{what}");
            let answers: Vec<&str> =
                operation["responses"].as_object().unwrap().keys().map(|k| &**k).collect();
            assert!(answers.iter().any(|status| status.starts_with('2')), "{what}: {answers:?}");
            for status in ["400", "403", "500", "503"] {
                assert!(answers.contains(&status), "{what}: {answers:?}");
            }
            assert_eq!(answers.contains(&"413"), operation.get("requestBody").is_some(), "{what}");
            let declared: Vec<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let segments: Vec<&str> =
                path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(declared, segments, "{what}");
        }
        assert!(ids.len() >= 44, "{}", ids.len());
    }

    #[test]
    fn everything_that_is_sent_is_described() {
        for (name, schema) in document()["components"]["schemas"].as_object().unwrap() {
            let described = schema["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(described, "{name}: {schema:#}");
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                // What may be `null` is described beside that.
                let parts = schema["oneOf"].as_array().into_iter().flatten().chain([schema]);
                let said = |part: &Value| part["description"].as_str().is_some_and(|text| !text.is_empty());
                assert!(parts.into_iter().any(said), "{name}.{field}: {schema:#}");
            }
        }
        for (way, object) in objects() {
            let links =
                object.get("description").and_then(Value::as_str).is_some_and(|text| text.contains("[`"));
            assert!(!links, "{way}: {object:#?}");
        }
    }

    #[test]
    fn the_document_that_is_kept_is_the_one_that_is_served() {
        let kept = include_str!("../../../../docs/openapi.json");
        let command = "cargo run -p backstitch -- internal openapi > docs/openapi.json";
        assert!(kept == text(), "the API has changed; write its document down with:\n  {command}");
    }
}
