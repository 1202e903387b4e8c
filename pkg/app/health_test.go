package app_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/openaitest"
)

type healthCheck struct {
	Name, State, Text, Advice string
	Figures                   map[string]any
}

// health asks for the full check.
func (o *office) health() (int, string, map[string]healthCheck) {
	o.t.Helper()
	got := o.as(access.Viewer, "GET", "/api/health/full", "")
	var answer struct {
		Status string
		Checks []healthCheck
	}
	if err := json.Unmarshal(got.body, &answer); err != nil {
		o.t.Fatalf("%d %s: %v", got.status, got.body, err)
	}
	named := map[string]healthCheck{}
	for _, c := range answer.Checks {
		named[c.Name] = c
		if c.State != "ok" && c.Advice == "" {
			o.t.Errorf("%s is %s and nobody is told what to do", c.Name, c.State)
		}
	}
	for _, secret := range []string{secret, sessionKey, openaitest.Key, o.pool.Config().ConnConfig.Password, "pcl_"} {
		if secret != "" && strings.Contains(string(got.body), secret) {
			o.t.Errorf("a secret is in %s", got.body)
		}
	}
	return got.status, answer.Status, named
}

// The full check knows each part, what is wrong with it, and what to do.
func TestFullHealth(t *testing.T) {
	t.Parallel()
	ai := openaitest.New(t)
	o := staff(t, ai, map[string]string{"DATABASE_URL": ""})
	o.env["DATABASE_URL"] = o.pool.Config().ConnString()
	o.ingest()
	if status, worst, c := o.health(); status != http.StatusOK || worst != "warn" || c["workers"].State != "warn" {
		t.Errorf("without a worker: %d %s %+v", status, worst, c)
	}
	id := o.send(callBody("conv_health")).EventID
	for _, statement := range []string{
		`update river_job set scheduled_at = now() - interval '20 minutes'`,
		`insert into calls_due (event_id, since) select id, now() - interval '20 minutes' from webhook_events`,
	} {
		if _, err := o.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, c := o.health(); status != http.StatusServiceUnavailable || c["workers"].State != "fail" || c["queue analyze"].State != "warn" || c["queue analyze"].Figures["waiting"] != 1.0 ||
		c["search index"].State != "warn" || c["search index"].Figures["due"] != 1.0 {
		t.Errorf("while a job waits without a worker: %d %+v", status, c)
	}
	if _, err := o.pool.Exec(t.Context(), `update river_job set state = 'scheduled', created_at = now() - interval '4 hours', scheduled_at = now() + interval '15 minutes'`); err != nil {
		t.Fatal(err)
	}
	if _, _, c := o.health(); c["queue analyze"].State != "warn" || !strings.Contains(c["queue analyze"].Text, "is 4h0m") {
		t.Errorf("while a job is put off for hours: %+v", c["queue analyze"])
	}
	if _, err := o.pool.Exec(t.Context(), `update river_job set state = 'available', scheduled_at = now()`); err != nil {
		t.Fatal(err)
	}
	o.worker()
	o.wait("done", `select analysis_state from webhook_events where id = $1`, id)
	o.wait("1", `select count(*) from workers`)
	o.wait("0", `select count(*) from calls_due`)
	status, worst, c := o.health()
	if status != http.StatusOK || worst == "fail" {
		t.Errorf("%d %s %+v", status, worst, c)
	}
	for _, name := range []string{"database", "schema", "analysis", "queue analyze", "workers", "key of the model", "dead letters", "search index", "import", "retention", "spool", "disk", "audio store", "rate limiters", "keys of ingest"} {
		if c[name].State == "" || c[name].Text == "" || name != "disk" && c[name].State != "ok" {
			t.Errorf("%s: %+v", name, c[name])
		}
	}
	if c["key of the model"].Figures["last_success"] == nil || c["database"].Figures["latency_ms"] == nil || c["schema"].Figures["version"] != c["schema"].Figures["newest"] {
		t.Errorf("%+v", c)
	}

	o.kill(id, timeoutFailure)
	o.as(access.Admin, "POST", "/api/queues/analyze/pause", "")
	status, worst, c = o.health()
	if status != http.StatusOK || worst != "warn" || c["dead letters"].Figures["count"] != 1.0 || c["queue analyze"].Figures["paused"] != true || !strings.Contains(c["queue analyze"].Advice, "resume") {
		t.Errorf("with a dead letter and a pause: %d %+v", status, c)
	}
	o.as(access.Admin, "POST", "/api/queues/analyze/resume", "")
	if err := os.RemoveAll(o.env["AUDIO_URL"]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.env["AUDIO_URL"], nil, 0o600); err != nil { // no directory any more
		t.Fatal(err)
	}
	if status, _, c := o.health(); status != http.StatusServiceUnavailable || c["audio store"].State != "fail" || strings.Contains(c["audio store"].Text, filepath.Dir(o.crm)) {
		t.Errorf("without an audio store: %d %+v", status, c["audio store"])
	}
	if _, err := o.pool.Exec(t.Context(), `delete from goose_db_version where version_id = (select max(version_id) from goose_db_version)`); err != nil {
		t.Fatal(err)
	}
	if _, _, c := o.health(); c["schema"].State != "fail" || !strings.Contains(c["schema"].Advice, "postcall migrate up") {
		t.Errorf("with an old schema: %+v", c["schema"])
	}
}

// Health says which kind of data outstays its age, and why.
func TestHealthOfRetention(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, map[string]string{"RETENTION_PAYLOADS": "90d", "RETENTION_AUDIO": "30d"})
	o.ingest()
	o.worker()
	o.wait("2", `select count(*) from retention_kinds where finished_at is not null and failing_since is null`)
	if _, _, c := o.health(); c["retention"].State != "ok" || !strings.Contains(c["retention"].Text, "2 kinds") {
		t.Errorf("while it works: %+v", c["retention"])
	}
	for sql, want := range map[string]string{
		`begun_at = now() - interval '2 hours'`:                                              "audio: no run since",
		`since = now() - interval '3 days', finished_at = null`:                              "audio are not through since",
		`since = now() - interval '3 days', finished_at = now() - interval '49 hours'`:       "audio are not through since",
		`failing_since = now() - interval '1 minute', begun_at = now() - interval '2 hours'`: "audio fail since",
	} {
		if _, err := o.pool.Exec(t.Context(), `update retention_kinds set begun_at = now(), finished_at = now(), failing_since = null`); err != nil {
			t.Fatal(err)
		}
		if _, err := o.pool.Exec(t.Context(), `update retention_kinds set `+sql+` where kind = 'audio'`); err != nil {
			t.Fatal(err)
		}
		status, _, c := o.health()
		if got := c["retention"]; status != http.StatusOK || got.State != "warn" || !strings.HasPrefix(got.Text, want) || strings.Contains(got.Text, "payloads") || got.Figures["payloads"] == nil {
			t.Errorf("%s: %d %+v", sql, status, got)
		}
	}
}

