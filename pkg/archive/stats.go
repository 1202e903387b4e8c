package archive

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
)

// Stats are the figures of a span of time. They are of events as lists have
// them; what an analysis says is the newest one's.
type Stats struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Figures
	ByType        map[string]int64 `json:"by_type"`
	ByState       map[string]int64 `json:"by_state"`
	ByQuality     map[string]int64 `json:"by_quality"`
	ByOutcomeCode map[string]int64 `json:"by_outcome_code"`
	BySentiment   map[string]int64 `json:"by_sentiment"`
	// ByFailureReason counts failed dials.
	ByFailureReason map[string]int64 `json:"by_failure_reason"`
	Agents          []AgentFigures   `json:"agents"` // the busiest first, at most MaxAgents
	Days            []DayFigures     `json:"days"`   // those with events, in order
}

// Figures count events.
type Figures struct {
	Events         int64    `json:"events"`
	Analysed       int64    `json:"analysed"`
	QualityAverage *float64 `json:"quality_average"` // nil without a rating
	DurationS      float64  `json:"duration_s"`      // of all calls together
	CostUSD        float64  `json:"cost_usd"`        // of the analyses that count

	rated, ratings float64
	codes          map[string]int64
}

// AgentFigures are those of one agent; of events that name none, under
// "unknown".
type AgentFigures struct {
	AgentID string `json:"agent_id"`
	Figures
	ByOutcomeCode map[string]int64 `json:"by_outcome_code"`
}

// DayFigures are those of one day in UTC.
type DayFigures struct {
	Day string `json:"day"` // 2026-11-23
	Figures
	ByOutcomeCode map[string]int64 `json:"by_outcome_code"`
}

// MaxAgents is how many agents Stats lists, and MaxDays how many days it may
// span.
const (
	MaxAgents = 100
	MaxDays   = 3660
)

// fact is a row of call_days, or one that is being added up.
type fact struct {
	Fact   string
	Agent  string // empty for all
	Value  string
	Day    int64
	Events int64
	Amount *float64
}

// Summarize gives the figures of what was received from a moment on until
// another, of one agent or, for "", of all. Days that are over are added up
// once; only the two ends and what still waits are counted, so that years cost
// little more than a day.
func Summarize(ctx context.Context, pool *pgxpool.Pool, from, to time.Time, agent string) (*Stats, error) {
	from, to = from.UTC(), to.UTC()
	if !from.Before(to) {
		return nil, call.Errorf(call.Invalid, "dateFrom must lie before dateTo")
	}
	if to.Sub(from) > MaxDays*24*time.Hour || from.Year() < 1970 || to.Year() > 9999 {
		return nil, call.Errorf(call.Invalid, "dateFrom and dateTo may lie %d days apart, in the years 1970 to 9999", MaxDays)
	}
	if err := addUp(ctx, pool); err != nil {
		return nil, err
	}
	var f *found
	err := reading(ctx, pool, func(tx pgx.Tx) (err error) {
		f, err = facts(ctx, tx, from, to, agent)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f.summary(from, to, agent), nil
}

// addUp brings call_days up to yesterday. What changes while it runs is logged
// by then, and added up the next time.
func addUp(ctx context.Context, pool *pgxpool.Pool) error {
	var due bool
	const overdue = `
		select d from generate_series(
			(select floor(extract(epoch from at) / 86400)::integer from calls order by at limit 1),
			floor(extract(epoch from now()) / 86400)::integer - 1) d
		where not exists (select from call_days_added a where a.day = d)`
	err := pool.QueryRow(ctx, `select exists (select from call_days_changed) or exists (`+overdue+`)`).Scan(&due)
	if err != nil || !due {
		return failed("looking for days to be added up", err)
	}
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		// Whoever waits here goes by what stood before: the lock is taken first.
		if _, err := tx.Exec(ctx, `lock table call_days in share row exclusive mode`); err != nil {
			return err
		}
		var days []int64
		err := tx.QueryRow(ctx, `
			with changed as (delete from call_days_changed returning day)
			select coalesce(array_agg(day order by day), '{}') from (select day from changed union `+overdue+`) days`).Scan(&days)
		if err != nil {
			return err
		}
		for _, statement := range []string{
			`delete from call_days where day = any($1::integer[])`,
			`insert into call_days (fact, agent, value, day, events, amount)
				select f.fact, f.agent, f.value, f.day, f.events, f.amount
				from unnest($1::integer[]) d, call_facts(to_timestamp(d * 86400::bigint), to_timestamp((d + 1) * 86400::bigint)) f`,
			`insert into call_days_added select unnest($1::integer[]) on conflict do nothing`,
		} {
			if _, err := tx.Exec(ctx, statement, days); err != nil {
				return err
			}
		}
		return nil
	})
	return failed("adding up days", err)
}

// found is what figures are made of.
type found struct {
	totals, days, agents []fact // of whole days, which were added up
	counted              []fact // just now, of all agents and of each
}

// sums are the facts that are added up by day and by agent.
var sums = []string{"event", "analysed", "rated", "duration", "code"}

