package archive_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/pgtest"
)

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// matching lists the ids that a filter gives, the newest first.
func matching(t *testing.T, pool *pgxpool.Pool, f archive.Filter) []int64 {
	t.Helper()
	ids, _ := walk(t, pool, archive.Query{Filter: f, Limit: archive.MaxLimit})
	return ids
}

func TestSearch(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	said := func(text string, r *call.Result) int64 {
		m := made{at: time.Now(), kind: call.TypeTranscription, agent: "a", call: "c", state: call.StateSkipped, said: text, result: r}
		if r != nil {
			m.state = call.StateDone
		}
		insert(t, pool, &m)
		return m.id
	}
	flat := said("Добрый день, меня интересуют двухкомнатные квартиры с отделкой. Ёлка!", nil)
	loan := said("Какие условия по ипотеке, и есть ли квартира у метро?", nil)
	english := said("I was looking at the apartments; parking is included", nil)
	summed := said("Алло", &call.Result{SummaryRU: "Клиент жаловался на парковку.", OutcomeCode: call.OutcomeComplaint, Recommendations: call.Recommendations{"Перезвонить завтра"}})
	hostile := said("'; drop table calls; -- \\ : & | ! <-> (( \u202e", nil)
	otel := made{at: time.Now(), kind: call.TypeTranscriptionOTel, agent: "a", call: "o", state: call.StateSkipped}
	insert(t, pool, &otel)
	exec(t, pool, `update webhook_events set payload = '{"data": {"otlp_traces": {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [
		{"key": "elevenlabs.user.text", "value": {"stringValue": "Нужна рассрочка"}}, {"key": "secret", "value": {"stringValue": "паллиатив"}}]}]}]}]}}}' where id = $1`, otel.id)
	waiting := made{at: time.Now(), kind: call.TypeTranscription, agent: "a", call: "w", state: call.StateQueued, said: "квартира"}
	insert(t, pool, &waiting)
	for query, want := range map[string][]int64{
		"квартира":                 {loan, flat},
		"КВАРТИРАМИ":               {loan, flat},
		"квартира ипотека":         {loan},
		"ипотека or отделка":       {loan, flat},
		"квартира -ипотека":        {flat},
		`"двухкомнатная квартира"`: {flat},
		`"квартира двухкомнатная"`: {},
		"елка":                 {flat},
		"ёлки":                 {flat},
		"apartment look":       {english},
		"парковка":             {summed},
		"перезвоните":          {summed},
		"рассрочку":            {otel.id},
		"паллиатив":            {},
		"drop table":           {hostile},
		"'; select 1 --":       {},
		"((( \\ квартира:* ''": {loan, flat},
	} {
		if got := matching(t, pool, archive.Filter{Query: query}); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%q finds %v, want %v", query, got, want)
		}
	}
}

