package admin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/openapitest"
	"postcall/pkg/pgtest"
)

// send makes a request with a role's token, or with none for "", and gives the
// status. A redirect is the answer.
func (s *server) send(role access.Role, method, path, body string, header ...string) int {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if role != "" {
		r.Header.Set("Authorization", "Bearer "+s.tokens[role])
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := *s.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode
}

// works runs a worker with the built-in analyser until the test ends.
func works(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	c, err := config.LoadWorker(t.Context(), config.Map(map[string]string{
		"DATABASE_URL": pool.Config().ConnString(), "ANALYZER": "builtin", "CRM_MD_PATH": filepath.Join(t.TempDir(), "crm.md"),
	}, nil))
	if err != nil {
		t.Fatal(err)
	}
	w, err := app.NewWorker(t.Context(), c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.Serve(serving) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// acts are the routes that change something, each with a request that it takes
// and the least role.
var acts = []struct {
	path, body string
	least      access.Role
}{
	{"/api/events/%d/reprocess", ``, access.Operator},
	{"/api/events/%d/resend-crm", ``, access.Operator},
	{"/api/events/%d/corrections", `{"field": "quality", "value": 2}`, access.Operator},
	{"/api/events/reprocess", `{"filter": {"state": "running"}, "dry_run": false}`, access.Operator},
	{"/api/events/resend-crm", `{"filter": {"state": "running"}, "dry_run": false, "target": "markdown"}`, access.Operator},
	{"/api/analyze", `{"event_id": %d}`, access.Operator},
	{"/api/analyze/next", ``, access.Operator},
	{"/api/dead-letters/retry", `{"event_id": %d}`, access.Operator},
	{"/api/erase", `{"conversation_id": "conv_of_nobody"}`, access.Admin},
	{"/api/queues/analyze/pause", ``, access.Admin},
	{"/api/queues/analyze/resume", ``, access.Admin},
}

// Every answer that the description has of the acting routes and of sessions
// was seen, and was as it says.
func TestActingContract(t *testing.T) {
	t.Parallel()
	contract := openapitest.New(t, admin.Description())
	checked := func(pool *pgxpool.Pool, perSecond int) *server {
		s := serve(t, pool, perSecond)
		s.client = contract.Client(s.client.Transport)
		return s
	}
	pool := pgtest.New(t)
	s, broken, away := checked(pool, 1000), checked(pgtest.Empty(t), 1000), checked(nil, 1000)
	id, dead := event(t, pool, payload, result), event(t, pool, payload, "")
	for _, sql := range []string{
		`update webhook_events set conversation_id = 'conv_' || id`,
		`update webhook_events set analysis_state = 'dead', failure_code = 'internal', failure_fingerprint = 'f', failed_at = now(), processor_note = 'no' where id = 2`,
		`insert into river_queue (name, created_at, updated_at) values ('analyze', now(), now())`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	want := func(s *server, want int, role access.Role, method, path, body string, header ...string) {
		t.Helper()
		if got := s.send(role, method, path, body, header...); got != want {
			t.Errorf("%s %s %.80s answered %s %d, want %d", method, path, body, role, got, want)
		}
	}
	in := func(text string, id int64) string {
		if strings.Contains(text, "%d") {
			return fmt.Sprintf(text, id)
		}
		return text
	}
	// A key that another request holds, and one that another request had.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `
		select pg_advisory_xact_lock(hashtextextended('postcall idempotency ' || actor || ' held', 0))
		from unnest(array['test-operator', 'test-admin']) actor`); err != nil {
		t.Fatal(err)
	}
	for _, role := range []access.Role{access.Operator, access.Admin} {
		want(s, 202, role, http.MethodPost, fmt.Sprintf("/api/events/%d/resend-crm?target=webhook", id), "", "Idempotency-Key", "spent")
	}
	const large = 1<<20 + 1
	for _, a := range acts {
		path, body := in(a.path, id), in(a.body, id)
		want(s, 401, "", http.MethodPost, path, body)
		want(s, 403, access.Viewer, http.MethodPost, path, body)
		want(s, 409, a.least, http.MethodPost, path, body, "Idempotency-Key", "held")
		want(s, 422, a.least, http.MethodPost, path, body, "Idempotency-Key", "spent")
		want(s, 400, a.least, http.MethodPost, path, body, "Idempotency-Key", strings.Repeat("k", 256))
		want(broken, 500, a.least, http.MethodPost, path, body)
		want(away, 503, a.least, http.MethodPost, path, body)
		if a.body != "" {
			want(s, 413, a.least, http.MethodPost, path, `{"x": "`+strings.Repeat("x", large)+`"}`)
			want(s, 400, a.least, http.MethodPost, path, `{"no": "such"}`)
		}
		slow := checked(pool, 1)
		for slow.send(access.Viewer, http.MethodPost, path, body) != 429 {
		}
	}
	want(s, 404, access.Operator, http.MethodPost, "/api/events/999/corrections", `{"field": "topic", "value": "x"}`)
	for _, path := range []string{"/api/events/999/reprocess", "/api/events/999/resend-crm", "/api/queues/none/pause", "/api/queues/none/resume"} {
		want(s, 404, access.Admin, http.MethodPost, path, "")
	}
	want(s, 404, access.Operator, http.MethodPost, "/api/analyze", `{"event_id": 999}`)
	want(s, 404, access.Operator, http.MethodPost, "/api/dead-letters/retry", `{"event_id": 999}`)
	want(s, 404, access.Operator, http.MethodPost, "/api/analyze/next", "")

	// What is taken, without a worker first.
	for _, body := range []string{`{"field": "quality", "value": 2}`, `{"field": "topic", "value": null}`, `{"field": "topic", "withdraw": true}`} {
		want(s, 200, access.Operator, http.MethodPost, fmt.Sprintf("/api/events/%d/corrections", id), body)
	}
	want(s, 200, access.Operator, http.MethodPost, "/api/events/reprocess", `{"filter": {"state": "dead"}}`)
	want(s, 200, access.Operator, http.MethodPost, "/api/events/resend-crm", `{"filter": {"state": "done"}, "target": "markdown", "dry_run": false}`)
	want(s, 200, access.Operator, http.MethodPost, "/api/dead-letters/retry", fmt.Sprintf(`{"event_id": %d}`, dead))
	want(s, 202, access.Operator, http.MethodPost, fmt.Sprintf("/api/events/%d/reprocess", id), "")
	want(s, 202, access.Operator, http.MethodPost, "/api/analyze?wait=0", fmt.Sprintf(`{"event_id": %d}`, id))
	fresh := func(n int) {
		t.Helper()
		next := event(t, pool, strings.ReplaceAll(payload, "conv_1", fmt.Sprintf("conv_next_%d", n)), "")
		if _, err := pool.Exec(t.Context(), `update webhook_events set analysis_state = 'none', conversation_id = 'conv_' || id where id = $1`, next); err != nil {
			t.Fatal(err)
		}
	}
	fresh(1)
	want(s, 202, access.Operator, http.MethodPost, "/api/analyze/next?wait=0", "")
	want(s, 202, access.Admin, http.MethodPost, "/api/erase", `{"phone": "+79995550000"}`)
	for _, act := range []string{"pause", "resume"} {
		want(s, 200, access.Admin, http.MethodPost, "/api/queues/analyze/"+act, "")
	}
	works(t, pool)
	want(s, 200, access.Operator, http.MethodPost, "/api/analyze", fmt.Sprintf(`{"event_id": %d}`, id))
	fresh(2)
	want(s, 200, access.Operator, http.MethodPost, "/api/analyze/next", "")

	// What is read.
	for path, header := range map[string][]string{
		"/api/dead-letters": nil, "/api/queues": nil, "/api/audit": nil, "/api/erasures/1": nil,
		"/api/subject-export": {"X-Subject-Phone", "+79990000002"},
	} {
		want(s, 200, access.Admin, http.MethodGet, path, "", header...)
		want(s, 401, "", http.MethodGet, path, "", header...)
		want(broken, 500, access.Admin, http.MethodGet, path, "", header...)
		want(away, 503, access.Admin, http.MethodGet, path, "", header...)
		slow := checked(pool, 1)
		for slow.send(access.Admin, http.MethodGet, path, "") != 429 {
		}
	}
	want(s, 403, access.Operator, http.MethodGet, "/api/audit", "")
	want(s, 400, access.Admin, http.MethodGet, "/api/audit?outcome=x", "")
	want(s, 403, access.Operator, http.MethodGet, "/api/erasures/1", "")
	want(s, 403, access.Operator, http.MethodGet, "/api/subject-export", "", "X-Subject-Phone", "+79990000002")
	want(s, 400, access.Admin, http.MethodGet, "/api/erasures/x", "")
	want(s, 404, access.Admin, http.MethodGet, "/api/erasures/999", "")
	want(s, 400, access.Admin, http.MethodGet, "/api/subject-export", "")
	want(s, 404, access.Admin, http.MethodGet, "/api/subject-export", "", "X-Subject-Conversation", "conv_of_nobody")

	sessions(t, s, away, checked(pool, 1), want)
	for _, unseen := range contract.Unseen() {
		// The others are TestContract's.
		if !slices.Contains(reading, strings.Fields(unseen)[1]) {
			t.Errorf("described, and never answered: %s", unseen)
		}
	}
}

func sessions(t *testing.T, s, away, slow *server, want func(*server, int, access.Role, string, string, string, ...string)) {
	t.Helper()
	const form = "application/x-www-form-urlencoded"
	token := func(s *server) string { return fmt.Sprintf(`{"token": %q}`, s.tokens[access.Operator]) }
	cookie := func(s *server) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/session", strings.NewReader(token(s)))
		if err != nil {
			t.Fatal(err)
		}
		response, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		value, _, _ := strings.Cut(response.Header.Get("Set-Cookie"), ";")
		return value
	}
	want(s, 200, "", http.MethodGet, "/session", "")
	want(s, 200, "", http.MethodPost, "/session", token(s))
	want(s, 303, "", http.MethodPost, "/session", "token="+s.tokens[access.Viewer], "Content-Type", form)
	want(s, 400, "", http.MethodPost, "/session", `{"tokem": "x"}`)
	want(s, 401, "", http.MethodPost, "/session", `{"token": "pcl_wrong"}`)
	want(s, 401, "", http.MethodPost, "/session", "token=pcl_wrong", "Content-Type", form)
	want(s, 403, "", http.MethodPost, "/session", token(s), "Sec-Fetch-Site", "cross-site")
	want(s, 413, "", http.MethodPost, "/session", `{"token": "`+strings.Repeat("x", 1<<20)+`"}`)
	want(s, 401, "", http.MethodGet, "/session/link?code=none", "")
	link, err := s.api.SignInURL(s.url, s.tokens[access.Viewer])
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(link, s.url)
	want(s, 303, "", http.MethodGet, path, "")
	want(s, 401, "", http.MethodGet, path, "")
	other, err := away.api.SignInURL(away.url, away.tokens[access.Viewer])
	if err != nil {
		t.Fatal(err)
	}
	want(away, 503, "", http.MethodGet, strings.TrimPrefix(other, away.url), "")
	for slow.send("", http.MethodPost, "/session", `{"token": "pcl_wrong"}`) != 429 {
	}
	want(slow, 429, "", http.MethodGet, "/session/link?code=none", "")
	for _, end := range []struct{ method, path string }{{http.MethodDelete, "/session"}, {http.MethodPost, "/session/end"}} {
		status := map[string]int{http.MethodDelete: 204, http.MethodPost: 303}[end.method]
		want(s, status, "", end.method, end.path, "", "Cookie", cookie(s))
		want(s, status, "", end.method, end.path, "")
		want(s, 403, "", end.method, end.path, "", "Cookie", cookie(s), "Sec-Fetch-Site", "cross-site")
		want(away, 503, "", end.method, end.path, "", "Cookie", cookie(away))
	}
}
