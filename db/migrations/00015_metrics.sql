-- Metrics are computed for each call, whatever became of its analysis. What no
-- analysis has measured is found by this index: calls that nobody analyses
-- (ANALYZE_AUTO=false), and those of the Node service.

-- +goose Up
set local lock_timeout = '30s';

create index webhook_events_unmeasured on webhook_events (id)
    where metrics is null and duplicate_of is null
        and analysis_state in ('none', 'done', 'skipped', 'dead')
        and event_type in ('post_call_transcription', 'post_call_transcription_otel');

-- +goose Down
set local lock_timeout = '30s';

drop index webhook_events_unmeasured;
