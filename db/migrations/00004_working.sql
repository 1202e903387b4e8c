-- +goose Up
set local lock_timeout = '30s';

-- Why the last analysis failed, for people and for grouping: the class of the
-- failure, and a hash of class and message that is the same for failures of one
-- kind. Cleared when the event is analysed. Metrics are what code computes from
-- the transcript, whatever became of the analysis.
alter table webhook_events
    add column failure_code        text,
    add column failure_fingerprint text,
    add column failed_at           timestamptz,
    add column metrics             jsonb;

create index webhook_events_dead on webhook_events (failure_fingerprint, failed_at, id)
    where analysis_state = 'dead';

-- The job that made the analysis, so that no attempt of it asks for another.
alter table analyses add column job_id bigint;
create index analyses_job on analyses (job_id) where job_id is not null;

-- The places of a throttle: who holds one may have an analysis in flight. A
-- place is a lease, renewed while it is used; one that has expired is free.
-- Rows are updated in place and never deleted, so that the tables stay small;
-- room on the page keeps them from growing.
create table throttle_places (
    throttle   text        not null,
    place      integer     not null, -- counted from 1
    holder     text        not null, -- a process: its id there and a random name
    expires_at timestamptz not null,
    primary key (throttle, place)
) with (fillfactor = 50);

-- When the next request may start. Whoever starts holds an advisory lock.
create table throttle_starts (
    throttle   text primary key,
    next_start timestamptz not null default '-infinity'
) with (fillfactor = 50);

-- The last pause that the workers made of a queue, because the other side
-- refuses the installation as such. It is in force while resumed_at is null and
-- the queue's own paused_at is still the one that stands here; any other pause
-- is somebody's who acted by hand.
create table queue_pauses (
    queue      text primary key,
    code       text        not null,
    reason     text        not null,
    paused_by  text        not null, -- the worker whose job was refused
    since      timestamptz not null, -- the first of an unbroken series of pauses
    paused_at  timestamptz not null, -- as in river_queue
    probes     integer     not null default 0,
    probed_at  timestamptz,
    probe_at   timestamptz not null, -- the next probe is due
    resumed_at timestamptz
);

-- +goose Down
set local lock_timeout = '30s';

drop table queue_pauses;
drop table throttle_starts;
drop table throttle_places;

drop index analyses_job;
alter table analyses drop column job_id;

drop index webhook_events_dead;
alter table webhook_events
    drop column metrics,
    drop column failed_at,
    drop column failure_fingerprint,
    drop column failure_code;
