package admin_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/gate"
	"postcall/pkg/openapitest"
	"postcall/pkg/pgtest"
	"postcall/pkg/problem"
	"postcall/pkg/queue"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// server is the API alone, over HTTP.
type server struct {
	t      *testing.T
	echo   *echo.Echo
	url    string
	tokens map[access.Role]string
	client *http.Client
	logs   *observer.ObservedLogs
	api    *admin.API
}

// serve runs the API on a database, nil for none, for so many requests a
// second of a token.
func serve(t *testing.T, pool *pgxpool.Pool, perSecond int) *server {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	log := zap.New(core)
	s := &server{t: t, echo: echo.New(), tokens: map[access.Role]string{}, client: &http.Client{Transport: &http.Transport{}}, logs: logs}
	var entries []string
	for _, role := range access.Roles() {
		token, err := access.NewToken("test-"+string(role), role)
		if err != nil {
			t.Fatal(err)
		}
		entries, s.tokens[role] = append(entries, token.Entry()), token.Plain
	}
	tokens, err := access.ParseTokens(entries)
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := access.NewSessions(nil, tokens, access.SpentTable{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	api := &admin.API{
		Door: &access.Door{Tokens: tokens, Sessions: sessions, Secure: func(*http.Request) bool { return false }}, Pool: pool, Recordings: recordings{}, Backlog: nothing{},
		Address:   func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.5") },
		Guesses:   gate.NewLimits(gate.Rates{FailuresPerMinute: 60 * perSecond, PerSecond: 1, Burst: 1}),
		PerSecond: perSecond, Log: log, Acting: admin.Acting{MaxAttempts: 8},
	}
	if pool != nil {
		if api.Jobs, err = queue.NewInserter(pool, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.api = api
	s.echo.HTTPErrorHandler = problem.Handler(log)
	s.echo.Use(middleware.RequestID())
	api.Register(s.echo)
	web := httptest.NewUnstartedServer(s.echo)
	web.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	web.Start()
	t.Cleanup(web.Close)
	t.Cleanup(s.client.CloseIdleConnections)
	s.url = web.URL
	return s
}

// recordings plays one recording for every key.
type recordings struct{}

func (recordings) Serve(w http.ResponseWriter, r *http.Request, key string) error {
	w.Header().Set("Content-Type", "audio/mpeg")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader("the recording "+key))
	return nil
}

type nothing struct{}

func (nothing) Waiting() admin.Waiting { return admin.Waiting{} }

// get asks with a role's token, or with none for "".
func (s *server) get(role access.Role, path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if role != "" {
		r.Header.Set("Authorization", "Bearer "+s.tokens[role])
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response, string(body)
}

// event stores an event with a result, both as JSON, and returns its id.
func event(t *testing.T, pool *pgxpool.Pool, payload, result string) (id int64) {
	t.Helper()
	err := pool.QueryRow(t.Context(), `
		insert into webhook_events (event_type, event_timestamp, agent_id, conversation_id, has_audio, payload, dedup_key, analysis_state, received_at)
		values ('post_call_transcription', 1795000110, 'agent_1', 'conv_1', true, $1, gen_random_uuid()::text, 'done', now()) returning id`, payload).Scan(&id)
	if err == nil && result != "" {
		_, err = pool.Exec(t.Context(), `insert into analyses (event_id, model, analyzer, result, cost_usd) values ($1, 'gpt-test', 'openai', $2, 0.5)`, id, result)
	}
	if err == nil {
		_, err = archive.Index(t.Context(), pool)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const (
	payload = `{"type": "post_call_transcription", "data": {"conversation_id": "conv_1", "metadata": {"call_duration_secs": 61,
		"phone_call": {"external_number": "+79990000002", "agent_number": "+74950000000"}, "start_time_unix_secs": 1795000000},
		"conversation_initiation_client_data": {"dynamic_variables": {"system__caller_id": "79990000002", "client_phone": 79990000002}},
		"transcript": [{"role": "user", "message": "Мой номер 8 999 000-00-02, квартира 17"}]}}`
	result = `{"topic": "Квартира", "intent": "узнать цену", "quality": 4, "outcome": "просит перезвонить на +7 999 000 00 02", "outcome_code": "callback",
		"sentiment": "positive", "summary_ru": "Клиент ищет квартиру.", "recommendations": [], "client_name": "Ольга", "phone": "+79990000002"}`
)

// reading are the operations that this file's tests answer for.
var reading = []string{
	"/api/events", "/api/events/{id}", "/api/events/{id}/audio", "/api/events.csv", "/api/events.jsonl",
	"/api/stats", "/api/rejections", "/api/import", "/api/openapi.yaml", "/api/health/full",
}

// Every answer that the description has was seen, and was as it says.
func TestContract(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	contract := openapitest.New(t, admin.Description())
	checked := func(pool *pgxpool.Pool, perSecond int) *server {
		s := serve(t, pool, perSecond)
		s.client = contract.Client(s.client.Transport)
		return s
	}
	id := event(t, pool, payload, result)
	bare := event(t, pool, `[1, "no object"]`, "")
	for _, statement := range []string{
		`insert into call_audio (event_id, agent_id, conversation_id, kind, object_key, content_type, bytes, sha256) values ($1, 'agent_1', 'conv_1', 'full_audio', 'key', 'audio/mpeg', 17, '\x00')`,
		`insert into crm_dispatches (event_id, target, status, payload, response_text) values ($1, 'bpmsoft', 'delivered', '{"Phone": "+79990000002"}', 'ok')`,
		`insert into river_job (args, kind, max_attempts, state, queue, errors, finalized_at) values (jsonb_build_object('event_id', $1::bigint), 'analyze', 8, 'discarded', 'analyze', array['{"error": "no"}'::jsonb], now())`,
		`insert into rejections (reason, address, bytes) select 'mismatch', '203.0.113.5', $1`,
		`insert into analyses (event_id, result) values ($1, null)`,
		`insert into import_runs (trigger, since, until, upstream, imported, ended_at) select 'schedule', now(), now(), $1, 1, now()`,
		`insert into import_days (day, upstream, present, imported, failed) select current_date, $1, 0, 1, 0`,
	} {
		if _, err := pool.Exec(t.Context(), statement, id); err != nil {
			t.Fatal(err)
		}
	}
	s := checked(pool, 1000)
	for path, want := range map[string]int{
		"/api/events": 200, "/api/events?limit=1": 200, "/api/events?page=2&limit=1": 200, "/api/events?q=ипотека": 200,
		fmt.Sprintf("/api/events/%d", id): 200, fmt.Sprintf("/api/events/%d", bare): 200, fmt.Sprintf("/api/events/%d/audio", id): 200,
		"/api/stats": 200, "/api/rejections": 200, "/api/import": 200, "/api/openapi.yaml": 200, "/api/health/full": 200,
		"/api/events.csv?bom=true": 200, "/api/events.jsonl": 200,
		"/api/events?nothing=1": 400, "/api/events/x": 400, "/api/events/x/audio": 400, "/api/stats?from=1": 400, "/api/rejections?limit=0": 400,
		"/api/openapi.yaml?x=1": 400, "/api/events.csv?page=1": 400, "/api/events.jsonl?bom=1": 400,
		"/api/events/999": 404, "/api/events/999/audio": 404,
	} {
		if response, body := s.get(access.Admin, path); response.StatusCode != want {
			t.Errorf("%s answered %d, want %d: %.300s", path, response.StatusCode, want, body)
		}
	}
	if response, _ := s.get(access.Viewer, fmt.Sprintf("/api/events/%d/audio", id), "Range", "bytes=0-3"); response.StatusCode != http.StatusPartialContent {
		t.Errorf("a part of a recording is %d", response.StatusCode)
	}
	if response, _ := s.get(access.Viewer, fmt.Sprintf("/api/events/%d/audio", id), "Range", "bytes=900-"); response.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a part behind a recording's end is %d", response.StatusCode)
	}
	for _, path := range []string{"/api/events.csv", "/api/events.jsonl", "/api/events?phone=0002"} {
		if response, body := s.get(access.Viewer, path); response.StatusCode != http.StatusForbidden {
			t.Errorf("%s answered a viewer %d: %.300s", path, response.StatusCode, body)
		}
	}
	paths := make([]string, len(reading))
	for i, path := range reading {
		paths[i] = strings.ReplaceAll(path, "{id}", "1")
	}
	broken, away := checked(pgtest.Empty(t), 1000), checked(nil, 1000)
	for _, path := range paths {
		if response, _ := s.get("", path); response.StatusCode != http.StatusUnauthorized || response.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s answered nobody %d", path, response.StatusCode)
		}
		slow := checked(pool, 1)
		for slow.status(access.Admin, path) != 429 {
		}
		want := [2]int{500, 503}
		if path == "/api/openapi.yaml" { // it stands in the program
			want = [2]int{200, 200}
		}
		if path == "/api/health/full" { // it is what says so
			want = [2]int{503, 503}
		}
		if got := [2]int{broken.status(access.Admin, path), away.status(access.Admin, path)}; got != want {
			t.Errorf("%s answered %v without tables and without a database, want %v", path, got, want)
		}
	}
	for _, unseen := range contract.Unseen() {
		if path := strings.Fields(unseen)[1]; slices.Contains(reading, path) {
			t.Errorf("described, and never answered: %s", unseen)
		}
	}
}

func (s *server) status(role access.Role, path string) int {
	s.t.Helper()
	response, _ := s.get(role, path)
	return response.StatusCode
}

// Each route under /api is described, each described one is there, and none
// answers without a token that it knows.
func TestRoutes(t *testing.T) {
	t.Parallel()
	s := serve(t, pgtest.New(t), 1000)
	var described, routed []string
	var open []string
	for _, o := range openapitest.New(t, admin.Description()).Operations() {
		described = append(described, o.Method+" "+o.Path)
		if o.Open {
			open = append(open, o.Method+" "+o.Path)
		}
	}
	// Where one signs in, nobody can show anything yet; and whoever wants to be
	// signed out is.
	if want := []string{"DELETE /session", "GET /session", "GET /session/link", "POST /session", "POST /session/end"}; !slices.Equal(slices.Sorted(slices.Values(open)), want) {
		t.Errorf("described as open: %v, want %v", open, want)
	}
	for _, route := range s.echo.Routes() {
		if !strings.HasPrefix(route.Path, "/api") && !strings.HasPrefix(route.Path, "/session") || route.Method == echo.RouteNotFound {
			continue
		}
		var parts []string
		for part := range strings.SplitSeq(route.Path, "/") {
			if name, ok := strings.CutPrefix(part, ":"); ok {
				part = "{" + name + "}"
			}
			parts = append(parts, part)
		}
		routed = append(routed, route.Method+" "+strings.Join(parts, "/"))
		if slices.Contains(open, routed[len(routed)-1]) {
			continue
		}
		for name, authorization := range map[string]string{
			"nothing": "", "a made-up token": "Bearer pcl_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "another scheme": "Basic " + s.tokens[access.Admin],
		} {
			r, err := http.NewRequestWithContext(t.Context(), route.Method, s.url+strings.ReplaceAll(route.Path, ":id", "1"), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", authorization)
			response, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s answered %d to %s", route.Method, route.Path, response.StatusCode, name)
			}
		}
	}
	slices.Sort(described)
	slices.Sort(routed)
	if !slices.Equal(described, routed) {
		t.Errorf("described and routed differ:\n%s\n\n%s", strings.Join(described, "\n"), strings.Join(routed, "\n"))
	}
}

// What is wrong in a query is refused, and the answer says what is allowed.
func TestParametersAreStrict(t *testing.T) {
	t.Parallel()
	s := serve(t, pgtest.New(t), 1000)
	for query, want := range map[string]string{
		"agentID=x":                             "agentId",
		"state=ready":                           "none, queued, running, done, skipped, dead",
		"state=":                                "empty",
		"state=dead,":                           "empty value",
		"state=dead&state=done":                 "2 times",
		"quality=6":                             "1 to 5",
		"quality=good":                          "1 to 5",
		"quality=9999999999999999999":           "1 to 5",
		"outcomeCode=won":                       "lead, meeting",
		"sentiment=sad":                         "positive, neutral",
		"hasAudio=maybe":                        "true or false",
		"dateFrom=yesterday":                    "2026-11-23",
		"dateFrom=2026-02-30":                   "2026-11-23",
		"dateFrom=2026-11-02&dateTo=2026-11-01": "before dateTo",
		"dateTo=0001-01-01":                     "1970",
		"phone=12":                              "last 4 or 7",
		"phone=abcd":                            "last 4 or 7",
		"q=-квартира":                           "word",
		"q=и":                                   "word",
		"topic=на":                              "word",
		"q=" + strings.Repeat("я", 301):         "300",
		"q=%00":                                 "no text",
		"q=%ff":                                 "no text",
		"q=%zz":                                 "hexadecimal",
		"a;b":                                   "query string",
		"limit=0":                               "1 to 100",
		"limit=101":                             "1 to 100",
		"limit=1e1":                             "1 to 100",
		"page=0":                                "1 to 5001",
		"page=5001&limit=100":                   "cursor",
		"page=1&cursor=x":                       "give one",
		"cursor=x":                              "next_cursor",
		"cursor=" + strings.Repeat("A", 2000):   "next_cursor",
		"sort=id":                               "-received_at",
	} {
		if _, err := url.ParseQuery(query); err == nil {
			values, _ := url.ParseQuery(query)
			query = values.Encode()
		}
		response, body := s.get(access.Operator, "/api/events?"+query)
		var p problem.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || response.StatusCode != http.StatusBadRequest || !strings.Contains(p.Detail, want) {
			t.Errorf("%s answered %d %s, want 400 with %q", query, response.StatusCode, body, want)
		}
	}
	// A cursor is of no use for another list.
	pool := pgtest.New(t)
	for range 3 {
		event(t, pool, payload, result)
	}
	s = serve(t, pool, 1000)
	_, body := s.get(access.Operator, "/api/events?limit=1")
	var page struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil || page.Next == "" {
		t.Fatalf("%s, %v", body, err)
	}
	if response, body := s.get(access.Operator, "/api/events?limit=1&cursor="+page.Next); response.StatusCode != http.StatusOK {
		t.Errorf("the next page is %s", body)
	}
	for _, other := range []string{"&q=x1", "&sort=received_at", "&sort=quality", "&state=done"} {
		if response, body := s.get(access.Operator, "/api/events?limit=1&cursor="+page.Next+other); response.StatusCode != http.StatusBadRequest || !strings.Contains(body, "cursor") {
			t.Errorf("with %s the cursor gives %d %s", other, response.StatusCode, body)
		}
	}
}

// What is acted on is what is listed.
func TestMatchEvents(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	id := event(t, pool, payload, result)
	event(t, pool, payload, "")
	for query, want := range map[string]int{"": 2, "topic=квартиру": 1, "outcome=callback&state=done": 1, "outcome=перезвонят": 1, "q=номера": 2, "topic=и": 0, "q=-номер": 0, "dateTo=2001-01-01": 0} {
		fields, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		condition, args, err := admin.MatchEvents(fields)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		rows, err := pool.Query(t.Context(), `select e.id from webhook_events e where `+condition+` order by e.id`, args...)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(got) != want || want == 1 && got[0] != id {
			t.Errorf("%s: %v, %v", query, got, err)
		}
	}
	for _, wrong := range []string{"limit=1", "state=x", "state=done&state=dead", "quality=9"} {
		fields, err := url.ParseQuery(wrong)
		if err != nil {
			t.Fatal(err)
		}
		if condition, _, err := admin.MatchEvents(fields); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s is taken as %q, %v", wrong, condition, err)
		}
	}
}

// Viewers see no telephone number, wherever it stands; operators do.
func TestPhonesAreMasked(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	id := event(t, pool, payload, result)
	_, err := pool.Exec(t.Context(), `insert into crm_dispatches (event_id, payload, response_text) values ($1, '{"fields": [{"name": "Phone", "value": "+79990000002"}]}', 'no lead for +79990000002')`, id)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, pool, 1000)
	for _, path := range []string{"/api/events", fmt.Sprintf("/api/events/%d", id), "/api/events?phone=%2B79990000002"} {
		_, seen := s.get(access.Operator, path)
		_, masked := s.get(access.Viewer, path)
		if !strings.Contains(seen, "+79990000002") {
			t.Errorf("%s hides the number from an operator", path)
		}
		digits := strings.Map(func(c rune) rune {
			if strings.ContainsRune(" -+()", c) {
				return -1
			}
			return c
		}, masked)
		if strings.Contains(digits, "999000") || strings.Contains(digits, "7495000") || !strings.Contains(masked, "02") {
			t.Errorf("%s shows a viewer the number: %s", path, masked)
		}
		if !strings.Contains(masked, `"Квартира"`) || !strings.Contains(masked, "1795000110") || !strings.Contains(masked, `"conv_1"`) {
			t.Errorf("%s hides more than numbers: %s", path, masked)
		}
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	hostile := []string{"=HYPERLINK(\"http://x\")", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "a,\"b\"\nc", "Квартира"}
	for _, topic := range hostile {
		var r call.Result
		if err := json.Unmarshal([]byte(result), &r); err != nil {
			t.Fatal(err)
		}
		r.Topic = &topic
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		event(t, pool, payload, string(text))
	}
	event(t, pool, payload, "")
	s := serve(t, pool, 1000)
	response, body := s.get(access.Admin, "/api/events.csv?sort=received_at&bom=true")
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/csv") || !strings.Contains(response.Header.Get("Content-Disposition"), "events.csv") {
		t.Fatalf("%d %v", response.StatusCode, response.Header)
	}
	text, ok := strings.CutPrefix(body, "\ufeff")
	if !ok {
		t.Error("there is no byte order mark")
	}
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(rows) != len(hostile)+2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	column := slices.Index(rows[0], "topic")
	for i, topic := range hostile {
		want := "'" + strings.ReplaceAll(topic, "\r", "\n")
		if i >= len(hostile)-2 {
			want = topic
		}
		if got := rows[i+1][column]; strings.ReplaceAll(got, "\r", "\n") != want {
			t.Errorf("%q is exported as %q", topic, got)
		}
	}
	if phone := rows[1][slices.Index(rows[0], "phone")]; phone != "'+79990000002" {
		t.Errorf("the phone is %q", phone)
	}
	if _, body := s.get(access.Admin, "/api/events.csv?agentId=nobody"); strings.HasPrefix(body, "\ufeff") || strings.Count(body, "\n") != 1 {
		t.Errorf("an empty export is %q", body)
	}
	_, body = s.get(access.Admin, "/api/events.jsonl?topic=квартира")
	var item struct {
		Analysis struct {
			Topic string `json:"topic"`
		} `json:"analysis"`
	}
	if err := json.Unmarshal([]byte(body), &item); err != nil || item.Analysis.Topic != "Квартира" {
		t.Errorf("%s, %v", body, err)
	}
	// Who was given what is written down, without what was searched for.
	s.get(access.Admin, "/api/events.jsonl?q=секрет")
	s.get(access.Admin, "/api/events.jsonl?quality=9")
	var log string
	if err := pool.QueryRow(t.Context(), `
		select string_agg(concat_ws(' ', actor, action, target, outcome, detail -> 'filter'), E'\n' order by id) from audit_log`).Scan(&log); err != nil {
		t.Fatal(err)
	}
	const want = "test-admin events.export events.csv done {\"bom\": \"true\", \"sort\": \"received_at\"}\n" +
		"test-admin events.export events.csv done {\"agentId\": \"nobody\"}\n" +
		"test-admin events.export events.jsonl done {\"topic\": \"квартира\"}\n" +
		"test-admin events.export events.jsonl done {\"q\": \"…\"}"
	if log != want {
		t.Errorf("the audit log has\n%s, want\n%s", log, want)
	}
}

// An export that fails on its way does not look like a whole one.
func TestExportBreaksOff(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	var acquired atomic.Int32
	var fails atomic.Bool
	config.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
		if fails.Load() && acquired.Add(1) > 2 { // a batch, the audit entry, the next batch
			return true, errors.New("the database is away")
		}
		return true, nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `
		insert into webhook_events (event_type, event_timestamp, payload, dedup_key, analysis_state)
		select 'post_call_audio', n, '{}', 'n' || n, 'skipped' from generate_series(1, 700) n`)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, pool, 1000)
	if _, body := s.get(access.Admin, "/api/events.jsonl"); strings.Count(body, "\n") != 700 {
		t.Errorf("%d of 700 rows", strings.Count(body, "\n"))
	}
	fails.Store(true)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/events.jsonl", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.tokens[access.Admin])
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil || response.StatusCode != http.StatusOK {
		t.Errorf("an export of %d rows that failed ended with %d in good order", bytes.Count(body, []byte("\n")), response.StatusCode)
	}
	if s.logs.FilterMessage("an export ended early").Len() != 1 {
		t.Errorf("the log says %v", s.logs.All())
	}
}
