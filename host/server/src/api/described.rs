//! Routes, each with what the OpenAPI document says of it.
//!
//! A route comes in by [`Routes::with`] alone, with the description that `utoipa::path` wrote beside its
//! handler: path and method are those of the description, so nothing is served that is not described, and
//! nothing described that is not served. What every route of a kind has in common (the tenant's header, the
//! segments of its path, the problems that can befall it) is added here and never repeated at a handler.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response as HttpResponse};
use axum::routing::{MethodFilter, on};
use backstitch_wire::params::TENANT_HEADER;
use backstitch_wire::problem::{MEDIA_TYPE, ProblemDocument};
use serde_json::Value;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Content, InfoBuilder, OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{
    __dev::{SchemaReferences, Tags},
    IntoResponses, Path, ToSchema,
};

use super::problem::Problem;
use super::state::Api;

/// Of routes that say nothing of a tenant and take no names.
pub(super) const HOST: &str = "host";

/// What the tags of the document are about.
const TAGS: [(&str, &str); 6] = [
    ("activities", "Calls that workers outside carry out"),
    ("deployments", "Components, and what serves which name"),
    (HOST, "The host itself"),
    ("runs", "Workflows under way, and closed ones"),
    ("schedules", "Starts by the calendar"),
    ("tenants", "What a tenant may store"),
];

/// The answers that are problem documents: status, name in the document, and what they mean.
const PROBLEMS: [(u16, &str, &str); 11] = [
    (400, "Invalid", "The request cannot be understood, or asks for what is out of bounds."),
    (403, "Forbidden", "The request is one that a web page from elsewhere would send."),
    (404, "NotFound", "There is no such thing, or no such tenant."),
    (408, "BodyTimeout", "No byte of the body came for too long."),
    (409, "Conflict", "The request contradicts what is there."),
    (413, "TooLarge", "The body, or something in it, is larger than its bound."),
    (415, "UnsupportedMediaType", "The body is not of a media type that the route takes."),
    (422, "Unfit", "The request is well-formed, but what it carries or names cannot be used."),
    (429, "Busy", "As much waits for the run as may: try again."),
    (500, "Internal", "A mistake of the host, whose log has more under the number in `instance`."),
    (503, "Unavailable", "The database is away, or the host is busy or stopping: try again."),
];

/// Routes, each with what the document says of it.
pub(super) struct Routes {
    router: Router<Api>,
    paths: Paths,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl Routes {
    /// None.
    pub(super) fn new() -> Self {
        Self { router: Router::new(), paths: Paths::new(), schemas: BTreeMap::new() }
    }

    /// Serves what `P` describes by its handler. The two hidden traits are those by which utoipa's own bindings
    /// for axum read a description.
    pub(super) fn with<P, H, T>(mut self, _: P, handler: H) -> Self
    where
        P: Path + Tags<'static> + SchemaReferences,
        H: Handler<T, Api>,
        T: 'static,
    {
        let path = P::path();
        for method in P::methods() {
            self.router = self.router.route(&path, on(filter(&method), handler.clone()));
            self.paths.add_path_operation(&path, vec![method], completed(&path, P::tags(), P::operation()));
        }
        let mut schemas = Vec::new();
        P::schemas(&mut schemas);
        self.schemas.extend(schemas);
        self
    }

    /// These and those of `other`.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.paths.merge(other.paths);
        self.schemas.extend(other.schemas);
        self
    }

    /// Gives each request a bounded time.
    pub(super) fn within(mut self, time: Duration) -> Self {
        self.router = self.router.route_layer(from_fn(move |request, next| within(time, request, next)));
        self
    }

    /// The routes themselves.
    pub(super) fn router(self) -> Router<Api> {
        self.router
    }

    /// What the document says of them.
    pub(super) fn document(self) -> Value {
        let info = InfoBuilder::new()
            .title("Backstitch")
            .version("1")
            .description(Some(
                "Durable workflows on nothing but Postgres. Whatever goes wrong is answered with a problem document \
                 (RFC 9457) that has a stable `code`. Lists come in pages: pass `next_cursor` as `cursor` for the \
                 next one.",
            ))
            .build();
        let tags = TAGS.map(|(name, what)| TagBuilder::new().name(name).description(Some(what)).build());
        let mut components = ComponentsBuilder::new().schemas_from_iter(self.schemas);
        components = components.schema_from::<ProblemDocument>();
        for (status, name, what) in PROBLEMS {
            components = components.response(name, problem(status, what));
        }
        let document = OpenApiBuilder::new()
            .info(info)
            .tags(Some(tags))
            .paths(self.paths)
            .components(Some(components.build()));
        let mut document = serde_json::to_value(document.build()).expect("a document is made of texts");
        unlink(&mut document);
        document
    }
}

/// What the client has is what there is: 304.
pub(super) struct NotModified;

/// A request that contradicts what is there: 409.
pub(super) struct Conflict;

/// As much waits for the run as may: 429.
pub(super) struct Busy;

/// What a request carries or names cannot be used: 422.
pub(super) struct Unfit;

impl IntoResponses for NotModified {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let what = "It is what `If-None-Match` names.";
        [("304".to_owned(), ResponseBuilder::new().description(what).build().into())].into()
    }
}

