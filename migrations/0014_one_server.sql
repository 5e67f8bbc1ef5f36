-- Whether all sessions of a host reach one server.
--
-- After a failover some may be at the old primary and some at the new one, and both of them take writes. Each heartbeat
-- has a number of its host's own, which only the server of the session has that sent it: a session that reads a smaller
-- one is elsewhere.

alter table leases add column beats bigint not null default 0;
comment on column leases.beats is 'The number of the latest heartbeat, as the host counts them.';
