//! The role that a host works with in its private cluster: it owns its database and what is in it, and is no superuser.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Makes the role if it is missing, and gives it what a superuser has made for earlier versions of a host. Idempotent,
/// in one transaction, as superuser; `role` needs no quotes.
pub(super) async fn prepare(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let is_there: Option<i32> = sqlx::query_scalar("select 1 from pg_roles where rolname = $1")
        .bind(role)
        .fetch_optional(&mut *transaction)
        .await?;
    let mut statements = Vec::new();
    if is_there.is_none() {
        statements.push(format!("create role {role} login nosuperuser nocreatedb nocreaterole"));
    }
    statements.push(format!("alter database postgres owner to {role}"));
    statements.push(format!("grant usage, create on schema public to {role}"));
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    let owned: Vec<String> =
        sqlx::query_scalar(LEFT_BY_SUPERUSERS).bind(role).fetch_all(&mut *transaction).await?;
    for statement in owned {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// What gives the role every relation, routine and type of the schema that is another's. Sequences of columns and
/// types of tables go with those.
const LEFT_BY_SUPERUSERS: &str = "
    with public as (select oid from pg_namespace where nspname = 'public'),
         me as (select oid from pg_roles where rolname = $1)
    select format('alter table %s owner to %I', c.oid::regclass, $1)
    from pg_class c, public, me
    where c.relnamespace = public.oid and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relowner <> me.oid
    union all
    select format('alter sequence %s owner to %I', c.oid::regclass, $1)
    from pg_class c, public, me
    where c.relnamespace = public.oid and c.relkind = 'S' and c.relowner <> me.oid
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i'))
    union all
    select format('alter routine %s owner to %I', p.oid::regprocedure, $1)
    from pg_proc p, public, me
    where p.pronamespace = public.oid and p.proowner <> me.oid
    union all
    select format('alter type %s owner to %I', t.oid::regtype, $1)
    from pg_type t, public, me
    where t.typnamespace = public.oid and t.typtype in ('e', 'd') and t.typowner <> me.oid";
