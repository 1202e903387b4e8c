package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// deadExport is a result that a target did not take in all its attempts.
type deadExport struct {
	JobID   int64
	EventID int64
	Kind    string
	At      time.Time
	Error   string
}

// maxDeadExports is how many of the newest are looked at.
const maxDeadExports = 5000

// exportAdvice is said of results that a target did not take.
const exportAdvice = "Look at the target; for BPMSoft: postcall crm check. Then retry the group, by its target and fingerprint."

// fingerprint is the same for exports to one target that failed alike.
func (d deadExport) fingerprint() string {
	return call.NewFailure(call.Code(d.Kind), d.Error).Fingerprint
}

// deadExports lists those to a target, or to all for "", the newest first.
func deadExports(ctx context.Context, db postgres.DB, to call.Target) ([]deadExport, error) {
	kinds := []string{}
	for _, known := range targets() {
		if to == "" || to == known {
			kinds = append(kinds, queue.TargetQueue(known))
		}
	}
	rows, err := db.Query(ctx, `
		select j.id, coalesce(a.event_id, 0), j.kind, j.finalized_at, coalesce(j.errors[array_upper(j.errors, 1)] ->> 'error', '')
		from river_job j
		left join analyses a on a.id = (j.args ->> 'analysis_id')::bigint
		where j.state = 'discarded' and j.finalized_at is not null and j.kind = any($1)
		order by j.finalized_at desc
		limit $2`, kinds, maxDeadExports)
	if err != nil {
		return nil, fmt.Errorf("reading the exports that were given up: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[deadExport])
	if err != nil {
		return nil, fmt.Errorf("reading the exports that were given up: %w", err)
	}
	return list, nil
}

// groupExports groups them, those that failed last first.
func groupExports(list []deadExport) []DeadGroup {
	var groups []DeadGroup
	for _, d := range list {
		n := slices.IndexFunc(groups, func(g DeadGroup) bool { return g.Fingerprint == d.fingerprint() })
		if n < 0 {
			to := call.Target(strings.TrimPrefix(d.Kind, queue.TargetQueue("")))
			n, groups = len(groups), append(groups, DeadGroup{
				Target: to, Fingerprint: d.fingerprint(), LastAt: d.At, Sample: d.Error, SampleEventID: d.EventID, Advice: exportAdvice,
			})
		}
		groups[n].Count++
		groups[n].FirstAt = d.At
	}
	return groups
}

// retryExports tries exports again that were given up. They are chosen by their
// jobs, so that a cursor is a job's id.
func (a *API) retryExports(c echo.Context, r DeadRetry) (BulkAnswer, error) {
	to, err := target(r.Target)
	if err != nil {
		return BulkAnswer{}, err
	}
	b := Bulk{All: r.All, DryRun: r.DryRun, Expect: r.Expect, Limit: r.Limit, Cursor: r.Cursor}
	w := work{target: "dead exports to " + string(to), jobs: true, none: "There are no such dead letters."}
	w.choose = func(ctx context.Context, part choice) (chosen, error) {
		after, err := part.position()
		if err != nil {
			return chosen{}, err
		}
		list, err := deadExports(ctx, a.Pool, to)
		var jobs []int64
		for _, d := range list {
			if d.JobID > after && (r.Fingerprint == nil || *r.Fingerprint == d.fingerprint()) {
				jobs = append(jobs, d.JobID)
			}
		}
		slices.Sort(jobs)
		return part.cut(jobs), err
	}
	w.one = a.retryExport
	return a.actOnMany(c, b, w)
}

// uniqueViolation is PostgreSQL's code of two rows of which there may be one.
const uniqueViolation = "23505"

// retryExport lets a given-up export run again.
func (a *API) retryExport(ctx context.Context, tx pgx.Tx, job int64) (Queued, error) {
	// Another export of the same result may be waiting: the job's own refusal must
	// not undo the others'.
	answer := Queued{JobID: job}
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		row, err := a.Jobs.JobRetryTx(ctx, tx, job)
		if errors.Is(err, rivertype.ErrNotFound) {
			return call.Errorf(call.NotFound, "job %d is gone", job)
		}
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			select coalesce((select event_id from analyses where id = ($1::jsonb ->> 'analysis_id')::bigint), 0)`, row.EncodedArgs).Scan(&answer.EventID)
	})
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == uniqueViolation {
		return answer, call.Errorf(call.Conflict, "job %d is repeated by another one already", job)
	}
	return answer, err
}
