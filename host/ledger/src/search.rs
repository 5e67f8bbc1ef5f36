//! Searches: what a [`Filter`] asks for, as SQL. Everything that a client wrote is a parameter; the text of
//! a statement is put together from the words in this file. Nothing here writes or locks.
//!
//! A comparison with an attribute is an `exists`, which leaves the planner the choice: from the index of the
//! attribute's type to the runs, if few runs have the value; else from the newest run on, with one lookup by
//! primary key for each. For that choice it must see the values, so these statements are not prepared
//! for the next time: as good as each has a text of its own anyway.
//!
//! What stands under `or` or `not` is looked up for one run after the other: `in (…)` uses an index where
//! several `=` joined by `or` do not.
//!
//! Each comparison is true or false, never null, so that `not` means what it says.

use std::sync::Arc;

use backstitch_core::filter::{AttributeTest, Comparator, Condition, Test};
use backstitch_core::{Filter, RunStatus, Scope, limits};
use sqlx::postgres::{PgArguments, PgHasArrayType};
use sqlx::{Arguments as _, Encode, Postgres, QueryBuilder, Type};
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::runs::{Page, RunFilter, RunSummary, SummaryRow, status_count, summary};
use crate::time::Timestamp;

/// A statement on its way. `$1` is the shard and `$2` the tenant; the alias of `runs` is `r`.
type Sql = QueryBuilder<Postgres>;

impl Ledger {
    /// A page of runs that meet a condition, newest first. Costs what the rarest attribute in it matches,
    /// or the runs from the newest on until the page is full, whichever the planner expects to be less;
    /// for each status that the condition leaves open.
    pub(crate) async fn search(
        &self,
        scope: Scope,
        filter: &RunFilter,
        condition: &Filter,
        page: Page,
    ) -> Result<Vec<RunSummary>, LedgerError> {
        let mut sql = listing(scope, filter, condition, page)?;
        let rows: Vec<SummaryRow> = sql.build_query_as().persistent(false).fetch_all(&self.pool).await?;
        rows.into_iter().map(summary).collect()
    }

    /// How many of the runs that meet a condition stand how. Costs what the rarest attribute in it matches,
    /// or all runs of the statuses that the condition leaves open.
    pub(crate) async fn count_found(
        &self,
        scope: Scope,
        filter: &RunFilter,
        condition: &Filter,
    ) -> Result<Vec<(RunStatus, u64)>, LedgerError> {
        let mut sql = counting(scope, filter, condition)?;
        let counts: Vec<(i16, i64)> = sql.build_query_as().persistent(false).fetch_all(&self.pool).await?;
        counts.into_iter().map(status_count).collect()
    }
}

fn listing(scope: Scope, filter: &RunFilter, condition: &Filter, page: Page) -> Result<Sql, LedgerError> {
    let mut head = arguments(scope, filter)?;
    add(&mut head, page.before.map_or(Uuid::max(), |run| run.0))?;
    add(&mut head, i64::from(page.limit.min(limits::PAGE_ROWS_MAX)))?;
    let mut sql = Sql::with_arguments(
        "select r.run_id, r.workflow_id, r.generation, r.workflow, r.digest, r.status, r.owner,
                r.parent_run, r.parent_op, r.started_at, r.closed_at,
                run_attributes($1, r.run_id)::text as attributes
         from unnest($3::smallint[]) as s (status)
         cross join lateral (
             select run_id, workflow_id, generation, workflow, digest, status, owner, parent_run,
                    parent_op, started_at, closed_at
             from runs r
             where r.shard = $1 and r.tenant = $2 and r.status = s.status and r.run_id < $5
               and r.generation >= 0
               and ($4::text is null or r.workflow = $4)
               and ",
        head,
    );
    // The bound once more: a page that begins late need not go over what is newer in the index.
    push(&mut sql, condition, " and a.run_id < $5");
    sql.push(
        " order by r.run_id desc limit $6
         ) r
         order by r.run_id desc limit $6",
    );
    Ok(sql)
}

