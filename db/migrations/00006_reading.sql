-- What lists, searches and counts read: one narrow row an event, with all that
-- they filter by in one inverted index, and figures by the day. Receiving
-- writes nothing here: an event that waits for its analysis has no row yet and
-- is listed from webhook_events. Triggers keep the rows in step in the very
-- transaction that changes what they are made from, whoever changes it.

-- +goose Up
set local lock_timeout = '30s';

-- call_words gives the stems of a text, each behind a prefix. The configuration
-- stems Latin words as English and the others as Russian; ё is read as е.
create function call_words(prefix text, said text) returns text[]
    language sql immutable parallel safe as $$
select coalesce(array_agg(left(prefix || stem, 200)), '{}')
from unnest(tsvector_to_array(to_tsvector('pg_catalog.russian', translate(left(said, 2000), 'ёЁ', 'ее')))) stem
$$;

-- call_number gives a telephone number's last 4, 7 and 10 digits and, of a
-- shorter one, all of them: by these it is looked for.
create function call_number(number text) returns text[]
    language sql immutable parallel safe as $$
select coalesce(array_agg(distinct 'phone=' || right(digits, n)), '{}')
from (select left(regexp_replace(number, '\D', '', 'g'), 40) as digits) d,
     unnest(array[4, 7, 10, least(length(digits), 10)]) n
where length(digits) >= n and n >= 4
$$;

-- call_said gives what was said in a call, of every form of a transcript, and
-- ElevenLabs' own summary. Bounded, so that no text is too long for a tsvector.
create function call_said(payload jsonb) returns text
    language sql immutable parallel safe as $$
