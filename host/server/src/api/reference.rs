//! The reference of the API as one page for people, made of the OpenAPI document: every route with what it
//! takes and answers, every type, every problem. It holds no script and asks for nothing else, so it reads the
//! same without a network, and a policy forbids the rest.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::Value;

use super::codes::CODES;
use super::openapi::{document, operations};
use super::typescript::{content, kind, schemas};

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
code,pre{font:14px/1.45 ui-monospace,monospace}pre{overflow-x:auto;padding:.6rem;border:1px solid #8886}\
h3{margin-top:2.5rem;border-top:1px solid #8886;padding-top:1rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #8884}\
nav li{list-style:none}nav ul{padding:0}.m{display:inline-block;min-width:4.5rem;font-weight:600}";

/// The page.
pub(super) fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(render);
    &PAGE
}

fn render() -> String {
    let info = &document()["info"];
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Backstitch: HTTP API</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>HTTP API</h1>\n<p>{}</p>\n<p>For programs: <a href=\"/v1/openapi.json\"><code>/v1/openapi.json</code></a>\
         .</p>\n",
        prose(&info["description"])
    );
    contents(&mut page);
    for tag in document()["tags"].as_array().into_iter().flatten() {
        let _ = write!(page, "<h2>{}</h2>\n<p>{}.</p>\n", prose(&tag["name"]), prose(&tag["description"]));
        for (method, path, operation) in operations() {
            if operation["tags"][0] == tag["name"] {
                section(&mut page, method, path, operation);
            }
        }
    }
    problems(&mut page);
    page.push_str("<h2 id=\"types\">Types</h2>\n");
    for (name, schema) in schemas() {
        let _ = write!(
            page,
            "<h3 id=\"{name}\">{name}</h3>\n<p>{}</p>\n<pre>{}</pre>\n",
            prose(&schema["description"]),
            linked(&format!("type {name} = {}", kind(schema, "")))
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn contents(page: &mut String) {
    page.push_str("<nav><ul>\n");
    for (method, path, operation) in operations() {
        let _ = writeln!(
            page,
            "<li><span class=\"m\">{}</span><a href=\"#{}\"><code>{}</code></a> {}</li>",
            method.to_uppercase(),
            prose(&operation["operationId"]),
            escaped(path),
            prose(&operation["summary"])
        );
    }
    page.push_str("<li><a href=\"#problems\">Problems</a></li>\n");
    page.push_str("<li><a href=\"#types\">Types</a></li>\n</ul></nav>\n");
}

fn section(page: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = write!(
        page,
        "<h3 id=\"{}\"><span class=\"m\">{}</span><code>{}</code></h3>\n<p>{}</p>\n",
        prose(&operation["operationId"]),
        method.to_uppercase(),
        escaped(path),
        prose(&operation["summary"])
    );
    if operation["description"].as_str().is_some_and(|text| !text.is_empty()) {
        let _ = writeln!(page, "<p>{}</p>", prose(&operation["description"]));
    }
    page.push_str("<table>\n");
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let place = parameter["in"].as_str().unwrap_or_default();
        let needed = if parameter["required"] == true { "" } else { ", optional" };
        let _ = writeln!(
            page,
            "<tr><td><code>{}</code></td><td>{place}{needed}</td><td><code>{}</code></td><td>{}</td></tr>",
            prose(&parameter["name"]),
            linked(&kind(&parameter["schema"], "")),
            prose(&parameter["description"])
        );
    }
    if let Some(body) = operation.get("requestBody") {
        let _ = writeln!(
            page,
            "<tr><td></td><td>body</td><td><code>{}</code></td><td>{} {}</td></tr>",
            linked(&content(body)),
            prose(&body["description"]),
            media(body)
        );
    }
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let answer = answer["$ref"].as_str().map_or(answer, |place| resolved(place));
        let _ = writeln!(
            page,
            "<tr><td>{status}</td><td>answer</td><td><code>{}</code></td><td>{} {}</td></tr>",
            linked(&content(answer)),
            prose(&answer["description"]),
            media(answer)
        );
    }
    page.push_str("</table>\n");
}

fn problems(page: &mut String) {
    page.push_str("<h2 id=\"problems\">Problems</h2>\n<p>What to do about each code.</p>\n<table>\n");
    for (code, remedy) in CODES {
        let _ = writeln!(
            page,
            "<tr id=\"problem-{code}\"><td><code>{code}</code></td><td>{}</td></tr>",
            prose(&(*remedy).into())
        );
    }
    page.push_str("</table>\n");
}

fn resolved(place: &str) -> &'static Value {
    document().pointer(place.trim_start_matches('#')).expect("each reference of the document leads somewhere")
}

/// Which media types, where it is not plain JSON.
fn media(body: &Value) -> String {
    let names = body["content"].as_object().into_iter().flat_map(serde_json::Map::keys);
    let names: Vec<&str> = names.map(String::as_str).filter(|name| *name != "application/json").collect();
    if names.is_empty() { String::new() } else { format!("<code>{}</code>", escaped(&names.join(", "))) }
}

/// A text of the document as HTML: paragraphs are lines, what stands in backticks is code.
fn prose(text: &Value) -> String {
    let text = escaped(text.as_str().unwrap_or_default()).replace("\n\n", "<br>");
    let mut html = String::new();
    for (at, part) in text.split('`').enumerate() {
        let _ = if at % 2 == 1 { write!(html, "<code>{part}</code>") } else { write!(html, "{part}") };
    }
    html
}

/// A type, in which names of types lead to them.
fn linked(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let known = schemas().any(|(name, _)| name == word);
        let _ = if known {
            write!(html, "<a href=\"#{word}\">{word}</a>")
        } else {
            write!(html, "{}", escaped(word))
        };
        rest = after;
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_everything_and_asks_for_nothing() {
        let page = page();
        for (_, path, operation) in operations() {
            assert!(page.contains(&escaped(path)), "{path}");
            assert!(
                page.contains(&format!("id=\"{}\"", operation["operationId"].as_str().unwrap())),
                "{path}"
            );
        }
        for (name, _) in schemas() {
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        }
        for (code, _) in CODES {
            let help = super::super::codes::help(code);
            let place = help.strip_prefix("/v1/reference#").unwrap();
            assert!(page.contains(&format!("id=\"{place}\"")), "{code}");
        }
        for foreign in ["<script", "<link", "<img", "src=", "://", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for link in page.split("href=\"#").skip(1) {
            let name = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{name}\"")), "#{name} leads nowhere");
        }
    }

    #[test]
    fn what_is_not_ours_to_write_stays_text() {
        assert_eq!(prose(&"a <b> `c & d`".into()), "a &lt;b&gt; <code>c &amp; d</code>");
        assert_eq!(linked("RunView[] | \"x\""), "<a href=\"#RunView\">RunView</a>[] | &quot;x&quot;");
    }
}
