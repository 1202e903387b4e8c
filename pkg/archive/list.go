package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// begin opens a transaction for reading what stands at one moment. Whatever
// the planner thinks of it, no list is read by scanning a table, compiled, or
// shared among processes that have yet to start.
const begin = `begin isolation level repeatable read read only;
	set local enable_seqscan = off; set local jit = off; set local max_parallel_workers_per_gather = 0`

// walked is how many of the newest events are walked through.
const walked = 5000

// List reads a page.
//
// What it costs does not grow with the archive, nor with how far a cursor has
// led into it. The newest events are walked through first, where most filters
// find a page. Those that do not are answered by the inverted index of calls,
// from the newest day on in steps that grow, so that a common word reads a day
// and a rare one what there is of it; events that wait for their first analysis
// or to be indexed are not in that index, are few, and are looked through. What
// an analysis says is found once it is indexed, a moment later.
//
// A query that cannot be answered is Invalid and says why.
func List(ctx context.Context, pool *pgxpool.Pool, q Query) (Page, error) {
	if err := q.settle(); err != nil {
		return Page{}, err
	}
	after, err := q.position()
	if err != nil {
		return Page{}, err
	}
	var page Page
	err = reading(ctx, pool, func(tx pgx.Tx) error {
		page, err = list(ctx, tx, q, after)
		return err
	})
	if err != nil {
		return Page{}, err
	}
	return page, nil
}

// Reading runs f in a transaction that only reads, planned as lists are.
func Reading(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	return reading(ctx, pool, f)
}

// reading runs f in a transaction that only reads.
func reading(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: begin}, f)
	if _, ours := errors.AsType[*call.Error](err); ours || err == nil {
		return err
	}
	return failed("reading the archive", err)
}

func list(ctx context.Context, tx pgx.Tx, q Query, after *position) (Page, error) {
	r, err := newReader(ctx, tx, q, after)
	if err != nil {
		return Page{}, err
	}
	if r.plan.costly && q.Offset == 0 && !q.Sort.byQuality() {
		r.until = time.Now().Add(q.Patience)
	}
	want := q.Offset + q.Limit + 1
	keys, err := r.read(ctx, q, after, want)
	if err != nil {
		return Page{}, err
	}
	more := len(keys) == want
	var total Total
	switch {
	case after != nil:
		total = Total{Count: after.Count, Exact: after.Exact}
	case !more && r.stopped == nil:
		total = Total{Count: int64(len(keys)), Exact: true}
	default:
		if total, err = r.total(ctx); err != nil {
			return Page{}, err
		}
		// Whatever the statistics say, this many have been seen.
		if n := int64(len(keys)); total.Count < n {
			total.Count = n
		}
	}
	if more {
		keys = keys[:want-1]
	}
	keys = keys[min(q.Offset, len(keys)):]
	page := Page{Total: total}
	if page.Items, err = items(ctx, tx, keys); err != nil {
		return Page{}, err
	}
	var last position
	switch {
	case more:
		last = r.position(keys[len(keys)-1])
	case r.stopped != nil:
		last, page.LookedTo = r.position(*r.stopped), r.stopped.At
	default:
		return page, nil
	}
	last.List, last.Count, last.Exact = q.fingerprint(), total.Count, total.Exact
	page.Next = last.cursor()
	return page, nil
}

// key is a row's place in the order of time.
type key struct {
	ID      int64
	At      time.Time
	quality int // in orders by quality
}

func (k key) compare(other key) int {
	if c := k.At.Compare(other.At); c != 0 {
		return c
	}
	switch {
	case k.ID < other.ID:
		return -1
	case k.ID > other.ID:
		return 1
	}
	return 0
}

// reader reads the keys of a list.
type reader struct {
	tx    pgx.Tx
	plan  *plan
	up    bool // the oldest first
	after *key // nil for the beginning
	// until is when a search that takes long is broken off; zero for never.
	// stopped is then how far it has come.
	until   time.Time
	stopped *key
}

