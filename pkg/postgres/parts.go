package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Parts keeps what a model answered about the parts of one event's call. It is
// an analyze.Memory, for one goroutine.
type Parts struct {
	DB      DB
	EventID int64

	used bool
}

// Recall gives the answer to a question, nil when none is kept.
func (p *Parts) Recall(ctx context.Context, question []byte) ([]byte, error) {
	p.used = true
	var answer []byte
	err := p.DB.QueryRow(ctx, `select answer from analysis_parts where event_id = $1 and question = $2`, p.EventID, question).Scan(&answer)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return answer, failed("looking for the answer to a part", err)
}

// Keep keeps the answer to a question.
func (p *Parts) Keep(ctx context.Context, question, answer []byte) error {
	_, err := p.DB.Exec(ctx, `
		insert into analysis_parts (event_id, question, answer) values ($1, $2, $3)
		on conflict (event_id, question) do update set answer = excluded.answer`, p.EventID, question, answer)
	return failed("keeping the answer to a part", err)
}

// Forget drops what is kept, in tx. It costs nothing where the call was not in
// parts.
func (p *Parts) Forget(ctx context.Context, tx pgx.Tx) error {
	if !p.used {
		return nil
	}
	_, err := tx.Exec(ctx, `delete from analysis_parts where event_id = $1`, p.EventID)
	return failed("dropping the answers to parts", err)
}

// ForgetPartsBefore drops what was kept longer ago than an age: of calls whose
// analysis was given up.
func ForgetPartsBefore(ctx context.Context, db DB, age time.Duration) error {
	_, err := db.Exec(ctx, `delete from analysis_parts where created_at < now() - $1::interval`, age)
	return failed("dropping old answers to parts", err)
}
