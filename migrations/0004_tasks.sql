-- Calls that no component of a host serves: offered here to workers outside.

create table tasks (
    shard        smallint not null,
    tenant       integer not null,
    run_id       uuid not null,
    op           integer not null,
    seq          integer not null,
    attempt      integer not null,
    task_queue   text collate "C" not null,
    name         text collate "C" not null,
    priority     smallint not null,
    offered_at   timestamptz not null,
    start_by     timestamptz,
    close_by     timestamptz,
    attempt_ms   bigint,
    silence_ms   bigint,
    heartbeat    json,
    lease        uuid,
    lease_ms     bigint,
    leased_until timestamptz,
    deadline     timestamptz,
    worker       text,
    given_up     boolean not null default false,
    primary key (shard, run_id, op)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
create index tasks_open on tasks (shard, tenant, task_queue, priority, offered_at, name)
    where lease is null and not given_up;
create index tasks_to_start on tasks (shard, start_by) where lease is null and start_by is not null;
create index tasks_leased on tasks (shard, leased_until) where leased_until is not null;
create index tasks_given_up on tasks (shard, run_id) where given_up;

comment on table tasks is 'Activity calls that are offered to workers outside, or that a worker has.';
comment on column tasks.seq is 'The ledger row of the call: it has the input.';
comment on column tasks.attempt is 'Which attempt is offered or under way, 1 for the first.';
comment on column tasks.start_by is 'When the call fails if no worker has taken it.';
comment on column tasks.close_by is 'When the call fails whatever its worker does.';
comment on column tasks.attempt_ms is 'Bound on one attempt, from its lease on.';
comment on column tasks.silence_ms is 'Longest silence of a worker that the call allows; its lease may be shorter.';
comment on column tasks.lease is 'One handing-out to a worker; part of the token that the worker must show. Null: nobody has it.';
comment on column tasks.lease_ms is 'How long a heartbeat extends the lease. Null though there is a lease: the worker will answer later.';
comment on column tasks.leased_until is 'When the worker is taken for dead. Null though there is a lease: never.';
comment on column tasks.given_up is 'The run waits for it no more: its worker is told at the next heartbeat.';

create or replace function message_name(kind smallint) returns text language sql immutable parallel safe
return case kind
    when 1 then 'signal'
    when 2 then 'cancel'
    when 3 then 'terminate'
    when 4 then 'retry'
    when 5 then 'child-completed'
    when 6 then 'child-failed'
    when 7 then 'pause'
    when 8 then 'resume'
    when 9 then 'attempt-completed'
    when 10 then 'attempt-failed'
    when 11 then 'attempt-freed'
    when 12 then 'attempt-wanted'
    else 'kind-' || kind
end;
