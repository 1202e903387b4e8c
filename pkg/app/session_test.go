package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"postcall/pkg/access"
	"postcall/pkg/app"
	"postcall/pkg/config"
)

// form posts the sign-in page's form.
func (o *office) form(token, next string, header map[string]string) reply {
	o.t.Helper()
	all := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	for k, v := range header {
		all[k] = v
	}
	return o.must(request{method: "POST", path: "/session", body: url.Values{"token": {token}, "next": {next}}.Encode(), header: all})
}

// Signing in and out with a browser.
func TestSignIn(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	token := o.tokens[access.Operator].Plain

	page := o.must(request{method: "GET", path: "/riverui/jobs?state=discarded", header: map[string]string{"Accept": "text/html"}})
	if page.status != http.StatusSeeOther || page.header.Get("Location") != "/session?next=%2Friverui%2Fjobs%3Fstate%3Ddiscarded" {
		t.Errorf("without a session: %d %s", page.status, page.header.Get("Location"))
	}
	page = o.must(request{method: "GET", path: page.header.Get("Location")})
	if page.status != http.StatusOK || !strings.Contains(string(page.body), `value="/riverui/jobs?state=discarded"`) || !strings.Contains(page.header.Get("Content-Security-Policy"), "form-action 'self'") {
		t.Errorf("%d %v %s", page.status, page.header, page.body)
	}
	for next, want := range map[string]string{
		"/riverui/jobs?state=discarded": "/riverui/jobs?state=discarded",
		"":                              "/",
		"https://evil.example/":         "/",
		"//evil.example/":               "/",
		`/\evil.example/`:               "/",
		"/\t/evil.example/":             "/",
		"javascript:alert(1)":           "/",
	} {
		got := o.form(token, next, map[string]string{"Sec-Fetch-Site": "same-origin"})
		if got.status != http.StatusSeeOther || got.header.Get("Location") != want || got.header.Get("Set-Cookie") == "" {
			t.Errorf("next %q: %d %s", next, got.status, got.header.Get("Location"))
		}
	}
	wrong := o.form("pcl_wrong", `"><script>alert(1)</script>`, nil)
	if wrong.status != http.StatusUnauthorized || wrong.header.Get("Set-Cookie") != "" || !strings.Contains(string(wrong.body), "not a token") || strings.Contains(string(wrong.body), "<script>") {
		t.Errorf("a wrong token: %d %s", wrong.status, wrong.body)
	}
	if got := o.form(token, "", map[string]string{"Origin": "https://evil.example"}); got.status != http.StatusForbidden || got.header.Get("Set-Cookie") != "" {
		t.Errorf("another site's form signed somebody in: %d", got.status)
	}
	if got := o.form(token, "", map[string]string{"X-Forwarded-Proto": "https"}); !strings.Contains(got.header.Get("Set-Cookie"), "Secure") || got.header.Get("Strict-Transport-Security") == "" {
		t.Errorf("behind https: %v", got.header)
	}
	if got := o.form(token, "", nil); strings.Contains(got.header.Get("Set-Cookie"), "Secure") || got.header.Get("Strict-Transport-Security") != "" {
		t.Errorf("without https: %v", got.header)
	}

	cookie := o.cookie(access.Operator)
	queues := func() int {
		return o.must(request{method: "GET", path: "/api/queues", header: map[string]string{"Cookie": cookie}}).status
	}
	if got := queues(); got != http.StatusOK {
		t.Errorf("signed in: %d", got)
	}
	if got := o.must(request{method: "POST", path: "/session/end", header: map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "cross-site"}}); got.status != http.StatusForbidden {
		t.Errorf("another site signed somebody out: %d", got.status)
	}
	out := o.must(request{method: "POST", path: "/session/end", header: map[string]string{"Cookie": cookie}})
	if out.status != http.StatusSeeOther || !strings.Contains(out.header.Get("Set-Cookie"), access.Cookie+"=;") {
		t.Errorf("signing out: %d %v", out.status, out.header)
	}
	if got := queues(); got != http.StatusUnauthorized {
		t.Errorf("the cookie of a session that was signed out: %d", got)
	}
	if got := o.must(request{method: "DELETE", path: "/session", header: map[string]string{"Cookie": cookie}}); got.status != http.StatusNoContent {
		t.Errorf("signing out again: %d", got.status)
	}
	if got := o.text(`select string_agg(action || ' ' || outcome || ' ' || n, ', ' order by action, outcome) from (
		select action, outcome, count(*) as n from audit_log where action like 'session.%' group by 1, 2) s`); got !=
		"session.begin done 10, session.begin refused 2, session.end done 1, session.end refused 1" {
		t.Errorf("audited: %s", got)
	}
	if got := o.text(`select count(*) from audit_log where concat_ws(' ', target, detail, action) like '%pcl_%'`); got != "0" {
		t.Error("a token is in the audit log")
	}
}

