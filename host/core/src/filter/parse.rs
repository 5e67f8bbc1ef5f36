//! The grammar of conditions, by recursive descent. `not` and parentheses are what it descends for, and
//! both count towards a depth that has a bound.

use std::sync::Arc;

use super::condition::{AttributeTest, Comparator, Condition, Filter, FilterError, Test};
use super::tokens::{Token, tokens};
use crate::ids::RunId;
use crate::limits;
use crate::names::check_name;
use crate::run::RunStatus;

/// Reads RFC 3339 as milliseconds since the epoch.
type TimeMs = fn(&str) -> Result<u64, String>;

const FIELDS: &str = "status, workflow, workflow_id, run_id, parent, started, closed, attributes.NAME";

pub(super) fn parse(text: &str, time_ms: TimeMs) -> Result<Filter, FilterError> {
    if text.len() > limits::FILTER_BYTES_MAX {
        let problem =
            format!("the condition has {} bytes; the longest has {}", text.len(), limits::FILTER_BYTES_MAX);
        return wrong(limits::FILTER_BYTES_MAX, problem);
    }
    let mut parser = Parser { tokens: tokens(text)?, place: 0, comparisons: 0, time_ms };
    let filter = parser.condition(0)?;
    let (at, token) = parser.next();
    match token {
        Token::End => Ok(filter),
        Token::Close => wrong(at, "this parenthesis was never opened"),
        token => wrong(at, format!("after a comparison comes `and` or `or`, not {}", named(&token))),
    }
}

/// A value as it is written, with its place.
type Written = (usize, Value);

enum Value {
    Text(Arc<str>),
    Number(f64),
    Flag(bool),
    TimeMs(u64),
}

enum Field {
    Status,
    Workflow,
    WorkflowId,
    Run,
    Parent,
    Started,
    Closed,
    Attribute(Arc<str>),
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    place: usize,
    comparisons: usize,
    time_ms: TimeMs,
}