impl IntoResponses for Conflict {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [answer(409)].into()
    }
}

impl IntoResponses for Busy {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [answer(429)].into()
    }
}

impl IntoResponses for Unfit {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [answer(422)].into()
    }
}

/// Bytes that are no JSON.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct Component(#[expect(dead_code, reason = "only described")] Vec<u8>);

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}

/// Adds what a route has because of its path, its tag and its body.
fn completed(path: &str, tags: Vec<&'static str>, mut operation: Operation) -> Operation {
    let tag = tags.first().copied().unwrap_or_default();
    assert!(TAGS.iter().any(|(name, _)| *name == tag), "{path} has no tag of the list");
    operation.tags = Some(vec![tag.to_owned()]);
    let parameters = operation.parameters.get_or_insert_default();
    parameters.splice(0..0, segments(path));
    if operation.responses.responses.contains_key("304") {
        parameters.push(header("if-none-match", "The `ETag` of what the client has already."));
    }
    // A header is there or it is not; it is never `null`.
    for header in
        parameters.iter_mut().filter(|parameter| matches!(parameter.parameter_in, ParameterIn::Header))
    {
        header.schema = Some(ObjectBuilder::new().schema_type(Type::String).into());
    }
    let mut problems = vec![400, 403, 500, 503];
    if tag != HOST {
        parameters.push(header(TENANT_HEADER, "Which tenant the request is for; none: `default`."));
        problems.push(404);
    }
    if let Some(body) = &mut operation.request_body {
        // An empty body is an empty document.
        body.required = Some(Required::False);
        problems.extend([408, 413, 415]);
    }
    operation.responses.responses.extend(problems.into_iter().map(answer));
    operation
}

/// The variable segments of a path.
fn segments(path: &str) -> Vec<Parameter> {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| segment(path, name)).collect()
}

fn segment(path: &str, name: &str) -> Parameter {
    let (what, kind) = match name {
        "id" => ("A run id, or a workflow id: then its latest run.", Type::String),
        "op" => ("The number of the call in its run.", Type::Integer),
        "seq" => ("The place of the row in its ledger.", Type::Integer),
        "name" if path.starts_with("/v1/schedules/") => ("The schedule.", Type::String),
        "name" => ("Which of those that the workflow knows.", Type::String),
        _ => unreachable!("{path} has a segment that nobody describes"),
    };
    let mut schema = ObjectBuilder::new().schema_type(kind.clone());
    schema = match kind {
        Type::Integer => schema.minimum(Some(0)).maximum(Some(u32::MAX)),
        _ => schema.min_length(Some(1)),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(what))
        .schema(Some(schema))
        .build()
}

fn header(name: &str, what: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// How an operation says that it may end with the problem of a status.
fn answer(status: u16) -> (String, RefOr<Response>) {
    let name = PROBLEMS.iter().find(|(listed, ..)| *listed == status).map(|(_, name, _)| name);
    let name = name.expect("each problem that a route can have is listed");
    (status.to_string(), Ref::new(format!("#/components/responses/{name}")).into())
}

fn problem(status: u16, what: &str) -> Response {
    let document = Content::new(Some(Ref::from_schema_name(ProblemDocument::name())));
    let response = ResponseBuilder::new().description(what).content(MEDIA_TYPE, document);
    if ![429, 503].contains(&status) {
        return response.build();
    }
    let seconds = HeaderBuilder::new()
        .schema(ObjectBuilder::new().schema_type(Type::Integer))
        .description(Some("Seconds after which it may be tried again."));
    response.header("retry-after", seconds.build()).build()
}

/// Takes the marks of links between items out of texts that come from their comments: they lead nowhere
/// outside the code. No recursion: what nests is on the list.
fn unlink(document: &mut Value) {
    let mut rest = vec![document];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(values) => rest.extend(values),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == "description" || name == "summary" => {
                            *text = plain(text);
                        }
                        value => rest.push(value),
                    }
                }
            }
            _ => {}
        }
    }
}

/// ``[`Name`](path)`` and ``[`Name`]`` become `` `Name` ``; lines are joined.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("[`") {
        plain.push_str(&rest[..begin]);
        rest = &rest[begin + 1..];
        let Some(end) = rest.find("`]") else {
            plain.push('[');
            break;
        };
        plain.push_str(&rest[..=end]);
        rest = &rest[end + 2..];
        if let Some(link) = rest.strip_prefix('(') {
            rest = link.split_once(')').map_or(rest, |(_, rest)| rest);
        }
    }
    plain.push_str(rest);
    plain.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// Gives a request a bounded time. What it had begun may or may not have taken effect.
async fn within(time: Duration, request: Request, next: Next) -> HttpResponse {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!(
                "no answer within {} s; the request may still take effect, so repeat it with the same id",
                time.as_secs()
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn links_between_items_are_taken_out_of_texts() {
        for (text, expected) in [
            ("up to [`A_MAX`].", "up to `A_MAX`."),
            ("that of [`Filter`](core::Filter), [`x`]", "that of `Filter`, `x`"),
            ("one\nline\n\nanother", "one line\n\nanother"),
            ("[0] and [`", "[0] and [`"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
