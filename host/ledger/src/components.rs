//! Components, and which of them serves a name now.
//!
//! A component is known by the SHA-256 of its bytes and never changes. A deployment is a pointer from
//! names to a component; open runs stay with the component that they started on. Each deployment of a
//! tenant has a number. Its counter's row lock puts them in commit order, so a host that polls the
//! number ([`Ledger::deployment_counter`]) and sees it unchanged has missed none.

use crate::from_row::from_row;
use backstitch_core::{Digest, Scope, TenantId};
use sqlx::postgres::PgBindIterExt;

use crate::claims::digest;
use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::time::Timestamp;

/// What a component offers. Numbers are persisted: append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ComponentKind {
    /// Workflows.
    Workflows = 1,
    /// Activities.
    Activities = 2,
}

impl ComponentKind {
    /// The persisted number.
    pub fn tag(self) -> i16 {
        self as i16
    }

    fn from_tag(tag: i16) -> Result<Self, LedgerError> {
        let kind = [Self::Workflows, Self::Activities].into_iter().find(|kind| kind.tag() == tag);
        known(kind, "component kind", tag)
    }
}

/// A component to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewComponent<'a> {
    /// SHA-256 of `bytes`. The caller has computed it from just these bytes.
    pub digest: Digest,
    /// What it offers.
    pub kind: ComponentKind,
    /// The component.
    pub bytes: &'a [u8],
    /// What it says about itself, as JSON text.
    pub names: &'a str,
    /// When, in milliseconds since the epoch.
    pub created_ms: u64,
}

/// A stored component without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInfo {
    /// Its identity.
    pub digest: Digest,
    /// What it offers.
    pub kind: ComponentKind,
    /// Its length.
    pub size_bytes: u64,
    /// What it says about itself, as JSON text.
    pub names: String,
    /// When it was stored, in milliseconds since the epoch.
    pub created_ms: u64,
}

/// Which component serves a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Workflows or activities.
    pub kind: ComponentKind,
    /// For calls to this queue.
    pub task_queue: String,
    /// The workflow or activity.
    pub name: String,
    /// The component.
    pub digest: Digest,
    /// The number of the deployment that said so.
    pub deployment: i64,
    /// When, in milliseconds since the epoch.
    pub deployed_ms: u64,
}

from_row! {
    struct InfoRow {
        digest: Vec<u8>,
        kind: i16,
        size: i64,
        names: String,
        created_at: Timestamp,
    }
}

from_row! {
    struct DeploymentRow {
        kind: i16,
        task_queue: String,
        name: String,
        digest: Vec<u8>,
        deployment: i64,
        deployed_at: Timestamp,
    }
}

