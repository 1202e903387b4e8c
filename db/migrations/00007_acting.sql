-- +goose Up
set local lock_timeout = '30s';

-- The audit log is append-only. Three things hold that: nobody but the owner
-- keeps a right to change or delete rows, the owner keeps none to change or
-- truncate, and a trigger refuses what is left, to superusers too. Entries go
-- only by audit_log_forget, and never before they are 30 days old. Run the
-- service as another role than the one that migrates: it then cannot take the
-- trigger off either.
-- +goose StatementBegin
create function audit_log_append_only() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and old.at < now() - interval '30 days'
        and current_setting('postcall.audit_retention', true) = 'on' then
        return old;
    end if;
    raise exception 'audit_log is append-only: % is refused', lower(tg_op) using errcode = 'insufficient_privilege';
end
$$;
-- +goose StatementEnd

create trigger audit_log_append_only before update or delete on audit_log
    for each row execute function audit_log_append_only();
create trigger audit_log_no_truncate before truncate on audit_log
    for each statement execute function audit_log_append_only();

-- Deletes entries older than an age, at least 30 days, and says how many.
-- +goose StatementBegin
create function audit_log_forget(older_than interval) returns bigint
    language plpgsql security definer
    set search_path from current
    set postcall.audit_retention = 'on'
as $$
declare
    forgotten bigint;
begin
    if older_than < interval '30 days' then
        raise exception 'the audit log is kept for at least 30 days' using errcode = 'invalid_parameter_value';
    end if;
    delete from audit_log where at < now() - older_than;
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;
-- +goose StatementEnd
revoke all on function audit_log_forget(interval) from public;

-- +goose StatementBegin
do $$
declare
    held record;
begin
    revoke update, delete, truncate on audit_log from public;
    for held in
        select distinct g.rolname
        from pg_class c, aclexplode(c.relacl) a
        join pg_roles g on g.oid = a.grantee
        where c.oid = 'audit_log'::regclass and a.grantee <> c.relowner
    loop
        execute format('revoke update, delete, truncate on audit_log from %I', held.rolname);
        execute format('grant execute on function audit_log_forget(interval) to %I', held.rolname);
    end loop;
    revoke update, truncate on audit_log from current_user;
end
$$;
-- +goose StatementEnd

create index audit_log_actor on audit_log (actor, id);

-- What a request with an Idempotency-Key was answered, kept for 24 hours. The
-- row is written in the transaction of what the request did.
create table idempotency_keys (
    actor      text        not null,
    key        text        not null,
    request    bytea       not null, -- SHA-256 of method, address and body
    answer     jsonb       not null,
    created_at timestamptz not null default now(),
    primary key (actor, key)
);

create index idempotency_keys_created on idempotency_keys (created_at);

-- What may not be used again: sign-in links that were used and sessions that
-- were signed out, until they would have expired anyway.
create table spent (
    id         bytea primary key,
    expires_at timestamptz not null
);

create index spent_expires on spent (expires_at);

-- The workers, as each says of itself every few seconds. Which keys a worker
-- has, never the keys.
create table workers (
    name       text primary key,
    started_at timestamptz not null,
    seen_at    timestamptz not null default now(),
    version    text        not null,
    analyzer   text        not null,
    model      text        not null,
    keys       text[]      not null default '{}'
) with (fillfactor = 50);

-- What POST /api/analyze/next chooses from.
create index webhook_events_next on webhook_events (id)
    where analysis_state = 'none' and duplicate_of is null
        and event_type in ('post_call_transcription', 'post_call_transcription_otel', 'unknown');

-- +goose Down
set local lock_timeout = '30s';

drop index webhook_events_next;
drop table workers;
drop table spent;
drop table idempotency_keys;
drop index audit_log_actor;
drop function audit_log_forget(interval);
drop trigger audit_log_no_truncate on audit_log;
drop trigger audit_log_append_only on audit_log;
drop function audit_log_append_only();
-- Roles that had rights of before get them from whoever gave them.
grant update, truncate on audit_log to current_user;
