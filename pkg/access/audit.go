package access

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Outcome is what came of what somebody asked for.
type Outcome string

// The outcomes.
const (
	OutcomeDone     Outcome = "done"
	OutcomeReplayed Outcome = "replayed" // done before, under the same Idempotency-Key
	OutcomeRefused  Outcome = "refused"  // who asked may not, or is not known
	OutcomeFailed   Outcome = "failed"
)

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	return []Outcome{OutcomeDone, OutcomeReplayed, OutcomeRefused, OutcomeFailed}
}

// Entry is a row of the audit log, which is only ever added to.
type Entry struct {
	ID        int64           `json:"id"`
	At        time.Time       `json:"at"`
	Actor     string          `json:"actor"` // the token's name; empty for who showed none
	Role      Role            `json:"role"`
	Action    string          `json:"action"` // such as event.reprocess
	Target    string          `json:"target"` // such as event 17
	Outcome   Outcome         `json:"outcome"`
	RequestID string          `json:"request_id"`
	Address   string          `json:"address"`
	Detail    json.RawMessage `json:"detail,omitempty"`
}

// DB is a pool or, so that an entry stands exactly where its act does, a
// transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Record adds an entry; its ID and At are the database's.
func Record(ctx context.Context, db DB, e Entry) error {
	_, err := db.Exec(ctx, `
		insert into audit_log (actor, role, action, target, outcome, request_id, address, detail)
		values ($1, $2, $3, nullif($4, ''), $5, nullif($6, ''), nullif($7, ''), $8)`,
		e.Actor, e.Role, e.Action, e.Target, e.Outcome, e.RequestID, e.Address, e.Detail)
	if err != nil {
		return fmt.Errorf("recording in the audit log: %w", err)
	}
	return nil
}

// AuditFilter chooses entries; zero fields choose all.
type AuditFilter struct {
	Actor, Action string
	Outcome       Outcome
	From, To      time.Time // To is not included
	Before        int64     // only entries with a smaller id; 0 from the newest on
	Limit         int
}

// Audit lists entries, newest first.
func Audit(ctx context.Context, db DB, f AuditFilter) ([]Entry, error) {
	orNil := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	rows, err := db.Query(ctx, `
		select id, at, actor, role, action, coalesce(target, ''), outcome, coalesce(request_id, ''), coalesce(address, ''), detail
		from audit_log
		where ($1 = '' or actor = $1) and ($2 = '' or action = $2) and ($3 = '' or outcome = $3)
			and ($4::timestamptz is null or at >= $4) and ($5::timestamptz is null or at < $5)
			and ($6::bigint = 0 or id < $6)
		order by id desc
		limit $7`, f.Actor, f.Action, string(f.Outcome), orNil(f.From), orNil(f.To), f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	return list, nil
}