impl Parser {
    fn condition(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.conjunction(depth)?];
        while self.takes_word("or") {
            parts.push(self.conjunction(depth)?);
        }
        Ok(joined(parts, Filter::Any))
    }

    fn conjunction(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.term(depth)?];
        while self.takes_word("and") {
            parts.push(self.term(depth)?);
        }
        Ok(joined(parts, Filter::All))
    }

    fn term(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let at = self.peek().0;
        if depth > limits::FILTER_DEPTH_MAX {
            let most = limits::FILTER_DEPTH_MAX;
            return wrong(at, format!("`not` and parentheses stand at most {most} deep"));
        }
        if self.takes_word("not") {
            return Ok(Filter::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.takes(&Token::Open) {
            let filter = self.condition(depth + 1)?;
            return match self.next() {
                (_, Token::Close) => Ok(filter),
                (_, Token::End) => wrong(at, "this parenthesis is never closed"),
                (at, token) => {
                    let problem =
                        format!("after a comparison comes `and`, `or` or a `)`, not {}", named(&token));
                    wrong(at, problem)
                }
            };
        }
        self.comparison().map(Filter::Is)
    }

    fn comparison(&mut self) -> Result<Condition, FilterError> {
        let at = self.peek().0;
        self.comparisons += 1;
        if self.comparisons > limits::FILTER_COMPARISONS_MAX {
            let most = limits::FILTER_COMPARISONS_MAX;
            return wrong(at, format!("a condition has at most {most} comparisons; `in (…)` is one"));
        }
        let field = self.field()?;
        let compared_at = self.peek().0;
        let test = self.test()?;
        let unordered = |what: &str| {
            let problem = format!("{what} has no order; compare it with =, != or in");
            if test.needs_order() { wrong(compared_at, problem) } else { Ok(()) }
        };
        Ok(match field {
            Field::Status => {
                unordered("status")?;
                Condition::Status(test.try_map(status)?)
            }
            Field::Workflow => Condition::Workflow(test.try_map(|value| text("workflow", value))?),
            Field::WorkflowId => Condition::WorkflowId(test.try_map(|value| text("workflow_id", value))?),
            Field::Run => {
                unordered("run_id")?;
                Condition::Run(test.try_map(|value| run_id("run_id", value))?)
            }
            Field::Parent => {
                unordered("parent")?;
                Condition::Parent(test.try_map(|value| run_id("parent", value))?)
            }
            Field::Started => Condition::StartedMs(test.try_map(|value| self.time("started", value))?),
            Field::Closed => Condition::ClosedMs(test.try_map(|value| self.time("closed", value))?),
            Field::Attribute(name) => {
                if matches!(test.first().1, Value::Flag(_)) {
                    unordered("true or false")?;
                }
                Condition::Attribute(name, attribute(test)?)
            }
        })
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let (at, token) = self.next();
        let Token::Word(word) = token else {
            return wrong(
                at,
                format!("a comparison begins with a field, not {}: one of {FIELDS}", named(&token)),
            );
        };
        Ok(match &*word {
            "status" => Field::Status,
            "workflow" => Field::Workflow,
            "workflow_id" => Field::WorkflowId,
            "run_id" => Field::Run,
            "parent" => Field::Parent,
            "started" => Field::Started,
            "closed" => Field::Closed,
            "attributes" => Field::Attribute(self.attribute_name()?),
            _ => return wrong(at, format!("there is no field `{word}`; one of {FIELDS}")),
        })
    }

    fn attribute_name(&mut self) -> Result<Arc<str>, FilterError> {
        let at = self.peek().0;
        if !self.takes(&Token::Dot) {
            return wrong(at, "name the attribute, as in attributes.customer");
        }
        match self.next() {
            (at, Token::Word(name) | Token::Text(name)) => match check_name("attribute", &name) {
                Ok(()) => Ok(name),
                Err(problem) => wrong(at, problem),
            },
            (at, _) => wrong(at, "here comes the attribute's name, in quotes unless it is a word"),
        }
    }

    fn test(&mut self) -> Result<Test<Written>, FilterError> {
        if self.takes_word("in") {
            return self.list().map(Test::In);
        }
        match self.next() {
            (_, Token::Comparator(comparator)) => Ok(Test::Compare(comparator, self.value()?)),
            (at, token) => {
                let problem = format!(
                    "after a field comes =, !=, <, <=, >, >= or in, not {}; names that are no plain words \
                     stand in quotes",
                    named(&token)
                );
                wrong(at, problem)
            }
        }
    }

    fn list(&mut self) -> Result<Vec<Written>, FilterError> {
        let at = self.peek().0;
        if !self.takes(&Token::Open) {
            return wrong(at, "after `in` comes a list, such as (\"running\", \"parked\")");
        }
        let mut values = vec![self.value()?];
        loop {
            match self.next() {
                (_, Token::Comma) => values.push(self.value()?),
                (_, Token::Close) => return Ok(values),
                (_, Token::End) => return wrong(at, "this list is never closed"),
                (at, token) => {
                    return wrong(
                        at,
                        format!("the values of a list stand between commas, not {}", named(&token)),
                    );
                }
            }
        }
    }

    fn value(&mut self) -> Result<Written, FilterError> {
        let (at, token) = self.next();
        let value = match &token {
            Token::Text(text) => Value::Text(Arc::clone(text)),
            Token::Number(number) => Value::Number(*number),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Value::Flag(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Value::Flag(false),
            Token::Word(word) if word.eq_ignore_ascii_case("time") => Value::TimeMs(self.written_time(at)?),
            Token::Word(word) => {
                return wrong(
                    at,
                    format!(
                        "a value is a text, a number, true, false or time(\"…\"); a text stands in quotes: \"{word}\""
                    ),
                );
            }
            token => {
                let problem =
                    format!("here comes a text, a number, true, false or time(\"…\"), not {}", named(token));
                return wrong(at, problem);
            }
        };
        Ok((at, value))
    }

    /// What stands behind `time`.
    fn written_time(&mut self, at: usize) -> Result<u64, FilterError> {
        if let (_, Token::Open) = self.next()
            && let (at, Token::Text(text)) = self.next()
            && let (_, Token::Close) = self.next()
        {
            return self.read_time(at, &text);
        }
        wrong(at, "a time is written as time(\"2026-01-31T12:00:00Z\")")
    }

    fn time(&self, field: &str, (at, value): Written) -> Result<u64, FilterError> {
        match value {
            Value::TimeMs(ms) => Ok(ms),
            Value::Text(text) => self.read_time(at, &text),
            Value::Number(_) | Value::Flag(_) => {
                let problem = format!(
                    "{field} is compared with a time, such as \"2026-01-31T12:00:00Z\", not with {}",
                    kind(&value)
                );
                wrong(at, problem)
            }
        }
    }

    fn read_time(&self, at: usize, text: &str) -> Result<u64, FilterError> {
        match (self.time_ms)(text) {
            Ok(ms) if ms <= limits::TIME_MS_MAX => Ok(ms),
            Ok(_) => wrong(at, "times end with the year 9999"),
            Err(problem) => {
                let text = text.escape_debug();
                wrong(at, format!("\"{text}\" is no RFC 3339 time such as 2026-01-31T12:00:00Z: {problem}"))
            }
        }
    }

    fn peek(&self) -> &(usize, Token) {
        // The last token is the end, and nothing goes beyond it.
        &self.tokens[self.place]
    }

    fn next(&mut self) -> (usize, Token) {
        let token = self.peek().clone();
        self.place = (self.place + 1).min(self.tokens.len() - 1);
        token
    }

    /// Takes this token, if it is the next.
    fn takes(&mut self, token: &Token) -> bool {
        let is_next = self.peek().1 == *token;
        if is_next {
            self.next();
        }
        is_next
    }

    /// Takes this word of the grammar, if it is the next.
    fn takes_word(&mut self, keyword: &str) -> bool {
        let is_next = matches!(&self.peek().1, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if is_next {
            self.next();
        }
        is_next
    }
}

fn joined(mut parts: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            join(parts)
        }
    }
}

fn text(field: &str, (at, value): Written) -> Result<Arc<str>, FilterError> {
    match value {
        Value::Text(text) => Ok(text),
        value => wrong(at, format!("{field} is compared with a text in quotes, not with {}", kind(&value))),
    }
}

fn status(value: Written) -> Result<RunStatus, FilterError> {
    let at = value.0;
    let name = text("status", value)?;
    RunStatus::ALL.into_iter().find(|status| status.as_str() == &*name).map_or_else(
        || {
            let all = RunStatus::ALL.map(RunStatus::as_str).join(", ");
            wrong(at, format!("there is no status \"{}\"; one of {all}", name.escape_debug()))
        },
        Ok,
    )
}

fn run_id(field: &str, value: Written) -> Result<RunId, FilterError> {
    let at = value.0;
    let id = text(field, value)?;
    id.parse().or_else(|_| {
        let problem = format!(
            "{field} is compared with run ids, such as \"01a2006b-0630-731c-914c-77ecc699939c\"; what you \
             call a run is its workflow_id"
        );
        wrong(at, problem)
    })
}

/// The first value says of which type the attribute has to be.
fn attribute(test: Test<Written>) -> Result<AttributeTest, FilterError> {
    Ok(match test.first().1 {
        Value::Text(_) => AttributeTest::Text(of_one_type(test, |value| match value {
            Value::Text(text) => Some(Arc::clone(text)),
            _ => None,
        })?),
        Value::Number(_) => AttributeTest::Number(of_one_type(test, |value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })?),
        Value::Flag(_) => AttributeTest::Flag(of_one_type(test, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })?),
        Value::TimeMs(_) => AttributeTest::TimeMs(of_one_type(test, |value| match value {
            Value::TimeMs(ms) => Some(*ms),
            _ => None,
        })?),
    })
}