func newReader(ctx context.Context, tx pgx.Tx, q Query, after *position) (*reader, error) {
	p, err := compile(ctx, tx, q.Filter, q.Sort.byQuality())
	if err != nil {
		return nil, err
	}
	r := &reader{tx: tx, plan: p, up: q.Sort == Oldest}
	if after != nil {
		r.after = new(after.key())
	}
	return r, nil
}

// read gives the next keys in the query's order, at most want.
func (r *reader) read(ctx context.Context, q Query, after *position, want int) ([]key, error) {
	if q.Sort.byQuality() {
		return r.byQuality(ctx, q, after, want)
	}
	return r.keys(ctx, want)
}

// position is where a list stands with a row.
func (r *reader) position(k key) position {
	return position{At: k.At.UnixMicro(), ID: k.ID, Quality: k.quality}
}

// order is the SQL of the reader's order, by two columns.
func (r *reader) order(at, id string) string {
	if r.up {
		return " order by " + at + ", " + id
	}
	return " order by " + at + " desc, " + id + " desc"
}

// beyond restricts a clause to what comes after the last page.
func (r *reader) beyond(c *clause, at, id string) {
	if r.after == nil {
		return
	}
	sign := "<"
	if r.up {
		sign = ">"
	}
	c.and("("+at+", "+id+") "+sign+" (?, ?)", r.after.At, r.after.ID)
}

// keys reads the next ones in the order of time, at most want.
func (r *reader) keys(ctx context.Context, want int) ([]key, error) {
	switch {
	case r.plan.settled:
		return r.indexed(ctx, want)
	case !r.plan.narrow:
		return r.all(ctx, want)
	case r.plan.ConversationID != "":
		return r.conversation(ctx, want)
	}
	found, err := r.walk(ctx, want)
	if err != nil || len(found) == want {
		return found, err
	}
	if found, err = r.indexed(ctx, want); err != nil {
		return nil, err
	}
	clauses, err := r.unindexed(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range clauses {
		r.beyond(c, listedAt, "id")
		waiting, err := r.query(ctx, `with found as materialized (select id, `+listedAt+` as at from webhook_events e where `+c.String()+`)
			select id, at from found`+r.order("at", "id")+` limit `+c.arg(want), c.args)
		if err != nil {
			return nil, err
		}
		found = r.merge(found, waiting, want)
	}
	return found, nil
}

// merge puts two lists into one in their order.
func (r *reader) merge(a, b []key, want int) []key {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b key) int {
		if r.up {
			return a.compare(b)
		}
		return b.compare(a)
	})
	return all[:min(want, len(all))]
}

// all walks through every event.
func (r *reader) all(ctx context.Context, want int) ([]key, error) {
	c := &clause{}
	c.and("e.duplicate_of is null")
	c.and("e.received_at is not null")
	r.plan.received(c)
	r.beyond(c, "received_at", "id")
	found, err := r.query(ctx, `select id, received_at from webhook_events e where `+c.String()+
		r.order("received_at", "id")+` limit `+c.arg(want), c.args)
	if err != nil || !r.plan.From.IsZero() && r.plan.From.Unix() > 0 {
		return found, err
	}
	// Rows that the Node service left without a time are listed as the oldest.
	c = &clause{}
	c.and("at = 'epoch'")
	r.beyond(c, "at", "event_id")
	untimed, err := r.query(ctx, `select event_id, at from calls where `+c.String()+
		r.order("at", "event_id")+` limit `+c.arg(want), c.args)
	return r.merge(found, untimed, want), err
}

// conversation reads the few events of one call.
func (r *reader) conversation(ctx context.Context, want int) ([]key, error) {
	c := r.plan.events()
	r.plan.listed(c)
	r.beyond(c, listedAt, "id")
	return r.query(ctx, `with found as materialized (select id, `+listedAt+` as at from webhook_events e where `+c.String()+`)
		select id, at from found`+r.order("at", "id")+` limit `+c.arg(want), c.args)
}