// Without a database, health still answers; everything else says why it cannot.
func TestWithoutDatabase(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, map[string]string{"DATABASE_URL": ""})
	o.ingest()
	if status, worst, c := o.health(); status != http.StatusServiceUnavailable || worst != "fail" || c["database"].State != "fail" || c["spool"].State != "ok" {
		t.Errorf("%d %s %+v", status, worst, c)
	}
	for _, path := range []string{"/api/queues", "/api/dead-letters"} {
		if got := o.as(access.Viewer, "GET", path, ""); got.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, got.status)
		}
	}
	if got := o.must(request{method: "GET", path: "/api/queues", header: map[string]string{"Cookie": o.sealedCookie(access.Viewer)}}); got.status != http.StatusServiceUnavailable {
		t.Errorf("by a cookie that cannot be looked up: %d", got.status)
	}
}

// Every answer tells browsers to do nothing with it but show it.
func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	for _, r := range []request{
		{method: "GET", path: "/health"}, {method: "GET", path: "/health/ready"}, {method: "POST", path: "/webhook/elevenlabs", body: "{}"},
		{method: "GET", path: "/session"}, {method: "GET", path: "/api/queues"}, {method: "GET", path: "/nothing"},
		{method: "GET", path: "/api/queues", header: bearer(o.tokens[access.Viewer])},
		{method: "GET", path: "/riverui/", header: bearer(o.tokens[access.Operator])},
		{method: "OPTIONS", path: "/api/queues", header: map[string]string{"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}},
	} {
		got := o.must(r)
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if value := strings.Join(got.header.Values(name), ","); !strings.HasPrefix(value, want) {
				t.Errorf("%s %s: %s is %q", r.method, r.path, name, value)
			}
		}
		if !strings.Contains(got.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || len(got.header.Values("Content-Security-Policy")) != 1 {
			t.Errorf("%s %s: %v", r.method, r.path, got.header.Values("Content-Security-Policy"))
		}
		for name := range got.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s has %s", r.method, r.path, name)
			}
		}
	}
}
