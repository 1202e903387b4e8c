-- Roles of their own for ingest and worker, beside the owner, who migrates:
--   create role postcall_ingest login password '…';
--   create role postcall_worker login password '…';
--   psql "$OWNERS_DATABASE_URL" --set ON_ERROR_STOP=1 --file docs/roles.sql
-- It may be run again, and must be after each `postcall migrate up`: new tables
-- are nobody's but the owner's.
begin;
grant usage on schema public to postcall_ingest, postcall_worker;
grant select, insert, update, delete on all tables in schema public to postcall_ingest, postcall_worker;
grant usage, select on all sequences in schema public to postcall_ingest, postcall_worker;

-- The schema is the owner's.
revoke insert, update, delete on goose_db_version from postcall_ingest, postcall_worker;

-- Nobody changes the audit log; the worker lets go of entries that are older
-- than their age, by the one function that can.
revoke update, delete on audit_log from postcall_ingest, postcall_worker;
grant execute on function audit_log_forget(interval) to postcall_worker;

-- What faces the world can add calls and have them analysed again. It cannot
-- delete any, nor forge a result, nor make an erased call come back: retention
-- and erasure are the worker's.
revoke delete on webhook_events, call_audio from postcall_ingest;
revoke insert, update, delete on analyses, crm_dispatches, retention_kinds, alerts from postcall_ingest;
revoke update, delete on corrections, erasures from postcall_ingest;
revoke insert, update, delete on erased_calls from postcall_ingest;
revoke insert, update, delete on erasure_salt from postcall_ingest, postcall_worker;
commit;
