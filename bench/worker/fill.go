package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/bench/rig"
)

// fill makes calls that were analysed and handed on. Their payloads are small:
// what the worker meets of old calls are the indexes.
func fill(ctx context.Context, pool *pgxpool.Pool, calls int) error {
	if calls == 0 {
		return nil
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to fill a database: %w", err)
	}
	defer conn.Release()
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`set synchronous_commit = off`, nil},
		{`set session_replication_role = replica`, nil}, // the rows of calls are made for all at once, below
		{rig.OldEventsSQL, []any{calls, 0}},
		{`insert into analyses (event_id, model, result, created_at, analyzer, prompt_version, trigger, tokens_in, tokens_cached, tokens_out, cost_usd, duration_ms, job_id)
			select id, 'bench', jsonb_build_object('topic', 'Покупка квартиры', 'intent', 'Узнать цену', 'quality', 1 + id % 5, 'outcome_code', 'callback',
				'outcome', 'Договорились о звонке', 'sentiment', 'neutral', 'summary_ru', 'Клиент спросил о квартире номер ' || id || '.',
				'recommendations', jsonb_build_array('Перезвонить'), 'client_name', null, 'phone', '+7999' || lpad((id % 10000000)::text, 7, '0'),
				'evidence', jsonb_build_array(), 'criteria', jsonb_build_array(), 'injection_suspected', false),
				received_at, 'openai', 'v2', 'auto', 3000, 0, 300, 0.001, 900, id
			from webhook_events`, nil},
		{`insert into crm_dispatches (event_id, payload, response_text, status, created_at, target, analysis_id, attempt)
			select event_id, '{}', null, 'delivered', created_at, 'markdown', id, 1 from analyses`, nil},
		{`set session_replication_role = origin`, nil},
		{`drop index calls_at`, nil},
		{`drop index calls_facets`, nil},
		{`insert into calls (event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
				cost_usd, duration_s, failure_reason, facets, said)
			select event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
				cost_usd, duration_s, failure_reason, facets, said
			from call_rows`, nil},
		{`truncate call_days_changed`, nil},
		{`set maintenance_work_mem = '512MB'`, nil},
		{`create index calls_at on calls (at, event_id)`, nil},
		{`create index calls_facets on calls using gin (facets, said) with (fastupdate = on, gin_pending_list_limit = 1024)`, nil},
		{`vacuum (analyze) calls`, nil},
		{`vacuum (analyze) webhook_events`, nil},
		{`vacuum (analyze) analyses`, nil},
		{`vacuum (analyze) crm_dispatches`, nil},
		{`checkpoint`, nil},
		{`reset synchronous_commit`, nil},
	} {
		if _, err := conn.Exec(ctx, statement.sql, append([]any{pgx.QueryExecModeExec}, statement.args...)...); err != nil {
			return fmt.Errorf("filling a database: %w", err)
		}
	}
	return nil
}
