package app_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/openaitest"
)

// A dead letter is retried through River UI's own API, signed in, as its page
// does it; then it is analysed, and the audit log says who did it.
func TestRiverUI(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	refuse.Store(true)
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		if refuse.Load() {
			return openaitest.ServerError(http.StatusInternalServerError)
		}
		return openaitest.Success()
	}))
	o := staff(t, ai, map[string]string{"ANALYZE_MAX_ATTEMPTS": "1"})
	o.ingest()
	o.worker()
	id := o.send(callBody("conv_riverui")).EventID
	o.wait("dead", `select analysis_state from webhook_events where id = $1`, id)
	o.wait("discarded", `select state from river_job where kind = 'analyze'`)
	job := o.text(`select id from river_job where kind = 'analyze' and state = 'discarded'`)
	refuse.Store(false)

	cookie := o.cookie(access.Operator)
	get := func(path string) reply {
		t.Helper()
		return o.must(request{method: "GET", path: path, header: map[string]string{"Cookie": cookie, "Accept": "text/html,*/*"}})
	}
	page := get("/riverui/jobs/" + job)
	if page.status != http.StatusOK || !strings.Contains(page.header.Get("Content-Type"), "text/html") {
		t.Fatalf("the page: %d %v", page.status, page.header)
	}
	// What the page loads comes from here, and its policy lets it.
	policy := page.header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "script-src 'self';") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("its policy is %s", policy)
	}
	assets := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(page.body), -1)
	if len(assets) < 3 {
		t.Errorf("the page loads nothing: %s", page.body)
	}
	for _, a := range assets {
		if u, err := url.Parse(a[1]); err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/riverui/") {
			t.Errorf("it loads %s", a[1])
		} else if got := get(a[1]); got.status != http.StatusOK || len(got.body) == 0 {
			t.Errorf("%s: %d", a[1], got.status)
		}
		if got := o.must(request{method: "GET", path: a[1]}); got.status != http.StatusUnauthorized {
			t.Errorf("%s without a session: %d", a[1], got.status)
		}
	}
	if got := get("/riverui"); got.status != http.StatusMovedPermanently || got.header.Get("Location") != "/riverui/" {
		t.Errorf("/riverui: %d %s", got.status, got.header.Get("Location"))
	}
	if got := get("/riverui/api/jobs/" + job); got.status != http.StatusOK || got.field(t, "state") != "discarded" {
		t.Errorf("the job: %d %s", got.status, got.body)
	}
	list := get("/riverui/api/jobs?state=discarded")
	if list.status != http.StatusOK || !strings.Contains(string(list.body), job) {
		t.Errorf("the list: %d %s", list.status, list.body)
	}

	const retry = "/riverui/api/jobs/retry"
	body := fmt.Sprintf(`{"ids": [%q]}`, job)
	post := func(header map[string]string) reply {
		t.Helper()
		all := map[string]string{"Cookie": cookie, "Content-Type": "application/json", "X-Request-ID": "retry-in-river-ui"}
		for k, v := range header {
			all[k] = v
		}
		return o.must(request{method: "POST", path: retry, body: body, header: all})
	}
	if got := post(map[string]string{"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain", "X-Request-ID": "other-site"}); got.status != http.StatusForbidden {
		t.Errorf("by another site's page: %d %s", got.status, got.body)
	}
	o.wait("discarded", `select state from river_job where id = $1`, job)
	if got := post(map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": o.url}); got.status != http.StatusOK {
		t.Fatalf("retry: %d %s", got.status, got.body)
	}
	o.wait("done", `select analysis_state from webhook_events where id = $1`, id)
	if got := o.text(`select count(*) from analyses where event_id = $1`, id); got != "1" {
		t.Errorf("%s analyses", got)
	}
	if got := o.text(`select concat_ws('|', actor, role, action, target, outcome) from audit_log where request_id = 'retry-in-river-ui'`); got !=
		"the-operator|operator|riverui jobs/retry|jobs "+job+"|done" {
		t.Errorf("audited: %s", got)
	}
	if got := o.text(`select concat_ws('|', actor, target, outcome) from audit_log where request_id = 'other-site'`); got != "the-operator|jobs "+job+"|refused" &&
		got != "the-operator|/riverui/api/jobs/retry|refused" {
		t.Errorf("audited: %s", got)
	}
	// Pausing is for admins here too.
	for role, want := range map[access.Role]int{access.Operator: http.StatusForbidden, access.Admin: http.StatusOK} {
		for _, path := range []string{"/riverui/api/queues/analyze/pause", "/riverui//api/queues/analyze/resume", "/riverui/x/../api/queues/analyze/resume", "/riverui/api%2Fqueues/analyze/resume"} {
			got := o.must(request{method: "PUT", path: path, header: bearer(o.tokens[role])})
			if got.status != want && (want == http.StatusForbidden || path == "/riverui/api/queues/analyze/pause") {
				t.Errorf("%s by %s: %d %s", path, role, got.status, got.body)
			}
		}
	}
}