select left(string_agg(left(said #>> '{}', 20000), ' '), 100000)
from (
    select jsonb_path_query(payload, 'lax $.data.transcript[*].message') as said
    union all
    select jsonb_path_query(payload, 'lax $.transcript[*].message')
    union all
    select jsonb_path_query(payload, 'lax $.data.analysis.transcript_summary')
    union all
    select jsonb_path_query(payload, 'lax $.data.analysis.call_summary_title')
    union all
    select jsonb_path_query(payload, 'lax $.data.otlp_traces.resourceSpans[*].scopeSpans[*].spans[*].attributes[*]
        ? (@.key == "elevenlabs.user.text" || @.key == "elevenlabs.agent.text"
            || @.key == "elevenlabs.analysis.transcript_summary" || @.key == "elevenlabs.analysis.call_summary_title").value.stringValue')
) texts
where jsonb_typeof(said) = 'string'
$$;

create table calls (
    event_id       bigint primary key references webhook_events (id) on delete cascade,
    at             timestamptz not null, -- received_at; the epoch for the few rows of the Node service without one
    state          text        not null, -- analysis_state; in no index, so that its change costs little
    event_type     text        not null,
    agent_id       text,
    -- The newest analysis that is one, and what it says.
    analysis_id    bigint,
    quality        smallint,
    outcome_code   text,
    sentiment      text,
    topic          text,
    cost_usd       numeric(12, 6),
    duration_s     real,
    failure_reason text,                 -- why a dial failed
    -- All that is filtered by, as key=value; words of texts one by one. Three
    -- keys are the day (since 1970), and its eighth and sixty-fourth part, so
    -- that the index finds the newest matches without reading all of them.
    facets         text[]      not null,
    said           tsvector
) with (toast_tuple_target = 128);

alter table calls
    alter column facets set storage extended,
    alter column facets set statistics 1000,
    alter column said set statistics 500;
-- lz4 is read several times as fast as pglz; a server built without it keeps that.
-- +goose StatementBegin
do $$
begin
    alter table calls alter column said set compression lz4, alter column facets set compression lz4;
exception
    when feature_not_supported then null;
end
$$;
-- +goose StatementEnd

-- call_rows computes the rows of calls: the one definition of what they hold.
create view call_rows as
select e.id as event_id,
       coalesce(e.received_at, 'epoch') as at,
       e.analysis_state as state,
       e.event_type,
       e.agent_id,
       a.id as analysis_id,
       r.quality,
       r.outcome_code,
       r.sentiment,
       left(r.topic, 120) as topic,
       a.cost_usd,
       case when r.duration ~ '^\d{1,8}(\.\d{1,9})?$' then r.duration::real end as duration_s,
       r.failure_reason,
       array_remove(array[
           'type=' || left(e.event_type, 200),
           'agent=' || left(e.agent_id, 200),
           'conversation=' || left(e.conversation_id, 200),
           'audio=' || case when e.has_audio then 'yes' else 'no' end,
           -- Until the event is settled again: as the analysis at hand leaves it.
           'state=' || case when e.analysis_state not in ('queued', 'running') then e.analysis_state when a.id is not null then 'done' end,
           'quality=' || r.quality,
           'code=' || r.outcome_code,
           'sentiment=' || r.sentiment,
           'reason=' || r.failure_reason,
           'day=' || d.day, 'day8=' || (d.day >> 3), 'day64=' || (d.day >> 6)
       ], null)
       || call_words('topic=', r.topic) || call_words('intent=', r.intent)
       || call_words('outcome=', r.outcome) || call_words('name=', r.client_name)
       || (select coalesce(array_agg(distinct token), '{}') from unnest(r.numbers) number, unnest(call_number(number)) token) as facets,
       to_tsvector('pg_catalog.russian', translate(left(concat_ws(' ',
           r.topic, r.intent, r.outcome, r.summary, r.client_name, r.recommendations, call_said(e.payload)), 110000), 'ёЁ', 'ее')) as said
from webhook_events e
left join lateral (
    select id, result, cost_usd from analyses
    where event_id = e.id and jsonb_typeof(result) = 'object' and result <> '{}'
    order by id desc limit 1) a on true
cross join lateral (select floor(extract(epoch from coalesce(e.received_at, 'epoch')) / 86400)::integer as day) d
cross join lateral (
    select case when a.result ->> 'quality' ~ '^[1-5](\.0+)?$' then left(a.result ->> 'quality', 1)::smallint end as quality,
           left(a.result ->> 'outcome_code', 64) as outcome_code,
           left(a.result ->> 'sentiment', 64) as sentiment,
           a.result ->> 'topic' as topic,
           a.result ->> 'intent' as intent,
           a.result ->> 'outcome' as outcome,
           a.result ->> 'client_name' as client_name,
           left(a.result ->> 'summary_ru', 5000) as summary,
           left(a.result ->> 'recommendations', 5000) as recommendations,
           coalesce(e.payload #>> '{data,metadata,call_duration_secs}', e.metrics ->> 'duration_s') as duration,
           case when e.event_type = 'call_initiation_failure' then left(e.payload #>> '{data,failure_reason}', 64) end as failure_reason,
           array_remove(array[
               a.result ->> 'phone',
               e.payload #>> '{data,metadata,phone_call,external_number}',
               e.payload #>> '{data,conversation_initiation_client_data,dynamic_variables,system__caller_id}',
               e.payload #>> '{data,metadata,body,to_number}',
               e.payload #>> '{data,metadata,body,To}'
           ], null) as numbers
) r
where e.duplicate_of is null;

-- list_call brings an event's row up to date. It is planned once a connection.
-- +goose StatementBegin
create function list_call(id bigint) returns void language plpgsql as $$
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
-- +goose StatementEnd

insert into calls (event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, facets, said)
select event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
    cost_usd, duration_s, failure_reason, facets, said
from call_rows
order by at, event_id;

create index calls_at on calls (at, event_id);
-- Entries go to their place at once: a list of pending ones would be read by
-- every search.
create index calls_facets on calls using gin (facets, said) with (fastupdate = off);

-- Figures by the day (since 1970, UTC), so that those of years add up days and
-- not calls: of every agent, and under the agent '' of all. A day that is over
-- is added up by whoever asks for it first, and again if something changed in it.
create table call_days (
    fact   text             not null,
    agent  text             not null,
    value  text             not null,
    day    integer          not null,
    events bigint           not null,
    amount double precision,          -- summed up where the fact is a number
    primary key (fact, agent, value, day)
);
create index call_days_day on call_days (day);
create table call_days_added (day integer primary key);
-- A log, so that those who write it never wait for one another.
create table call_days_changed (day integer not null);

create function call_facts(since timestamptz, until timestamptz)
    returns table (fact text, agent text, value text, day integer, events bigint, amount double precision)
    language sql stable as $$
select f.fact, coalesce(f.agent, ''), f.value, f.day, count(*), sum(f.amount)
from (
    select v.fact, v.value, v.amount, coalesce(nullif(c.agent_id, ''), 'unknown') as agent,
           floor(extract(epoch from c.at) / 86400)::integer as day
    from calls c cross join lateral (values
        ('event', '', null::double precision),
        ('type', c.event_type, null), ('state', c.state, null),
        ('analysed', case when c.analysis_id is not null then '' end, c.cost_usd::double precision),
        ('rated', case when c.quality is not null then '' end, c.quality),
        ('quality', c.quality::text, null), ('code', c.outcome_code, null), ('sentiment', c.sentiment, null),
        ('reason', c.failure_reason, null),
        ('duration', case when c.duration_s is not null then '' end, c.duration_s)
    ) v (fact, value, amount)
    where c.at >= since and c.at < until and v.value is not null
) f
group by grouping sets ((f.fact, f.value, f.day, f.agent), (f.fact, f.value, f.day))
$$;

insert into call_days (fact, agent, value, day, events, amount)
select fact, agent, value, day, events, amount from call_facts('-infinity', date_trunc('day', now(), 'UTC'));
insert into call_days_added select distinct day from call_days;

-- +goose StatementBegin
create function log_changed_day() returns trigger language plpgsql as $$
begin
    insert into call_days_changed values (floor(extract(epoch from coalesce(new.at, old.at)) / 86400)::integer);
    return null;
end
$$;
-- +goose StatementEnd

create trigger calls_day_changed after insert or update on calls for each row
    when (new.at < date_trunc('day', now(), 'UTC')) execute function log_changed_day();
create trigger calls_day_emptied after delete on calls for each row
    when (old.at < date_trunc('day', now(), 'UTC')) execute function log_changed_day();

-- +goose StatementBegin
create function list_settled_call() returns trigger language plpgsql as $$
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

create function list_changed_call() returns trigger language plpgsql as $$
begin
    if new.duplicate_of is not null then
        delete from calls where event_id = new.id;
    elsif exists (select from calls where event_id = new.id) then
        perform list_call(new.id);
    end if;
    return null;
end
$$;

create function list_analysed_call() returns trigger language plpgsql as $$
begin
    perform list_call(coalesce(new.event_id, old.event_id));
    return null;
end
$$;
-- +goose StatementEnd

create trigger calls_inserted after insert on webhook_events for each row
    when (new.analysis_state not in ('queued', 'running') and new.duplicate_of is null)
    execute function list_settled_call();
create trigger calls_settled after update of analysis_state on webhook_events for each row
    when (new.analysis_state is distinct from old.analysis_state and new.duplicate_of is null)
    execute function list_settled_call();
create trigger calls_changed
    after update of payload, event_type, agent_id, conversation_id, has_audio, received_at, duplicate_of on webhook_events for each row
    execute function list_changed_call();
create trigger calls_analysed after insert or update of result or delete on analyses for each row
    execute function list_analysed_call();

-- +goose Down
set local lock_timeout = '30s';

drop trigger calls_analysed on analyses;
drop trigger calls_changed on webhook_events;
drop trigger calls_settled on webhook_events;
drop trigger calls_inserted on webhook_events;
drop function list_analysed_call;
drop function list_changed_call;
drop function list_settled_call;
drop function list_call;
drop function call_facts;
drop table call_days, call_days_added, call_days_changed;
drop view call_rows;
drop table calls;
drop function log_changed_day;
drop function call_said;
drop function call_number;
drop function call_words;
