-- The schema of a Backstitch database.
--
-- The shard rule: `shard` comes first in every primary key, unique key and index, and every statement
-- names it. There are no foreign keys, sequences, triggers or PL/pgSQL. That keeps inserts cheap and
-- leaves the door to a distributed engine open.
--
-- Payloads are `json`, not `jsonb`: a workflow must read on replay the very bytes it read live, and
-- jsonb reorders keys, drops duplicates and refuses \u0000. Names collate "C": they are identifiers.
--
-- Secondary indexes are partial, on a condition that every row meets. Only a query that states the condition
-- can be planned on such an index. Without that, a plan made while a table is still small may look up
-- a run through any index that begins with the shard, and go on to read the whole shard for each run.

create table tenants (
    shard      smallint not null,
    tenant     integer not null,
    name       text collate "C" not null,
    deployment bigint not null default 0,
    created_at timestamptz not null default now(),
    primary key (shard, tenant),
    unique (shard, name)
);
comment on table tenants is 'Who runs belong to.';
comment on column tenants.deployment is
    'Counts this tenant''s deployments. The row lock of its update puts them in commit order, so a host that polls this number misses none.';

insert into tenants (shard, tenant, name) values (0, 1, 'default');

create table runs (
    shard       smallint not null,
    tenant      integer not null,
    run_id      uuid not null,
    workflow_id text collate "C" not null,
    generation  integer not null check (generation >= 0),
    workflow    text collate "C" not null,
    digest      bytea not null check (octet_length(digest) = 32),
    status      smallint not null,
    owner       uuid,
    parent_run  uuid,
    parent_op   integer,
    output      json,
    error       json,
    fault       json,
    rows        integer,
    chain       bigint,
    attributes  jsonb not null default '{}',
    started_at  timestamptz not null,
    closed_at   timestamptz,
    primary key (shard, run_id)
);
create unique index runs_by_workflow_id on runs (shard, tenant, workflow_id, generation) where generation >= 0;
create index runs_open_by_owner on runs (shard, owner) where status < 10;
create index runs_by_status on runs (shard, tenant, status, run_id) where generation >= 0;
create index runs_by_parent on runs (shard, parent_run) where parent_run is not null;

comment on table runs is 'One row for each run of a workflow. The input is the payload of row 0 of its ledger.';
comment on column runs.run_id is 'UUID v7: ordered by the time of the start.';
comment on column runs.workflow_id is 'What the user calls the run. Generations of one workflow id follow each other by continue-as-new.';
comment on column runs.digest is 'SHA-256 of the component that the run is pinned to.';
comment on column runs.status is 'See run_status_name(). Below 10: open.';
comment on column runs.owner is 'The host that alone may append to the run, as long as its lease lives.';
comment on column runs.fault is 'Why the run is parked.';
comment on column runs.rows is 'Set at the close: how many rows the ledger of the run has.';
comment on column runs.chain is 'Set at the close: the checksum of its last row. A ledger that was cut off no longer matches.';

create table ledger (
    shard   smallint not null,
    tenant  integer not null,
    run_id  uuid not null,
    seq     integer not null,
    kind    smallint not null,
    op      integer,
    name    text collate "C",
    payload json,
    detail  json,
    attempt integer,
    at      timestamptz not null,
    chain   bigint not null,
    primary key (shard, run_id, seq)
) partition by range (run_id);
-- For run ids outside all weeks that have a partition: late, never lost.
create table ledger_default partition of ledger default;

comment on table ledger is 'What happened to each run, append-only. Partitioned by the week of the run''s start.';
comment on column ledger.seq is 'The row''s place in its run: 0, 1, 2 … without a gap.';
comment on column ledger.kind is 'See event_name().';
comment on column ledger.op is 'The command that the row is, or belongs to, as an unsigned number in 32 bits.';
comment on column ledger.chain is 'XXH3-64 over the previous row''s chain and this row, as an unsigned number in 64 bits.';

create table timers (
    shard   smallint not null,
    tenant  integer not null,
    run_id  uuid not null,
    op      integer not null,
    due_at  timestamptz not null,
    purpose smallint not null check (purpose >= 0),
    primary key (shard, run_id, op)
) with (autovacuum_vacuum_scale_factor = 0.02);
create index timers_by_due on timers (shard, due_at) where purpose >= 0;
comment on table timers is 'What must happen to open runs at a time: sleeps, retries, bounds.';

create table inbox (
    shard   smallint not null,
    tenant  integer not null,
    run_id  uuid not null,
    item_id uuid not null,
    kind    smallint not null check (kind >= 0),
    op      integer,
    name    text collate "C",
    payload json,
    detail  json,
    at      timestamptz not null,
    primary key (shard, run_id, item_id)
) with (autovacuum_vacuum_scale_factor = 0.02);
create index inbox_by_item on inbox (shard, item_id) where kind >= 0;
comment on table inbox is 'Messages to runs that their owners have not consumed yet. item_id is a UUID v7: ordered by time.';