// A sign-in link works once over two ingest processes, also when it is opened
// many times at the same moment; a session of one is good in the other.
func TestSignInLink(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	second := *o.installation
	second.env = map[string]string{}
	for k, v := range o.env {
		second.env[k] = v
	}
	second.env["SPOOL_PATH"] = t.TempDir() + "/events.jsonl"
	second.env["SESSION_KEY"] = "a-newer-session-key-0123456789abcdef," + sessionKey
	second.ingest()
	urls := []string{second.url}
	c, err := config.LoadIngest(t.Context(), config.Map(o.env, nil))
	if err != nil {
		t.Fatal(err)
	}
	p, err := app.NewIngest(t.Context(), c, o.log())
	if err != nil {
		t.Fatal(err)
	}
	o.reach(p.URL())
	urls = append(urls, p.URL())
	o.serve(p.Serve)

	link, err := p.SignInURL(o.tokens[access.Admin].Plain)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(link, o.tokens[access.Admin].Plain) {
		t.Error("the link has the token in it")
	}
	path := strings.TrimPrefix(link, p.URL())
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		cookie string
		worked int
	)
	for n := range 8 {
		at := &office{installation: &installation{t: t, url: urls[n%2], post: o.post}, tokens: o.tokens, contract: o.contract}
		at.nextIP.Store(uint32(1000 * n))
		wg.Go(func() {
			got, err := at.do(t.Context(), request{method: "GET", path: path + "&next=/api/audit"})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case got.status == http.StatusSeeOther && got.header.Get("Location") == "/api/audit":
				worked++
				cookie, _, _ = strings.Cut(got.header.Get("Set-Cookie"), ";")
			case got.status != http.StatusUnauthorized || !strings.Contains(string(got.body), "is over"):
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	wg.Wait()
	if worked != 1 {
		t.Fatalf("the link signed in %d times", worked)
	}
	// The newer key is known to the second only: it takes what the first signed.
	o.url = second.url
	if got := o.must(request{method: "GET", path: "/api/audit", header: map[string]string{"Cookie": o.sealedCookie(access.Admin)}}); got.status != http.StatusOK {
		t.Errorf("the first one's session in the second: %d", got.status)
	}
	if cookie == "" {
		t.Error("no cookie")
	}
	if got := o.must(request{method: "GET", path: "/session/link?code=forged"}); got.status != http.StatusUnauthorized {
		t.Errorf("a forged link: %d", got.status)
	}
}

func (o *office) sealedCookie(role access.Role) string {
	return access.Cookie + "=" + o.sealed(role, sessionKey, time.Now())
}

// The audit log is only ever added to: by the service's role, by the owner and
// by a superuser. Old entries go by one function, which keeps the newer ones.
func TestAuditLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	for range 3 {
		o.as(access.Viewer, "GET", "/api/audit", "") // refused
	}
	o.wait("3", `select count(*) from audit_log where outcome = 'refused'`)
	ctx := t.Context()
	role := "service_" + o.text(`select current_database()`)
	quoted := pgx.Identifier{role}.Sanitize()
	for _, sql := range []string{
		`create role ` + quoted,
		`grant all on all tables in schema public to ` + quoted,
		`revoke update, delete, truncate on audit_log from ` + quoted, // as the migration does with roles that are there
	} {
		if _, err := o.pool.Exec(ctx, sql); err != nil {
			t.Skipf("this database's user may not make roles: %v", err)
		}
	}
	t.Cleanup(func() {
		for _, sql := range []string{`drop owned by ` + quoted, `drop role ` + quoted} {
			if _, err := o.pool.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	for _, who := range []string{"none", quoted} {
		for _, sql := range []string{
			`update audit_log set actor = 'nobody'`, `delete from audit_log`, `truncate audit_log`,
			`set local postcall.audit_retention = 'on'; delete from audit_log`,
			`insert into audit_log (id, actor, role, action, outcome) values (1, 'x', 'x', 'x', 'x') on conflict (id) do update set actor = 'x'`,
		} {
			err := pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `set local role `+who); err != nil {
					return err
				}
				_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
				return err
			})
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "42501" {
				t.Errorf("%s as %s: %v", sql, who, err)
			}
		}
	}
	if _, err := o.pool.Exec(ctx, `select audit_log_forget('1 day')`); err == nil {
		t.Error("a day old may be forgotten")
	}
	if _, err := o.pool.Exec(ctx, `insert into audit_log (at, actor, role, action, outcome) values (now() - interval '100 days', 'x', 'x', 'x', 'x')`); err != nil {
		t.Fatal(err)
	}
	if _, err := o.pool.Exec(ctx, `delete from audit_log where at < now() - interval '90 days'`); err == nil {
		t.Error("an old entry was deleted beside the function")
	}
	if got := o.text(`select audit_log_forget('90 days')`); got != "1" {
		t.Errorf("%s entries were forgotten", got)
	}
	if got := o.text(`select count(*) from audit_log where actor <> 'nobody'`); got != "3" {
		t.Errorf("%s entries are left", got)
	}

	// Who may, reads it: page by page, the same while entries are added.
	for n := range 5 {
		o.as(access.Admin, "POST", "/api/queues/nothing-"+strconv.Itoa(n)+"/pause", "")
	}
	page := o.as(access.Admin, "GET", "/api/audit?actor=the-admin&action=queue.pause&outcome=failed&limit=2&dateFrom=2020-01-01", "")
	var seen []string
	for {
		var got struct {
			Entries    []access.Entry `json:"entries"`
			NextCursor *string        `json:"next_cursor"`
		}
		if err := json.Unmarshal(page.body, &got); err != nil || page.status != http.StatusOK {
			t.Fatalf("%d %s %v", page.status, page.body, err)
		}
		for _, e := range got.Entries {
			seen = append(seen, e.Target)
			if e.Actor != "the-admin" || e.Role != access.Admin || e.RequestID == "" || e.Address == "" || e.At.IsZero() || !strings.Contains(string(e.Detail), "not_found") {
				t.Errorf("%+v", e)
			}
		}
		if got.NextCursor == nil {
			break
		}
		o.as(access.Admin, "POST", "/api/queues/later/pause", "")
		page = o.as(access.Admin, "GET", "/api/audit?actor=the-admin&action=queue.pause&outcome=failed&limit=2&cursor="+*got.NextCursor, "")
	}
	if got, want := fmt.Sprint(seen), "[queue nothing-4 queue nothing-3 queue nothing-2 queue nothing-1 queue nothing-0]"; got != want {
		t.Errorf("%s", got)
	}
	for _, wrong := range []string{"limit=0", "limit=101", "cursor=x", "outcome=good", "dateTo=x", "colour=red"} {
		if got := o.as(access.Admin, "GET", "/api/audit?"+wrong, ""); got.status != http.StatusBadRequest {
			t.Errorf("%s: %d", wrong, got.status)
		}
	}
}
