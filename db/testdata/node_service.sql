-- A database as the Node service leaves it: its three tables, filled, with
-- everything that its lack of a unique key allowed.
create table webhook_events (
    id bigserial primary key,
    event_type text not null,
    event_timestamp bigint not null,
    agent_id text,
    conversation_id text,
    status text,
    has_audio boolean,
    has_user_audio boolean,
    has_response_audio boolean,
    payload jsonb not null,
    processed boolean default false,
    processed_at timestamptz,
    processor_note text,
    received_at timestamptz default now()
);
create table analyses (
    id bigserial primary key,
    event_id bigint references webhook_events (id) on delete cascade,
    model text,
    result jsonb,
    created_at timestamptz default now()
);
create table crm_dispatches (
    id bigserial primary key,
    event_id bigint references webhook_events (id) on delete cascade,
    payload jsonb,
    response_text text,
    status text,
    created_at timestamptz default now()
);
create index idx_webhook_events_processed on webhook_events (processed);

insert into webhook_events (id, event_type, event_timestamp, agent_id, conversation_id, status, has_audio, has_user_audio, has_response_audio, payload, processed, processed_at, processor_note, received_at) values
-- an ordinary call, analysed
(10, 'post_call_transcription', 1739537297, 'agent_1', 'conv_1', 'done', true, true, true,
 '{"type": "post_call_transcription", "event_timestamp": 1739537297, "data": {"agent_id": "agent_1", "conversation_id": "conv_1", "status": "done", "transcript": [{"role": "user", "message": "Добрый день"}]}}',
 true, '2025-02-14 13:00:00+00', 'ok', '2025-02-14 12:48:17+00'),
-- the same delivery again, stored and counted a second and a third time
(11, 'post_call_transcription', 1739537297, 'agent_1', 'conv_1', 'done', true, true, true,
 '{"type": "post_call_transcription", "event_timestamp": 1739537297, "data": {"agent_id": "agent_1", "conversation_id": "conv_1", "status": "done", "transcript": [{"role": "user", "message": "Добрый день"}]}}',
 false, null, null, '2025-02-14 12:49:00+00'),
(12, 'post_call_transcription', 1739537297, 'agent_1', 'conv_1', 'done', true, true, true,
 '{"type": "post_call_transcription", "event_timestamp": 1739537297, "data": {"agent_id": "agent_1", "conversation_id": "conv_1", "status": "done", "transcript": [{"role": "user", "message": "Добрый день"}]}}',
 true, '2025-02-14 13:05:00+00', 'twice', '2025-02-14 12:51:00+00'),
-- the audio of the same call: another event
(13, 'post_call_audio', 1739537301, 'agent_1', 'conv_1', null, null, null, null,
 '{"type": "post_call_audio", "event_timestamp": 1739537301, "data": {"agent_id": "agent_1", "conversation_id": "conv_1", "full_audio": "SUQz"}}',
 null, null, null, '2025-02-14 12:48:21+00'),
-- the older form: event_id, no type of its own
(14, 'unknown', 1739600000, null, null, null, true, null, null,
 '{"event_id": "evt_secret_rotate", "has_audio": true, "data": {"transcript": [{"role": "user", "message": "Меня зовут Ольга"}]}}',
 false, null, null, '2025-02-15 06:13:20+00'),
(15, 'unknown', 1739600001, null, null, null, true, null, null,
 '{"event_id": "evt_secret_rotate", "has_audio": true, "data": {"transcript": [{"role": "user", "message": "Меня зовут Ольга"}]}}',
 false, null, null, '2025-02-15 06:13:21+00'),
-- nothing to recognise it by
(16, 'unknown', 1739600002, null, null, null, null, null, null, '{}', false, null, null, '2025-02-15 06:13:22+00'),
(17, 'unknown', 1739600003, null, null, null, null, null, null, '{}', false, null, null, null),
(18, 'unknown', 1739600004, null, '', null, null, null, null, '[1, 2]', false, null, 'list', '2025-02-15 06:13:24+00'),
-- payload that is no object at all
(19, 'unknown', 1739600005, null, null, null, null, null, null, 'null', false, null, null, '2025-02-15 06:13:25+00');
select setval('webhook_events_id_seq', 19);

insert into analyses (id, event_id, model, result, created_at) values
(1, 10, 'gpt-4o-mini', '{"topic": "Квартира", "intent": "покупка", "quality": 4, "outcome": "перезвонить", "summary_ru": "Клиент поздоровался.", "recommendations": "Позвонить завтра"}', '2025-02-14 13:00:00+00'),
(2, 12, 'gpt-4o-mini', '{}', '2025-02-14 13:05:00+00'),
(3, null, null, null, null);
select setval('analyses_id_seq', 3);

insert into crm_dispatches (id, event_id, payload, response_text, status, created_at) values
(1, 10, '{"formData": {"formId": "x"}}', '{"SaveWebFormObjectDataResult":""}', 'ok', '2025-02-14 13:00:01+00'),
(2, 10, null, null, 'error', null);
select setval('crm_dispatches_id_seq', 2);
