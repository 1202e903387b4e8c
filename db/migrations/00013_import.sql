-- What was fetched from ElevenLabs because its webhook never came.

-- +goose Up
set local lock_timeout = '30s';

create table import_runs (
    id        bigserial primary key,
    trigger   text        not null check (trigger in ('schedule', 'command')),
    agent_id  text,                 -- of one agent only
    since     timestamptz not null, -- when calls began
    until     timestamptz not null,
    cursor    text,                 -- where a run that is not finished goes on
    upstream  integer     not null default 0, -- calls that are over there
    present   integer     not null default 0, -- of them, here before
    imported  integer     not null default 0,
    completed integer     not null default 0, -- had come without their transcript
    recordings integer    not null default 0,
    erased    integer     not null default 0, -- were erased here and stay so
    failed    integer     not null default 0,
    error     text,                 -- why it ended early; nothing of a call
    began_at  timestamptz not null default now(),
    ended_at  timestamptz
);
create index import_runs_began on import_runs (began_at desc);

-- By the day on which calls began (UTC): as the newest look at each day found it.
create table import_days (
    day      date        primary key,
    upstream integer     not null,
    present  integer     not null,
    imported integer     not null, -- ever
    failed   integer     not null,
    seen_at  timestamptz not null default now()
);

-- +goose Down
set local lock_timeout = '30s';

drop table import_days, import_runs;
