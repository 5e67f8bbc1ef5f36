-- What hosts know of their runs.
--
-- Timers know whose they are: a host looks at its own, however many sleep on other hosts.
--
-- The owner is written with the timer, by the run's owner, and by the claim that gives the run another one. Hosts of an
-- earlier version write none; their timers are found again when their runs are claimed.

alter table timers add column owner uuid;
comment on column timers.owner is 'Who owns the run, and looks for its timers.';

update timers set owner = runs.owner
from runs
where runs.shard = timers.shard and runs.run_id = timers.run_id and runs.owner is not null;

create index timers_by_owner on timers (shard, owner, due_at) where purpose >= 0;
drop index timers_by_due;

-- Nor does a look for tasks that nobody waits for cost anything for those that a worker still has.
drop index tasks_given_up;
create index tasks_given_up on tasks (shard, run_id) where given_up and lease is null;

-- What tells that hosts are lost over a run, without a commit for runs that do no harm.
--
-- A claim from a host that died, and did not give its runs back, counts one host up. A run that went on since then counts
-- from 0 again. Two hosts are no proof: what they owned besides looks the same. So from then on the run is led alone,
-- under a mark that is committed before; only a host that dies under the mark makes three.

alter table runs
    add column losses smallint not null default 0 check (losses >= 0),
    add column trial smallint not null default 0,
    add column trial_op integer;
comment on column runs.losses is 'Hosts that were lost with the run since it last went on. 3: it is parked.';
comment on column runs.trial is '0: nothing is known against it. 1: claimed from a host that died, and not led along its ledger yet. 2: led alone just now.';
comment on column runs.trial_op is 'The call whose attempt is on trial; null: the run itself.';

alter table leases add column released boolean not null default false;
comment on column leases.released is 'The host gave its runs back: it did not die over any of them.';
