//! Somebody else's lock, a crowd of clients, a network that stands still: what each costs the others.

use backstitch_client::ClientError;
use sqlx::PgConnection;

use crate::load::{ASKED, approve, attempts, count, deployed_database, options, order, owner};
use crate::proxy::Proxy;
use crate::support::{PROGRAM, Said, TestHost, check_ledgers, connect, database, eventually};

/// How long ago the only lease that is alive was renewed first and last, in milliseconds.
async fn heartbeats(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select (extract(epoch from max(heartbeat_at)) * 1000)::bigint from leases where not dead",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// Waits until the lease was renewed for `ms` milliseconds more.
async fn renewed(connection: &mut PgConnection, ms: i64) {
    let first = heartbeats(connection).await;
    eventually("the lease is renewed", async || (heartbeats(connection).await >= first + ms).then_some(()))
        .await;
}

#[tokio::test]
async fn requests_that_wait_for_the_database_cost_no_lease() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("approval", "asked", ASKED).await;
    let before = owner(&mut connection, "asked").await.unwrap();
    let mut operator = connect(&database).await;
    sqlx::raw_sql("begin; lock table runs in access exclusive mode").execute(&mut operator).await.unwrap();
    let lists: Vec<_> = (0..20)
        .map(|_| {
            let url = format!("{}/v1/runs", host.url);
            tokio::spawn(async move {
                loop {
                    let status = reqwest::get(&url).await.unwrap().status().as_u16();
                    assert!([200, 503].contains(&status), "{status}");
                    if status == 200 {
                        return;
                    }
                }
            })
        })
        .collect();
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("they wait", async || (count(&mut connection, waiting).await >= 1).then_some(())).await;
    // Longer than the lease lasts.
    renewed(&mut connection, 3_000).await;
    assert_eq!(host.client.ready().await.unwrap().host_id, before);
    sqlx::raw_sql("rollback").execute(&mut operator).await.unwrap();
    assert_eq!(owner(&mut connection, "asked").await, Some(before), "the run has moved");
    for list in lists {
        list.await.unwrap();
    }
    approve(&host, "asked").await.unwrap();
    assert_eq!(host.output("asked").await, r#""approved""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_an_operators_session_has_locked_holds_up_nobody_else() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("approval", "locked", ASKED).await;
    let before = owner(&mut connection, "locked").await.unwrap();
    let mut operator = connect(&database).await;
    sqlx::raw_sql("begin; select from runs where workflow_id = 'locked' for no key update")
        .execute(&mut operator)
        .await
        .unwrap();
    // Whether it is taken or not, its close has to wait.
    let _ = approve(&host, "locked").await;
    let signal = sqlx::query(
        "insert into inbox (shard, tenant, run_id, item_id, kind, name, payload, at)
         select shard, tenant, run_id, gen_random_uuid(), 1, 'manager-approval', '{\"approved\":true}', now()
         from runs where workflow_id = 'locked'",
    );
    signal.execute(&mut connection).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                   and wait_event_type = 'Lock' and application_name = 'backstitch writer'";
    eventually("its append waits", async || (count(&mut connection, waiting).await == 1).then_some(())).await;
    for number in 0..10 {
        let id = format!("free {number}");
        host.start_run("order_workflow", &id, order!("CLOCK-486")).await;
        assert!(host.output(&id).await.contains("reserved"));
    }
    renewed(&mut connection, 3_000).await;
    assert_eq!(host.client.ready().await.unwrap().host_id, before, "the lease is lost");
    sqlx::raw_sql("rollback").execute(&mut operator).await.unwrap();
    assert_eq!(host.output("locked").await, r#""approved""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_host_that_is_cut_off_from_its_database_begins_no_attempt() {
    let database = deployed_database().await;
    let proxy = Proxy::passing(&database).await;
    let host = TestHost::start(options(&proxy.url).arg("--activities-max=1")).await;
    let mut connection = connect(&database).await;
    // Each of them runs for 300 ms, one after the other.
    for number in 0..20 {
        host.start_run("patient", &format!("run {number}"), r#""falls_silent""#).await;
    }
    let scheduled = "select count(*) from ledger where kind = 2";
    eventually("all are scheduled", async || (count(&mut connection, scheduled).await == 20).then_some(()))
        .await;
    let live = host.client.live().await.unwrap();
    assert_eq!(live.status, "live");
    assert_eq!(host.client.ready().await.unwrap().status, "ready");

    proxy.stand_still(true);
    eventually("it does not know whether its lease lives", async || match host.client.ready().await {
        Err(ClientError::Problem { status: 503, code, .. }) if code == "not-ready" => Some(()),
        _ => None,
    })
    .await;
    let idle = async || (host.client.health().await.ok()?.activities_running == 0).then_some(());
    eventually("the last attempt ends", idle).await;
    let begun = attempts(&host).len();
    assert!(begun < 20, "all of them were made without the database");
    assert_eq!(host.client.live().await.unwrap().status, "live", "it need not be restarted");

    proxy.stand_still(false);
    eventually("attempts go on", async || (attempts(&host).len() >= 20).then_some(())).await;
    eventually("it is ready again", async || host.client.ready().await.ok()).await;
    for number in 0..20 {
        assert_eq!(host.output(&format!("run {number}")).await, r#""Some(17)""#);
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_host_serves_with_three_connections() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let role = "create role of_three login connection limit 3;
                grant usage on schema public to of_three;
                grant select, insert, update, delete on all tables in schema public to of_three";
    sqlx::raw_sql(role).execute(&mut connection).await.unwrap();
    let host = TestHost::start(options(&of_role(&database, "of_three"))).await;
    for number in 0..10 {
        let id = format!("order {number}");
        host.start_run("order_workflow", &id, order!("CLOCK-486")).await;
        assert!(host.output(&id).await.contains("reserved"));
    }
    let roles = "select count(*) from pg_stat_activity where usename = 'of_three'
                 and application_name in ('backstitch writer', 'backstitch lease')";
    assert_eq!(count(&mut connection, roles).await, 2, "the two that it cannot be without");
    check_ledgers(&database).await;
}

/// The same database for another role.
fn of_role(url: &str, role: &str) -> String {
    assert!(url.contains("user=backstitch"), "{url}");
    url.replace("user=backstitch", &format!("user={role}"))
}

#[tokio::test]
async fn a_host_whose_role_owns_nothing_serves_what_its_owner_has_migrated() {
    let owners = database().await;
    let mut connection = connect(&owners).await;
    sqlx::raw_sql("create role of_service login").execute(&mut connection).await.unwrap();
    let url = of_role(&owners, "of_service");
    let refused = async |what: &[&str]| {
        let said = program("serve", &url, &["--listen", "127.0.0.1:0"]).await;
        assert_ne!(said.code, 0, "{said:?}");
        assert!(what.iter().all(|what| said.stderr.contains(what)), "{said:?}");
    };
    refused(&["of_service", "backstitch migrate"]).await;
    let said = program("migrate", &owners, &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    // What is there may not be used yet.
    refused(&["of_service", "backstitch migrate --role of_service"]).await;
    let said = program("migrate", &url, &[]).await;
    assert!(said.code != 0 && said.stderr.contains("owner of the tables"), "{said:?}");
    let said = program("migrate", &owners, &["--role", "of_service"]).await;
    assert_eq!(said.code, 0, "{said:?}");

    let host = TestHost::with(&url, &["order-workflow", "order-activities"]).await;
    host.start_run("order_workflow", "order", order!("CLOCK-486")).await;
    assert!(host.output("order").await.contains("reserved"));
    check_ledgers(&owners).await;

    // Where the role does not look, there is nothing for it.
    drop(host);
    let moves =
        "alter schema public rename to apart; create schema public; grant usage on schema public to public";
    sqlx::raw_sql(moves).execute(&mut connection).await.unwrap();
    refused(&["the schema \"apart\"", "--schema apart"]).await;
    let said = program("migrate", &owners, &[]).await;
    assert!(said.code != 0 && said.stderr.contains("--schema apart"), "{said:?}");
    let said = program("migrate", &owners, &["--schema", "apart"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    sqlx::raw_sql("revoke usage on schema apart from public, of_service")
        .execute(&mut connection)
        .await
        .unwrap();
    refused(&["may not use", "schema apart"]).await;
}

/// Runs a command that works on a database.
async fn program(command: &'static str, url: &str, args: &[&str]) -> Said {
    let data = tempfile::tempdir().unwrap();
    let mut program = std::process::Command::new(PROGRAM);
    program.arg(command).args(args).env("DATABASE_URL", url).stdin(std::process::Stdio::null());
    if command == "serve" {
        program.arg("--data-dir").arg(data.path());
    }
    let said = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: said.status.code().unwrap_or(-1), stdout: text(said.stdout), stderr: text(said.stderr) }
}