// facts reads whole days that were added up, and counts the rest.
func facts(ctx context.Context, tx pgx.Tx, from, to time.Time, agent string) (*found, error) {
	var (
		f                 found
		first, until, now = ceilDay(from), day(to), time.Time{}
	)
	if err := tx.QueryRow(ctx, `select now()`).Scan(&now); err != nil {
		return nil, failed("asking for the time", err)
	}
	until = max(min(until, day(now)), first)
	collect := func(into *[]fact, sql string, args ...any) error {
		rows, err := tx.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
		if err != nil {
			return failed("reading figures", err)
		}
		*into, err = pgx.AppendRows(*into, rows, pgx.RowToStructByPos[fact])
		return failed("reading figures", err)
	}
	const added = ` from call_days where fact = any($1::text[]) and day >= $2 and day < $3`
	every := append([]string{"type", "state", "quality", "sentiment", "reason"}, sums...)
	err := errors.Join(
		collect(&f.totals, `select fact, '', value, 0, sum(events)::bigint, sum(amount)`+added+` and agent = $4 group by fact, value`, every, first, until, agent),
		collect(&f.days, `select fact, '', value, day, events, amount`+added+` and agent = $4`, sums, first, until, agent),
	)
	if err == nil && agent == "" {
		err = collect(&f.agents, `select fact, agent, value, 0, sum(events)::bigint, sum(amount)`+added+` and agent <> '' group by fact, agent, value`, sums, first, until)
	}
	if err != nil {
		return nil, err
	}
	count := func(from, to time.Time) error {
		if !from.Before(to) {
			return nil
		}
		return collect(&f.counted, `select * from call_facts($1, $2)`, from, to)
	}
	begins, ends := midnight(first), midnight(until)
	if first >= until {
		begins, ends = to, to
	}
	err = errors.Join(count(from, minTime(begins, to)), count(ends, to), collect(&f.counted, `
		with waiting as materialized (
			select event_type, analysis_state, coalesce(nullif(agent_id, ''), 'unknown') as agent,
				floor(extract(epoch from received_at) / 86400)::integer as day
			from webhook_events e
			where analysis_state in ('none', 'queued', 'running', 'dead') and analysis_state in ('queued', 'running')
				and duplicate_of is null and received_at >= $1 and received_at < $2
				and not exists (select from calls c where c.event_id = e.id)
		)
		select v.fact, coalesce(w.agent, ''), v.value, w.day, count(*), null
		from waiting w cross join lateral (values ('event', ''), ('type', w.event_type), ('state', w.analysis_state)) v (fact, value)
		group by grouping sets ((v.fact, v.value, w.day, w.agent), (v.fact, v.value, w.day))`, from, to))
	return &f, err
}

// ceilDay is the first day that begins at a time or later.
func ceilDay(t time.Time) int64 {
	d := day(t)
	if midnight(d).Before(t) {
		d++
	}
	return d
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (f *found) summary(from, to time.Time, agent string) *Stats {
	s := &Stats{
		From: from, To: to, ByType: map[string]int64{}, ByState: map[string]int64{}, ByQuality: map[string]int64{},
		ByOutcomeCode: map[string]int64{}, BySentiment: map[string]int64{}, ByFailureReason: map[string]int64{},
	}
	groups := map[string]map[string]int64{
		"type": s.ByType, "state": s.ByState, "quality": s.ByQuality, "code": s.ByOutcomeCode, "sentiment": s.BySentiment, "reason": s.ByFailureReason,
	}
	agents, days := map[string]*Figures{}, map[string]*Figures{}
	total := func(f fact) {
		if group, ok := groups[f.Fact]; ok {
			group[f.Value] += f.Events
		} else {
			f.add(&s.Figures)
		}
	}
	ofDay := func(f fact) {
		if slices.Contains(sums, f.Fact) {
			f.add(figures(days, midnight(f.Day).Format(time.DateOnly)))
		}
	}
	for _, one := range f.totals {
		total(one)
	}
	for _, one := range f.days {
		ofDay(one)
	}
	for _, one := range f.agents {
		one.add(figures(agents, one.Agent))
	}
	for _, one := range f.counted {
		if one.Agent == agent {
			total(one)
			ofDay(one)
		}
		if one.Agent != "" && (agent == "" || one.Agent == agent) && slices.Contains(sums, one.Fact) {
			one.add(figures(agents, one.Agent))
		}
	}
	if agent != "" {
		all := s.Figures
		all.codes = s.ByOutcomeCode
		agents = map[string]*Figures{agent: &all}
	}
	s.average()
	s.Agents, s.Days = []AgentFigures{}, []DayFigures{}
	for id, f := range agents {
		f.average()
		s.Agents = append(s.Agents, AgentFigures{id, *f, f.outcomes()})
	}
	slices.SortFunc(s.Agents, func(a, b AgentFigures) int {
		if a.Events != b.Events {
			return int(b.Events - a.Events)
		}
		return strings.Compare(a.AgentID, b.AgentID)
	})
	s.Agents = s.Agents[:min(len(s.Agents), MaxAgents)]
	for day, f := range days {
		f.average()
		s.Days = append(s.Days, DayFigures{day, *f, f.outcomes()})
	}
	slices.SortFunc(s.Days, func(a, b DayFigures) int { return strings.Compare(a.Day, b.Day) })
	return s
}

func figures(of map[string]*Figures, name string) *Figures {
	if of[name] == nil {
		of[name] = &Figures{}
	}
	return of[name]
}

func (f fact) add(to *Figures) {
	var amount float64
	if f.Amount != nil {
		amount = *f.Amount
	}
	switch f.Fact {
	case "event":
		to.Events += f.Events
	case "analysed":
		to.Analysed += f.Events
		to.CostUSD += amount
	case "rated":
		to.rated += float64(f.Events)
		to.ratings += amount
	case "duration":
		to.DurationS += amount
	case "code":
		if to.codes == nil {
			to.codes = map[string]int64{}
		}
		to.codes[f.Value] += f.Events
	}
}

// outcomes are counted by their codes; there may be none.
func (f *Figures) outcomes() map[string]int64 {
	if f.codes == nil {
		return map[string]int64{}
	}
	return f.codes
}

func (f *Figures) average() {
	if f.rated > 0 {
		f.QualityAverage = new(f.ratings / f.rated)
	}
}