impl Ledger {
    /// Stores a component. Idempotent; whether it is new.
    pub async fn put_component(&self, scope: Scope, new: NewComponent<'_>) -> Result<bool, LedgerError> {
        let stored = sqlx::query(
            "insert into components (shard, tenant, digest, kind, size, bytes, names, created_at)
             values ($1, $2, $3, $4, $5, $6, $7::json, $8)
             on conflict (shard, tenant, digest) do nothing",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(new.digest.0.as_slice())
        .bind(new.kind.tag())
        .bind(new.bytes.len() as i64)
        .bind(new.bytes)
        .bind(new.names)
        .bind(Timestamp(new.created_ms))
        .execute(&self.pool)
        .await?;
        Ok(stored.rows_affected() == 1)
    }

    /// The component's bytes. The caller checks them against the digest.
    pub async fn component_bytes(
        &self,
        scope: Scope,
        digest: Digest,
    ) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(sqlx::query_scalar(
            "select bytes from components where shard = $1 and tenant = $2 and digest = $3",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(digest.0.as_slice())
        .fetch_optional(&self.pool)
        .await?)
    }

    /// What is known about a component.
    pub async fn component_info(
        &self,
        scope: Scope,
        digest: Digest,
    ) -> Result<Option<ComponentInfo>, LedgerError> {
        let row: Option<InfoRow> = sqlx::query_as(
            "select digest, kind, size, names::text, created_at from components
             where shard = $1 and tenant = $2 and digest = $3",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(digest.0.as_slice())
        .fetch_optional(&self.pool)
        .await?;
        row.map(info).transpose()
    }

    /// Lets the component serve `names` from now on, all at once, and returns the deployment's number.
    /// The component must be stored already. None: there is no such tenant.
    ///
    /// Each call makes a number; otherwise it may be repeated. The tenant's row is locked first, so
    /// two deployments are in a row.
    pub async fn deploy(
        &self,
        scope: Scope,
        kind: ComponentKind,
        task_queue: &str,
        names: &[&str],
        digest: Digest,
        deployed_ms: u64,
    ) -> Result<Option<i64>, LedgerError> {
        Ok(sqlx::query_scalar(
            "with counted as (
                 update tenants set deployment = deployment + 1
                 where shard = $1 and tenant = $2 returning deployment
             ),
             pointed as (
                 insert into deployments (shard, tenant, kind, task_queue, name, digest, deployment, deployed_at)
                 select distinct $1, $2, $3, $4, n.name, $6, counted.deployment, $7
                 from counted, unnest($5::text[]) as n (name)
                 on conflict (shard, tenant, kind, task_queue, name) do update
                 set digest = excluded.digest, deployment = excluded.deployment,
                     deployed_at = excluded.deployed_at
             )
             select deployment from counted",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(kind.tag())
        .bind(task_queue)
        .bind(names.iter().copied().bind_iter())
        .bind(digest.0.as_slice())
        .bind(Timestamp(deployed_ms))
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Says what the component's activities may reach from its next deployment on: JSON text, or none for
    /// nothing. Idempotent. To be called before [`Ledger::deploy`], whose number tells the hosts.
    pub async fn put_manifest(
        &self,
        scope: Scope,
        digest: Digest,
        document: Option<&str>,
        deployed_ms: u64,
    ) -> Result<(), LedgerError> {
        let statement = match document {
            Some(document) => sqlx::query(
                "insert into manifests (shard, tenant, digest, document, deployed_at)
                 values ($1, $2, $3, $4::json, $5)
                 on conflict (shard, tenant, digest) do update
                 set document = excluded.document, deployed_at = excluded.deployed_at",
            )
            .bind(scope.shard.0)
            .bind(scope.tenant.0)
            .bind(digest.0.as_slice())
            .bind(document)
            .bind(Timestamp(deployed_ms)),
            None => sqlx::query("delete from manifests where shard = $1 and tenant = $2 and digest = $3")
                .bind(scope.shard.0)
                .bind(scope.tenant.0)
                .bind(digest.0.as_slice()),
        };
        statement.execute(&self.pool).await?;
        Ok(())
    }

    /// The manifests of the components that serve a name of the tenant now, as JSON text.
    pub async fn manifests(&self, scope: Scope) -> Result<Vec<(Digest, String)>, LedgerError> {
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as(
            "select m.digest, m.document::text from manifests m
             where m.shard = $1 and m.tenant = $2 and exists (
                 select 1 from deployments d
                 where d.shard = $1 and d.tenant = $2 and d.digest = m.digest)",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(of, document)| Ok((digest(of)?, document))).collect()
    }

    /// What serves each name of the tenant now.
    pub async fn deployments(&self, scope: Scope) -> Result<Vec<Deployment>, LedgerError> {
        let rows: Vec<DeploymentRow> = sqlx::query_as(
            "select kind, task_queue, name, digest, deployment, deployed_at from deployments
             where shard = $1 and tenant = $2 order by kind, task_queue, name",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(deployment).collect()
    }

    /// The number of the tenant's last deployment; 0 before the first.
    pub async fn deployment_counter(&self, tenant: TenantId) -> Result<i64, LedgerError> {
        let counter: Option<i64> =
            sqlx::query_scalar("select deployment from tenants where shard = $1 and tenant = $2")
                .bind(self.shard.0)
                .bind(tenant.0)
                .fetch_optional(&self.pool)
                .await?;
        Ok(counter.unwrap_or(0))
    }
}

fn info(row: InfoRow) -> Result<ComponentInfo, LedgerError> {
    Ok(ComponentInfo {
        digest: digest(row.digest)?,
        kind: ComponentKind::from_tag(row.kind)?,
        size_bytes: row.size.cast_unsigned(),
        names: row.names,
        created_ms: row.created_at.0,
    })
}

fn deployment(row: DeploymentRow) -> Result<Deployment, LedgerError> {
    Ok(Deployment {
        kind: ComponentKind::from_tag(row.kind)?,
        task_queue: row.task_queue,
        name: row.name,
        digest: digest(row.digest)?,
        deployment: row.deployment,
        deployed_ms: row.deployed_at.0,
    })
}