// The row of calls follows whatever happens to an event.
func TestCallsFollow(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	m := made{at: time.Now().Truncate(time.Microsecond), kind: call.TypeTranscription, agent: "a", call: "c", state: call.StateRunning, said: "квартира"}
	insert(t, pool, &m)
	check := func(when string, filters map[bool][]archive.Filter) {
		t.Helper()
		for want, list := range filters {
			for _, f := range list {
				if got := matching(t, pool, f); slices.Contains(got, m.id) != want {
					t.Errorf("%s: %+v gives it: %t", when, f, !want)
				}
			}
		}
	}
	state := func(s call.State) archive.Filter { return archive.Filter{States: []call.State{s}} }
	quality := func(n int) archive.Filter { return archive.Filter{Qualities: []int{n}} }
	all := archive.Filter{}
	check("running", map[bool][]archive.Filter{true: {all, state(call.StateRunning)}, false: {quality(2), {Query: "квартира"}, state(call.StateDone)}})
	analyse(t, pool, m.id, call.Result{Quality: new(2), OutcomeCode: call.OutcomeLead, SummaryRU: "Раз."})
	settle(t, pool, m.id, call.StateDone)
	check("analysed", map[bool][]archive.Filter{true: {all, quality(2), {Query: "квартира"}, state(call.StateDone)}, false: {state(call.StateRunning), quality(3)}})
	for _, nothing := range []string{`{}`, `null`, `[1]`, `"no"`} {
		exec(t, pool, `insert into analyses (event_id, result) values ($1, $2)`, m.id, nothing)
	}
	check("analysed into nothing", map[bool][]archive.Filter{true: {quality(2)}})
	settle(t, pool, m.id, call.StateQueued)
	check("queued again", map[bool][]archive.Filter{true: {quality(2), state(call.StateQueued)}, false: {state(call.StateDone)}})
	settle(t, pool, m.id, call.StateDead)
	check("dead", map[bool][]archive.Filter{true: {quality(2), state(call.StateDead)}, false: {state(call.StateQueued), state(call.StateDone)}})
	exec(t, pool, `insert into analyses (event_id, result) values ($1, '{"quality": "3", "topic": 7, "phone": ["x"], "sentiment": {"a": 1}}')`, m.id)
	check("analysed by a model that keeps to nothing", map[bool][]archive.Filter{true: {quality(3), {Topic: "7"}}, false: {quality(2)}})
	exec(t, pool, `update analyses set result = '{"quality": 5}' where result ->> 'quality' = '3'`)
	check("corrected", map[bool][]archive.Filter{true: {quality(5)}, false: {quality(3)}})
	exec(t, pool, `update webhook_events set payload = '{}', agent_id = 'b' where id = $1`, m.id)
	check("erased", map[bool][]archive.Filter{true: {all, {AgentIDs: []string{"b"}}}, false: {{Query: "квартира"}, {AgentIDs: []string{"a"}}}})
	exec(t, pool, `delete from analyses where event_id = $1`, m.id)
	check("without analyses", map[bool][]archive.Filter{true: {all}, false: {quality(2), quality(5)}})
	record, err := archive.Get(t.Context(), pool, m.id)
	if err != nil || record.Event.State != call.StateDead || len(record.Analyses) != 0 {
		t.Errorf("%+v, %v", record, err)
	}
	exec(t, pool, `delete from webhook_events where id = $1`, m.id)
	check("deleted", map[bool][]archive.Filter{false: {all, {AgentIDs: []string{"b"}}, state(call.StateDead)}})
	if _, err := archive.Get(t.Context(), pool, m.id); call.CodeOf(err) != call.NotFound {
		t.Errorf("a deleted event gives %v", err)
	}
}

// What is not indexed yet is missing from no list of events and from no figure;
// by what its analysis says, it is found once it is.
func TestDue(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 600)
	now := time.Now()
	for _, indexed := range []bool{false, true} {
		if indexed {
			if n, since, err := archive.Due(t.Context(), pool); err != nil || n == 0 || since.After(now) {
				t.Errorf("%d are due since %v, %v", n, since, err)
			}
			index(t, pool)
		}
		for _, f := range []archive.Filter{
			{}, {AgentIDs: []string{"agent_1"}}, {Types: []call.EventType{call.TypeTranscription}, States: []call.State{call.StateDone}},
			{AgentIDs: []string{"agent_0", "agent_1"}, States: []call.State{call.StateDone, call.StateRunning, call.StateQueued}}, {HasAudio: new(true)},
		} {
			want := expected(list, f, archive.Newest)
			var got []int64
			err := archive.Each(t.Context(), pool, f, archive.Newest, time.Minute, func(i archive.Item) error {
				got = append(got, i.ID)
				return nil
			})
			if err != nil || len(got) != len(want) || !slices.EqualFunc(got, want, func(id int64, m made) bool { return id == m.id }) {
				t.Errorf("indexed %t: %+v gives %d events of %d, %v", indexed, f, len(got), len(want), err)
			}
			page, err := archive.List(t.Context(), pool, archive.Query{Filter: f, Limit: 10})
			if err != nil || page.Total.Exact && page.Total.Count != int64(len(want)) {
				t.Errorf("indexed %t: %+v counts %+v of %d, %v", indexed, f, page.Total, len(want), err)
			}
		}
		best, err := archive.List(t.Context(), pool, archive.Query{Filter: archive.Filter{Qualities: []int{5}}})
		if err != nil || len(best.Items) > 0 != indexed {
			t.Errorf("indexed %t: %d calls of the best, %v", indexed, len(best.Items), err)
		}
	}
	if n, _, err := archive.Due(t.Context(), pool); err != nil || n != 0 {
		t.Errorf("%d are due, %v", n, err)
	}
}