fn counting(scope: Scope, filter: &RunFilter, condition: &Filter) -> Result<Sql, LedgerError> {
    let mut sql = Sql::with_arguments(
        "select r.status, count(*)
         from runs r
         where r.shard = $1 and r.tenant = $2 and r.status = any($3::smallint[]) and r.generation >= 0
           and ($4::text is null or r.workflow = $4)
           and ",
        arguments(scope, filter)?,
    );
    push(&mut sql, condition, "");
    sql.push(" group by r.status order by r.status");
    Ok(sql)
}

/// `$1` to `$4` of both statements.
fn arguments(scope: Scope, filter: &RunFilter) -> Result<PgArguments, LedgerError> {
    let mut arguments = PgArguments::default();
    add(&mut arguments, scope.shard.0)?;
    add(&mut arguments, scope.tenant.0)?;
    add(&mut arguments, filter.status_tags())?;
    add(&mut arguments, filter.workflow.clone())?;
    Ok(arguments)
}

fn add<'t, T: Encode<'t, Postgres> + Type<Postgres>>(
    arguments: &mut PgArguments,
    value: T,
) -> Result<(), LedgerError> {
    arguments.add(value).map_err(|error| LedgerError::Refused(sqlx::Error::Encode(error)))
}

/// Appends `filter` as one SQL condition. `older` is what else holds of the attributes `a` of all runs
/// that are looked for. Recurses as deep as a condition may be nested.
fn push(sql: &mut Sql, filter: &Filter, older: &str) {
    match filter {
        Filter::All(parts) => push_joined(sql, parts, " and ", older),
        Filter::Any(parts) => push_joined(sql, parts, " or ", older),
        Filter::Not(part) => {
            sql.push("not ");
            push_joined(sql, std::slice::from_ref(part), "", older);
        }
        Filter::Is(condition) => push_condition(sql, condition, older),
    }
}

fn push_joined(sql: &mut Sql, parts: &[Filter], joint: &str, older: &str) {
    sql.push("(");
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            sql.push(joint);
        }
        push(sql, part, older);
    }
    sql.push(")");
}

fn push_condition(sql: &mut Sql, condition: &Condition, older: &str) {
    match condition {
        Condition::Status(test) => push_test(sql, "r.status", test, |status| status.tag()),
        Condition::Workflow(test) => push_test(sql, "r.workflow", test, text),
        Condition::WorkflowId(test) => push_test(sql, "r.workflow_id", test, text),
        Condition::Run(test) => push_test(sql, "r.run_id", test, |run| run.0),
        Condition::Parent(test) => push_test(sql, "r.parent_run", test, |run| run.0),
        Condition::StartedMs(test) => push_test(sql, "r.started_at", test, |ms| Timestamp(*ms)),
        Condition::ClosedMs(test) => push_test(sql, "r.closed_at", test, |ms| Timestamp(*ms)),
        Condition::Attribute(name, test) => {
            sql.push(
                "exists (select from attributes a where a.shard = $1 and a.tenant = $2
                 and a.run_id = r.run_id and a.name = ",
            );
            sql.push_bind(text(name)).push(older).push(" and ");
            match test {
                AttributeTest::Text(test) => push_test(sql, "a.text", test, text),
                AttributeTest::Number(test) => push_test(sql, "a.number", test, |number| *number),
                AttributeTest::Flag(test) => push_test(sql, "a.flag", test, |flag| *flag),
                AttributeTest::TimeMs(test) => push_test(sql, "a.time", test, |ms| Timestamp(*ms)),
            }
            sql.push(")");
        }
    }
}

/// That a column has a value, which is what its partial index asks for, and that the value passes.
fn push_test<T, V>(sql: &mut Sql, column: &str, test: &Test<T>, value: impl Fn(&T) -> V)
where
    V: for<'q> Encode<'q, Postgres> + Type<Postgres> + PgHasArrayType,
{
    sql.push(format_args!("({column} is not null and {column} "));
    match test {
        Test::Compare(comparator, operand) => {
            sql.push(operator(*comparator)).push_bind(value(operand)).push(")");
        }
        Test::In(operands) => {
            let operands: Vec<V> = operands.iter().map(value).collect();
            sql.push("= any(").push_bind(operands).push("))");
        }
    }
}

fn text(text: &Arc<str>) -> String {
    text.to_string()
}

