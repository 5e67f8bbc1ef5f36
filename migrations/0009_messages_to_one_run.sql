-- The name of one more kind of message.

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
    when 14 then 'terminate-this'
    else 'kind-' || kind
end;
