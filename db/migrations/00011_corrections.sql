-- What people say that an analysis got wrong, kept beside what the model said:
-- rows are only ever added. Lists, searches, figures and what is sent to other
-- systems go by the corrected values.

-- +goose Up
set local lock_timeout = '30s';

create table corrections (
    id          bigserial primary key,
    event_id    bigint      not null references webhook_events on delete cascade,
    analysis_id bigint      references analyses on delete set null, -- what was looked at
    field       text        not null check (field in
        ('topic', 'intent', 'quality', 'outcome', 'outcome_code', 'sentiment', 'summary_ru', 'client_name', 'phone')),
    value       jsonb       not null,               -- null in it: the conversation does not tell
    model_value jsonb       not null,               -- what the analysis said
    withdrawn   boolean     not null default false, -- the model's value counts again
    who         text        not null,
    role        text        not null,
    at          timestamptz not null default now()
);
create index corrections_event on corrections (event_id, id);
create index corrections_analysis on corrections (analysis_id);

-- Who has taken up what a call asks for, such as calling back.
create table handled (
    event_id bigint primary key references webhook_events on delete cascade,
    who      text        not null,
    at       timestamptz not null default now()
);

-- corrected lays the newest correction of each field over a result.
create function corrected(event bigint, result jsonb) returns jsonb language sql stable as $$
select case when jsonb_typeof(result) = 'object' then result || coalesce((
    select jsonb_object_agg(field, value)
    from (select distinct on (field) field, value, withdrawn from corrections
          where event_id = event order by field, id desc) newest
    where not withdrawn), '{}') else result end
$$;

create or replace view call_rows as
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
    select id, corrected(event_id, result) as result, cost_usd from analyses
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

-- +goose StatementBegin
create function list_corrected_call() returns trigger language plpgsql as $$
begin
    perform list_call(new.event_id);
    return null;
end
$$;
-- +goose StatementEnd
create trigger calls_corrected after insert on corrections for each row execute function list_corrected_call();

-- +goose Down
set local lock_timeout = '30s';

create or replace view call_rows as
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

drop trigger calls_corrected on corrections;
drop function list_corrected_call;
drop function corrected;
drop table handled;
-- Their calls are listed by the model's values again.
create temporary table corrected_calls on commit drop as select distinct event_id from corrections;
drop table corrections;
select list_call(event_id) from corrected_calls;
