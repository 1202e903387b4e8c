package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/openaitest"
	"postcall/pkg/openapitest"
)

const sessionKey = "test-session-key-0123456789abcdef"

// office is an installation with somebody of each role.
type office struct {
	*installation
	tokens   map[access.Role]access.Token
	nextIP   atomic.Uint32
	contract *openapitest.Contract
}

// staff prepares an installation that knows one token a role.
func staff(t *testing.T, ai *openaitest.Server, env map[string]string) *office {
	t.Helper()
	o := &office{tokens: map[access.Role]access.Token{}, contract: openapitest.New(t, admin.Description())}
	var entries []string
	for _, role := range access.Roles() {
		token, err := access.NewToken("the-"+string(role), role)
		if err != nil {
			t.Fatal(err)
		}
		o.tokens[role] = token
		entries = append(entries, token.Entry())
	}
	all := map[string]string{
		"ADMIN_TOKENS": strings.Join(entries, ","), "SESSION_KEY": sessionKey, "ADMIN_RATE_RPS": "100000",
		// Each request can come from an address of its own.
		"TRUSTED_PROXIES": "127.0.0.1",
	}
	for k, v := range env {
		all[k] = v
	}
	o.installation = install(t, ai, all)
	return o
}

// reply is an answer that has been read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// field is a field of a JSON answer, by its path.
func (r reply) field(t *testing.T, path ...string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	for _, name := range path {
		if n, err := strconv.Atoi(name); err == nil {
			list, _ := v.([]any)
			if n >= len(list) {
				t.Fatalf("%v is not in %s", path, r.body)
			}
			v = list[n]
			continue
		}
		o, _ := v.(map[string]any)
		v = o[name]
	}
	return v
}

// request is one to be made.
type request struct {
	method, path, body string
	header             map[string]string
}

// do makes a request from an address of its own.
func (o *office) do(ctx context.Context, r request) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, o.url+r.path, strings.NewReader(r.body))
	if err != nil {
		return reply{}, err
	}
	ip := o.nextIP.Add(1)
	req.Header.Set("X-Forwarded-For", netip.AddrFrom4([4]byte{10, byte(ip >> 16), byte(ip >> 8), byte(ip)}).String())
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	client := *o.post.Client
	if r.method != http.MethodOptions && (strings.HasPrefix(r.path, "/api/") || strings.HasPrefix(r.path, "/session")) {
		client = *o.contract.Client(client.Transport) // what is described is held to it
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Timeout = 2 * time.Minute
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b}, err
}

func (o *office) must(r request) reply {
	o.t.Helper()
	got, err := o.do(o.t.Context(), r)
	if err != nil {
		o.t.Fatal(err)
	}
	return got
}

func bearer(token access.Token) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token.Plain}
}

// as asks with the token of a role.
func (o *office) as(role access.Role, method, path, body string) reply {
	o.t.Helper()
	return o.must(request{method: method, path: path, body: body, header: bearer(o.tokens[role])})
}

// want posts as an operator and wants a status.
func (o *office) want(status int, path, body string) reply {
	o.t.Helper()
	got := o.as(access.Operator, http.MethodPost, path, body)
	if got.status != status {
		o.t.Errorf("POST %s %s: %d %s, want %d", path, body, got.status, got.body, status)
	}
	return got
}

// sealed makes a cookie's value, under a key and at a time.
func (o *office) sealed(role access.Role, key string, at time.Time) string {
	o.t.Helper()
	tokens, err := access.ParseTokens([]string{o.tokens[role].Entry()})
	if err != nil {
		o.t.Fatal(err)
	}
	s, err := access.NewSessions([]string{key}, tokens, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	s.Now = func() time.Time { return at }
	value, _, err := s.Start(o.tokens[role].Plain)
	if err != nil {
		o.t.Fatal(err)
	}
	return value
}

// cookie signs somebody in and gives the Cookie header.
func (o *office) cookie(role access.Role) string {
	o.t.Helper()
	got := o.must(request{method: http.MethodPost, path: "/session", body: fmt.Sprintf(`{"token": %q}`, o.tokens[role].Plain)})
	if got.status != http.StatusOK || got.field(o.t, "role") != string(role) {
		o.t.Fatalf("signing in: %d %s", got.status, got.body)
	}
	set := got.header.Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(set, part) {
			o.t.Errorf("the cookie lacks %s: %s", part, set)
		}
	}
	value, _, _ := strings.Cut(set, ";")
	return value
}

