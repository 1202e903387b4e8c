package archive_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// made is an event as a test put it into the database.
type made struct {
	id       int64
	at       time.Time
	kind     call.EventType
	agent    string
	call     string
	state    call.State
	audio    *bool
	reason   string
	result   *call.Result
	said     string
	previous bool // it has an older analysis of every other value
}

// fill makes events of every kind, spread over three years and close together
// at their end, in an order of ids that is not that of time.
func fill(t *testing.T, pool *pgxpool.Pool, n int) []made {
	t.Helper()
	chance := rand.New(rand.NewPCG(5, 17))
	pick := func(list ...string) string { return list[chance.IntN(len(list))] }
	end := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	list := make([]made, 0, n)
	for i := range n {
		m := made{
			at:    end.Add(-time.Duration(chance.ExpFloat64() * float64(120*24*time.Hour))).Truncate(time.Microsecond),
			kind:  call.TypeTranscription,
			agent: pick("agent_1", "agent_1", "agent_2", "agent_rare"), call: fmt.Sprintf("conv_%d", i/2),
			state: call.State(pick("done", "done", "done", "queued", "running", "dead", "none", "skipped")),
			said:  pick("Добрый день, ищу квартиру у метро", "Скажите, есть ли ипотека?", "I am looking for two apartments", "Ёлка стоит на балконе"),
		}
		switch chance.IntN(6) {
		case 0:
			m.audio = new(true)
		case 1:
			m.audio = new(false)
		case 2:
			m.kind, m.state, m.reason, m.said = call.TypeInitiationFailure, call.StateSkipped, pick("busy", "no-answer"), ""
		}
		if i%10 == 9 { // many at one moment
			m.at = end.Add(-time.Hour)
		}
		if m.state == call.StateDone || m.state != call.StateNone && m.kind == call.TypeTranscription && chance.IntN(4) == 0 {
			m.result = &call.Result{
				Topic: new(pick("Двухкомнатная квартира", "Ипотека и рассрочка", "Парковка")), Intent: new(pick("узнать цену", "записаться на просмотр")),
				Outcome: new(pick("договорились о звонке", "клиент отказался")), Quality: new(1 + chance.IntN(5)),
				OutcomeCode: call.OutcomeCodes()[chance.IntN(9)], Sentiment: new(call.Sentiments()[chance.IntN(4)]),
				SummaryRU: pick("Клиент интересовался планировками.", "Клиент жаловался на застройщика."), ClientName: new(pick("Ольга Петрова", "Пётр")),
				Phone: new(pick("+79990000001", "+79990000002", "+375291234567")),
			}
			m.previous = chance.IntN(3) == 0
		}
		list = append(list, m)
	}
	for i := range list {
		insert(t, pool, &list[i])
	}
	return list
}

// insert stores an event as the processes do: queued, analysed, settled.
func insert(t *testing.T, pool *pgxpool.Pool, m *made) {
	t.Helper()
	body := map[string]any{"type": m.kind, "data": map[string]any{
		"conversation_id": m.call, "transcript": []any{map[string]any{"role": "user", "message": m.said}},
		"metadata": map[string]any{"call_duration_secs": 61},
	}}
	if m.reason != "" {
		body["data"] = map[string]any{"failure_reason": m.reason}
	}
	payload, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	first := m.state
	if m.result != nil || m.kind == call.TypeTranscription && m.state != call.StateNone {
		first = call.StateQueued
	}
	err = pool.QueryRow(t.Context(), `
		insert into webhook_events (event_type, event_timestamp, agent_id, conversation_id, has_audio, payload, dedup_key, analysis_state, received_at)
		values ($1, 1, $2, $3, $4, $5, gen_random_uuid()::text, $6, $7) returning id`,
		m.kind, m.agent, m.call, m.audio, payload, first, m.at).Scan(&m.id)
	if err != nil {
		t.Fatal(err)
	}
	if m.previous {
		analyse(t, pool, m.id, call.Result{Topic: new("Старое"), Quality: new(6 - *m.result.Quality), OutcomeCode: call.OutcomeUnclear, SummaryRU: "Старое."})
	}
	if m.result != nil {
		analyse(t, pool, m.id, *m.result)
	}
	settle(t, pool, m.id, m.state)
}

