-- +goose Up
set local lock_timeout = '30s';

-- Which of the configured secrets a delivery was signed with, counted from 1 in
-- the order of WEBHOOK_SECRET; never the secret itself.
alter table webhook_events add column secret_position smallint;

-- Bodies are the bulk of what is written. lz4 takes a fraction of pglz's time
-- for them; a server built without it keeps pglz.
-- +goose StatementBegin
do $$
begin
    alter table webhook_events alter column payload set compression lz4;
    alter table webhook_events alter column raw_body set compression lz4;
exception
    when feature_not_supported then null;
end
$$;
-- +goose StatementEnd

-- +goose Down
set local lock_timeout = '30s';

alter table webhook_events
    alter column payload set compression default,
    alter column raw_body set compression default,
    drop column secret_position;