// A search that takes long gives what it has found so far and where it goes on:
// over all pages each match once, in order.
func TestShortPages(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	fill(t, pool, 900)
	index(t, pool)
	for _, sort := range []archive.Sort{archive.Newest, archive.Oldest} {
		var want, got []int64
		f := archive.Filter{Query: `"ищу квартиру" -балкон`}
		err := archive.Each(t.Context(), pool, f, sort, time.Minute, func(i archive.Item) error {
			want = append(want, i.ID)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		short, looked := 0, time.Time{}
		q := archive.Query{Filter: f, Sort: sort, Limit: 7, Patience: 1}
		for {
			page, err := archive.List(t.Context(), pool, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				got = append(got, item.ID)
			}
			if at := page.LookedTo; !at.IsZero() {
				short++
				if !looked.IsZero() && at.After(looked) != (sort == archive.Oldest) {
					t.Errorf("it looked to %s after %s", at, looked)
				}
				looked = at
			} else if page.Next != "" && len(page.Items) != q.Limit {
				t.Errorf("a page of %d without a word", len(page.Items))
			}
			if page.Next == "" {
				break
			}
			q.After = page.Next
		}
		if !slices.Equal(got, want) || len(want) == 0 || short == 0 {
			t.Errorf("%s, with %d short pages: %v, want %v", sort, short, got, want)
		}
	}
}

// Of several who index at once, one does; whoever changes calls meanwhile holds
// nobody up and loses nothing.
func TestIndexers(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 300)
	held, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it has ended unless the test failed
	i := slices.IndexFunc(list, func(m made) bool { return m.result != nil && m.state == call.StateDone && m.result.Quality != nil })
	if _, err := held.Exec(t.Context(), `update webhook_events set analysis_state = 'dead' where id = $1`, list[i].id); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			_, err := archive.Index(t.Context(), pool)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	index(t, pool)
	if n, _, err := archive.Due(t.Context(), pool); err != nil || n == 0 || n > 3 {
		t.Errorf("%d are due beside the one that is held, %v", n, err)
	}
	if err := held.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	index(t, pool)
	list[i].state = call.StateDead
	for _, f := range []archive.Filter{{States: []call.State{call.StateDead}}, {Qualities: []int{*list[i].result.Quality}}} {
		var want []int64
		for _, m := range expected(list, f, archive.Newest) {
			want = append(want, m.id)
		}
		if got := matching(t, pool, f); !slices.Equal(got, want) {
			t.Errorf("%+v gives %v, want %v", f, got, want)
		}
	}
}

// No transcript is too much for the row of calls: an analysis that was paid for
// is stored.
func TestHostileTranscripts(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	words := func(n int, word func(int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(word(i))
			b.WriteByte(' ')
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"a million words":        words(1_000_000, func(i int) string { return fmt.Sprintf("сло%xво", i) }),
		"short words, all other": words(200_000, func(i int) string { return string([]rune{rune(0x4e00 + i%20000), rune(0x20000 + i/20000)}) }),
		"one endless word":       strings.Repeat("я", 500_000),
		"nothing but signs":      strings.Repeat("'\\:&|!()<->*", 50_000),
	} {
		m := made{at: time.Now(), kind: call.TypeTranscription, agent: strings.Repeat("ж", 900), call: strings.Repeat("c", 900), state: call.StateDone, said: text, result: &call.Result{
			Topic: new(text[:min(len(text), 100_000)/4*4]), OutcomeCode: call.OutcomeLead, SummaryRU: "x", Phone: new(strings.Repeat("7", 5000)), ClientName: &text,
		}}
		insert(t, pool, &m)
		if got := matching(t, pool, archive.Filter{OutcomeCodes: []call.OutcomeCode{call.OutcomeLead}}); !slices.Contains(got, m.id) {
			t.Errorf("%s: it is not found", name)
		}
	}
}

// What arrives while somebody reads on moves nothing.
func TestCursorsAreStable(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 60)
	index(t, pool)
	for _, f := range []archive.Filter{{}, {AgentIDs: []string{"agent_1"}}, {Qualities: []int{1, 2, 3, 4, 5}}} {
		var want []int64
		for _, m := range expected(list, f, archive.Newest) {
			want = append(want, m.id)
		}
		var got []int64
		q := archive.Query{Filter: f, Limit: 4}
		for {
			page, err := archive.List(t.Context(), pool, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				got = append(got, item.ID)
			}
			if page.Next == "" {
				break
			}
			q.After = page.Next
			newer := made{at: time.Now().Add(24 * time.Hour), kind: call.TypeTranscription, agent: "agent_1", call: "new", state: call.StateDone,
				result: &call.Result{Quality: new(3), OutcomeCode: call.OutcomeLead, SummaryRU: "Новое."}}
			insert(t, pool, &newer)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: read\n%v, want\n%v", f, got, want)
		}
		exec(t, pool, `delete from webhook_events where conversation_id = 'new'`)
	}
}

// Rows of the Node service may have no time, and copies that are not listed.
func TestRowsOfTheNodeService(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 20)
	var untimed, copied int64
	err := pool.QueryRow(t.Context(), `
		insert into webhook_events (event_type, event_timestamp, agent_id, payload, dedup_key, received_at)
		values ('unknown', 1, 'agent_1', '[1]', 'untimed', null) returning id`).Scan(&untimed)
	if err == nil {
		err = pool.QueryRow(t.Context(), `
			insert into webhook_events (event_type, event_timestamp, payload, dedup_key, duplicate_of, analysis_state)
			values ('unknown', 1, '{}', 'copy', $1, 'done') returning id`, list[0].id).Scan(&copied)
	}
	if err != nil {
		t.Fatal(err)
	}
	analyse(t, pool, copied, call.Result{Quality: new(1), OutcomeCode: call.OutcomeLead, SummaryRU: "x"})
	for _, sort := range []archive.Sort{archive.Newest, archive.Oldest} {
		ids, total := walk(t, pool, archive.Query{Sort: sort, Limit: 3})
		want := len(list)
		if sort == archive.Oldest {
			want = 0
		}
		if slices.Index(ids, untimed) != want || len(ids) != len(list)+1 || slices.Contains(ids, copied) {
			t.Errorf("by %s: %v, the untimed one is %d, the copy %d", sort, ids, untimed, copied)
		}
		if total.Count != int64(len(list)+1) {
			t.Errorf("by %s: %+v", sort, total)
		}
	}
	if ids := matching(t, pool, archive.Filter{AgentIDs: []string{"agent_1"}, Types: []call.EventType{call.TypeUnknown}}); !slices.Equal(ids, []int64{untimed}) {
		t.Errorf("by its agent and type: %v", ids)
	}
}

