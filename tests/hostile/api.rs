//! The API as programs in other languages meet it: its document, its types, its streams, its repeats.

use backstitch::api::openapi;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::support::{DEADLINE, HostOptions, TestHost, database, eventually};

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn the_document_and_the_router_have_the_same_routes() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let served: Value = serde_json::from_slice(
        &http().get(format!("{}/v1/openapi.json", host.url)).send().await.unwrap().bytes().await.unwrap(),
    )
    .unwrap();
    assert_eq!(&served, openapi::document());
    for (path, item) in served["paths"].as_object().unwrap() {
        let filled = path.replace("{id}", "nobody").replace("{name}", "x").replace("{op}", "1");
        for method in ["get", "put", "post", "delete", "patch"] {
            let request = http()
                .request(method.to_uppercase().parse::<Method>().unwrap(), format!("{}{filled}", host.url));
            let answer = request.timeout(DEADLINE).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap();
            match item.get(method) {
                Some(operation) => {
                    let answers = operation["responses"].as_object().unwrap();
                    assert!(answers.contains_key(&status.to_string()), "{method} {filled}: {status}");
                    let unknown = String::from_utf8_lossy(&body).contains("unknown-route");
                    assert!(status != 405 && !unknown, "{method} {filled}: {status}");
                }
                None => {
                    assert_eq!(status, 405, "{method} {filled} is served, and the document does not say so");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    host.start_run("panics", "closed", "1").await;
    for path in ["openapi.json", "reference", "deployments", "runs/closed"] {
        let url = format!("{}/v1/{path}", host.url);
        // A run that is just being parked has another tag a moment later.
        eventually("the answer has settled", async || {
            let first = http().get(&url).send().await.unwrap();
            assert_eq!(first.status(), 200, "{path}");
            let tag = header(&first, "etag").to_owned();
            let again = http().get(&url).header("if-none-match", &tag).send().await.unwrap();
            (again.status() == StatusCode::NOT_MODIFIED).then_some(())
        })
        .await;
        let other = http().get(&url).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.status(), 200, "{path}");
    }
    // A deploy changes what serves which name, and so the tag.
    let url = format!("{}/v1/deployments", host.url);
    let before = header(&http().get(&url).send().await.unwrap(), "etag").to_owned();
    host.deploy(&["order-workflow"]).await;
    let after = http().get(&url).header("if-none-match", &before).send().await.unwrap();
    assert_eq!(after.status(), 200);
}

#[tokio::test]
async fn the_reference_is_one_page_that_loads_nothing() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let page = http().get(format!("{}/v1/reference", host.url)).send().await.unwrap();
    assert_eq!((page.status().as_u16(), header(&page, "content-type")), (200, "text/html; charset=utf-8"));
    assert!(header(&page, "content-security-policy").starts_with("default-src 'none'; "));
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    let page = page.text().await.unwrap();
    for path in openapi::document()["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&**path), "{path}");
    }
}
