-- What deployments may reach.

create table manifests (
    shard       smallint not null,
    tenant      integer not null,
    digest      bytea not null check (octet_length(digest) = 32),
    document    json not null,
    deployed_at timestamptz not null,
    primary key (shard, tenant, digest)
);
comment on table manifests is 'Where the activities of a component may reach, as its latest deployment says; no row: nowhere. Names of secrets, never secrets.';