// Each gives everything once, in batches.
func TestEach(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 1200)
	index(t, pool)
	for _, q := range []archive.Query{{}, {Sort: archive.Oldest}, {Sort: archive.Best}, {Filter: archive.Filter{AgentIDs: []string{"agent_1"}}}} {
		if q.Sort == "" {
			q.Sort = archive.Newest
		}
		var got, want []int64
		err := archive.Each(t.Context(), pool, q.Filter, q.Sort, time.Minute, func(i archive.Item) error {
			got = append(got, i.ID)
			return nil
		})
		for _, m := range expected(list, q.Filter, q.Sort) {
			want = append(want, m.id)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v: %d events of %d, %v", q, len(got), len(want), err)
		}
	}
	stop := errors.New("enough")
	if err := archive.Each(t.Context(), pool, archive.Filter{}, archive.Newest, time.Minute, func(archive.Item) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("it ended with %v", err)
	}
	if err := archive.Each(t.Context(), pool, archive.Filter{}, "id", time.Minute, nil); call.CodeOf(err) != call.Invalid {
		t.Errorf("an unknown order gives %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := archive.Each(ended, pool, archive.Filter{}, archive.Newest, time.Minute, nil); call.CodeOf(err) != call.Unavailable {
		t.Errorf("an ended context gives %v", err)
	}
}

// Figures are what counting gives, whatever was added up before and changed
// since.
func TestSummarize(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	list := fill(t, pool, 400)
	exec(t, pool, `update analyses set cost_usd = 0.25`)
	exec(t, pool, `select list_call(id) from webhook_events where exists (select from calls where event_id = id)`)
	spans := [][2]time.Time{
		{time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)},
		{time.Date(2026, 9, 3, 7, 30, 0, 0, time.UTC), time.Date(2026, 11, 2, 19, 0, 0, 0, time.UTC)},
		{time.Date(2026, 11, 1, 1, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 23, 0, 0, 0, time.UTC)},
		{time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)},
		{time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 8, 0, 0, 0, 0, time.UTC)},
	}
	check := func(when string) {
		t.Helper()
		for _, span := range spans {
			for _, agent := range []string{"", "agent_1", "nobody"} {
				s, err := archive.Summarize(t.Context(), pool, span[0], span[1], agent)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, fmt.Sprintf("%s, %v of %q", when, span, agent), s, list, span, agent)
			}
		}
	}
	check("at first")
	check("added up")
	for i := range list[:50] {
		m := &list[i]
		m.state, m.result = call.StateDone, &call.Result{Quality: new(1), OutcomeCode: call.OutcomeComplaint, SummaryRU: "Иначе."}
		analyse(t, pool, m.id, *m.result)
		exec(t, pool, `update analyses set cost_usd = 0.25 where event_id = $1`, m.id)
		settle(t, pool, m.id, m.state)
		exec(t, pool, `select list_call($1)`, m.id)
	}
	exec(t, pool, `delete from webhook_events where id = $1`, list[len(list)-1].id)
	list = list[:len(list)-1]
	check("changed")
	for _, span := range [][2]time.Time{{spans[0][1], spans[0][0]}, {spans[0][0], spans[0][0].AddDate(20, 0, 0)}, {time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), spans[0][0]}} {
		if _, err := archive.Summarize(t.Context(), pool, span[0], span[1], ""); call.CodeOf(err) != call.Invalid {
			t.Errorf("%v gives %v", span, err)
		}
	}
}

