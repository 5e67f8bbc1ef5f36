-- Looks at runs by their owner, whatever runs others have.
--
-- A plan is made while tables are empty, and kept. An index that fits no better than the primary key may lose to it then,
-- and the look reads every run of the shard from there on. So each of these looks has an index that is cheaper also when
-- there is nothing in it: because it brings the order that is asked for, or because its condition leaves less to check.

drop index runs_open_by_owner;
create index runs_open_by_owner on runs (shard, owner, run_id) where status < 10;
create index runs_unowned on runs (shard, run_id) where owner is null and status < 10;
