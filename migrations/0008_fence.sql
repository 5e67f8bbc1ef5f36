-- Heartbeats do not wait for appends.
--
-- An append holds its host's lease FOR KEY SHARE until it has committed, so that whoever declares the lease dead waits
-- for it. A heartbeat must not: an append may itself wait for a lock, and would cost the host its lease. Postgres tells
-- the two apart by the columns they change: those of a unique index are locked FOR UPDATE, others FOR NO KEY UPDATE,
-- which FOR KEY SHARE lets pass. Hosts of earlier versions, which append FOR SHARE, are shut out as before.
create unique index leases_fence on leases (shard, host_id, epoch, dead);
comment on index leases_fence is 'Makes a change of epoch or dead wait for appends that are under way, and a heartbeat not.';