// Who may do what: every route, asked by everybody in every way, expected
// against got. Every refusal stands in the audit log, and so does every change.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, map[string]string{"ANALYZE_AUTO": "false"})
	o.ingest()
	id := strconv.FormatInt(o.send(callBody("conv_matrix")).EventID, 10)
	if _, err := o.pool.Exec(t.Context(), `insert into river_queue (name, metadata, updated_at) values ('analyze', '{}', now())`); err != nil {
		t.Fatal(err)
	}

	type route struct {
		method, path, body string
		least              access.Role
		status             int // of those who may
	}
	routes := []route{
		{"GET", "/api/events", "", access.Viewer, 200},
		{"GET", "/api/events/" + id, "", access.Viewer, 200},
		{"GET", "/api/stats", "", access.Viewer, 200},
		{"GET", "/api/rejections", "", access.Viewer, 200},
		{"GET", "/api/import", "", access.Viewer, 200},
		{"GET", "/api/openapi.yaml", "", access.Viewer, 200},
		{"GET", "/api/events.csv", "", access.Admin, 200},
		{"GET", "/api/events.jsonl", "", access.Admin, 200},
		{"POST", "/api/erase", `{"conversation_id": "conv_of_nobody"}`, access.Admin, 202},
		{"GET", "/api/erasures/999", "", access.Admin, 404},
		{"GET", "/api/subject-export", "", access.Admin, 400},
		{"GET", "/api/health/full", "", access.Viewer, 200},
		{"GET", "/api/events/999/audio", "", access.Viewer, 404},
		{"GET", "/api/dead-letters", "", access.Viewer, 200},
		{"GET", "/api/queues", "", access.Viewer, 200},
		{"POST", "/api/events/999/reprocess", "", access.Operator, 404},
		{"POST", "/api/events/999/resend-crm", "", access.Operator, 404},
		{"POST", "/api/events/reprocess", `{"filter": {"state": "dead"}, "dry_run": false}`, access.Operator, 200},
		{"POST", "/api/events/resend-crm", `{"filter": {"state": "dead"}, "dry_run": false}`, access.Operator, 200},
		{"POST", "/api/analyze?wait=0", `{"event_id": ` + id + `}`, access.Operator, 202},
		{"POST", "/api/analyze/next?wait=0", "", access.Operator, 404},
		{"POST", "/api/dead-letters/retry", `{"event_id": 999}`, access.Operator, 404},
		{"POST", "/api/queues/analyze/pause", "", access.Admin, 200},
		{"POST", "/api/queues/analyze/resume", "", access.Admin, 200},
		{"GET", "/api/audit", "", access.Admin, 200},
		{"GET", "/riverui/api/jobs?state=available", "", access.Operator, 200},
		{"POST", "/riverui/api/jobs/retry", `{"ids": ["999"]}`, access.Operator, 404},
		{"PUT", "/riverui/api/queues/analyze/resume", "", access.Admin, 200},
	}
	type caller struct {
		name   string
		role   access.Role // empty for nobody
		header map[string]string
		cross  bool // by another site's page
	}
	var callers []caller
	for _, role := range access.Roles() {
		callers = append(callers, caller{string(role) + " token", role, bearer(o.tokens[role]), false})
	}
	for _, role := range access.Roles() {
		callers = append(callers, caller{string(role) + " cookie", role, map[string]string{"Cookie": o.cookie(role), "Sec-Fetch-Site": "same-origin"}, false})
	}
	callers = append(callers,
		caller{"none", "", nil, false},
		caller{"wrong token", "", map[string]string{"Authorization": "Bearer pcl_wrong", "Cookie": o.cookie(access.Admin)}, false},
		caller{"expired cookie", "", map[string]string{"Cookie": access.Cookie + "=" + o.sealed(access.Admin, sessionKey, time.Now().Add(-access.SessionTime-time.Minute))}, false},
		caller{"forged cookie", "", map[string]string{"Cookie": access.Cookie + "=" + o.sealed(access.Admin, strings.Repeat("forged", 8), time.Now())}, false},
		caller{"other site's form", access.Admin, map[string]string{"Cookie": o.cookie(access.Admin), "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "text/plain"}, true},
		caller{"other origin", access.Admin, map[string]string{"Cookie": o.cookie(access.Admin), "Origin": "https://evil.example"}, true},
	)

	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "route\tleast")
	for _, c := range callers {
		fmt.Fprintf(w, "\t%s", c.name)
	}
	fmt.Fprintln(w)
	wrong := 0
	for _, r := range routes {
		fmt.Fprintf(w, "%s %s\t%s", r.method, r.path, r.least)
		for _, c := range callers {
			changes := r.method != http.MethodGet
			want, outcome := r.status, access.OutcomeDone
			if r.status >= 400 {
				outcome = access.OutcomeFailed
			}
			switch {
			case c.role == "":
				want, outcome = http.StatusUnauthorized, access.OutcomeRefused
			case c.cross && changes, !c.role.May(r.least):
				want, outcome = http.StatusForbidden, access.OutcomeRefused
			}
			header := map[string]string{"X-Request-ID": uuid.NewString()}
			for k, v := range c.header {
				header[k] = v
			}
			got := o.must(request{method: r.method, path: r.path, body: r.body, header: header})
			fmt.Fprintf(w, "\t%d/%d", want, got.status)
			if got.status != want {
				wrong++
				t.Errorf("%s %s by %s: %d %s, want %d", r.method, r.path, c.name, got.status, got.body, want)
			}
			if got.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s may be read by other sites", r.method, r.path)
			}
			logged := ""
			if changes || strings.HasPrefix(r.path, "/api/events.") || outcome == access.OutcomeRefused {
				actor, role := "", ""
				if c.role != "" {
					actor, role = "the-"+string(c.role), string(c.role)
				}
				logged = fmt.Sprintf("%s|%s|%s|10.|t|t", actor, role, outcome)
			}
			entry := o.text(`
				select string_agg(concat_ws('|', actor, role, outcome, substr(address, 1, 3), action <> '', target <> ''), ';')
				from audit_log where request_id = $1`, header["X-Request-ID"])
			if entry != logged && (logged != "" || entry != "NULL") {
				t.Errorf("%s %s by %s is in the audit log as %q, want %q", r.method, r.path, c.name, entry, logged)
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("expected/got, %d wrong of %d\n%s", wrong, len(routes)*len(callers), table.String())
}

// Ten callers who ask for the next event at the same moment get ten different
// ones, the oldest, each analysed once; when fewer are left, the others are
// told that there is none.
func TestAnalyzeNext(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, map[string]string{"ANALYZE_AUTO": "false", "ANALYZE_MAX_CONCURRENCY": "8"})
	o.ingest()
	o.worker()
	// The Node service's form, without a type, and an event that holds nothing.
	for n, payload := range []string{`{"foo": 1}`, `{"event_id": "evt_node", "data": {"conversation_id": "conv_node", "transcript": [{"role": "user", "message": "Меня зовут Ольга"}]}}`} {
		if _, err := o.pool.Exec(t.Context(), `
			insert into webhook_events (event_type, event_timestamp, payload, dedup_key, processed) values ('unknown', 1, $1, 'node ' || $2::int, false)`, payload, n); err != nil {
			t.Fatal(err)
		}
	}
	const calls = 12
	for n := range calls - 1 {
		o.send(callBody("conv_next_" + strconv.Itoa(n)))
	}
	ask := func() (served []int64, none int) {
		var (
			wg    sync.WaitGroup
			mu    sync.Mutex
			start = make(chan struct{})
		)
		for range 10 {
			wg.Go(func() {
				<-start
				got, err := o.do(t.Context(), request{method: "POST", path: "/api/analyze/next", header: bearer(o.tokens[access.Operator])})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case got.status == http.StatusNotFound:
					none++
				case got.status != http.StatusOK || got.field(t, "state") != "done" || got.field(t, "analysis", "result", "topic") == "":
					t.Errorf("%d %s", got.status, got.body)
				default:
					served = append(served, int64(got.field(t, "event_id").(float64)))
				}
			})
		}
		close(start)
		wg.Wait()
		slices.Sort(served)
		return served, none
	}
	want := func() (ids []int64) {
		rows, err := o.pool.Query(t.Context(), `select id from webhook_events where analysis_state = 'none' and id > 1 order by id`)
		if err != nil {
			t.Fatal(err)
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	waiting := want()
	if len(waiting) != calls {
		t.Fatalf("%d wait", len(waiting))
	}
	if served, none := ask(); !slices.Equal(served, waiting[:10]) || none != 0 {
		t.Errorf("first %v and %d times none, want %v", served, none, waiting[:10])
	}
	if served, none := ask(); !slices.Equal(served, waiting[10:]) || none != 8 {
		t.Errorf("then %v and %d times none, want %v", served, none, waiting[10:])
	}
	if got := o.text(`select count(*) || ' ' || count(distinct event_id) from analyses`); got != "12 12" {
		t.Errorf("analyses and events: %s", got)
	}
	if got := o.text(`select event_type || ' ' || conversation_id from webhook_events where dedup_key = 'node 1'`); got != "post_call_transcription conv_node" {
		t.Errorf("the Node service's event is %s", got)
	}
	if got := o.text(`select analysis_state from webhook_events where dedup_key = 'node 0'`); got != "skipped" {
		t.Errorf("what holds nothing is %s", got)
	}
	if got := o.text(`select count(*) || ' ' || count(distinct target) from audit_log where action = 'event.analyze_next' and outcome = 'done'`); got != "12 12" {
		t.Errorf("audited: %s", got)
	}
}

// The analysis of one event: in the Node service's form and in ours, new or
// again; whoever hangs up or does not wait loses nothing.
func TestAnalyze(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	var held atomic.Bool
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		if held.Load() {
			return openaitest.When(answer, openaitest.Success())
		}
		return openaitest.Success()
	}))
	o := staff(t, ai, map[string]string{"ANALYZE_AUTO": "false", "OPENAI_TIMEOUT_MS": "60000"})
	o.ingest()
	o.worker()
	id := o.send(callBody("conv_analyze")).EventID

	node := fmt.Sprintf(`{"event": {"id": "%d", "event_type": "post_call_transcription", "payload": {}, "processed": false, "received_at": "2026-01-01"}}`, id)
	got := o.want(http.StatusOK, "/api/analyze", node)
	if got.field(t, "event_id") != float64(id) || got.field(t, "state") != "done" || got.field(t, "analysis", "trigger") != "manual" || got.field(t, "analysis", "result", "summary_ru") == "" {
		t.Errorf("%s", got.body)
	}
	o.wait("1", `select count(*) from river_job where kind = 'crm_markdown'`)
	first := got.field(t, "analysis", "id")
	if got = o.want(http.StatusOK, "/api/analyze", fmt.Sprintf(`{"event_id": %d}`, id)); got.field(t, "analysis", "id") == first {
		t.Error("the old analysis was given as the new one")
	}
	// A payload that is not kept yet is kept, once.
	row := `{"event": {"event_type": "post_call_transcription", "payload": ` + string(callBody("conv_brought")) + `}}`
	brought := o.want(http.StatusOK, "/api/analyze", row).field(t, "event_id")
	if again := o.want(http.StatusOK, "/api/analyze", row).field(t, "event_id"); again != brought {
		t.Errorf("it is event %v and then %v", brought, again)
	}
	if got := o.text(`select source || ' ' || deliveries from webhook_events where conversation_id = 'conv_brought'`); !strings.HasPrefix(got, "manual ") {
		t.Errorf("it is kept as %s", got)
	}

	held.Store(true)
	hung := o.send(callBody("conv_hung_up")).EventID
	ctx, hangUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := o.do(ctx, request{method: "POST", path: "/api/analyze", body: fmt.Sprintf(`{"event_id": %d}`, hung), header: bearer(o.tokens[access.Operator])})
		done <- err
	}()
	o.wait("running", `select analysis_state from webhook_events where id = $1`, hung)
	hangUp()
	if err := <-done; err == nil {
		t.Error("it did not hang up")
	}
	// Who asks meanwhile joins the one that is under way.
	got = o.want(http.StatusAccepted, "/api/analyze?wait=0", fmt.Sprintf(`{"event_id": %d}`, hung))
	if got.header.Get("Location") != fmt.Sprintf("/api/events/%d", hung) || got.field(t, "state") != "running" {
		t.Errorf("%v %s", got.header, got.body)
	}
	close(answer)
	o.wait("done", `select analysis_state from webhook_events where id = $1`, hung)
	if got := o.text(`select count(*) from analyses where event_id = $1`, hung); got != "1" {
		t.Errorf("%s analyses", got)
	}

	silent := bytes.Replace(callBody("conv_silent"), []byte(`"user"`), []byte(`"agent"`), 1)
	got = o.want(http.StatusUnprocessableEntity, "/api/analyze", fmt.Sprintf(`{"event_id": %d}`, o.send(silent).EventID))
	if !strings.Contains(string(got.body), "nobody spoke") || got.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s", got.body)
	}
	for _, wrong := range []string{"", "{}", "[]", `{"event_id": "x"}`, `{"event": {"id": "x"}}`, `{"event": 1}`, `{"event": {"payload": {"a": 1}}}`, `{"events": 1}`, `{"event_id": 1} {`} {
		o.want(http.StatusBadRequest, "/api/analyze", wrong)
	}
	o.want(http.StatusBadRequest, "/api/analyze?wait=1000", `{"event_id": 1}`)
	o.want(http.StatusNotFound, "/api/analyze", `{"event_id": 999999}`)
	o.want(http.StatusRequestEntityTooLarge, "/api/analyze", `{"event": {"payload": "`+strings.Repeat("x", 2<<20)+`"}}`)
}

