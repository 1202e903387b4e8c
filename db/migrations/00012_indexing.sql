-- What a call is found by, its facets and words, takes longer to write than all
-- else that is known of it: more than half of the time of an analysis. So its
-- row in calls is written in the transaction that changes it, for lists and
-- figures, and is noted as due; the workers index what is due in batches.

-- +goose Up
set local lock_timeout = '30s';

-- A log, so that those who write it never wait for one another.
create table calls_due (
    id       bigint generated always as identity primary key,
    event_id bigint      not null,
    since    timestamptz not null default now()
);

-- A batch's entries go to the index together: those of a word that many calls
-- share, as one. The list of entries that wait, which every search reads, is
-- kept short.
alter index calls_facets set (fastupdate = on, gin_pending_list_limit = 1024);

-- list_call brings an event's row up to date, but for what it is found by.
-- +goose StatementBegin
create or replace function list_call(id bigint) returns void language plpgsql as $$
begin
insert into calls as c (event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, facets)
select event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, '{}'
from call_rows r where r.event_id = $1
on conflict (event_id) do update set
    at = excluded.at, state = excluded.state, event_type = excluded.event_type, agent_id = excluded.agent_id,
    analysis_id = excluded.analysis_id, quality = excluded.quality, outcome_code = excluded.outcome_code,
    sentiment = excluded.sentiment, topic = excluded.topic, cost_usd = excluded.cost_usd, duration_s = excluded.duration_s,
    failure_reason = excluded.failure_reason;
insert into calls_due (event_id) values ($1);
end
$$;

-- index_calls indexes at most so many of what is due, the longest due first, and
-- tells how many it has done with; null while another does it. One at a time, as
-- of two the one with the older sight could be the last to write.
create function index_calls(batch integer) returns integer language plpgsql as $$
declare
    done integer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('index_calls', 0)) then
        return null;
    end if;
    -- One statement, so that what is read and what is no longer due are of one
    -- moment. Who changes a row is not waited for: it is due again by then.
    with due as materialized (
        select id, event_id from calls_due order by id limit batch
    ), rows as materialized (
        select event_id from calls where event_id in (select event_id from due) for update skip locked
    ), indexed as (
        update calls c set facets = r.facets, said = r.said
        from rows join call_rows r using (event_id)
        where c.event_id = rows.event_id
    ), gone as (
        delete from calls_due d using due
        where d.id = due.id and (due.event_id in (select event_id from rows)
            or not exists (select from calls c where c.event_id = due.event_id))
        returning d.id
    )
    select count(*) into done from gone;
    return done;
end
$$;

create or replace function list_settled_call() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        update calls set state = new.analysis_state where event_id = new.id;
        if new.analysis_state in ('queued', 'running') then
            return null;
        end if;
        if found then
            insert into calls_due (event_id)
            select new.id from calls where event_id = new.id and not facets @> array['state=' || new.analysis_state];
            return null;
        end if;
    end if;
    perform list_call(new.id);
    return null;
end
$$;
-- +goose StatementEnd

-- +goose Down
set local lock_timeout = '30s';

-- +goose StatementBegin
create or replace function list_call(id bigint) returns void language plpgsql as $$
begin
insert into calls as c (event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, facets, said)
select event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, facets, said
from call_rows r where r.event_id = $1
on conflict (event_id) do update set
    at = excluded.at, state = excluded.state, event_type = excluded.event_type, agent_id = excluded.agent_id,
    analysis_id = excluded.analysis_id, quality = excluded.quality, outcome_code = excluded.outcome_code,
    sentiment = excluded.sentiment, topic = excluded.topic, cost_usd = excluded.cost_usd, duration_s = excluded.duration_s,
    failure_reason = excluded.failure_reason, facets = excluded.facets, said = excluded.said;
end
$$;

create or replace function list_settled_call() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        update calls set state = new.analysis_state
        where event_id = new.id
            and (new.analysis_state in ('queued', 'running') or facets @> array['state=' || new.analysis_state]);
        if found or new.analysis_state in ('queued', 'running') then
            return null;
        end if;
    end if;
    perform list_call(new.id);
    return null;
end
$$;
-- +goose StatementEnd
select list_call(event_id) from (select distinct event_id from calls_due order by event_id) due;
drop function index_calls;
drop table calls_due;
alter index calls_facets reset (fastupdate, gin_pending_list_limit);
alter index calls_facets set (fastupdate = off);
