-- What runs know and are found by, schedules, and the words of operators.

-- One row for each attribute: typed columns with plain indexes, so that a search by equality or range
-- begins with the shard as every other does. A row without a value is an attribute that was removed.
alter table runs drop column attributes;

create table attributes (
    shard    smallint not null,
    tenant   integer not null,
    run_id   uuid not null,
    name     text collate "C" not null,
    text     text collate "C",
    number   double precision,
    flag     boolean,
    time     timestamptz,
    primary key (shard, run_id, name)
);
create index attributes_by_text on attributes (shard, tenant, name, text, run_id) where text is not null;
create index attributes_by_number on attributes (shard, tenant, name, number, run_id) where number is not null;
create index attributes_by_flag on attributes (shard, tenant, name, flag, run_id) where flag is not null;
create index attributes_by_time on attributes (shard, tenant, name, time, run_id) where time is not null;
comment on table attributes is 'What runs are found by: one row for each attribute, with its value in the column of its type.';

create table entities (
    shard    smallint not null,
    tenant   integer not null,
    run_id   uuid not null,
    document json not null,
    primary key (shard, run_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
comment on table entities is 'The memory of each run that has written to it, as its last edit left it.';

create function run_attributes(of_shard smallint, of_run uuid) returns json language sql stable parallel safe
return (
    select json_object_agg(a.name, case
               when a.text is not null then to_json(a.text)
               when a.number is not null then to_json(a.number)
               when a.flag is not null then to_json(a.flag)
               else to_json(to_char(a.time at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
           end order by a.name)
    from attributes a
    where a.shard = of_shard and a.run_id = of_run and num_nonnulls(a.text, a.number, a.flag, a.time) > 0
);

create view run_memory as
select
    runs.shard, runs.tenant, runs.run_id, runs.workflow_id, runs.workflow,
    run_status_name(runs.status) as status,
    run_attributes(runs.shard, runs.run_id) as attributes,
    (select e.document from entities e where e.shard = runs.shard and e.run_id = runs.run_id) as entity
from runs;
comment on view run_memory is 'Each run with its attributes and its entity, as JSON.';

-- When to start which workflow again and again. What has become of it is in "state", which a host
-- replaces under the condition that it is still what the host has read.
create table schedules (
    shard      smallint not null,
    tenant     integer not null,
    name       text collate "C" not null,
    spec       json not null,
    state      json not null,
    revision   bigint not null,
    due_at     timestamptz,
    created_at timestamptz not null,
    primary key (shard, tenant, name)
);
create index schedules_by_due on schedules (shard, due_at) where due_at is not null;
comment on table schedules is 'Workflows that are started by the calendar.';
comment on column schedules.revision is 'Counts the changes: a change is made only to the revision that was read.';
comment on column schedules.due_at is 'When a host has to look at it next; null: nothing to do until somebody changes it.';

-- The names of what has been added.

create or replace function event_name(kind smallint) returns text language sql immutable parallel safe
return case kind
    when 1 then 'run-started'
    when 2 then 'activity-scheduled'
    when 3 then 'timer-started'
    when 4 then 'signal-awaited'
    when 5 then 'child-started'
    when 6 then 'op-cancelled'
    when 7 then 'change-patched'
    when 8 then 'op-shielded'
    when 9 then 'signal-sent'
    when 10 then 'cancel-sent'
    when 11 then 'update-answered'
    when 12 then 'entity-edited'
    when 13 then 'attributes-set'
    when 20 then 'activity-completed'
    when 21 then 'activity-failed'
    when 22 then 'activity-attempt-failed'
    when 23 then 'timer-fired'
    when 24 then 'signal-received'
    when 25 then 'child-completed'
    when 26 then 'child-failed'
    when 27 then 'cancel-requested'
    when 28 then 'message-accepted'
    when 29 then 'message-refused'
    when 30 then 'run-paused'
    when 31 then 'run-resumed'
    when 32 then 'run-retried'
    when 40 then 'run-completed'
    when 41 then 'run-failed'
    when 42 then 'run-cancelled'
    when 43 then 'run-terminated'
    when 44 then 'run-continued'
    when 45 then 'run-timed-out'
    else 'kind-' || kind
end;

create or replace function run_status_name(status smallint) returns text language sql immutable parallel safe
return case status
    when 1 then 'running'
    when 2 then 'parked'
    when 3 then 'paused'
    when 10 then 'completed'
    when 11 then 'failed'
    when 12 then 'cancelled'
    when 13 then 'terminated'
    when 14 then 'continued'
    when 15 then 'timed-out'
    else 'status-' || status
end;

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
    else 'kind-' || kind
end;