func analyse(t *testing.T, pool *pgxpool.Pool, id int64, r call.Result) {
	t.Helper()
	result, err := json.Marshal(r)
	if err == nil {
		_, err = pool.Exec(t.Context(), `insert into analyses (event_id, model, result) values ($1, 'gpt-test', $2)`, id, result)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func settle(t *testing.T, pool *pgxpool.Pool, id int64, state call.State) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), `update webhook_events set analysis_state = $2 where id = $1`, id, state); err != nil {
		t.Fatal(err)
	}
}

// meets says whether an event meets a filter, by the filter's own description.
func (m *made) meets(f archive.Filter) bool {
	r := m.result
	if r == nil {
		r = &call.Result{}
	}
	has := func(text *string, stem string) bool {
		return stem == "" || text != nil && strings.Contains(strings.ToLower(*text), stem)
	}
	stem := map[string]string{"квартиры": "квартир", "ИПОТЕКОЙ": "ипотек", "просмотры": "просмотр", "отказываться": "отказа", "Ольге": "ольг", "ПЕТР": "пётр", "": ""}
	within := func(all ...bool) bool { return !slices.Contains(all, false) }
	return within(
		len(f.Types) == 0 || slices.Contains(f.Types, m.kind),
		len(f.AgentIDs) == 0 || slices.Contains(f.AgentIDs, m.agent),
		f.ConversationID == "" || f.ConversationID == m.call,
		len(f.States) == 0 || slices.Contains(f.States, m.state),
		f.From.IsZero() || !m.at.Before(f.From),
		f.To.IsZero() || m.at.Before(f.To),
		f.HasAudio == nil || *f.HasAudio == (m.audio != nil && *m.audio),
		f.FailureReason == "" || f.FailureReason == m.reason,
		len(f.Qualities) == 0 || r.Quality != nil && slices.Contains(f.Qualities, *r.Quality),
		len(f.OutcomeCodes) == 0 || slices.Contains(f.OutcomeCodes, r.OutcomeCode),
		len(f.Sentiments) == 0 || r.Sentiment != nil && slices.Contains(f.Sentiments, *r.Sentiment),
		has(r.Topic, stem[f.Topic]), has(r.Intent, stem[f.Intent]), has(r.Outcome, stem[f.Outcome]), has(r.ClientName, stem[f.ClientName]),
		f.Phone == "" || r.Phone != nil && strings.HasSuffix(*r.Phone, f.Phone),
	)
}