// walk looks through the next events as they were received, so many and no
// more; it may find fewer than there are.
func (r *reader) walk(ctx context.Context, want int) ([]key, error) {
	c := &clause{}
	c.and("e.received_at is not null")
	r.plan.received(c)
	r.beyond(c, "received_at", "id")
	window := `select id, received_at, duplicate_of, event_type, agent_id, conversation_id, has_audio, analysis_state
		from webhook_events e where ` + c.String() + r.order("received_at", "id") + ` limit ` + c.arg(walked)
	wanted := r.plan.events(c.args...)
	return r.query(ctx, `select id, received_at from (`+window+`) e where `+wanted.String()+
		r.order("received_at", "id")+` limit `+wanted.arg(want), wanted.args)
}

// unindexed are the filters on events that the index of calls does not find by
// their columns: those that wait for their first analysis or, if such states
// were asked for, for any; and those that are due to be indexed.
func (r *reader) unindexed(ctx context.Context) (clauses []*clause, err error) {
	settled, waiting := r.plan.byState()
	if len(waiting) > 0 {
		c := r.plan.events()
		c.and("analysis_state in ('none', 'queued', 'running', 'dead')") // as the index has it
		c.and("analysis_state = any(?::text[])", waiting)
		r.plan.received(c)
		if len(r.plan.States) == 0 {
			c.and("not exists (select from calls c where c.event_id = e.id)")
		}
		clauses = append(clauses, c)
	}
	if len(settled) == 0 {
		return clauses, nil
	}
	due, err := r.due(ctx)
	if err != nil {
		return nil, err
	}
	if len(due) > 0 {
		c := r.plan.events()
		c.and("e.id = any(?::bigint[])", due)
		if len(r.plan.States) > 0 {
			c.and("e.analysis_state not in ('queued', 'running')")
		}
		r.plan.listed(c)
		c.and("not exists (select from calls c where c.event_id = e.id and " + c.nested(r.plan.calls()) + ")")
		clauses = append(clauses, c)
	}
	return clauses, nil
}

