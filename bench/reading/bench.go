package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/bench/rig"
	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// bench asks the same functions that the API and the dashboard do.
type bench struct {
	options
	out    io.Writer
	pool   *pgxpool.Pool
	traced *statements
	plans  *os.File // nil for nobody
	chance *rand.Rand
	report report
}

type report struct {
	Events  int64    `json:"events"`
	Queries []figure `json:"queries"`
	Export  *export  `json:"export,omitempty"`
}

type figure struct {
	Query string  `json:"query"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	Max   float64 `json:"max_ms"`
	Rows  int     `json:"rows"`
	Total string  `json:"total"`
	Reads string  `json:"reads"` // the ways into the tables that the last one took
}

type export struct {
	Rows       int     `json:"rows"`
	Seconds    float64 `json:"seconds"`
	HeapMiB    float64 `json:"peak_heap_mib"`
	PeakRSSMiB float64 `json:"peak_rss_mib"`
}

func newBench(ctx context.Context, out io.Writer, o options) (*bench, error) {
	b := &bench{options: o, out: out, traced: &statements{}, chance: rand.New(rand.NewPCG(4, 2))} //nolint:gosec // the same questions each time
	config, err := pgxpool.ParseConfig(o.url)
	if err != nil {
		return nil, fmt.Errorf("reading the archive's address: %w", err)
	}
	config.MaxConns = 4
	config.ConnConfig.Tracer = b.traced
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("connecting to the archive: %w", err)
	}
	if o.explain != "" {
		if b.plans, err = os.Create(o.explain); err != nil {
			return nil, fmt.Errorf("making the file of plans: %w", err)
		}
	}
	return b, nil
}

func (b *bench) close() {
	b.pool.Close()
	if b.plans != nil {
		// What was not written is missed by whoever reads it, and told by run.
		_ = b.plans.Close()
	}
}

// question is a query that is asked again and again.
type question struct {
	name string
	ask  func(ctx context.Context) (rows int, total string, err error)
}

func (b *bench) run(ctx context.Context) error {
	if err := b.pool.QueryRow(ctx, `select count(*) from webhook_events`).Scan(&b.report.Events); err != nil {
		return fmt.Errorf("counting the archive: %w", err)
	}
	fmt.Fprintf(b.out, "%d events; milliseconds of %d times each\n%-62s %7s %7s %7s %5s %10s  %s\n", b.report.Events, b.repeat,
		"", "p50", "p95", "max", "rows", "total", "read by")
	questions, err := b.questions(ctx)
	if err != nil {
		return err
	}
	var late []string
	for _, q := range questions {
		f, err := b.measure(ctx, q)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		b.report.Queries = append(b.report.Queries, f)
		fmt.Fprintf(b.out, "%-62s %7.1f %7.1f %7.1f %5d %10s  %s\n", f.Query, f.P50, f.P95, f.Max, f.Rows, f.Total, f.Reads)
		if f.P95 > float64(bound.Milliseconds()) {
			late = append(late, q.name)
		}
	}
	if b.whole {
		if err := b.all(ctx); err != nil {
			return err
		}
	}
	if err := rig.WriteJSON(b.jsonPath, b.report); err != nil {
		return err
	}
	if len(late) > 0 {
		return fmt.Errorf("later than %s at p95: %s", bound, strings.Join(late, "; "))
	}
	return nil
}

func (b *bench) measure(ctx context.Context, q question) (figure, error) {
	f := figure{Query: q.name}
	var took []time.Duration
	for n := range b.repeat + 2 {
		b.traced.reset()
		began := time.Now()
		rows, total, err := q.ask(ctx)
		if err != nil {
			return f, err
		}
		if n >= 2 { // the first ones prepare statements and warm caches
			took = append(took, time.Since(began))
		}
		f.Rows, f.Total = rows, total
	}
	slices.Sort(took)
	ms := func(share float64) float64 { return float64(rig.Quantile(took, share).Microseconds()) / 1000 }
	f.P50, f.P95, f.Max = ms(0.5), ms(0.95), ms(1)
	var err error
	f.Reads, err = b.explained(ctx, q.name)
	return f, err
}

// questions are what people ask, with the rare, the common, the old and the
// contradictory among it.
func (b *bench) questions(ctx context.Context) ([]question, error) {
	pick := func(values ...string) string { return values[b.chance.IntN(len(values))] }
	day := func(n int) time.Time { return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -n) }
	vocabulary := newMaker(0).vocabulary
	rare := func() string { return vocabulary[15_000+b.chance.IntN(10_000)] }
	medium := func() string { return vocabulary[300+b.chance.IntN(700)] }
	common := func() string { return vocabulary[15+b.chance.IntN(30)] }
	phone := func() string { return fmt.Sprintf("+7999%07d", b.chance.IntN(200_000)) }
	var list []question
	first := func(name string, filter func() archive.Filter, sort archive.Sort) {
		list = append(list, question{name, func(ctx context.Context) (int, string, error) {
			return b.page(ctx, archive.Query{Filter: filter(), Sort: sort})
		}})
	}
	plain := func() archive.Filter { return archive.Filter{} }
	first("all, newest", plain, archive.Newest)
	first("all, oldest", plain, archive.Oldest)
	for _, share := range []int{1, 50, 99} {
		for name, filter := range map[string]archive.Filter{
			"all":                    {},
			"agent":                  {AgentIDs: []string{"agent_03"}},
			"quality 4,5":            {Qualities: []int{4, 5}},
			"common word":            {Query: vocabulary[20]},
			"rare agent and quality": {AgentIDs: []string{"agent_11"}, Qualities: []int{1}},
		} {
			q := archive.Query{Filter: filter}
			deep, err := b.deep(ctx, q, share)
			if err != nil {
				return nil, err
			}
			list = append(list, question{fmt.Sprintf("cursor %d %% deep: %s", share, name), func(ctx context.Context) (int, string, error) {
				return b.page(ctx, deep)
			}})
		}
	}
	list = append(list, question{"page 100 by its number", func(ctx context.Context) (int, string, error) {
		return b.page(ctx, archive.Query{Offset: 99 * 50})
	}}, question{"page 100 by its number: agent and quality", func(ctx context.Context) (int, string, error) {
		return b.page(ctx, archive.Query{Offset: 99 * 50, Filter: archive.Filter{AgentIDs: []string{"agent_00"}, Qualities: []int{5}}})
	}})
	first("best first", plain, archive.Best)
	first("worst first, of an agent", func() archive.Filter { return archive.Filter{AgentIDs: []string{"agent_05"}} }, archive.Worst)
	for _, t := range []struct {
		name   string
		filter func() archive.Filter
	}{
		{"type: transcription", func() archive.Filter { return archive.Filter{Types: []call.EventType{call.TypeTranscription}} }},
		{"type: failed dials", func() archive.Filter { return archive.Filter{Types: []call.EventType{call.TypeInitiationFailure}} }},
		{"type: one that never came", func() archive.Filter { return archive.Filter{Types: []call.EventType{"unheard_of"}} }},
		{"failed dials: busy", func() archive.Filter { return archive.Filter{FailureReason: "busy"} }},
		{"agent: busy", func() archive.Filter { return archive.Filter{AgentIDs: []string{"agent_00"}} }},
		{"agent: small", func() archive.Filter { return archive.Filter{AgentIDs: []string{"agent_11"}} }},
		{"agent: given up, 11 % of all, none of the last year", func() archive.Filter { return archive.Filter{AgentIDs: []string{"agent_given_up"}} }},
		{"agent: unknown", func() archive.Filter { return archive.Filter{AgentIDs: []string{"nobody"}} }},
		{"conversation", func() archive.Filter {
			return archive.Filter{ConversationID: fmt.Sprintf("conv_%032x", uint64(b.chance.IntN(int(b.report.Events)))*0x9e3779b97f4a7c15)}
		}},
		{"state: queued", func() archive.Filter { return archive.Filter{States: []call.State{call.StateQueued}} }},
		{"state: dead", func() archive.Filter { return archive.Filter{States: []call.State{call.StateDead}} }},
		{"state: skipped", func() archive.Filter { return archive.Filter{States: []call.State{call.StateSkipped}} }},
		{"state: done", func() archive.Filter { return archive.Filter{States: []call.State{call.StateDone}} }},
		{"date: a day", func() archive.Filter { n := b.chance.IntN(700); return archive.Filter{From: day(n + 1), To: day(n)} }},
		{"date: a year", func() archive.Filter { return archive.Filter{From: day(500), To: day(135)} }},
		{"audio: without", func() archive.Filter { return archive.Filter{HasAudio: new(false)} }},
		{"quality", func() archive.Filter { return archive.Filter{Qualities: []int{1 + b.chance.IntN(5)}} }},
		{"outcome code", func() archive.Filter { return archive.Filter{OutcomeCodes: call.OutcomeCodes()[b.chance.IntN(9):][:1]} }},
		{"sentiment", func() archive.Filter { return archive.Filter{Sentiments: call.Sentiments()[b.chance.IntN(4):][:1]} }},
		{"topic: a tenth", func() archive.Filter { return archive.Filter{Topic: topicWords[b.chance.IntN(len(topicWords))]} }},
		{"topic: rare", func() archive.Filter { return archive.Filter{Topic: medium()} }},
		{"intent", func() archive.Filter {
			return archive.Filter{Intent: pick("просмотр", "цены", "ипотекой")}
		}},
		{"outcome in words", func() archive.Filter {
			return archive.Filter{Outcome: pick("отказ", "звонок", "менеджер")}
		}},
		{"client's name", func() archive.Filter {
			return archive.Filter{ClientName: names[b.chance.IntN(10)] + " " + surnames[b.chance.IntN(10)]}
		}},
		{"phone: whole", func() archive.Filter { return archive.Filter{Phone: phone()} }},
		{"phone: last 4", func() archive.Filter { return archive.Filter{Phone: phone()[8:]} }},
		{"agent and quality", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{pick("agent_01", "agent_07")}, Qualities: []int{1, 2}}
		}},
		{"agent, quality, code, sentiment", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{"agent_09"}, Qualities: []int{1}, OutcomeCodes: []call.OutcomeCode{call.OutcomeUnclear}, Sentiments: []call.Sentiment{call.SentimentMixed}}
		}},
		{"sentiment and code that never come together", func() archive.Filter {
			return archive.Filter{Sentiments: []call.Sentiment{call.SentimentNegative}, OutcomeCodes: []call.OutcomeCode{call.OutcomeLead}}
		}},
		{"agent given up and quality", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{"agent_given_up"}, Qualities: []int{5}}
		}},
		{"agent, a quarter long ago, quality", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{"agent_02"}, From: day(400), To: day(310), Qualities: []int{3}}
		}},
		{"small agent without audio, skipped", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{"agent_11"}, HasAudio: new(false), States: []call.State{call.StateSkipped}}
		}},
		{"agent, dead", func() archive.Filter {
			return archive.Filter{AgentIDs: []string{"agent_04"}, States: []call.State{call.StateDead}}
		}},
		{"q: common word", func() archive.Filter { return archive.Filter{Query: common()} }},
		{"q: medium word", func() archive.Filter { return archive.Filter{Query: medium()} }},
		{"q: rare word", func() archive.Filter { return archive.Filter{Query: rare()} }},
		{"q: word that nobody said", func() archive.Filter { return archive.Filter{Query: "кракозябра"} }},
		{"q: two common words", func() archive.Filter { return archive.Filter{Query: common() + " " + common()} }},
		{"q: common and rare", func() archive.Filter { return archive.Filter{Query: common() + " " + rare()} }},
		{"q: either of two", func() archive.Filter { return archive.Filter{Query: medium() + " or " + rare()} }},
		{"q: one without another", func() archive.Filter { return archive.Filter{Query: medium() + " -" + common()} }},
		{"q: phrase", func() archive.Filter { return archive.Filter{Query: `"` + common() + " " + medium() + `"`} }},
		{"q: word of a topic, agent, quality", func() archive.Filter {
			return archive.Filter{Query: pick("ипотека", "рассрочка"), AgentIDs: []string{"agent_06"}, Qualities: []int{2, 3}}
		}},
		{"q: medium word, a month long ago", func() archive.Filter { return archive.Filter{Query: medium(), From: day(360), To: day(330)} }},
	} {
		first(t.name, t.filter, archive.Newest)
	}
	list = append(list, question{"event with all that belongs to it", func(ctx context.Context) (int, string, error) {
		_, err := archive.Get(ctx, b.pool, 1+b.chance.Int64N(b.report.Events))
		return 1, "", err
	}})
	for _, days := range []int{1, 30, 730} {
		list = append(list, question{fmt.Sprintf("figures of %d days", days), func(ctx context.Context) (int, string, error) {
			s, err := archive.Summarize(ctx, b.pool, time.Now().AddDate(0, 0, -days), time.Now(), "")
			if err != nil {
				return 0, "", err
			}
			return len(s.Days), strconv.FormatInt(s.Events, 10), nil
		}})
	}
	list = append(list, question{"figures of 730 days, an agent's", func(ctx context.Context) (int, string, error) {
		s, err := archive.Summarize(ctx, b.pool, time.Now().AddDate(0, 0, -730), time.Now(), "agent_01")
		if err != nil {
			return 0, "", err
		}
		return len(s.Days), strconv.FormatInt(s.Events, 10), nil
	}}, question{"rejections", func(ctx context.Context) (int, string, error) {
		l, err := postgres.RecentRejections(ctx, b.pool, 100)
		return len(l), "", err
	}})
	return list, nil
}

func (b *bench) page(ctx context.Context, q archive.Query) (int, string, error) {
	page, err := archive.List(ctx, b.pool, q)
	if err != nil {
		return 0, "", err
	}
	total := strconv.FormatInt(page.Total.Count, 10)
	if !page.Total.Exact {
		total = "~" + total
	}
	return len(page.Items), total, nil
}

// deep is the query for a page that lies that many percent of the archive's
// time behind the first one: its cursor is one that a page there gave.
func (b *bench) deep(ctx context.Context, q archive.Query, share int) (archive.Query, error) {
	// A list that ends there begins there, when it is read the other way.
	at := time.Now().Add(-span * time.Duration(share) / 100)
	there := q
	there.Filter.To = at
	there.Limit = 1
	page, err := archive.List(ctx, b.pool, there)
	if err != nil {
		return q, err
	}
	if page.Next == "" {
		return q, fmt.Errorf("there is no page %d %% deep", share)
	}
	first, err := archive.List(ctx, b.pool, q)
	if err != nil {
		return q, err
	}
	q.After, err = moved(first.Next, page.Next)
	return q, err
}

// moved gives a list's cursor the place of another's. A cursor is nobody's
// business but the archive's; reading half of it to get into its middle would
// take longer than all the rest.
func moved(of, to archive.Cursor) (archive.Cursor, error) {
	var at [2]map[string]json.RawMessage
	for i, c := range []archive.Cursor{of, to} {
		text, err := base64.RawURLEncoding.DecodeString(string(c))
		if err == nil {
			err = json.Unmarshal(text, &at[i])
		}
		if err != nil {
			return "", fmt.Errorf("reading a cursor: %w", err)
		}
	}
	at[0]["a"], at[0]["i"] = at[1]["a"], at[1]["i"]
	text, err := json.Marshal(at[0])
	return archive.Cursor(base64.RawURLEncoding.EncodeToString(text)), err
}

// all exports everything.
func (b *bench) all(ctx context.Context) error {
	runtime.GC()
	began := time.Now()
	e := &export{}
	var m runtime.MemStats
	err := archive.Each(ctx, b.pool, archive.Filter{}, archive.Newest, 10*time.Second, func(archive.Item) error {
		if e.Rows++; e.Rows%20_000 == 0 {
			runtime.ReadMemStats(&m)
			e.HeapMiB = max(e.HeapMiB, float64(m.HeapInuse)/(1<<20))
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.Seconds = time.Since(began).Seconds()
	b.report.Export = e
	fmt.Fprintf(b.out, "export of %d events in %.0f s (%.0f/s), heap at most %.1f MiB\n", e.Rows, e.Seconds, float64(e.Rows)/e.Seconds, e.HeapMiB)
	return nil
}

// statements remembers what was sent to the database.
type statements struct {
	mu   sync.Mutex
	list []statement
}

type statement struct {
	sql  string
	args []any
}

func (s *statements) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = nil
}

// TraceQueryStart notes a statement.
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, statement{data.SQL, data.Args})
	return ctx
}

// TraceQueryEnd has nothing to note.
func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

var ways = regexp.MustCompile(`(?:Index (?:Only )?Scan(?: Backward)? using|Bitmap Index Scan on|Seq Scan on) (\S+)`)

// explained runs the last question's statements once more, explained, and
// gives the ways into the tables that they took.
func (b *bench) explained(ctx context.Context, name string) (string, error) {
	b.traced.mu.Lock()
	list := b.traced.list
	b.traced.mu.Unlock()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return "", fmt.Errorf("connecting to explain: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var found []string
	if b.plans != nil {
		fmt.Fprintf(b.plans, "## %s\n", name)
	}
	for _, s := range list {
		text := strings.ToLower(strings.TrimSpace(s.sql))
		if !strings.HasPrefix(text, "select") && !strings.HasPrefix(text, "with") {
			if !strings.HasPrefix(text, "explain") && len(s.args) == 0 {
				if _, err := conn.Exec(ctx, s.sql); err != nil {
					return "", fmt.Errorf("repeating %s: %w", s.sql, err)
				}
			}
			continue
		}
		rows, err := conn.Query(ctx, "explain (analyze, buffers) "+s.sql, s.args...)
		if err != nil {
			return "", fmt.Errorf("explaining: %w", err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", fmt.Errorf("explaining: %w", err)
		}
		plan := strings.Join(lines, "\n")
		for _, m := range ways.FindAllStringSubmatch(plan, -1) {
			if !slices.Contains(found, m[1]) {
				found = append(found, m[1])
			}
		}
		if b.plans != nil {
			fmt.Fprintf(b.plans, "%s\n-- %v\n%s\n\n", s.sql, s.args, plan)
		}
	}
	slices.Sort(found)
	return strings.Join(found, " "), nil
}
