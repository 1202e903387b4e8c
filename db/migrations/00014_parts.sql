-- What a model has answered about the parts of a call that is too long to be
-- asked about at once, until its analysis is stored: an attempt goes on where
-- the one before it ended, and nothing is paid twice.

-- +goose Up
set local lock_timeout = '30s';

create table analysis_parts (
    event_id   bigint      not null references webhook_events on delete cascade,
    question   bytea       not null, -- digest of all that was asked
    answer     bytea       not null, -- as the analyser encodes it
    created_at timestamptz not null default now(),
    primary key (event_id, question)
);
create index analysis_parts_created on analysis_parts (created_at);

-- +goose Down
set local lock_timeout = '30s';

drop table analysis_parts;
