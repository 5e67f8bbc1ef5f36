-- Messages between runs, answers to updates, and ops that outlive a request to cancel.

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
    when 40 then 'run-completed'
    when 41 then 'run-failed'
    when 42 then 'run-cancelled'
    when 43 then 'run-terminated'
    when 44 then 'run-continued'
    else 'kind-' || kind
end;

-- As before, with the new kinds. A shielded op still waits after a request to cancel.
-- Windows instead of self-joins: a condition on (shard, run_id) is pushed down through them, so the
-- history of one run costs its own rows only.
create or replace view run_history as
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
            when l.kind in (2, 3, 5, 9, 10) then
                not bool_or(l.kind in (20, 21, 23, 25, 26, 28, 29)) over (partition by l.shard, l.run_id, l.op)
                and (l.seq > coalesce(max(l.seq) filter (where l.kind = 27) over (partition by l.shard, l.run_id), -1)
                     or coalesce(l.op::text = any (
                            array_agg(l.detail ->> 'target') filter (where l.kind = 8)
                            over (partition by l.shard, l.run_id)), false))
            when l.kind = 4 then
                count(*) filter (where l.kind = 4) over (partition by l.shard, l.run_id, l.name order by l.seq)
                > count(*) filter (where l.kind = 24) over (partition by l.shard, l.run_id, l.name)
                and (l.seq > coalesce(max(l.seq) filter (where l.kind = 27) over (partition by l.shard, l.run_id), -1)
                     or coalesce(l.op::text = any (
                            array_agg(l.detail ->> 'target') filter (where l.kind = 8)
                            over (partition by l.shard, l.run_id)), false))
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

