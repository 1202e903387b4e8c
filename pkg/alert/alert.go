// Package alert tells people when something goes wrong, and when it is over:
// too many analyses fail, dead letters pile up, no calls come in working time, a
// day costs more than it should.
//
// Where a rule stands is in the database. A check changes it and enqueues the
// messages in one transaction, so that of several workers one tells, once; each
// message to each channel is a job of its own, which River tries again. Nothing
// in a message is personal data.
package alert

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// The rules.
const (
	RuleFailures = "failures" // percent of the last hour's analyses that were given up
	RuleDead     = "dead"     // dead letters
	RuleSilence  = "silence"  // hours of working time without a call
	RuleCost     = "cost"     // US dollars of the day, in the time zone
)

// The events that a message tells of.
const (
	Fired     = "fired"
	Reminded  = "reminded"
	Recovered = "recovered"
)

const (
	// failureWindow is what the share of failures is taken of, and leastEnded how
	// many analyses must have ended in it: one of two says nothing.
	failureWindow = time.Hour
	leastEnded    = 5
	// calm is how long nothing must be wrong before a rule has recovered. A value
	// about its limit would otherwise make a message every minute.
	calm = 10 * time.Minute
	// remindEvery is how often it is said again that a rule still fires.
	remindEvery = 24 * time.Hour
)

// Limits are from where on each rule fires; 0 switches it off.
type Limits struct {
	FailurePercent int
	Dead           int
	SilenceHours   int
	CostUSD        int
}

// Checker looks at the rules.
type Checker struct {
	Pool   *pgxpool.Pool
	Limits Limits
	Work   WorkTime
	// Channels are the names of where messages go.
	Channels []string
	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// rule is a rule that is switched on. Measure gives its value; ok is false when
// there is nothing to say, and the rule then stays as it is.
type rule struct {
	name    string
	limit   float64
	measure func(ctx context.Context, db postgres.DB, now time.Time) (value float64, ok bool, err error)
}

func (c *Checker) rules() []rule {
	var list []rule
	add := func(name string, limit int, measure func(context.Context, postgres.DB, time.Time) (float64, bool, error)) {
		if limit > 0 {
			list = append(list, rule{name, float64(limit), measure})
		}
	}
	add(RuleFailures, c.Limits.FailurePercent, c.failures)
	add(RuleDead, c.Limits.Dead, c.dead)
	add(RuleSilence, c.Limits.SilenceHours, c.silence)
	add(RuleCost, c.Limits.CostUSD, c.cost)
	return list
}

// Check looks at every rule and enqueues what is to be told. One rule that
// cannot be looked at does not keep the others from it.
func (c *Checker) Check(ctx context.Context, jobs *queue.Client) error {
	if len(c.Channels) == 0 {
		return nil
	}
	now := time.Now()
	if c.Now != nil {
		now = c.Now()
	}
	var errs []error
	for _, r := range c.rules() {
		if err := pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error { return c.check(ctx, tx, jobs, r, now) }); err != nil {
			errs = append(errs, fmt.Errorf("checking the rule %s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Checker) check(ctx context.Context, tx pgx.Tx, jobs *queue.Client, r rule, now time.Time) error {
	if _, err := tx.Exec(ctx, `insert into alerts (rule) values ($1) on conflict do nothing`, r.name); err != nil {
		return err
	}
	var s state
	// Who comes second waits here and finds what the first has written.
	err := tx.QueryRow(ctx, `select firing, incident, since, clear_since, reminded_at from alerts where rule = $1 for update`, r.name).
		Scan(&s.firing, &s.incident, &s.since, &s.clearSince, &s.remindedAt)
	if err != nil {
		return err
	}
	value, ok, err := r.measure(ctx, tx, now)
	if err != nil || !ok {
		return err
	}
	event := s.next(value >= r.limit, now)
	if _, err := tx.Exec(ctx, `
		update alerts set firing = $2, incident = $3, since = $4, clear_since = $5, reminded_at = $6, value = $7, checked_at = $8
		where rule = $1`, r.name, s.firing, s.incident, s.since, s.clearSince, s.remindedAt, value, now); err != nil {
		return err
	}
	if event == "" {
		return nil
	}
	params := make([]river.InsertManyParams, len(c.Channels))
	for i, channel := range c.Channels {
		params[i] = river.InsertManyParams{Args: queue.SendAlert{
			Channel: channel, Rule: r.name, Incident: s.incident, Event: event, Value: value, Limit: r.limit, At: now, Since: *s.since,
		}}
	}
	if _, err := jobs.InsertManyTx(ctx, tx, params); err != nil {
		return fmt.Errorf("enqueueing messages: %w", err)
	}
	return nil
}

// state is where a rule stands.
type state struct {
	firing                        bool
	incident                      int64
	since, clearSince, remindedAt *time.Time
}

// next moves on and gives the event that is to be told, if any.
func (s *state) next(wrong bool, now time.Time) (event string) {
	switch {
	case wrong && !s.firing:
		*s = state{firing: true, incident: s.incident + 1, since: &now, remindedAt: &now}
		return Fired
	case wrong:
		s.clearSince = nil
		if now.Sub(*s.remindedAt) >= remindEvery {
			s.remindedAt = &now
			return Reminded
		}
	case s.firing && s.clearSince == nil:
		s.clearSince = &now
	case s.firing && now.Sub(*s.clearSince) >= calm:
		s.firing, s.clearSince = false, nil
		return Recovered
	}
	return ""
}

// failures is the percentage of the analyses that ended in the window and were
// given up. Too few of them count as none failed.
func (c *Checker) failures(ctx context.Context, db postgres.DB, now time.Time) (float64, bool, error) {
	var done, dead float64
	err := db.QueryRow(ctx, `
		select
			(select count(distinct event_id) from analyses where created_at > $1 and created_at <= $2),
			(select count(*) from webhook_events where analysis_state = 'dead' and failed_at > $1 and failed_at <= $2)`,
		now.Add(-failureWindow), now).Scan(&done, &dead)
	if err != nil || done+dead < leastEnded {
		return 0, err == nil, err
	}
	return 100 * dead / (done + dead), true, nil
}

func (c *Checker) dead(ctx context.Context, db postgres.DB, _ time.Time) (n float64, ok bool, err error) {
	err = db.QueryRow(ctx, `select count(*) from webhook_events where analysis_state = 'dead'`).Scan(&n)
	return n, err == nil, err
}

// silence is how many hours of working time the last call is ago. Outside of
// working time nothing changes; before the first call there is no silence.
func (c *Checker) silence(ctx context.Context, db postgres.DB, now time.Time) (float64, bool, error) {
	var last *time.Time
	err := db.QueryRow(ctx, `
		select received_at from webhook_events
		where received_at <= $1 and source in ('webhook', 'spool') order by received_at desc limit 1`, now).Scan(&last)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	hours := c.Work.Between(*last, now).Hours()
	// A call ends a silence at any time; only working time begins one.
	return hours, c.Work.At(now) || hours < float64(c.Limits.SilenceHours), nil
}

func (c *Checker) cost(ctx context.Context, db postgres.DB, now time.Time) (usd float64, ok bool, err error) {
	local := now.In(c.Work.location())
	day := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, local.Location())
	err = db.QueryRow(ctx, `select coalesce(sum(cost_usd), 0)::float8 from analyses where created_at >= $1 and created_at <= $2`, day, now).Scan(&usd)
	return usd, err == nil, err
}
