-- Messages know who looks for them: a host walks along its own, however many wait for runs of other hosts.
--
-- Whoever sends a message writes down who owns the run just then. That may be wrong by the time it is read: a message names
-- a host that has died since, or nobody, as those of earlier versions do. Such messages every host walks along as well, and
-- whoever owns the run by then puts its own name there.

alter table inbox add column owner uuid not null default '00000000-0000-0000-0000-000000000000';
comment on column inbox.owner is
    'Who owned the run when the message was sent, and looks for it. Zeros, or a host that is not alive: whoever owns the run now.';

update inbox set owner = runs.owner
from runs
where runs.shard = inbox.shard and runs.run_id = inbox.run_id and runs.owner is not null;

create index inbox_by_owner on inbox (shard, owner, run_id) where kind >= 0;
-- Nothing has looked for messages by their ids alone since they are read run by run.
drop index inbox_by_item;
