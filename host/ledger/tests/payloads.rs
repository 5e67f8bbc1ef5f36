//! Payloads in their stored forms: out of row, sealed, and texts that look like either.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::sync::Arc;

use backstitch_core::inbox::MessageRow;
use backstitch_core::{
    Attribute, AttributeChanges, Command, Event, Failure, Message, Op, Run, RunId, Seq, TaskLease, TaskToken,
    limits,
};
use backstitch_ledger::{
    Append, ConnectOptions, KeyError, Ledger, LedgerError, NewItem, NewProjection, Outcome, PassedOn,
    PayloadCodec, Payloads, Posted, RunRef, Settled, StatusChange,
};
use common::{
    Grown, Host, SCOPE, checked_rows, cluster, committed, database, drop_reply, inbox, json, ledger,
    ledger_at, new_id, now_ms, session, whole,
};

/// A text of about so many bytes, as JSON.
fn large(bytes: usize) -> String {
    let words = (0..).map(|n| format!("word {n} \\u00e9 ")).scan(0, |sum, word| {
        *sum += word.len();
        (*sum < bytes).then_some(word)
    });
    format!("\"{}\"", words.collect::<String>())
}

async fn count(ledger_url: &str, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut session(ledger_url).await).await.unwrap()
}

async fn parts(ledger: &Ledger) -> i64 {
    count(&ledger.options().url, "select count(*) from payloads").await
}

/// Not a cipher: turns every byte around, and puts the key's name and the place in front.
struct Turning(&'static str);

impl PayloadCodec for Turning {
    fn key_id(&self) -> Option<&str> {
        Some(self.0)
    }

    fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let head = [&[self.0.len() as u8, place.len() as u8], self.0.as_bytes(), place].concat();
        head.into_iter().chain(plain.iter().map(|byte| !byte)).collect()
    }

    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let empty = self.seal(place, b"");
        let text = sealed.strip_prefix(&*empty).ok_or("it was sealed elsewhere or with another key")?;
        Ok(text.iter().map(|byte| !byte).collect())
    }
}

async fn sealing(url: &str, key: &'static str) -> Ledger {
    let payloads = Payloads::sealed_by(Arc::new(Turning(key)));
    let ledger = Ledger::connect(ConnectOptions { payloads, ..ConnectOptions::new(url) }).await.unwrap();
    ledger.migrate().await.unwrap();
    ledger
}

/// Every text that the database holds, in one.
async fn everything(url: &str) -> String {
    let mut all = String::new();
    for table in ["runs", "ledger", "inbox", "entities", "tasks", "schedules"] {
        let query = format!("select string_agg(t::text, ' ') from {table} t");
        let rows: Option<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut session(url).await).await.unwrap();
        all.push_str(&rows.unwrap_or_default());
    }
    let bytes = "select string_agg(encode(bytes, 'escape'), ' ') from payloads";
    let bytes: Option<String> = sqlx::query_scalar(bytes).fetch_one(&mut session(url).await).await.unwrap();
    all + &bytes.unwrap_or_default()
}