// index brings the index up to date, as workers do.
func index(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if _, err := archive.Index(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}

// walk reads a list to its end, page by page.
func walk(t *testing.T, pool *pgxpool.Pool, q archive.Query) (ids []int64, total archive.Total) {
	t.Helper()
	index(t, pool)
	for {
		page, err := archive.List(t.Context(), pool, q)
		if err != nil {
			t.Fatal(err)
		}
		if q.After == "" {
			total = page.Total
		} else if page.Total != total {
			t.Fatalf("the total changed from %v to %v", total, page.Total)
		}
		for _, item := range page.Items {
			ids = append(ids, item.ID)
		}
		if page.Next == "" {
			return ids, total
		}
		if len(page.Items) != q.Limit && page.LookedTo.IsZero() {
			t.Fatalf("a page of %d of %d with another behind it", len(page.Items), q.Limit)
		}
		q.After = page.Next
	}
}

// Every combination of filters gives, in every order and whatever the pages'
// size, what they say.
func TestList(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 500)
	day := func(n int) time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).AddDate(0, 0, -n) }
	parts := []func(*archive.Filter){
		func(f *archive.Filter) { f.Types = []call.EventType{call.TypeTranscription} },
		func(f *archive.Filter) { f.Types = []call.EventType{call.TypeInitiationFailure, "unheard_of"} },
		func(f *archive.Filter) { f.AgentIDs = []string{"agent_rare"} },
		func(f *archive.Filter) { f.AgentIDs = []string{"agent_2", "agent_rare"} },
		func(f *archive.Filter) { f.ConversationID = "conv_12" },
		func(f *archive.Filter) { f.States = []call.State{call.StateQueued} },
		func(f *archive.Filter) { f.States = []call.State{call.StateDone, call.StateRunning} },
		func(f *archive.Filter) { f.States = []call.State{call.StateSkipped} },
		func(f *archive.Filter) { f.States = []call.State{call.StateNone, call.StateDead} },
		func(f *archive.Filter) { f.From, f.To = day(400), day(30) },
		func(f *archive.Filter) { f.To = day(3) },
		func(f *archive.Filter) { f.From = day(200) },
		func(f *archive.Filter) { f.HasAudio = new(true) },
		func(f *archive.Filter) { f.HasAudio = new(false) },
		func(f *archive.Filter) { f.FailureReason = "busy" },
		func(f *archive.Filter) { f.Qualities = []int{4, 5} },
		func(f *archive.Filter) { f.OutcomeCodes = []call.OutcomeCode{call.OutcomeLead, call.OutcomeMeeting} },
		func(f *archive.Filter) { f.Sentiments = []call.Sentiment{call.SentimentMixed} },
		func(f *archive.Filter) { f.Topic = "квартиры" },
		func(f *archive.Filter) { f.Topic = "ИПОТЕКОЙ" },
		func(f *archive.Filter) { f.Intent = "просмотры" },
		func(f *archive.Filter) { f.ClientName = "Ольге" },
		func(f *archive.Filter) { f.ClientName = "ПЕТР" },
		func(f *archive.Filter) { f.Phone = "0001" },
		func(f *archive.Filter) { f.Phone = "+375291234567" },
	}
	filters := []archive.Filter{{}}
	chance := rand.New(rand.NewPCG(1, 2))
	for _, part := range parts {
		var f archive.Filter
		part(&f)
		filters = append(filters, f)
	}
	for range 40 {
		var f archive.Filter
		for range 2 + chance.IntN(2) {
			parts[chance.IntN(len(parts))](&f)
		}
		if f.To.IsZero() || f.From.Before(f.To) {
			filters = append(filters, f)
		}
	}
	for _, f := range filters {
		condition, args, err := f.Condition()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := pool.Query(t.Context(), `select e.id from webhook_events e where `+condition+` order by e.received_at desc, e.id desc`, args...)
		if err != nil {
			t.Fatal(err)
		}
		met, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			t.Fatal(err)
		}
		var all []int64
		for _, m := range expected(list, f, archive.Newest) {
			all = append(all, m.id)
		}
		if !slices.Equal(met, all) {
			t.Errorf("%+v: the condition %s %v gives %v, want %v", f, condition, args, met, all)
		}
		for _, sort := range archive.Sorts() {
			var want []int64
			for _, m := range expected(list, f, sort) {
				want = append(want, m.id)
			}
			limit := 1 + chance.IntN(archive.MaxLimit)
			got, total := walk(t, pool, archive.Query{Filter: f, Sort: sort, Limit: limit})
			if !slices.Equal(got, want) {
				t.Errorf("%+v by %s: %d events, want %d\n got %v\nwant %v", f, sort, len(got), len(want), got, want)
			}
			if total != (archive.Total{Count: int64(len(want)), Exact: true}) {
				t.Errorf("%+v by %s: total %+v of %d", f, sort, total, len(want))
			}
			offset := chance.IntN(len(want) + 2)
			page, err := archive.List(t.Context(), pool, archive.Query{Filter: f, Sort: sort, Limit: 7, Offset: offset})
			if err != nil {
				t.Fatal(err)
			}
			from := min(offset, len(want))
			if part := want[from:min(from+7, len(want))]; len(page.Items) != len(part) || len(part) > 0 && page.Items[0].ID != part[0] {
				t.Errorf("%+v by %s from %d: %d events, want %v", f, sort, offset, len(page.Items), part)
			}
		}
	}
}

func expected(list []made, f archive.Filter, sort archive.Sort) []made {
	var want []made
	for _, m := range list {
		if m.meets(f) && (sort == archive.Newest || sort == archive.Oldest || m.result != nil) {
			want = append(want, m)
		}
	}
	slices.SortFunc(want, func(a, b made) int {
		newest := b.at.Compare(a.at)
		if newest == 0 {
			newest = int(b.id - a.id)
		}
		switch {
		case sort == archive.Oldest:
			return -newest
		case sort == archive.Best && *a.result.Quality != *b.result.Quality:
			return *b.result.Quality - *a.result.Quality
		case sort == archive.Worst && *a.result.Quality != *b.result.Quality:
			return *a.result.Quality - *b.result.Quality
		}
		return newest
	})
	return want
}
