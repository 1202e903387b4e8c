-- The tables of Postcall. The first three are the Node service's: where its
-- database is found, they are kept with every row and every value, and the new
-- columns are added beside the old ones.

-- +goose Up
set local lock_timeout = '30s';

create table if not exists webhook_events (
    id                 bigserial primary key,
    event_type         text        not null,
    event_timestamp    bigint      not null, -- unix seconds, the sender's
    agent_id           text,
    conversation_id    text,
    status             text,
    has_audio          boolean,
    has_user_audio     boolean,
    has_response_audio boolean,
    payload            jsonb       not null,
    processed          boolean              default false,
    processed_at       timestamptz,
    processor_note     text,
    received_at        timestamptz          default now()
);

create table if not exists analyses (
    id         bigserial primary key,
    event_id   bigint references webhook_events (id) on delete cascade,
    model      text,
    result     jsonb,
    created_at timestamptz default now()
);

create table if not exists crm_dispatches (
    id            bigserial primary key,
    event_id      bigint references webhook_events (id) on delete cascade,
    payload       jsonb,
    response_text text,
    status        text,
    created_at    timestamptz default now()
);

alter table webhook_events
    alter column processed set default false,
    alter column received_at set default now(),
    add column event_id          text,
    add column dedup_key         text,
    add column raw_body          bytea,
    add column deliveries        integer not null default 1,
    add column last_delivered_at timestamptz,
    add column request_id        text,
    add column source            text not null default 'webhook'
        constraint webhook_events_source_known check (source in ('webhook', 'spool', 'import', 'manual')),
    add column analysis_state    text not null default 'none'
        constraint webhook_events_analysis_state_known
            check (analysis_state in ('none', 'queued', 'running', 'done', 'skipped', 'dead')),
    -- Set only on rows that the Node service stored twice: the first row of the
    -- same event. Lists and counts leave marked rows out.
    add column duplicate_of      bigint references webhook_events (id) on delete cascade;

-- The key's three forms are those of package elevenlabs. The raw body of an old
-- row is gone, so that its last form hashes the payload as jsonb prints it.
with keyed as (
    select id,
           received_at,
           case
               when coalesce(payload ->> 'event_id', '') <> '' then 'id:' || (payload ->> 'event_id')
               when coalesce(conversation_id, '') <> '' then
                   'call:' || event_type || ':' || conversation_id || ':' || event_timestamp
               else 'sha256:' || encode(sha256(convert_to(payload::text, 'UTF8')), 'hex')
           end as key
    from webhook_events
), ranked as (
    select id,
           key,
           first_value(id) over same   as first_id,
           count(*) over same          as deliveries,
           max(received_at) over same  as last_delivered_at
    from keyed
    window same as (partition by key order by id rows between unbounded preceding and unbounded following)
)
update webhook_events e
set event_id          = nullif(e.payload ->> 'event_id', ''),
    dedup_key         = case when r.id = r.first_id then r.key else 'duplicate:' || r.id || ':' || r.key end,
    duplicate_of      = nullif(r.first_id, r.id),
    deliveries        = case when r.id = r.first_id then r.deliveries else 1 end,
    last_delivered_at = case when r.id = r.first_id then r.last_delivered_at else e.received_at end,
    analysis_state    = case
                            when exists (select from analyses a where a.event_id = e.id) then 'done'
                            when r.id <> r.first_id then 'skipped'
                            else 'none'
                        end
from ranked r
where r.id = e.id;

alter table webhook_events
    alter column dedup_key set not null,
    add constraint webhook_events_dedup_key unique (dedup_key);

create index webhook_events_conversation on webhook_events (conversation_id) where conversation_id is not null;
create index webhook_events_received on webhook_events (received_at, id);
-- The states that somebody waits for or acts on; finished rows stay out of it.
create index webhook_events_open on webhook_events (analysis_state, id)
    where analysis_state in ('none', 'queued', 'running', 'dead');

alter table analyses
    alter column created_at set default now(),
    add column analyzer       text,
    add column prompt_version text,
    add column trigger        text,
    add column tokens_in      bigint,
    add column tokens_cached  bigint,
    add column tokens_out     bigint,
    add column cost_usd       numeric(12, 6),
    add column duration_ms    bigint,
    add column request_id     text;

create index analyses_event on analyses (event_id, id);

alter table crm_dispatches
    alter column created_at set default now(),
    -- The Node service wrote to BPMSoft alone.
    add column target      text not null default 'bpmsoft',
    add column analysis_id bigint references analyses (id) on delete cascade,
    add column attempt     integer,
    add column http_status integer;

create index crm_dispatches_event on crm_dispatches (event_id, id);
create unique index crm_dispatches_attempt on crm_dispatches (analysis_id, target, attempt) where analysis_id is not null;

create table call_audio (
    id              bigserial primary key,
    event_id        bigint      not null references webhook_events (id) on delete cascade,
    agent_id        text,
    conversation_id text,
    kind            text        not null, -- the payload's key it came under, such as full_audio
    object_key      text        not null unique,
    content_type    text        not null,
    bytes           bigint      not null,
    sha256          bytea       not null,
    created_at      timestamptz not null default now()
);

create index call_audio_conversation on call_audio (conversation_id);
create index call_audio_event on call_audio (event_id);

create table audit_log (
    id         bigserial primary key,
    at         timestamptz not null default now(),
    actor      text        not null, -- the token's name, or what acted in its place
    role       text        not null,
    action     text        not null,
    target     text,
    outcome    text        not null,
    request_id text,
    address    text,
    detail     jsonb
);

create index audit_log_at on audit_log (at, id);

create table rejections (
    id         bigserial primary key,
    at         timestamptz not null default now(),
    reason     text        not null,
    address    text        not null,
    user_agent text,
    request_id text,
    bytes      bigint
);

create index rejections_at on rejections (at, id);

-- +goose Down
set local lock_timeout = '30s';

-- The Node service's tables and rows stay, without the columns added to them.
drop table rejections;
drop table audit_log;
drop table call_audio;

drop index crm_dispatches_attempt;
drop index crm_dispatches_event;
alter table crm_dispatches
    drop column http_status,
    drop column attempt,
    drop column analysis_id,
    drop column target;

drop index analyses_event;
alter table analyses
    drop column request_id,
    drop column duration_ms,
    drop column cost_usd,
    drop column tokens_out,
    drop column tokens_cached,
    drop column tokens_in,
    drop column trigger,
    drop column prompt_version,
    drop column analyzer;

drop index webhook_events_open;
drop index webhook_events_received;
drop index webhook_events_conversation;
alter table webhook_events
    drop column duplicate_of,
    drop column analysis_state,
    drop column source,
    drop column request_id,
    drop column last_delivered_at,
    drop column deliveries,
    drop column raw_body,
    drop column dedup_key,
    drop column event_id;
