package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// InsertAnalysis stores an analysis of an event and sets its ID.
func InsertAnalysis(ctx context.Context, tx pgx.Tx, a *call.Analysis) error {
	result, err := json.Marshal(a.Result)
	if err != nil {
		return fmt.Errorf("encoding a result: %w", err)
	}
	err = tx.QueryRow(ctx, `
		insert into analyses (
			event_id, model, result, analyzer, prompt_version, trigger,
			tokens_in, tokens_cached, tokens_out, cost_usd, duration_ms, request_id, job_id)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, nullif($13, 0::bigint))
		returning id, created_at`,
		a.EventID, a.Model, result, a.Analyzer, a.PromptVersion, a.Trigger,
		a.Usage.InputTokens, a.Usage.CachedTokens, a.Usage.OutputTokens, a.Usage.CostUSD,
		a.Duration.Milliseconds(), null(a.RequestID), a.JobID,
	).Scan(&a.ID, &a.CreatedAt)
	return failed("storing an analysis", err)
}

// Analysis reads one analysis, with what people have corrected of it.
func Analysis(ctx context.Context, db DB, id int64) (*call.Analysis, error) {
	var (
		a        call.Analysis
		result   []byte
		duration int64
	)
	err := db.QueryRow(ctx, `
		select id, event_id, coalesce(model, ''), corrected(event_id, result), coalesce(analyzer, ''), coalesce(prompt_version, ''),
			coalesce(trigger, ''), coalesce(tokens_in, 0), coalesce(tokens_cached, 0), coalesce(tokens_out, 0),
			cost_usd::float8, coalesce(duration_ms, 0), coalesce(request_id, ''), coalesce(job_id, 0), created_at
		from analyses where id = $1`, id,
	).Scan(&a.ID, &a.EventID, &a.Model, &result, &a.Analyzer, &a.PromptVersion,
		&a.Trigger, &a.Usage.InputTokens, &a.Usage.CachedTokens, &a.Usage.OutputTokens,
		&a.Usage.CostUSD, &duration, &a.RequestID, &a.JobID, &a.CreatedAt)
	if err != nil {
		return nil, failed(fmt.Sprintf("reading analysis %d", id), err)
	}
	a.Duration = time.Duration(duration) * time.Millisecond
	if err := json.Unmarshal(result, &a.Result); err != nil {
		return nil, fmt.Errorf("reading the result of analysis %d: %w", id, err)
	}
	return &a, nil
}

// Analysed reports whether a job has its analysis stored.
func Analysed(ctx context.Context, db DB, jobID int64) (stored bool, err error) {
	err = db.QueryRow(ctx, `select exists (select from analyses where job_id = $1)`, jobID).Scan(&stored)
	return stored, failed("looking for a job's analysis", err)
}

// LatestResult is the result that counts for an event: the newest one, of the
// analyses before an id; nil when there is none, or none that can be read.
func LatestResult(ctx context.Context, db DB, eventID, before int64) (*call.Result, error) {
	var raw []byte
	err := db.QueryRow(ctx, `
		select result from analyses where event_id = $1 and id < $2 order by id desc limit 1`,
		eventID, before).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, failed("reading the result before", err)
	}
	var r call.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, nil //nolint:nilnil,nilerr // the Node service stored whatever the model said
	}
	return &r, nil
}

// NewestAnalysis is the id of the newest analysis of an event. NotFound if it
// has none.
func NewestAnalysis(ctx context.Context, db DB, eventID int64) (id int64, err error) {
	err = db.QueryRow(ctx, `select id from analyses where event_id = $1 order by id desc limit 1`, eventID).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, call.Errorf(call.NotFound, "event %d has no analysis", eventID)
	}
	return id, failed("looking for an analysis", err)
}
