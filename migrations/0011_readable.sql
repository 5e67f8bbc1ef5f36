-- Payloads that can be looked into with ->>, whatever is in them.
--
-- JSON may say \u0000, and halves of a surrogate pair. A payload has them as they came, but Postgres' text cannot, and
-- `->>` fails: one such payload broke every query over a whole view. The views show U+FFFD in their place; the tables
-- have the payload as it is.

create function readable(document json) returns json language sql immutable parallel safe
return case when document::text ~ '\\u(0000|[dD][89a-fA-F])' then
    regexp_replace(regexp_replace(regexp_replace(document::text,
        -- Not what only looks like an escape, behind an escaped backslash.
        '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g'),
        '(?<!\\)((?:\\\\)*)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})', '\1\\ufffd', 'g'),
        '(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?<!\\)((?:\\\\)*)\\u[dD][c-fC-F][0-9a-fA-F]{2}', '\1\\ufffd', 'g')::json
    else document end;

-- As before, with what can be read. A shielded op still waits after a request to cancel.
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
        readable(l.payload) as payload, readable(l.detail) as detail,
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
        readable(i.payload), readable(i.detail), true
    from inbox i
) story
join runs on runs.shard = story.shard and runs.run_id = story.run_id
left join timers on timers.shard = story.shard and timers.run_id = story.run_id
    and timers.op = story.op and story.unanswered;

create or replace view run_memory as
select
    runs.shard, runs.tenant, runs.run_id, runs.workflow_id, runs.workflow,
    run_status_name(runs.status) as status,
    run_attributes(runs.shard, runs.run_id) as attributes,
    (select readable(e.document) from entities e where e.shard = runs.shard and e.run_id = runs.run_id) as entity
from runs;
