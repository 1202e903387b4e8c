package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/access"
	"postcall/pkg/privacy"
)

// With the rights of docs/roles.sql, and no others, ingest and worker do all they
// are for; and ingest cannot do what is not its own.
func TestSeparateRoles(t *testing.T) {
	t.Parallel()
	to := channels(t, 0)
	env := map[string]string{"RETENTION_PAYLOADS": "30d", "RETENTION_ANALYSES": "30d", "RETENTION_AUDIO": "30d", "RETENTION_DISPATCHES": "30d",
		"RETENTION_REJECTIONS": "1d", "RETENTION_AUDIT": "60d", "ALERT_DEAD_LETTERS": "1"}
	maps.Copy(env, to.env)
	o := staff(t, nil, env)
	as := roles(t, o.pool)
	for n, sql := range []string{
		`insert into webhook_events (event_type, event_timestamp, conversation_id, payload, dedup_key, analysis_state, received_at)
			values ('post_call_transcription', 1, 'conv_old', '{"data": {}}', 'old', 'done', now() - interval '40 days')`,
		`insert into analyses (event_id, result, created_at) select id, '{"topic": "x"}', received_at from webhook_events`,
		`insert into crm_dispatches (event_id, target, attempt, payload, status, created_at) select id, 'bpmsoft', 1, '{}', 'delivered', received_at from webhook_events`,
		`insert into call_audio (event_id, conversation_id, kind, object_key, content_type, bytes, sha256, created_at)
			select id, 'conv_old', 'full_audio', 'nothing', 'audio/mpeg', 1, '', received_at from webhook_events`,
		`insert into rejections (at, reason, address) values (now() - interval '2 days', 'mismatch', '127.0.0.1')`,
		`insert into audit_log (at, actor, role, action, outcome) values (now() - interval '90 days', 'x', 'admin', 'x', 'done')`,
		`insert into webhook_events (event_type, event_timestamp, payload, dedup_key, analysis_state, failed_at) values ('post_call_transcription', 1, '{}', 'dead', 'dead', now())`,
	} {
		if _, err := o.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
	o.env["DATABASE_URL"] = as["postcall_ingest"]
	o.ingest()
	o.env["DATABASE_URL"] = as["postcall_worker"]
	o.worker()

	o.wait("1", `select count(*) from alerts where firing`)
	o.send(personBody(t, ivan, true))
	id := o.send(personBody(t, olga, true)).EventID
	o.send(audioBody(olga))
	o.wait("done", `select analysis_state from webhook_events where id = $1`, id)
	if status := o.must(request{method: "POST", path: "/webhook/elevenlabs", body: "{}"}).status; status != http.StatusUnauthorized {
		t.Errorf("a forged delivery was answered %d", status)
	}
	for _, r := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/api/events", "", 200}, {"GET", "/api/events?q=%D0%9E%D0%BB%D1%8C%D0%B3%D0%B0", "", 200}, {"GET", "/api/stats", "", 200},
		{"GET", "/api/audit", "", 200}, {"GET", "/api/rejections", "", 200}, {"GET", "/api/dead-letters", "", 200}, {"GET", "/api/queues", "", 200},
		{"POST", fmt.Sprintf("/api/events/%d/reprocess", id), "", 202}, {"POST", "/api/dead-letters/retry", `{"dry_run": false, "all": true}`, 200},
		{"POST", "/api/queues/analyze/pause", "", 200}, {"POST", "/api/queues/analyze/resume", "", 200},
	} {
		if got := o.as(access.Admin, r.method, r.path, r.body); got.status != r.want {
			t.Errorf("%s %s: %d %s", r.method, r.path, got.status, got.body)
		}
	}
	o.wait("2", `select count(*) from analyses where event_id = $1`, id)

	o.wait("6|0", `select count(*) || '|' || count(failing_since) from retention_kinds where finished_at is not null`)
	for sql, want := range map[string]string{
		`select body_kept from webhook_events where dedup_key = 'old'`:              "none",
		`select count(*) from call_audio where object_key = 'nothing'`:              "0",
		`select count(*) from rejections where at < now() - interval '1 day'`:       "0",
		`select count(*) from audit_log where at < now() - interval '60 days'`:      "0",
		`select count(*) from analyses where created_at < now() - interval '1 day'`: "0",
	} {
		if got := o.text(sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	o.wait("0", `select count(*) from river_job where kind = 'send_alert' and state <> 'completed'`)
	if got := to.boxes["telegram"].all(); len(got) == 0 {
		t.Error("nobody was told of the dead letter")
	}
	if got := o.as(access.Admin, "GET", "/api/subject-export", ""); got.status != http.StatusBadRequest {
		t.Errorf("a copy of nobody: %d", got.status)
	}
	ordered := o.as(access.Admin, "POST", "/api/erase", `{"phone": "`+olga.phone+`", "dry_run": false}`)
	var erasure privacy.Status
	if err := json.Unmarshal(ordered.body, &erasure); err != nil || ordered.status != http.StatusAccepted {
		t.Fatalf("%d %s: %v", ordered.status, ordered.body, err)
	}
	o.wait("done", `select state from erasures where id = $1`, erasure.ID)
	if got := o.send(audioBody(olga)); got.EventID != 0 {
		t.Errorf("an erased call is event %d again", got.EventID)
	}

	outsider, err := pgx.Connect(t.Context(), as["postcall_ingest"])
	if err != nil {
		t.Fatal(err)
	}
	defer outsider.Close(context.Background()) //nolint:errcheck // nothing can be lost
	for _, sql := range []string{
		`delete from webhook_events`, `delete from erased_calls`, `update audit_log set actor = ''`, `update analyses set result = '{}'`,
		`select audit_log_forget('60 days')`, `delete from call_audio`, `update corrections set who = ''`, `drop table analyses`, `truncate webhook_events`,
	} {
		if _, err := outsider.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("ingest may %s: %v", sql, err)
		}
	}
}

// roles makes the roles of docs/roles.sql, under names of this database's own,
// and gives each one's address of it.
func roles(t *testing.T, pool *pgxpool.Pool) map[string]string {
	t.Helper()
	grants, err := os.ReadFile("../../docs/roles.sql")
	if err != nil {
		t.Fatal(err)
	}
	sql, as := string(grants), map[string]string{}
	for _, name := range []string{"postcall_ingest", "postcall_worker"} {
		own := name + "_" + pool.Config().ConnConfig.Database
		quoted := pgx.Identifier{own}.Sanitize()
		if _, err := pool.Exec(t.Context(), `create role `+quoted+` login password 'of-the-test'`); err != nil {
			t.Skipf("this database's user may not make roles: %v", err)
		}
		t.Cleanup(func() {
			for _, sql := range []string{`drop owned by ` + quoted, `drop role ` + quoted} {
				if _, err := pool.Exec(context.Background(), sql); err != nil {
					t.Error(err)
				}
			}
		})
		u, err := url.Parse(pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(own, "of-the-test")
		as[name] = u.String()
		sql = strings.ReplaceAll(sql, name, quoted)
	}
	if _, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	return as
}