#[tokio::test]
async fn a_large_payload_leaves_its_row_and_comes_back_byte_for_byte() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (input, signal) = (large(600_000), large(300_000));
    let mut grown = Grown::with_input("large", &input);
    host.commit(grown.start()).await;
    host.commit(grown.grown_by(|grown| vec![grown.signal(&signal)])).await;
    host.commit(grown.complete(&input)).await;

    let rows = checked_rows(&ledger, grown.id).await;
    assert_eq!(rows[0].payload.as_deref(), Some(&*input));
    assert_eq!(rows[1].payload.as_deref(), Some(&*signal));
    assert_eq!(whole(&ledger, grown.id).await, rows);
    let info = ledger.run(SCOPE, RunRef::Id(grown.id)).await.unwrap().unwrap();
    assert_eq!((info.input.as_deref(), info.output.as_deref()), (Some(&*input), Some(&*input)));

    // The input and the output are one, and twice in the ledger.
    let url = &ledger.options().url;
    let expected = (input.len().div_ceil(limits::PAYLOAD_PART_BYTES) + 2) as i64;
    assert_eq!(parts(&ledger).await, expected);
    assert!(count(url, "select max(length(payload::text))::bigint from ledger").await < 200);
    let quota = ledger.quota(SCOPE).await.unwrap();
    assert_eq!(quota.stored_bytes, (input.len() + signal.len()) as u64);

    // Shown, it is referred to; asked for, it comes in parts.
    let shown = ledger.shown_rows(grown.id, Seq(0), 10, usize::MAX).await.unwrap().rows;
    assert_eq!(shown[0].0.payload, None);
    assert_eq!(shown[0].1.unwrap().bytes, input.len() as u64);
    let mut reader = ledger.payload(SCOPE, grown.id, Seq(0)).await.unwrap().unwrap();
    assert_eq!(reader.bytes(), input.len() as u64);
    let mut read = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        assert!(part.len() <= limits::PAYLOAD_PART_BYTES);
        read.extend(part);
    }
    assert_eq!(String::from_utf8(read).unwrap(), input);
    assert!(ledger.payload(SCOPE, grown.id, Seq(9)).await.unwrap().is_none());
    let foreign = ledger.scope(backstitch_core::TenantId(7));
    assert!(ledger.payload(foreign, grown.id, Seq(0)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_start_that_is_refused_leaves_no_payload_behind() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("taken").start()).await;
    let late = Grown::with_input("taken", &large(300_000));
    assert_eq!(host.append(late.start()).await, Outcome::Committed { refused: vec![late.id] });
    assert_eq!(parts(&ledger).await, 0);
}

#[tokio::test]
async fn a_lost_reply_stores_a_large_payload_once() {
    let ledger = ledger().await;
    let mut host = Host::with_hook(&ledger, Some(drop_reply(|call| call < 2))).await;
    let mut grown = Grown::with_input("once", &large(300_000));
    host.commit(grown.start()).await;
    let append = grown.grown_by(|grown| vec![grown.signal(&large(400_000))]);
    assert_eq!(host.append(append).await, committed());
    checked_rows(&ledger, grown.id).await;
    assert_eq!(parts(&ledger).await, 4);
}