create table leases (
    shard        smallint not null,
    host_id      uuid not null,
    epoch        bigint not null,
    heartbeat_at timestamptz not null,
    lease_ms     bigint not null,
    dead         boolean not null,
    name         text not null,
    primary key (shard, host_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
comment on table leases is 'One row for each host: its heartbeat, and the fence that every append must pass.';
comment on column leases.epoch is 'Counts the registrations of the host.';

create table components (
    shard      smallint not null,
    tenant     integer not null,
    digest     bytea not null check (octet_length(digest) = 32),
    kind       smallint not null,
    size       bigint not null,
    bytes      bytea not null,
    names      json not null,
    created_at timestamptz not null,
    primary key (shard, tenant, digest)
);
alter table components alter column bytes set storage external;
comment on table components is 'WASM components, by the SHA-256 of their bytes. Never changed, never removed while a run is pinned to them.';
comment on column components.kind is '1: workflows, 2: activities.';
comment on column components.names is 'What the component offers, as it describes itself.';

create table deployments (
    shard       smallint not null,
    tenant      integer not null,
    kind        smallint not null,
    task_queue  text collate "C" not null,
    name        text collate "C" not null,
    digest      bytea not null,
    deployment  bigint not null,
    deployed_at timestamptz not null,
    primary key (shard, tenant, kind, task_queue, name)
);
comment on table deployments is 'Which component serves a name now. New runs start on it; open runs stay on theirs.';
comment on column deployments.deployment is 'The value of tenants.deployment that this row came with.';

-- The names that people read. A test compares them with the program's own.

create function event_name(kind smallint) returns text language sql immutable parallel safe
return case kind
    when 1 then 'run-started'
    when 2 then 'activity-scheduled'
    when 3 then 'timer-started'
    when 4 then 'signal-awaited'
    when 5 then 'child-started'
    when 6 then 'op-cancelled'
    when 7 then 'change-patched'
    when 20 then 'activity-completed'
    when 21 then 'activity-failed'
    when 22 then 'activity-attempt-failed'
    when 23 then 'timer-fired'
    when 24 then 'signal-received'
    when 25 then 'child-completed'
    when 26 then 'child-failed'
    when 27 then 'cancel-requested'
    when 40 then 'run-completed'
    when 41 then 'run-failed'
    when 42 then 'run-cancelled'
    when 43 then 'run-terminated'
    when 44 then 'run-continued'
    else 'kind-' || kind
end;

create function run_status_name(status smallint) returns text language sql immutable parallel safe
return case status
    when 1 then 'running'
    when 2 then 'parked'
    when 10 then 'completed'
    when 11 then 'failed'
    when 12 then 'cancelled'
    when 13 then 'terminated'
    when 14 then 'continued'
    else 'status-' || status
end;

create function message_name(kind smallint) returns text language sql immutable parallel safe
return case kind
    when 1 then 'signal'
    when 2 then 'cancel'
    when 3 then 'terminate'
    when 4 then 'retry'
    when 5 then 'child-completed'
    when 6 then 'child-failed'
    else 'kind-' || kind
end;

-- Windows instead of self-joins: a condition on (shard, run_id) is pushed down through them, so the
-- history of one run costs its own rows only.
create view run_history as
select
    story.shard, story.tenant, story.run_id, runs.workflow_id, runs.workflow,
    run_status_name(runs.status) as status,
    story.seq, story.at, story.event, story.op, story.name, story.attempt, story.payload, story.detail,
    runs.status < 10 and story.unanswered as waiting,
    timers.due_at
from (
    select
        l.shard, l.tenant, l.run_id, l.seq, l.at, event_name(l.kind) as event, l.op, l.name, l.attempt,
        l.payload, l.detail,
        case
            when l.kind in (2, 3, 5) then
                not bool_or(l.kind in (20, 21, 23, 25, 26)) over (partition by l.shard, l.run_id, l.op)
                and l.seq > coalesce(max(l.seq) filter (where l.kind = 27) over (partition by l.shard, l.run_id), -1)
            when l.kind = 4 then
                count(*) filter (where l.kind = 4) over (partition by l.shard, l.run_id, l.name order by l.seq)
                > count(*) filter (where l.kind = 24) over (partition by l.shard, l.run_id, l.name)
                and l.seq > coalesce(max(l.seq) filter (where l.kind = 27) over (partition by l.shard, l.run_id), -1)
            else false
        end
        and not coalesce(
            l.op::text = any (
                array_agg(l.detail ->> 'target') filter (where l.kind = 6)
                over (partition by l.shard, l.run_id)
            ), false) as unanswered
    from ledger l
    union all
    select
        i.shard, i.tenant, i.run_id, null, i.at, 'unread ' || message_name(i.kind), i.op, i.name, null,
        i.payload, i.detail, true
    from inbox i
) story
join runs on runs.shard = story.shard and runs.run_id = story.run_id
left join timers on timers.shard = story.shard and timers.run_id = story.run_id
    and timers.op = story.op and story.unanswered;

comment on view run_history is
    'The whole story of each run: its ledger in the order of seq, then messages nobody has read yet (seq is null). Ask for one run: where shard = 0 and run_id = ''…'' order by seq.';
comment on column run_history.waiting is 'The run still waits for the outcome of this command, or has not read this message.';
comment on column run_history.due_at is 'When the timer of a waiting command fires: the end of a sleep, or the next attempt.';
