package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
)

// Circuit says how a target's circuit works.
type Circuit struct {
	// Failures in a row open it; 0 never does.
	Failures int
	// Open is how long it stays open the first time; each time that the attempt
	// made after it fails too, it is twice as long, up to MaxOpen.
	Open time.Duration
	// Probe is the longest that an attempt may take.
	Probe time.Duration
}

// MaxOpen is the longest that a circuit stays open before it is tried again.
const MaxOpen = 15 * time.Minute

// Entry says whether an attempt may begin.
type Entry struct {
	// Blocked is for how much longer no attempt is made; 0 for go on.
	Blocked time.Duration
	// Wait is how long to wait before the attempt begins, at most maxPaced.
	Wait time.Duration
	// Probe: the circuit is open, and this attempt shows whether it may close.
	Probe bool
}

// maxPaced is the longest that an attempt waits for its turn; beyond it, it is
// told to come back.
const maxPaced = 20 * time.Second

// EnterTarget asks for an attempt's turn. Attempts of all workers together
// begin at least every apart.
func EnterTarget(ctx context.Context, db DB, target call.Target, every time.Duration, c Circuit) (Entry, error) {
	const enter = `
		update crm_targets t
		set next_start = case when s.go then greatest(s.next_start, s.at) + $2::bigint * interval '1 microsecond' else s.next_start end,
			open_until = case when s.go and s.open_until is not null then s.at + $3::bigint * interval '1 microsecond' else s.open_until end
		from (
			select target, next_start, open_until, clock_timestamp() as at,
				coalesce(open_until <= clock_timestamp(), true)
					and next_start <= clock_timestamp() + $4::bigint * interval '1 microsecond' as go
			from crm_targets where target = $1 for update
		) s
		where t.target = s.target
		returning s.go, s.open_until is not null,
			(extract(epoch from greatest(coalesce(s.open_until, s.at) - s.at, interval '0')) * 1e6)::bigint,
			(case when s.next_start > s.at then extract(epoch from s.next_start - s.at) * 1e6 else 0 end)::bigint`
	var (
		pass, open  bool
		until, turn int64 // microseconds
	)
	scan := func() error {
		return db.QueryRow(ctx, enter, target, every.Microseconds(), c.Probe.Microseconds(), maxPaced.Microseconds()).
			Scan(&pass, &open, &until, &turn)
	}
	err := scan()
	if err == pgx.ErrNoRows { //nolint:errorlint // Scan returns it bare
		if _, err = db.Exec(ctx, `insert into crm_targets (target) values ($1) on conflict do nothing`, target); err == nil {
			err = scan()
		}
	}
	if err != nil {
		return Entry{}, failed("asking for a turn at "+string(target), err)
	}
	wait := time.Duration(turn) * time.Microsecond
	if !pass {
		return Entry{Blocked: max(time.Duration(until)*time.Microsecond, wait, time.Millisecond)}, nil
	}
	return Entry{Wait: wait, Probe: open}, nil
}

// TargetAnswered records that a target works: its circuit closes.
func TargetAnswered(ctx context.Context, db DB, target call.Target) error {
	_, err := db.Exec(ctx, `
		update crm_targets
		set failures = 0, openings = 0, opened_at = null, open_until = null, last_success_at = now()
		where target = $1`, target)
	return failed("recording that "+string(target)+" works", err)
}

// TargetFailed records that an attempt failed for a reason that would fail the
// next one too, and reports whether the circuit opened by it: after enough
// failures in a row, at once if a person must act, and again if the attempt was
// a probe. reason holds no data of a call.
func TargetFailed(ctx context.Context, db DB, target call.Target, e Entry, c Circuit, atOnce bool, reason string) (opened bool, err error) {
	if c.Failures == 0 {
		return false, nil
	}
	err = db.QueryRow(ctx, `
		update crm_targets t
		set failures = s.failures + 1, last_error = $2, last_failure_at = now(),
			openings = s.openings + s.trip::int,
			opened_at = case when s.trip then coalesce(s.opened_at, now()) else s.opened_at end,
			open_until = case when s.trip
				then now() + least($5::bigint * power(2, least(s.openings, 20)), $6::bigint) * interval '1 microsecond'
				else s.open_until end
		from (
			select *, $3 or open_until is null and ($4 or failures + 1 >= $7) as trip
			from crm_targets where target = $1 for update
		) s
		where t.target = s.target
		returning s.trip`,
		target, reason, e.Probe, atOnce, c.Open.Microseconds(), MaxOpen.Microseconds(), c.Failures).Scan(&opened)
	return opened, failed("recording that "+string(target)+" failed", err)
}

// TargetState is how a target stands, for health: a row of crm_targets.
type TargetState struct {
	Target        call.Target `json:"target"`
	Failures      int         `json:"failures"` // in a row
	OpenedAt      *time.Time  `json:"opened_at"`
	OpenUntil     *time.Time  `json:"open_until"` // nil while the circuit is closed
	LastError     *string     `json:"last_error"`
	LastFailureAt *time.Time  `json:"last_failure_at"`
	LastSuccessAt *time.Time  `json:"last_success_at"`
}

// TargetStates tells how every target stands that anything was sent to.
func TargetStates(ctx context.Context, db DB) ([]TargetState, error) {
	rows, err := db.Query(ctx, `
		select target, failures, opened_at, open_until, last_error, last_failure_at, last_success_at
		from crm_targets order by target`)
	if err != nil {
		return nil, failed("reading how the targets stand", err)
	}
	states, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TargetState])
	return states, failed("reading how the targets stand", err)
}
