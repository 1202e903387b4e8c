-- Where each rule of the alerts stands, for all workers together.

-- +goose Up
set local lock_timeout = '30s';

create table alerts (
    rule        text primary key,
    firing      boolean     not null default false,
    -- Counts up each time the rule begins to fire, so that a message is told
    -- from that of another time.
    incident    bigint      not null default 0,
    since       timestamptz,           -- of the incident
    clear_since timestamptz,           -- while it fires: since when nothing is wrong any more
    reminded_at timestamptz,           -- the last message that it fires
    value       double precision,      -- at the last check
    checked_at  timestamptz
);

-- +goose Down
set local lock_timeout = '30s';

drop table alerts;