fn of_one_type<T>(test: Test<Written>, read: fn(&Value) -> Option<T>) -> Result<Test<T>, FilterError> {
    let first = kind(&test.first().1);
    test.try_map(|(at, value)| {
        let second = kind(&value);
        let problem =
            || format!("the values of a list are of one type: the first is {first}, this is {second}");
        read(&value).map_or_else(|| wrong(at, problem()), Ok)
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a text",
        Value::Number(_) => "a number",
        Value::Flag(_) => "true or false",
        Value::TimeMs(_) => "a time",
    }
}

fn named(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("`{word}`"),
        Token::Text(_) => "a text".to_owned(),
        Token::Number(number) => format!("the number {number}"),
        Token::Comparator(Comparator::Equal) => "`=`".to_owned(),
        Token::Comparator(_) => "a comparison".to_owned(),
        Token::Open => "`(`".to_owned(),
        Token::Close => "`)`".to_owned(),
        Token::Comma => "a comma".to_owned(),
        Token::Dot => "a dot".to_owned(),
        Token::End => "the end".to_owned(),
    }
}

fn wrong<T>(at: usize, problem: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError { at, problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Not RFC 3339, but enough to see who reads what.
    fn time_ms(text: &str) -> Result<u64, String> {
        text.strip_prefix("ms:").and_then(|ms| ms.parse().ok()).ok_or_else(|| "no time".to_owned())
    }

    fn parsed(text: &str) -> Filter {
        parse(text, time_ms).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> FilterError {
        parse(text, time_ms).map_or_else(|error| error, |filter| panic!("{text}: {filter:?}"))
    }

    fn number(name: &str, comparator: Comparator, value: f64) -> Filter {
        let test = AttributeTest::Number(Test::Compare(comparator, value));
        Filter::Is(Condition::Attribute(name.into(), test))
    }

    #[test]
    fn each_field_is_read_with_its_type() {
        use Comparator::{AtLeast, AtMost, Equal, Less, More, NotEqual};
        let run = "01a2006b-0630-731c-914c-77ecc699939c";
        let id: RunId = run.parse().unwrap();
        let attribute = |name: &str, test| Condition::Attribute(name.into(), test);
        let table = [
            ("status = 'timed-out'".to_owned(), Condition::Status(Test::Compare(Equal, RunStatus::TimedOut))),
            (
                "status IN ('running',\n\t\"parked\")".to_owned(),
                Condition::Status(Test::In(vec![RunStatus::Running, RunStatus::Parked])),
            ),
            ("workflow>=\"a\"".to_owned(), Condition::Workflow(Test::Compare(AtLeast, "a".into()))),
            (
                r#"workflow_id != "it's \"\\\n\r\t'""#.to_owned(),
                Condition::WorkflowId(Test::Compare(NotEqual, "it's \"\\\n\r\t'".into())),
            ),
            (format!("run_id = '{run}'"), Condition::Run(Test::Compare(Equal, id))),
            (format!("parent in ('{run}')"), Condition::Parent(Test::In(vec![id]))),
            ("started < 'ms:5'".to_owned(), Condition::StartedMs(Test::Compare(Less, 5))),
            ("closed <= TIME('ms:6')".to_owned(), Condition::ClosedMs(Test::Compare(AtMost, 6))),
            (
                "attributes.größe-2_ > -1.5e3".to_owned(),
                attribute("größe-2_", AttributeTest::Number(Test::Compare(More, -1500.0))),
            ),
            (
                "attributes.\"my name\" = 'ms:5'".to_owned(),
                attribute("my name", AttributeTest::Text(Test::Compare(Equal, "ms:5".into()))),
            ),
            (
                "attributes.in = true".to_owned(),
                attribute("in", AttributeTest::Flag(Test::Compare(Equal, true))),
            ),
            (
                "attributes.due in (time('ms:7'), time('ms:8'))".to_owned(),
                attribute("due", AttributeTest::TimeMs(Test::In(vec![7, 8]))),
            ),
        ];
        for (text, condition) in table {
            assert_eq!(parsed(&text), Filter::Is(condition), "{text}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        let [a, b, c] = ["a", "b", "c"].map(|name| number(name, Comparator::Equal, 1.0));
        let text = "attributes.a = 1 or NOT attributes.b = 1 And attributes.c = 1";
        let not_b = Filter::Not(Box::new(b.clone()));
        assert_eq!(parsed(text), Filter::Any(vec![a.clone(), Filter::All(vec![not_b, c.clone()])]));
        let text = "(((attributes.a = 1 or attributes.b = 1)) and attributes.c = 1)";
        assert_eq!(parsed(text), Filter::All(vec![Filter::Any(vec![a, b]), c]));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_what_would_be_right() {
        let table = [
            ("", 0, "begins with a field, not the end: one of status, workflow"),
            ("statuss = 'running'", 0, "no field `statuss`; one of status"),
            ("Status = 'running'", 0, "no field `Status`"),
            ("5 < attributes.a", 0, "begins with a field, not the number 5"),
            ("status", 6, "after a field comes =, !="),
            ("status running", 7, "not `running`"),
            ("status == 'running'", 7, "write `=`"),
            ("status <> 'running'", 7, "write `!=`"),
            ("status = 5", 9, "status is compared with a text in quotes, not with a number"),
            ("status = running", 9, "a text stands in quotes: \"running\""),
            ("status = 'runing'", 9, "no status \"runing\"; one of running, parked"),
            ("status < 'running'", 7, "status has no order; compare it with =, != or in"),
            ("status in 'running'", 10, "after `in` comes a list"),
            ("status in ()", 11, "here comes a text"),
            ("status in ('running' 'parked')", 21, "between commas, not a text"),
            ("status in ('running'", 10, "this list is never closed"),
            ("workflow = 'a", 11, "has no ' at its end"),
            ("workflow = 'a\\", 11, "has no ' at its end"),
            ("workflow = 'a\\x'", 13, "a text has no `\\x`"),
            ("workflow = 'a\0'", 13, "NUL"),
            ("workflow = 'ä' & 1", 16, "'&' has no meaning here"),
            ("workflow = 'a' && workflow = 'b'", 15, "write `and`"),
            ("workflow = true", 11, "not with true or false"),
            ("run_id = 'order-1'", 9, "what you call a run is its workflow_id"),
            ("run_id > 'order-1'", 7, "run_id has no order"),
            ("parent = 5", 9, "parent is compared with a text"),
            ("started > '2026'", 10, "\"2026\" is no RFC 3339 time such as 2026-01-31T12:00:00Z: no time"),
            ("started > 5", 10, "a time, such as \"2026-01-31T12:00:00Z\", not with a number"),
            ("closed > time(5)", 9, "a time is written as time(\"2026-01-31T12:00:00Z\")"),
            ("attributes.a = time('x')", 20, "\"x\" is no RFC 3339 time"),
            ("closed > 'ms:253402300800000'", 9, "times end with the year 9999"),
            ("attributes = 5", 11, "as in attributes.customer"),
            ("attributes.5 = 5", 11, "in quotes unless it is a word"),
            ("attributes.'' = 5", 11, "an empty attribute name"),
            ("attributes.a.b = 5", 12, "not a dot; names that are no plain words stand in quotes"),
            ("attributes.a = 5and", 15, "5and is no number"),
            ("attributes.a = -inf", 15, "'-' has no meaning here"),
            ("attributes.a = 1e999", 15, "1e999 is no number"),
            ("attributes.a < true", 13, "true or false has no order"),
            ("attributes.a in (1, 'a')", 20, "the first is a number, this is a text"),
            ("attributes.a in (true, 1)", 23, "the first is true or false, this is a number"),
            ("attributes.a = 1 status = 'x'", 17, "comes `and` or `or`, not `status`"),
            ("attributes.a = 1)", 16, "never opened"),
            ("(attributes.a = 1", 0, "never closed"),
            ("(attributes.a = 1 5)", 18, "`and`, `or` or a `)`, not the number 5"),
            ("attributes.a = 1 and", 20, "begins with a field, not the end"),
        ];
        for (text, at, words) in table {
            let error = refused(text);
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.problem.contains(words), "{text}: {error}");
            assert!(error.to_string().ends_with(&format!("(at byte {at})")), "{error}");
        }
    }

    #[test]
    fn each_bound_is_met_where_it_stands() {
        let one = "attributes.a = 1";
        let chain = |count: usize| vec![one; count].join(" and ");
        parsed(&chain(limits::FILTER_COMPARISONS_MAX));
        let error = refused(&chain(limits::FILTER_COMPARISONS_MAX + 1));
        assert!(error.problem.contains("at most 32 comparisons; `in (…)` is one"), "{error}");

        let deep = |depth: usize| format!("{}{one}{}", "(".repeat(depth), ")".repeat(depth));
        parsed(&deep(limits::FILTER_DEPTH_MAX));
        assert!(refused(&deep(limits::FILTER_DEPTH_MAX + 1)).problem.contains("at most 16 deep"));
        assert!(refused(&"(".repeat(limits::FILTER_BYTES_MAX)).problem.contains("at most 16 deep"));
        let negated = |depth: usize| format!("{}{one}", "not ".repeat(depth));
        parsed(&negated(limits::FILTER_DEPTH_MAX));
        assert!(refused(&negated(limits::FILTER_DEPTH_MAX + 1)).problem.contains("at most 16 deep"));

        let padded = |bytes: usize| format!("{one}{}", " ".repeat(bytes - one.len()));
        parsed(&padded(limits::FILTER_BYTES_MAX));
        let error = refused(&padded(limits::FILTER_BYTES_MAX + 1));
        assert!(error.problem.contains("4097 bytes; the longest has 4096"), "{error}");
    }

    /// Pieces of which most mistakes are made.
    const PIECES: [&str; 34] = [
        "status",
        "workflow",
        "run_id",
        "started",
        "closed",
        "attributes",
        ".",
        "a",
        "größe",
        "'",
        "\"",
        "\\",
        "(",
        ")",
        ",",
        "=",
        "!",
        "<",
        ">",
        "-",
        "5",
        "1e999",
        "true",
        "time",
        "and",
        "or",
        "not",
        "in",
        " ",
        "\0",
        "é",
        "'running'",
        "'ms:5'",
        "attributes.a = 1",
    ];

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
            let _ = parse(&text, time_ms).map_err(|error| assert!(error.at <= text.len(), "{text:?}: {error}"));
        }

        #[test]
        fn no_row_of_words_makes_the_parser_panic(
            words in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40),
            gap in prop::sample::select(&["", " "][..]),
        ) {
            let text = words.join(gap);
            if let Err(error) = parse(&text, time_ms) {
                assert!(text.is_char_boundary(error.at), "{text:?}: {error}");
                assert!(!error.problem.is_empty());
            }
        }
    }
}