#[tokio::test]
async fn what_looks_like_a_stored_form_is_a_payload_like_any_other() {
    let plain = ledger().await;
    let sealed = sealing(&database(cluster()).await, "k").await;
    for ledger in [plain, sealed] {
        let mut host = Host::new(&ledger).await;
        let secret = Grown::with_input("secret", &large(300_000));
        host.commit(secret.start()).await;
        let stored: String = sqlx::query_scalar("select payload::text from ledger")
            .fetch_one(&mut session(&ledger.options().url).await)
            .await
            .unwrap();
        let forged = [
            stored.as_str(),
            r#"{"backstitch.payload":{"text":"null"}}"#,
            r#"{"backstitch.payload":{"sealed":"AAAA"}}"#,
            r#"{"backstitch.payload":17"#,
            r#"{"backstitch.payload": {"text":"null"}}"#,
            r#" {"backstitch.payload":{"text":"null"}}"#,
        ];
        for (index, text) in forged.into_iter().enumerate() {
            let text = if text.ends_with("17") { format!("{text}}}") } else { text.to_owned() };
            let run = Grown::with_input(&format!("forged {index}"), &text);
            host.commit(run.start()).await;
            let rows = checked_rows(&ledger, run.id).await;
            assert_eq!(rows[0].payload.as_deref(), Some(&*text));
            let shown = ledger.shown_rows(run.id, Seq(0), 1, usize::MAX).await.unwrap().rows;
            assert_eq!((shown[0].0.payload.as_deref(), shown[0].1), (Some(&*text), None));
        }
        // Names of attributes are the guest's choice as well, and are in a detail.
        let mut named = Grown::named("named");
        host.commit(named.start()).await;
        let changes = [("backstitch.payload".into(), Some(Attribute::Text("x".into())))].into();
        let command = Command::SetAttributes { changes };
        let append = named.event(&Event::Commanded { op: Op(0), command });
        let row = append.rows[0].clone();
        assert!(row.detail.as_ref().is_some_and(|detail| detail.starts_with(r#"{"backstitch.payload":"#)));
        host.commit(append).await;
        assert_eq!(checked_rows(&ledger, named.id).await[1], row);
    }
}

#[tokio::test]
async fn what_is_sealed_is_nowhere_in_the_clear_and_comes_back() {
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let secret = |what: &str| format!("\"SECRET {what}\"");
    let mut grown = Grown::with_input("sealed", &secret("input"));
    host.commit(grown.start()).await;
    let long = large(300_000);
    host.commit(grown.grown_by(|grown| vec![grown.signal(&secret("signal")), grown.signal(&long)])).await;
    let signal = Message::Signal { name: "s".into(), payload: json(&secret("message")), id: None };
    let terminate = Message::Terminate { reason: "SECRET reason".to_owned(), only_this: false };
    let failed = Message::AttemptEnded {
        op: Op(3),
        attempt: 1,
        outcome: Err(Failure { message: "SECRET failure".to_owned(), ..Failure::cancelled() }),
        heartbeat: Some(json(&secret("heartbeat"))),
    };
    for message in [&signal, &terminate, &failed] {
        let posted = ledger.post(SCOPE, grown.id, new_id(), 1, &message.to_row()).await.unwrap();
        assert!(matches!(posted, Posted::Accepted { .. }));
    }
    let spec = r#"{"input":"SECRET spec"}"#;
    assert!(ledger.create_schedule(SCOPE, "s", spec, "\"SECRET state\"", None, 1).await.unwrap());

    let items = inbox(&ledger, host.id, &[]).await;
    let messages: Vec<Message> = items.iter().map(|item| item.message.message().unwrap()).collect();
    assert_eq!(messages, [signal, terminate, failed]);
    assert_eq!(ledger.schedule(SCOPE, "s").await.unwrap().unwrap().spec, spec);
    let rows = checked_rows(&ledger, grown.id).await;
    assert_eq!(rows[1].payload.as_deref(), Some(&*secret("signal")));
    assert_eq!(rows[2].payload.as_deref(), Some(&*long));
    let entity = Some(secret("entity").into());
    let projection = NewProjection { run: grown.id, entity, attributes: AttributeChanges::default() };
    host.commit(Append { projections: vec![projection], ..Append::new(SCOPE, grown.id) }).await;
    let info = ledger.run(SCOPE, RunRef::Id(grown.id)).await.unwrap().unwrap();
    assert_eq!(info.entity, Some(secret("entity")));
    let fault = Some(StatusChange::Park { fault: secret("fault").into() });
    host.commit(Append { status: fault, ..Append::new(SCOPE, grown.id) }).await;
    let info = ledger.run(SCOPE, RunRef::Id(grown.id)).await.unwrap().unwrap();
    assert_eq!(info.fault, Some(secret("fault")));
    host.commit(grown.complete(&secret("output"))).await;
    let info = ledger.run(SCOPE, RunRef::Id(grown.id)).await.unwrap().unwrap();
    assert_eq!(info.output, Some(secret("output")));

    let stored = everything(&url).await;
    assert!(stored.contains("backstitch.payload") && stored.contains("sealed"));
    assert!(!stored.contains("SECRET") && !stored.contains("word 17"), "in the clear");
}

#[tokio::test]
async fn a_sealed_message_can_be_read_by_the_run_it_is_moved_to() {
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let (from, mut to) = (Grown::named("a"), Grown::named("a"));
    to.new.generation = 1;
    host.commit(from.start()).await;
    host.commit(to.start()).await;
    for payload in ["\"small\"".to_owned(), large(300_000)] {
        let message = Message::Signal { name: "s".into(), payload: json(&payload), id: None };
        let item = new_id();
        ledger.post(SCOPE, from.id, item, 1, &message.to_row()).await.unwrap();
        assert_eq!(ledger.pass_on(from.id, &[]).await.unwrap(), PassedOn { items: 1, owner: Some(host.id) });
        assert_eq!(ledger.pass_on(from.id, &[]).await.unwrap().items, 0, "it is gone from there");
        let items = inbox(&ledger, host.id, &[]).await;
        let moved = items.iter().find(|found| found.item_id == item).unwrap();
        assert_eq!((moved.run, moved.message.message().unwrap()), (to.id, message));
    }
}

#[tokio::test]
async fn a_payload_that_was_damaged_or_moved_stops_its_own_run_and_nobody_else() {
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let names = ["whole", "swapped", "lost", "changed"];
    let runs: Vec<Grown> = names.iter().map(|name| Grown::with_input(name, &large(300_000))).collect();
    for run in &runs {
        host.commit(run.start()).await;
    }
    let mut sql = session(&url).await;
    let digest = "decode(payload #>> '{backstitch.payload,stored,sha256}', 'hex')";
    for (damage, run) in [
        (
            "update ledger set payload = (select payload from ledger where run_id = $2) where run_id = $1",
            &runs[1],
        ),
        (
            &*format!(
                "delete from payloads where part = 1 and $2::uuid is not null and digest = (select {digest} from ledger where run_id = $1)"
            ),
            &runs[2],
        ),
        (
            &*format!(
                "update payloads set bytes = 'x' where part = 1 and $2::uuid is not null and digest = (select {digest} from ledger where run_id = $1)"
            ),
            &runs[3],
        ),
    ] {
        let done = sqlx::query(sqlx::AssertSqlSafe(damage.to_owned()))
            .bind(run.id.0)
            .bind(runs[0].id.0)
            .execute(&mut sql)
            .await
            .unwrap();
        assert_eq!(done.rows_affected(), 1, "{damage}");
    }
    for (name, run) in names.iter().zip(runs.iter().map(|run| run.id)) {
        let rows = whole(&ledger, run).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(Run::load_all(run, &rows).is_ok(), *name == "whole", "{name}");
        let info = ledger.run(SCOPE, RunRef::Id(run)).await;
        assert_eq!(info.is_ok(), *name == "whole", "{name}");
        if let Err(error) = info {
            assert!(matches!(&error, LedgerError::Corrupt(why) if why.contains(&run.to_string())), "{error}");
        }
    }

    let good = Message::Signal { name: "s".into(), payload: json("1"), id: None };
    let (first, second) = (new_id(), new_id());
    ledger.post(SCOPE, runs[0].id, first, 1, &good.to_row()).await.unwrap();
    ledger.post(SCOPE, runs[0].id, second, 1, &good.to_row()).await.unwrap();
    let damage =
        "update inbox set payload = '{\"backstitch.payload\":{\"sealed\":\"AAAA\"}}' where item_id = $1";
    sqlx::query(damage).bind(first).execute(&mut sql).await.unwrap();
    let items = inbox(&ledger, host.id, &[]).await;
    assert_eq!(items.iter().map(|item| item.item_id).collect::<Vec<_>>(), [second]);
}

/// Changes the rows of a run's ledger by hand: `$1` is the run, `$2` and `$3` places.
async fn tamper(url: &str, statement: &str, run: RunId, one: u32, other: u32) {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    let done = sqlx::query(statement)
        .bind(run.0)
        .bind(one.cast_signed())
        .bind(other.cast_signed())
        .execute(&mut session(url).await)
        .await
        .unwrap();
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn what_is_sealed_opens_in_its_own_column_row_and_message_alone() {
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let mut grown = Grown::named("bound");
    host.commit(grown.start()).await;
    let texts = ["\"one\"".to_owned(), "\"two\"".to_owned(), large(300_000), large(300_001)];
    host.commit(grown.grown_by(|grown| texts.iter().map(|text| grown.signal(text)).collect())).await;
    let is_whole = async || {
        let rows = ledger.rows(grown.id, Seq(0), 100).await;
        rows.is_ok_and(|rows| {
            rows[1..].iter().zip(&texts).all(|(row, text)| row.payload.as_deref() == Some(text))
        })
    };
    assert!(is_whole().await);

    // Another row of the same run, in its row and out of it; and a reference that nothing binds any more.
    const COPY: &str =
        "update ledger set payload = (select payload from ledger where run_id = $1 and seq = $3)
                        where run_id = $1 and seq = $2";
    const UNBIND: &str = "update ledger
        set payload = regexp_replace(payload::text, ',\"bound\":\"[^\"]*\"', '')::json
        where run_id = $1 and seq = $2 and $3 > 0";
    sqlx::raw_sql("create table kept as select * from ledger")
        .execute(&mut session(&url).await)
        .await
        .unwrap();
    for (tampering, seq, other) in [(COPY, 1, 2), (COPY, 3, 4), (COPY, 3, 1), (UNBIND, 3, 3)] {
        tamper(&url, tampering, grown.id, seq, other).await;
        assert!(!is_whole().await, "{tampering} {seq} {other}");
        let reader = ledger.payload(SCOPE, grown.id, Seq(seq)).await;
        let read = match reader {
            Ok(reader) => reader.unwrap().next().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(read.is_err(), "{tampering} {seq} {other}");
        let restore = "update ledger set payload = (select payload from kept where run_id = $1 and seq = $2)
                       where run_id = $1 and seq = $2 and $3 > 0";
        tamper(&url, restore, grown.id, seq, other).await;
        assert!(is_whole().await);
    }

    // Another message, and another column.
    let signal = |text: &str| Message::Signal { name: "s".into(), payload: json(text), id: None };
    let (first, second) = (new_id(), new_id());
    for (item, text) in [(first, "\"first\""), (second, "\"second\"")] {
        ledger.post(SCOPE, grown.id, item, 1, &signal(text).to_row()).await.unwrap();
    }
    let copy = "update inbox set payload = (select payload from inbox where item_id = $2) where item_id = $1";
    sqlx::query(copy).bind(first).bind(second).execute(&mut session(&url).await).await.unwrap();
    let items = inbox(&ledger, host.id, &[]).await;
    assert_eq!(items.iter().map(|item| item.item_id).collect::<Vec<_>>(), [second]);
    let projection = NewProjection {
        run: grown.id,
        entity: Some("{\"a\":1}".into()),
        attributes: AttributeChanges::default(),
    };
    host.commit(Append { projections: vec![projection], ..Append::new(SCOPE, grown.id) }).await;
    assert!(ledger.run(SCOPE, RunRef::Id(grown.id)).await.is_ok());
    let copy = "update runs set fault = (select document from entities where entities.run_id = $1)
                where runs.run_id = $1";
    sqlx::query(copy).bind(grown.id.0).execute(&mut session(&url).await).await.unwrap();
    assert!(ledger.run(SCOPE, RunRef::Id(grown.id)).await.is_err());
}

#[tokio::test]
async fn what_a_heartbeat_says_opens_for_its_own_attempt_alone() {
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let grown = Grown::named("beats");
    host.commit(grown.start()).await;
    let said = |text: &str| Some(json(&format!("\"{text}\"")));
    let ended = |attempt, heartbeat| Message::AttemptEnded {
        op: Op(0),
        attempt,
        outcome: Err(Failure::cancelled()),
        heartbeat,
    };
    // The same call's attempts, one after the other.
    let mut items = Vec::new();
    for (attempt, text) in [(1, "first"), (2, "second"), (3, "third")] {
        let item = new_id();
        ledger.post(SCOPE, grown.id, item, 1, &ended(attempt, said(text)).to_row()).await.unwrap();
        items.push(item);
    }
    let heard = inbox(&ledger, host.id, &[]).await;
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[1].message.message().unwrap(), ended(2, said("second")));

    // What an earlier attempt has said in the message of a later one: it is not taken for what that one said.
    let copy = "update inbox
        set detail = json_build_object('attempt', detail -> 'attempt', 'heartbeat',
                                       (select detail -> 'heartbeat' from inbox where item_id = $2))
        where item_id = $1";
    let copy = sqlx::query(copy).bind(items[1]).bind(items[0]);
    assert_eq!(copy.execute(&mut session(&url).await).await.unwrap().rows_affected(), 1);
    let heard = inbox(&ledger, host.id, &[]).await;
    assert_eq!(heard.iter().map(|item| item.item_id).collect::<Vec<_>>(), [items[0], items[2]]);
}

#[tokio::test]
async fn large_messages_come_check_by_check() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (flooded, other) = (Grown::named("flooded"), Grown::named("other"));
    host.commit(flooded.start()).await;
    host.commit(other.start()).await;
    let large = format!("\"{}\"", "x".repeat(2_000_000));
    let mut sent = Vec::new();
    for (run, text) in std::iter::repeat_n((&flooded, &*large), 20).chain([(&other, "1")]) {
        let signal = Message::Signal { name: "s".into(), payload: json(text), id: None };
        let item = new_id();
        ledger.post(SCOPE, run.id, item, 1, &signal.to_row()).await.unwrap();
        sent.push(item);
    }
    let ids = |items: Vec<backstitch_ledger::InboxItem>| items.into_iter().map(|item| item.item_id);
    let first: Vec<_> = ids(inbox(&ledger, host.id, &[]).await).collect();
    let fitting = limits::INBOX_CHECK_BYTES_MAX / large.len();
    assert_eq!(first.len(), fitting + 1);
    assert!(first.contains(&sent[20]) && sent[..fitting].iter().all(|item| first.contains(item)));
    let rest: Vec<_> = ids(inbox(&ledger, host.id, &first).await).collect();
    assert_eq!(rest, sent[fitting..20]);
}

/// A place, as the first version bound what it sealed: the run, no op, and the part.
fn place_before(run: RunId, part: u32, parts: u32) -> Vec<u8> {
    let (tag, tenant) = ([1], SCOPE.tenant.0.to_be_bytes());
    let head = [&tag[..], &tenant, run.0.as_bytes(), &u64::MAX.to_be_bytes()].concat();
    [head, part.to_be_bytes().to_vec(), parts.to_be_bytes().to_vec()].concat()
}

#[tokio::test]
async fn what_the_first_version_has_sealed_is_opened() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let url = database(cluster()).await;
    let ledger = sealing(&url, "k").await;
    let mut host = Host::new(&ledger).await;
    let mut grown = Grown::named("before");
    host.commit(grown.start()).await;
    let (short, long) = ("\"short\"".to_owned(), large(300_000));
    host.commit(grown.grown_by(|grown| vec![grown.signal(&short), grown.signal(&long)])).await;

    let codec = Turning("k");
    let sealed = codec.seal(&place_before(grown.id, 0, 1), short.as_bytes());
    let sealed = base64::engine::general_purpose::STANDARD.encode(sealed);
    let chunks: Vec<&[u8]> = long.as_bytes().chunks(limits::PAYLOAD_PART_BYTES).collect();
    let parts: Vec<Vec<u8>> = (0..)
        .zip(&chunks)
        .map(|(part, chunk)| codec.seal(&place_before(grown.id, part, chunks.len() as u32), chunk))
        .collect();
    let digest = sha2::Sha256::digest(parts.concat());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut sql = session(&url).await;
    for (part, bytes) in (0..).zip(&parts) {
        sqlx::query("insert into payloads (shard, tenant, digest, part, bytes) values (0, $1, $2, $3, $4)")
            .bind(SCOPE.tenant.0)
            .bind(&digest[..])
            .bind(part)
            .bind(bytes)
            .execute(&mut sql)
            .await
            .unwrap();
    }
    let forms = [
        format!(r#"{{"backstitch.payload":{{"sealed":"{sealed}"}}}}"#),
        format!(
            r#"{{"backstitch.payload":{{"stored":{{"sha256":"{hex}","bytes":{},"sealed":true}}}}}}"#,
            long.len()
        ),
    ];
    for (seq, form) in (1..).zip(forms) {
        let update = "update ledger set payload = $3::json where run_id = $1 and seq = $2";
        let update = sqlx::query(update).bind(grown.id.0).bind(seq).bind(form);
        assert_eq!(update.execute(&mut sql).await.unwrap().rows_affected(), 1);
    }
    let rows = checked_rows(&ledger, grown.id).await;
    assert_eq!((rows[1].payload.as_deref(), rows[2].payload.as_deref()), (Some(&*short), Some(&*long)));
    let mut reader = ledger.payload(SCOPE, grown.id, Seq(2)).await.unwrap().unwrap();
    let mut read = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        read.extend(part);
    }
    assert_eq!(read, long.as_bytes());
}

#[tokio::test]
async fn a_payload_that_was_changed_is_not_given_out_whatever_reads_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let grown = Grown::with_input("changed", &large(600_000));
    host.commit(grown.start()).await;
    let damage = "update payloads set bytes = overlay(bytes placing 'x' from 7) where part = 1";
    sqlx::query(damage).execute(&mut session(&ledger.options().url).await).await.unwrap();
    let error = ledger.run(SCOPE, RunRef::Id(grown.id)).await.unwrap_err();
    assert!(error.to_string().contains("is not what was stored"), "{error}");
    let mut reader = ledger.payload(SCOPE, grown.id, Seq(0)).await.unwrap().unwrap();
    let mut parts = 0;
    let error = loop {
        match reader.next().await {
            Ok(part) => parts += u32::from(part.is_some()),
            Err(error) => break error,
        }
    };
    assert!(parts == 2 && error.to_string().contains("is not what was stored"), "{parts} {error}");
}

#[tokio::test]
async fn a_host_that_has_not_got_every_key_is_told_which() {
    let url = database(cluster()).await;
    let plain = ledger_at(&url).await;
    plain.check_keys().await.unwrap();
    let first = sealing(&url, "first").await;
    first.check_keys().await.unwrap();
    first.check_keys().await.unwrap();
    for other in [plain, sealing(&url, "second").await] {
        let error = other.check_keys().await.unwrap_err();
        assert!(matches!(&error, KeyError::Unusable { key_id, .. } if key_id == "first"), "{error}");
    }
}

#[tokio::test]
async fn a_large_answer_to_a_task_is_stored_only_if_it_counts() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let grown = Grown::named("called");
    host.commit(grown.start()).await;
    let token = TaskToken { run: grown.id, op: Op(0), attempt: 1, lease: TaskLease(new_id()) };
    let message =
        Message::AttemptEnded { op: Op(0), attempt: 1, outcome: Ok(json(&large(300_000))), heartbeat: None };
    let row: MessageRow = message.to_row();
    let item = NewItem { run: grown.id, item_id: new_id(), at_ms: 1, message: row };
    assert_eq!(ledger.settle_task(SCOPE, token, &item).await.unwrap(), Settled::Stale);
    assert_eq!(
        ledger.post(SCOPE, RunId(new_id()), new_id(), 1, &item.message).await.unwrap(),
        Posted::Unknown
    );
    assert_eq!(parts(&ledger).await, 0);
    ledger.post(SCOPE, grown.id, new_id(), 1, &item.message).await.unwrap();
    assert_eq!(parts(&ledger).await, 2);
}

