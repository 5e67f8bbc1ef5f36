-- What the database had committed and does not hold any more: after a failover to a replica that lagged, or a restore.

create table losses (
    shard          smallint not null,
    tenant         integer not null,
    run_id         uuid not null,
    workflow_id    text collate "C" not null,
    rows_kept      integer not null,
    rows_committed integer not null,
    host_id        uuid not null,
    noted_at       timestamptz not null,
    primary key (shard, run_id, rows_kept)
);
comment on table losses is 'Runs whose last committed rows are gone, as the hosts that had them in memory found out.';
comment on column losses.rows_kept is 'How many rows of the run were left. Later rows of the same places are new ones.';
comment on column losses.rows_committed is 'How many rows had been committed, and told of, before.';

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
    when 13 then 'repair'
    else 'kind-' || kind
end;