// due are the calls that are due to be indexed: mostly none.
func (r *reader) due(ctx context.Context) ([]int64, error) {
	rows, err := r.tx.Query(ctx, `select distinct event_id from calls_due join calls using (event_id)`)
	if err != nil {
		return nil, failed("looking for calls to be indexed", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return ids, failed("looking for calls to be indexed", err)
}

// indexed reads by the inverted index of calls, from the next day on in steps
// that grow.
func (r *reader) indexed(ctx context.Context, want int) ([]key, error) {
	if settled, _ := r.plan.byState(); len(settled) == 0 && !r.plan.settled {
		return nil, nil
	}
	var oldest, newest *time.Time
	err := r.tx.QueryRow(ctx, `select (select at from calls order by at limit 1), (select at from calls order by at desc limit 1)`).Scan(&oldest, &newest)
	if err != nil {
		return nil, failed("looking for the archive's ends", err)
	}
	if oldest == nil {
		return nil, nil
	}
	first, last := *oldest, *newest
	if r.plan.From.After(first) {
		first = r.plan.From
	}
	if to := r.plan.To; !to.IsZero() && to.Before(last) {
		last = to
	}
	if r.after != nil && r.up && r.after.At.After(first) {
		first = r.after.At
	}
	if r.after != nil && !r.up && r.after.At.Before(last) {
		last = r.after.At
	}
	if err := r.scanByIndex(ctx, false); err != nil {
		return nil, err
	}
	parts := []step{{from: day(first), to: day(last), facets: r.plan.span()}}
	few, err := r.few(ctx)
	if err != nil {
		return nil, err
	}
	if !few {
		parts = steps(day(first), day(last), r.up)
	}
	if !r.until.IsZero() {
		parts = evenSteps(day(first), day(last), r.up)
	}
	var found []key
	for n, s := range parts {
		c := r.plan.calls(s.facets...)
		r.beyond(c, "at", "event_id")
		if s.facets == nil {
			c.and("at >= ?", midnight(s.from))
			c.and("at < ?", midnight(s.to+1))
		}
		next, err := r.query(ctx, `select event_id, at from calls where `+c.String()+
			r.order("at", "event_id")+` limit `+c.arg(want-len(found)), c.args)
		if err != nil {
			return nil, err
		}
		if found = append(found, next...); len(found) == want {
			break
		}
		if !r.until.IsZero() && time.Now().After(r.until) && n < len(parts)-1 {
			r.stopped = s.end(r.up)
			break
		}
	}
	return found, r.scanByIndex(ctx, true)
}

// atOnce is how many matches are read at once.
const atOnce = 3000

// few reports whether the planner expects so few matches, behind the last page
// and in all, that they are read at once.
func (r *reader) few(ctx context.Context) (bool, error) {
	c := r.plan.calls()
	r.beyond(c, "at", "event_id")
	n, err := r.estimate(ctx, "calls", c)
	return n <= atOnce && !r.plan.costly, err
}

// scanByIndex lets the planner walk through an index in its order, or not:
// where it must not, it takes what the inverted index gives and sorts that.
func (r *reader) scanByIndex(ctx context.Context, allowed bool) error {
	_, err := r.tx.Exec(ctx, fmt.Sprintf(`set local enable_indexscan = %t; set local enable_indexonlyscan = %[1]t`, allowed))
	return failed("telling the planner how to read", err)
}

// byQuality reads one list in the order of time for each quality.
func (r *reader) byQuality(ctx context.Context, q Query, after *position, want int) ([]key, error) {
	order := []int{5, 4, 3, 2, 1}
	if q.Sort == Worst {
		slices.Reverse(order)
	}
	var found []key
	for _, quality := range order {
		if len(q.Filter.Qualities) > 0 && !slices.Contains(q.Filter.Qualities, quality) {
			continue
		}
		if after != nil && (q.Sort == Best && quality > after.Quality || q.Sort == Worst && quality < after.Quality) {
			continue
		}
		one := reader{tx: r.tx, plan: r.plan.ofQuality(quality)}
		if after != nil && quality == after.Quality {
			one.after = r.after
		}
		next, err := one.indexed(ctx, want-len(found))
		if err != nil {
			return nil, err
		}
		for i := range next {
			next[i].quality = quality
		}
		if found = append(found, next...); len(found) == want {
			break
		}
	}
	return found, nil
}

func (p *plan) ofQuality(quality int) *plan {
	one := *p
	one.all = append(slices.Clone(p.all), fmt.Sprintf("quality=%d", quality))
	return &one
}

// total tells how many events the filter meets.
func (r *reader) total(ctx context.Context) (Total, error) {
	if !r.plan.narrow {
		c := &clause{}
		c.and("e.duplicate_of is null")
		r.plan.received(c)
		return r.count(ctx, "webhook_events e", c)
	}
	if r.plan.ConversationID != "" && !r.plan.settled {
		return r.count(ctx, "webhook_events e", r.plan.events())
	}
	if err := r.scanByIndex(ctx, false); err != nil {
		return Total{}, err
	}
	var total Total
	if settled, _ := r.plan.byState(); len(settled) == 0 && !r.plan.settled {
		total.Exact = true
	} else {
		var err error
		if total, err = r.count(ctx, "calls", r.plan.calls(r.plan.span()...)); err != nil {
			return Total{}, err
		}
	}
	if r.plan.settled {
		return total, r.scanByIndex(ctx, true)
	}
	clauses, err := r.unindexed(ctx)
	if err != nil {
		return Total{}, err
	}
	for _, c := range clauses {
		waiting, err := r.count(ctx, "webhook_events e", c)
		if err != nil {
			return Total{}, err
		}
		total = Total{Count: total.Count + waiting.Count, Exact: total.Exact && waiting.Exact}
	}
	return total, r.scanByIndex(ctx, true)
}

// count counts a table's rows: one by one up to MaxExact where the planner does
// not expect far more, else as it estimates.
func (r *reader) count(ctx context.Context, table string, c *clause) (Total, error) {
	estimate, err := r.estimate(ctx, table, c)
	if err != nil {
		return Total{}, err
	}
	if estimate > 2*MaxExact || r.plan.costly && estimate > maxCostly {
		return Total{Count: estimate}, nil
	}
	var n int64
	err = r.tx.QueryRow(ctx, fmt.Sprintf(`select count(*) from (select from %s where %s limit %d) bounded`, table, c, MaxExact+1), planned(c)...).Scan(&n)
	if err != nil {
		return Total{}, failed("counting", err)
	}
	if n > MaxExact {
		return Total{Count: max(n, estimate)}, nil
	}
	return Total{Count: n, Exact: true}, nil
}

// maxCostly is how many are counted that must be looked at one by one.
const maxCostly = 200

// estimate is how many rows the planner expects.
func (r *reader) estimate(ctx context.Context, table string, c *clause) (int64, error) {
	var (
		explained []byte
		plan      []struct {
			Plan struct {
				Rows float64 `json:"Plan Rows"`
			}
		}
	)
	err := r.tx.QueryRow(ctx, `explain (format json) select from `+table+` where `+c.String(), planned(c)...).Scan(&explained)
	if err != nil {
		return 0, failed("estimating a count", err)
	}
	if err := json.Unmarshal(explained, &plan); err != nil || len(plan) == 0 {
		return 0, fmt.Errorf("reading an estimate: %w", err)
	}
	return int64(plan[0].Plan.Rows), nil
}

// planned are a clause's arguments for a statement that is planned for them.
func planned(c *clause) []any { return append([]any{pgx.QueryExecModeCacheDescribe}, c.args...) }

// query runs a query for keys, planned for the arguments at hand.
func (r *reader) query(ctx context.Context, sql string, args []any) ([]key, error) {
	rows, err := r.tx.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, failed("listing events", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k key, err error) {
		err = row.Scan(&k.ID, &k.At)
		return k, err
	})
	return keys, failed("listing events", err)
}

// items reads what lists show of events, in the order of the keys.
func items(ctx context.Context, tx pgx.Tx, keys []key) ([]Item, error) {
	list := make([]Item, 0, len(keys))
	if len(keys) == 0 {
		return list, nil
	}
	ids := make([]int64, len(keys))
	for i, k := range keys {
		ids[i] = k.ID
	}
	rows, err := tx.Query(ctx, itemsOf+`
		from unnest($1::bigint[]) with ordinality as listed (id, place)
		join webhook_events e on e.id = listed.id
		left join calls c on c.event_id = e.id
		left join analyses a on a.id = c.analysis_id
		left join lateral corrected(a.event_id, a.result) r on true
		order by place`, ids)
	if err != nil {
		return nil, failed("reading listed events", err)
	}
	list, err = pgx.AppendRows(list, rows, scanItem)
	return list, failed("reading listed events", err)
}

const itemsOf = `
	select e.id, e.event_type, e.event_timestamp, e.agent_id, e.conversation_id, e.status, e.has_audio, e.received_at,
		e.source, e.deliveries, e.analysis_state, e.processor_note, e.failure_code, c.failure_reason, c.duration_s::float8,
		a.id, a.analyzer, a.model, a.created_at,
		r ->> 'topic', r ->> 'intent', c.quality, r ->> 'outcome', c.outcome_code, c.sentiment,
		r ->> 'summary_ru', r ->> 'client_name', r ->> 'phone',
		coalesce(a.result ->> 'injection_suspected' = 'true', false), a.cost_usd::float8`

func scanItem(row pgx.CollectableRow) (Item, error) {
	var (
		i  Item
		b  Brief
		id *int64
	)
	err := row.Scan(
		&i.ID, &i.EventType, &i.EventTimestamp, &i.AgentID, &i.ConversationID, &i.Status, &i.HasAudio, &i.ReceivedAt,
		&i.Source, &i.Deliveries, &i.State, &i.ProcessorNote, &i.FailureCode, &i.FailureReason, &i.DurationS,
		&id, &b.Analyzer, &b.Model, &b.CreatedAt,
		&b.Topic, &b.Intent, &b.Quality, &b.Outcome, &b.OutcomeCode, &b.Sentiment,
		&b.Summary, &b.ClientName, &b.Phone,
		&b.InjectionSuspected, &b.CostUSD)
	if id != nil {
		b.ID = *id
		i.Analysis = &b
	}
	return i, err
}

func failed(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return call.Errorf(call.NotFound, "%s: %w", doing, err)
	case postgres.Transient(err):
		return call.Errorf(call.Unavailable, "%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