// A request under an Idempotency-Key is done once, however often it is sent.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, map[string]string{"ANALYZE_AUTO": "false"})
	o.ingest()
	id := o.send(callBody("conv_key")).EventID
	path := fmt.Sprintf("/api/events/%d/reprocess", id)
	ask := func(role access.Role, key, path, body string) reply {
		t.Helper()
		header := bearer(o.tokens[role])
		header["Idempotency-Key"] = key
		return o.must(request{method: "POST", path: path, body: body, header: header})
	}
	first := ask(access.Operator, "k1", path, "")
	again := ask(access.Operator, "k1", path, "")
	if first.status != http.StatusAccepted || again.status != http.StatusAccepted || !bytes.Equal(first.body, again.body) {
		t.Errorf("%d %s, then %d %s", first.status, first.body, again.status, again.body)
	}
	if first.header.Get("Idempotency-Replayed") != "" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Error("the answer does not say which one is the repetition's")
	}
	for name, got := range map[string]struct {
		reply
		want int
	}{
		"another query under the key":          {ask(access.Operator, "k1", path+"?force=true", ""), http.StatusUnprocessableEntity},
		"another body under the key":           {ask(access.Operator, "k1", path, "{}"), http.StatusUnprocessableEntity},
		"the same key of somebody else":        {ask(access.Admin, "k1", path, ""), http.StatusConflict}, // queued already
		"a new key":                            {ask(access.Operator, "k2", path, ""), http.StatusConflict},
		"a key that cannot be":                 {ask(access.Operator, "к1", path, ""), http.StatusBadRequest},
		"what failed under a key, sent anew":   {ask(access.Operator, "k2", path, ""), http.StatusConflict},
		"a role that may not do it, by k1 too": {ask(access.Viewer, "k1", path, ""), http.StatusForbidden},
	} {
		if got.status != got.want {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, got.want)
		}
	}
	if got := o.text(`select count(*) from river_job where kind = 'analyze'`); got != "1" {
		t.Errorf("%s jobs", got)
	}
	if got := o.text(`select string_agg(outcome, ' ' order by id) from audit_log where action = 'event.reprocess' and actor = 'the-operator' and outcome <> 'failed'`); got != "done replayed" {
		t.Errorf("audited: %s", got)
	}

	// While the first one is being worked on, the second is told so.
	other := o.send(callBody("conv_key_2")).EventID
	path = fmt.Sprintf("/api/events/%d/reprocess", other)
	tx, err := o.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `select from webhook_events where id = $1 for update`, other); err != nil {
		t.Fatal(err)
	}
	slow := make(chan reply, 1)
	go func() {
		header := bearer(o.tokens[access.Operator])
		header["Idempotency-Key"] = "k3"
		got, err := o.do(t.Context(), request{method: "POST", path: path, header: header})
		if err != nil {
			t.Error(err)
		}
		slow <- got
	}()
	o.wait("1", `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`)
	if got := ask(access.Operator, "k3", path, ""); got.status != http.StatusConflict || got.header.Get("Retry-After") == "" || !strings.Contains(string(got.body), "still being worked on") {
		t.Errorf("meanwhile: %d %s", got.status, got.body)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-slow; got.status != http.StatusAccepted {
		t.Errorf("the first: %d %s", got.status, got.body)
	}
	// A day later the key is free again.
	if _, err := o.pool.Exec(t.Context(), `update idempotency_keys set created_at = now() - interval '25 hours'`); err != nil {
		t.Fatal(err)
	}
	if got := ask(access.Operator, "k3", path, ""); got.status != http.StatusConflict || !strings.Contains(string(got.body), "queued already") {
		t.Errorf("a day later: %d %s", got.status, got.body)
	}
	if got := o.text(`select count(*) from idempotency_keys`); got != "2" { // undone with what failed
		t.Errorf("%s keys are kept", got)
	}
}
