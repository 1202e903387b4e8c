-- +goose Up
set local lock_timeout = '30s';

-- What all workers know together of a target that results are sent to: when
-- the next attempt may begin, and whether attempts are given up for a while
-- because the last ones failed (open_until; past that time one attempt is made
-- to see).
create table crm_targets (
    target          text primary key,
    next_start      timestamptz not null default '-infinity',
    failures        integer     not null default 0, -- in a row
    openings        integer     not null default 0, -- in a row
    opened_at       timestamptz,
    open_until      timestamptz,
    last_error      text,
    last_failure_at timestamptz,
    last_success_at timestamptz
);

-- +goose Down
set local lock_timeout = '30s';

drop table crm_targets;