#[tokio::test]
async fn views_can_be_looked_into_whatever_payloads_hold() {
    let url = database(cluster()).await;
    let ledger = ledger_at(&url).await;
    let mut host = Host::new(&ledger).await;
    let mut connection = session(&url).await;
    // What is sent, and what the view has of it.
    let texts = [
        (r#"{"a":"x\u0000y"}"#, "x\u{fffd}y"),
        (r#"{"a":"\u0000\u0000"}"#, "\u{fffd}\u{fffd}"),
        (r#"{"a":"\\u0000"}"#, r"\u0000"),
        (r#"{"a":"\\\u0000"}"#, "\\\u{fffd}"),
        (r#"{"a":"\ud83d\ude00"}"#, "\u{1f600}"),
        (r#"{"a":"\ud83d\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
        (r#"{"a":"\ude00\uD83D!"}"#, "\u{fffd}\u{fffd}!"),
        (r#"{"a":"plain","a":"twice"}"#, "twice"),
    ];
    for (number, (text, shown)) in texts.iter().enumerate() {
        let mut grown = Grown::with_input(&format!("run-{number}"), text);
        host.commit(grown.start()).await;
        let grown_by = grown.grown_by(|grown| vec![grown.signal(text)]);
        let entity =
            NewProjection { run: grown.id, entity: Some((*text).into()), attributes: Default::default() };
        host.commit(Append { projections: vec![entity], ..grown_by }).await;
        let grown = Grown::named(&format!("unread-{number}"));
        host.commit(grown.start()).await;
        let message = Message::Signal { name: "s".into(), payload: json(text), id: None }.to_row();
        ledger.post(SCOPE, grown.id, new_id(), now_ms(), &message).await.unwrap();
        let seen: Vec<Option<String>> = sqlx::query_scalar(
            "select payload ->> 'a' from run_history where shard = 0 and workflow_id in ($1, $2)
               and payload::text <> 'null'
             union all select entity ->> 'a' from run_memory where workflow_id = $1",
        )
        .bind(format!("run-{number}"))
        .bind(format!("unread-{number}"))
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert_eq!(seen, vec![Some((*shown).to_owned()); 4], "{text}");
        assert_eq!(ledger.rows(grown.id, Seq(0), 10).await.unwrap().len(), 1);
    }
    // Over whole views, with all of them.
    let all: i64 = sqlx::query_scalar("select count(payload ->> 'a') from run_history")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(all, 3 * texts.len() as i64);
}
