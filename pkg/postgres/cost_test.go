package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
	"postcall/pkg/pgtest"
	"postcall/pkg/postgres"
)

// What is done for one call reads a few rows, however many there are: of the
// server's own count, with the plans for one value and with those for any.
func TestRowsReadForOneCall(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	const calls = 5000
	for _, sql := range []string{
		`insert into webhook_events (event_type, event_timestamp, agent_id, conversation_id, payload, dedup_key, analysis_state)
			select 'post_call_transcription', n, 'agent_' || n % 3, 'conv_' || n, '{}', 'key ' || n, 'done' from generate_series(1, 5000) n`,
		`insert into analyses (event_id, model, result, job_id) select id, 'bench', '{"topic": "Квартира"}', id from webhook_events`,
		`insert into crm_dispatches (event_id, analysis_id, target, status, attempt, payload)
			select event_id, id, 'markdown', 'delivered', 1, '{}' from analyses where id > 10`,
		`update webhook_events set analysis_state = 'queued' where id <= 10`,
		`vacuum (analyze) webhook_events, analyses, crm_dispatches, calls`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for name, do := range map[string]func(ctx context.Context, tx pgx.Tx, id int64) error{
		"ClaimEvent": func(ctx context.Context, tx pgx.Tx, id int64) error {
			_, err := postgres.ClaimEvent(ctx, tx, id, false)
			return err
		},
		"SetState": func(ctx context.Context, tx pgx.Tx, id int64) error {
			return postgres.SetState(ctx, tx, id, postgres.Status{State: call.StateDone})
		},
		"Analysed": func(ctx context.Context, tx pgx.Tx, id int64) error {
			_, err := postgres.Analysed(ctx, tx, id)
			return err
		},
		"InsertAnalysis": func(ctx context.Context, tx pgx.Tx, id int64) error {
			return postgres.InsertAnalysis(ctx, tx, &call.Analysis{EventID: id})
		},
		"Analysis": func(ctx context.Context, tx pgx.Tx, id int64) error {
			_, err := postgres.Analysis(ctx, tx, id)
			return err
		},
		"LatestResult": func(ctx context.Context, tx pgx.Tx, id int64) error {
			_, err := postgres.LatestResult(ctx, tx, id, calls+1)
			return err
		},
		"EarlierDispatches": func(ctx context.Context, tx pgx.Tx, id int64) error {
			_, err := postgres.EarlierDispatches(ctx, tx, id, id, call.TargetMarkdown)
			return err
		},
		"InsertDispatch": func(ctx context.Context, tx pgx.Tx, id int64) error {
			return postgres.InsertDispatch(ctx, tx, &postgres.Dispatch{EventID: id, AnalysisID: id, Target: call.TargetMarkdown, Status: postgres.DispatchSending})
		},
		"Unmeasured": func(ctx context.Context, tx pgx.Tx, _ int64) error {
			_, err := postgres.Unmeasured(ctx, tx, 10)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
			read := func() (rows int64) {
				if err := tx.QueryRow(t.Context(), `
					select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables`).Scan(&rows); err != nil {
					t.Fatal(err)
				}
				return rows
			}
			// From the sixth time on the plan is one for any value.
			for id := range int64(8) {
				before := read()
				if err := do(t.Context(), tx, id+1); err != nil {
					t.Fatal(err)
				}
				if rows := read() - before; rows > 50 {
					t.Errorf("%d rows were read for call %d, one of %d", rows, id+1, calls)
				}
			}
		})
	}
}