fn operator(comparator: Comparator) -> &'static str {
    match comparator {
        Comparator::Equal => "= ",
        Comparator::NotEqual => "<> ",
        Comparator::Less => "< ",
        Comparator::AtMost => "<= ",
        Comparator::More => "> ",
        Comparator::AtLeast => ">= ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use crate::{Cluster, ConnectOptions};
    use sqlx::{AssertSqlSafe, Execute as _};

    const RUNS: i32 = 20_000;

    /// Many runs of two tenants. `n` counts them, `class` is one of ten, `rare` is what few have.
    async fn many_runs(pool: &Pool) {
        let statements = [
            "insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status,
                               started_at)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'w' || n, 0, 'w', decode(repeat('00', 32), 'hex'),
                    case when n % 100 < 2 then 1 else 10 end, to_timestamp(n)
             from generate_series(1, $1) n",
            "insert into attributes (shard, tenant, run_id, name, text)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'class', 'class ' || n / 2 % 10
             from generate_series(1, $1) n",
            "insert into attributes (shard, tenant, run_id, name, text)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'order', 'order ' || n
             from generate_series(1, $1) n",
            "insert into attributes (shard, tenant, run_id, name, number)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'n', n from generate_series(1, $1) n",
            "insert into attributes (shard, tenant, run_id, name, time)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'due', to_timestamp(n)
             from generate_series(1, $1) n",
            "insert into attributes (shard, tenant, run_id, name, flag)
             select 0, 1 + n % 2, lpad(to_hex(n), 32, '0')::uuid, 'rare', n % 2000 < 2
             from generate_series(1, $1) n",
        ];
        for statement in statements {
            sqlx::query(statement).bind(RUNS).execute(pool).await.unwrap();
        }
        sqlx::raw_sql("analyze runs; analyze attributes").execute(pool).await.unwrap();
    }

    /// How the database goes about a statement.
    async fn plan(pool: &Pool, mut sql: Sql) -> String {
        let text =
            AssertSqlSafe(format!("explain (analyze, timing off, summary off) {}", sql.sql().as_str()));
        let arguments = sql.build().take_arguments().unwrap().unwrap();
        let lines = sqlx::query_scalar_with(text, arguments).persistent(false).fetch_all(pool).await;
        lines.map(|lines: Vec<String>| lines.join("\n")).unwrap()
    }

    /// What all steps of a plan gave, all times they were made.
    fn rows_read(plan: &str) -> f64 {
        let number = |line: &str, name: &str| -> Option<f64> {
            let (_, number) = line.split_once(name)?;
            number.split([' ', ')']).next()?.parse().ok()
        };
        let steps = plan.lines().filter_map(|line| line.split_once("(actual "));
        steps.map(|(_, line)| number(line, "rows=").unwrap() * number(line, "loops=").unwrap()).sum()
    }

    #[tokio::test]
    async fn few_runs_of_many_are_found_by_the_index_of_their_attribute() {
        let cluster = Cluster::ephemeral().unwrap();
        let url = cluster.create_database("plans").await.unwrap();
        let ledger = Ledger::connect(ConnectOptions::new(url)).await.unwrap();
        ledger.migrate().await.unwrap();
        many_runs(&ledger.pool).await;
        let table = [
            ("attributes.order = 'order 502'", "attributes_by_text"),
            ("status = 'completed' and attributes.order in ('order 502', 'order 778')", "attributes_by_text"),
            ("attributes.class = 'class 1' and attributes.order = 'order 502'", "attributes_by_text"),
            ("attributes.n > 19990", "attributes_by_number"),
            ("attributes.due <= time('10')", "attributes_by_time"),
            ("attributes.rare = true", "attributes_by_flag"),
        ];
        let page = Page { before: None, limit: 100 };
        for (text, index) in table {
            let condition =
                Filter::parse(text, |seconds| Ok(seconds.parse::<u64>().unwrap() * 1000)).unwrap();
            let filter = RunFilter { condition: Some(condition.clone()), ..RunFilter::default() };
            for sql in [
                listing(Scope::DEFAULT, &filter, &condition, page),
                counting(Scope::DEFAULT, &filter, &condition),
            ] {
                let plan = plan(&ledger.pool, sql.unwrap()).await;
                assert!(plan.contains(index), "{text}:\n{plan}");
                assert!(rows_read(&plan) < 1_000.0, "{text}:\n{plan}");
            }
        }
        ledger.close().await;
    }
}
