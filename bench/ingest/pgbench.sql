-- One delivery: the statement of pkg/postgres for a single event, and River's
-- for its job, in one transaction. What stands after a colon is a parameter of
-- the extended protocol; {{N}} is the body's number.
\set a random(1, 9000000000000000000)
\set b random(1, 9000000000000000000)
begin;
insert into webhook_events (
	event_type, event_timestamp, agent_id, conversation_id, status,
	has_audio, has_user_audio, has_response_audio,
	payload, raw_body, event_id, dedup_key, source, request_id, secret_position,
	analysis_state, processed, processed_at, processor_note,
	received_at, last_delivered_at)
values (
	:type, 1795000000, :agent, 'conv_' || :a, 'done',
	true, true, true,
	:body{{N}}, null, null, :key || :a || ':1795000000', 'webhook', :request || :b, 1,
	'queued', false, null, null,
	now(), now())
on conflict (dedup_key) do nothing
returning id \gset
insert into river_job (
	args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key, unique_states)
values (
	jsonb_build_object('event_id', :id::bigint, 'trigger', 'auto'), now(), 'analyze', 8,
	jsonb_build_object('request_id', :request || :b, 'conversation_id', 'conv_' || :a), 1, 'analyze', now(), 'available', '{}',
	sha256(('analyze' || :id)::bytea), b'11110001')
on conflict (unique_key)
	where unique_key is not null and unique_states is not null and river_job_state_in_bitmask(unique_states, state)
	do update set kind = river_job.kind
returning id;
commit;
