-- Payloads that are too large for their rows, the keys that payloads are sealed with, and what a tenant may store.

create table payloads (
    shard  smallint not null,
    tenant integer not null,
    digest bytea not null check (octet_length(digest) = 32),
    part   integer not null check (part >= 0),
    bytes  bytea not null,
    primary key (shard, tenant, digest, part)
);
comment on table payloads is 'Payloads that are too large for their rows, each once, in parts. A row has {"backstitch.payload":{"stored":{"sha256": …}}} in place of one.';
comment on column payloads.digest is 'SHA-256 of all parts, one behind the other.';
comment on column payloads.bytes is 'The JSON text, or what a host with a key has made of it.';

create table payload_keys (
    shard      smallint not null,
    key_id     text collate "C" not null,
    proof      bytea not null,
    created_at timestamptz not null default now(),
    primary key (shard, key_id)
);
comment on table payload_keys is 'Keys that payloads are sealed with, by name: never the keys themselves. A host that has not got them all does not start.';
comment on column payload_keys.proof is 'Something that only this key opens.';

alter table tenants
    add column payload_bytes_max bigint check (payload_bytes_max > 0),
    add column stored_bytes_max bigint check (stored_bytes_max >= 0);
comment on column tenants.payload_bytes_max is 'The largest payload that is taken from outside; null: as the host has it.';
comment on column tenants.stored_bytes_max is 'Bytes of payloads out of row from which on none is taken from outside; null: no bound.';

-- Apart from tenants, whose row a deployment locks.
create table payload_usage (
    shard  smallint not null,
    tenant integer not null,
    bytes  bigint not null,
    primary key (shard, tenant)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
comment on table payload_usage is 'Bytes in payloads, by tenant.';
