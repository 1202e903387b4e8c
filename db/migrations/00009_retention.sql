-- How long things are kept, and what was erased.

-- +goose Up
set local lock_timeout = '30s';

-- What is left of an event's body: all of it, all but what was said, or a stub.
-- The index holds only what a later retention may still take, the oldest first.
alter table webhook_events
    add column body_kept text not null default 'all'
        constraint webhook_events_body_kept_known check (body_kept in ('all', 'unsaid', 'none'));
create index webhook_events_body_kept on webhook_events (body_kept, received_at, id) where body_kept <> 'none';

create index analyses_created on analyses (created_at, id);
create index call_audio_created on call_audio (created_at, id);
create index crm_dispatches_kept on crm_dispatches (created_at, id)
    where payload is not null or response_text is not null;

-- How the retention of each kind that has an age stands.
create table retention_kinds (
    kind          text primary key,
    age           interval    not null,
    since         timestamptz not null default now(),
    begun_at      timestamptz not null default now(),
    finished_at   timestamptz, -- when nothing too old was left the last time
    failing_since timestamptz
);

-- without_said takes out of a body what was said in the call, in every form of a
-- transcript. ElevenLabs' own summary and what it collected stay.
create function without_said(body jsonb) returns jsonb
    language sql immutable parallel safe as $$
select case when jsonb_typeof(body) <> 'object' then '{"removed": "retention"}'
            else (body - 'transcript') #- '{data,transcript}' #- '{data,otlp_traces}' || '{"removed": "transcript"}' end
$$;

-- What may not come back: digests of the calls that were erased. The salt is
-- this database's own. It need not be a secret: what is hashed with it are ids
-- too long to be guessed, never telephone numbers.
create table erased_calls (
    digest    bytea primary key,
    erased_at timestamptz not null default now()
);
create table erasure_salt (salt bytea not null);
insert into erasure_salt values (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
create unique index erasure_salt_one on erasure_salt ((true));

create function erasure_digest(kind text, id text) returns bytea
    language sql stable parallel safe as $$
select sha256(salt || convert_to(kind || ':' || id, 'UTF8')) from erasure_salt
$$;

-- Erasures that were asked for. Whom one is about stands here only until it is
-- done; then a keyed digest is all that is left.
create table erasures (
    id              bigserial primary key,
    phone           text, -- E.164
    conversation_id text,
    searched        bigint      not null default 0,    -- up to which event
    found           bigint[]    not null default '{}', -- events that mention the phone
    dry_run         boolean     not null,
    subject         text        not null, -- what the audit log says of it
    actor           text        not null,
    role            text        not null,
    request_id      text,
    address         text,
    state           text        not null default 'queued'
        constraint erasures_state_known check (state in ('queued', 'done', 'refused')),
    result          jsonb,
    created_at      timestamptz not null default now(),
    finished_at     timestamptz
);

-- +goose Down
set local lock_timeout = '30s';

drop table erasures;
drop table retention_kinds;
drop function erasure_digest(text, text);
drop table erasure_salt;
drop table erased_calls;
drop function without_said(jsonb);
drop index crm_dispatches_kept;
drop index call_audio_created;
drop index analyses_created;
drop index webhook_events_body_kept;
alter table webhook_events drop column body_kept;