func compare(t *testing.T, what string, s *archive.Stats, list []made, span [2]time.Time, agent string) {
	t.Helper()
	var events, analysed, rated, ratings int64
	states, days, codes := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, m := range list {
		if m.at.Before(span[0]) || !m.at.Before(span[1]) || agent != "" && m.agent != agent {
			continue
		}
		events++
		states[string(m.state)]++
		days[m.at.Format(time.DateOnly)]++
		if m.result != nil {
			analysed++
			codes[string(m.result.OutcomeCode)]++
			rated++
			ratings += int64(*m.result.Quality)
		}
	}
	if s.Events != events || s.Analysed != analysed || math.Abs(s.CostUSD-0.25*float64(analysed)) > 1e-9 {
		t.Errorf("%s: %d events, %d analysed, %f USD; want %d, %d", what, s.Events, s.Analysed, s.CostUSD, events, analysed)
	}
	if fmt.Sprint(s.ByState) != fmt.Sprint(states) || fmt.Sprint(s.ByOutcomeCode) != fmt.Sprint(codes) {
		t.Errorf("%s: %v, %v; want %v, %v", what, s.ByState, s.ByOutcomeCode, states, codes)
	}
	if (s.QualityAverage == nil) != (rated == 0) || rated > 0 && math.Abs(*s.QualityAverage-float64(ratings)/float64(rated)) > 1e-9 {
		t.Errorf("%s: the average quality is %v", what, s.QualityAverage)
	}
	var ofAgents int64
	for _, a := range s.Agents {
		ofAgents += a.Events
	}
	got := map[string]int64{}
	for _, d := range s.Days {
		got[d.Day] = d.Events
	}
	if ofAgents != events || fmt.Sprint(got) != fmt.Sprint(days) || !slices.IsSortedFunc(s.Days, func(a, b archive.DayFigures) int { return strings.Compare(a.Day, b.Day) }) {
		t.Errorf("%s: %d by agents, by days %v; want %d, %v", what, ofAgents, got, events, days)
	}
}

func FuzzCursor(f *testing.F) {
	pool := pgtest.New(f)
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `{"l":"x","a":1,"i":1}`, `{"l":"000000000000","a":-1,"i":0}`, `{"a":99999999999999999999}`,
		`{"l":"` + strings.Repeat("x", 400) + `"}`, `{"a":9223372036854775807,"i":9223372036854775807,"q":6,"n":-1}`,
	} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	f.Add("no base64 at all")
	f.Fuzz(func(t *testing.T, cursor string) {
		_, err := archive.List(t.Context(), pool, archive.Query{After: archive.Cursor(cursor)})
		if cursor != "" && call.CodeOf(err) != call.Invalid {
			var at struct{ L string }
			text, _ := base64.RawURLEncoding.DecodeString(cursor)
			if json.Unmarshal(text, &at) != nil || len(at.L) != 12 {
				t.Errorf("%q gives %v", cursor, err)
			}
		}
	})
}

func FuzzQuery(f *testing.F) {
	pool := pgtest.New(f)
	for _, text := range []string{"квартира", `"a b" -c or d`, `"`, "-", "or", "a:*", "<->", "'", `\`, "\x00", "\xff", "( | ! &", strings.Repeat("a ", 200)} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, query, topic string) {
		_, err := archive.List(t.Context(), pool, archive.Query{Filter: archive.Filter{Query: query, Topic: topic, ClientName: topic, AgentIDs: []string{topic}}})
		if err != nil && call.CodeOf(err) != call.Invalid {
			t.Errorf("%q, %q: %v", query, topic, err)
		}
	})
}
