package app_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/access"
	"postcall/pkg/bpmsofttest"
	"postcall/pkg/call"
	"postcall/pkg/queue"
)

const landingID = "7d9f4c1e-2b3a-4c5d-8e6f-0123456789ab"

// crm makes an installation that sends leads to a landing service.
func crm(t *testing.T, env map[string]string) (*installation, *bpmsofttest.LandingServer) {
	t.Helper()
	stand := bpmsofttest.NewLanding(t, bpmsofttest.LandingOptions{ID: landingID, Domain: "https://flats.example", UnquotedKeys: true})
	i := install(t, nil, map[string]string{
		"LOG_LEVEL": "warn", "EXTERNAL_CRM_ENABLED": "true", "CRM_SERVICE_URL": stand.URL(), "CRM_ALLOW_HTTP": "true",
		"CRM_LANDING_ID": landingID, "CRM_REFERER": "https://flats.example/", "CRM_TIMEOUT_MS": "2000", "CRM_MAX_CONCURRENCY": "8",
		"CRM_CIRCUIT_FAILURES": "0", "CRM_MD_ENABLED": "false",
	})
	for k, v := range env {
		i.env[k] = v
	}
	return i, stand
}

// hasten brings forward what waits for its next try.
func (i *installation) hasten() {
	i.t.Helper()
	if _, err := i.pool.Exec(i.t.Context(), `update river_job set scheduled_at = now() where state in ('retryable', 'scheduled') and scheduled_at > now()`); err != nil {
		i.t.Fatal(err)
	}
}

// With a CRM that fails for every third request, half of the time after it has
// taken the lead, and a worker that is killed three times, each call becomes
// one lead. POSTCALL_TEST_LEADS sets how many calls; 500 is the full size.
func TestLeadsArriveOnce(t *testing.T) {
	t.Parallel()
	calls := 150
	if n, err := strconv.Atoi(os.Getenv("POSTCALL_TEST_LEADS")); err == nil {
		calls = n
	}
	i, stand := crm(t, map[string]string{"CRM_MAX_RETRIES": "30", "ANALYZE_MAX_CONCURRENCY": "8"})
	chance := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same faults in each run
	faults := 0
	stand.Fail(func(int) *bpmsofttest.Fault { // under the server's lock
		if chance.Float64() >= 0.3 {
			return nil
		}
		faults++
		f := &bpmsofttest.Fault{Done: chance.Float64() < 0.5}
		switch chance.IntN(4) {
		case 0:
			f.Status = http.StatusInternalServerError
		case 1: // the connection is cut
		case 2:
			f.Status, f.Body = http.StatusOK, `{"SaveWebFormObjectDataResult":"{resultMe`
		case 3:
			f.Status, f.Header = http.StatusServiceUnavailable, http.Header{"Content-Type": {"text/html"}}
		}
		return f
	})
	i.ingest()
	var g errgroup.Group
	g.SetLimit(8)
	for n := range calls {
		g.Go(func() error {
			_, err := i.post.Send(t.Context(), callBody("conv_lead_"+strconv.Itoa(n)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, done := range []int{calls / 10, calls / 3, calls / 2} {
		cmd, out := i.process("worker")
		eventually(t, func() string {
			i.hasten()
			if n := len(stand.Leads()); n < done {
				return fmt.Sprintf("%d leads, waiting for %d: %s", n, done, out)
			}
			return ""
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		// What it held is taken for stuck at once, instead of minutes later.
		if _, err := i.pool.Exec(t.Context(), `
			with places as (update throttle_places set expires_at = now())
			update river_job set attempted_at = attempted_at - interval '1 hour' where state = 'running'`); err != nil {
			t.Fatal(err)
		}
	}
	i.process("worker")
	eventually(t, func() string {
		i.hasten()
		if n := i.text(`select count(distinct event_id) from crm_dispatches where target = 'bpmsoft' and status = 'delivered'`); n != strconv.Itoa(calls) {
			return n + " delivered: " + i.text(`select json_object_agg(k, n) from (select kind || ' ' || state as k, count(*) as n from river_job group by 1) s`)
		}
		return ""
	})
	byCall := map[string]int{}
	for _, l := range stand.Leads() {
		byCall[l.Fields["UsrConversationId"]]++
	}
	for n := range calls {
		if c := byCall["conv_lead_"+strconv.Itoa(n)]; c != 1 {
			t.Errorf("call %d became %d leads", n, c)
		}
	}
	if len(byCall) != calls {
		t.Errorf("%d calls among the leads, want %d", len(byCall), calls)
	}
	if got := i.text(`select count(*) from (select event_id from crm_dispatches where status = 'delivered' group by 1 having count(*) > 1) twice`); got != "0" {
		t.Errorf("%s calls are recorded as delivered more than once", got)
	}
	t.Logf("%d calls, %d requests, %d of them failed, 3 kills: %d leads", calls, stand.Requests(), faults, len(stand.Leads()))
}

// What becomes of a lead by what the stand does, to each attempt or to the
// first.
//
//nolint:tparallel // the group below waits for its parallel parts, to print their table
func TestLeadOutcomes(t *testing.T) {
	t.Parallel()
	reply := func(body string) *bpmsofttest.Fault { return &bpmsofttest.Fault{Status: http.StatusOK, Body: body} }
	status := func(code int) *bpmsofttest.Fault { return &bpmsofttest.Fault{Status: code} }
	arrived := func(f *bpmsofttest.Fault) *bpmsofttest.Fault { f.Done = true; return f }
	const refusal = `{"SaveWebFormObjectDataResult":"{resultMessage:\"Нет доступа\",resultCode:-1}"}`
	type test struct {
		name     string
		fault    *bpmsofttest.Fault
		always   bool   // not only at the first attempt
		statuses string // of the attempts, in order
		job      string // its final state
		leads    int
		env      map[string]string
	}
	tests := []test{
		{"taken", nil, false, "delivered", "completed", 1, nil},
		{"500, once", status(500), false, "unknown delivered", "completed", 1, nil},
		{"500 after it was taken, once", arrived(status(500)), false, "unknown delivered", "completed", 1, nil},
		{"connection cut, once", &bpmsofttest.Fault{}, false, "unknown delivered", "completed", 1, nil},
		{"connection cut after it was taken, once", &bpmsofttest.Fault{Done: true}, false, "unknown delivered", "completed", 1, nil},
		{"an answer not understood, once", arrived(reply("{}")), false, "unknown delivered", "completed", 1, nil},
		{"429, once", status(429), false, "failed delivered", "completed", 1, nil},
		{"refused, once", reply(refusal), false, "refused delivered", "completed", 1, nil},
		{"500, always", status(500), true, "unknown unknown unknown", "discarded", 0, nil},
		{"refused, always", reply(refusal), true, "refused refused refused", "discarded", 0, nil},
		{"empty result, once", reply(`{"SaveWebFormObjectDataResult":""}`), false, "failed delivered", "completed", 1, nil},
		{"404, once", status(404), false, "failed delivered", "completed", 1, nil},
		{"no answer in time, once", &bpmsofttest.Fault{Silent: true}, false, "unknown delivered", "completed", 1, nil},
		{"no answer in time after it was taken, once", &bpmsofttest.Fault{Silent: true, Done: true}, false, "unknown delivered", "completed", 1, nil},
		{"408, once", status(408), false, "unknown delivered", "completed", 1, nil},
		{"a redirect, once", &bpmsofttest.Fault{Status: http.StatusFound, Header: http.Header{"Location": {"/Login/NuiLogin.aspx"}}}, false, "failed delivered", "completed", 1, nil},
		{"401, once", status(401), false, "failed delivered", "completed", 1, nil},
		{"403, once", status(403), false, "failed delivered", "completed", 1, nil},
		{"a Referer of another domain, always", nil, true, "refused refused refused", "discarded", 0, map[string]string{"CRM_REFERER": "https://other.example/"}},
		{"a page, once", reply("<html>"), false, "failed delivered", "completed", 1, nil},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "the stand\tattempts\tjob\tleads")
	results := make(chan [4]string, len(tests))
	t.Run("outcomes", func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				env := map[string]string{"CRM_MAX_RETRIES": "2"}
				maps.Copy(env, test.env)
				i, stand := crm(t, env)
				stand.Fail(func(n int) *bpmsofttest.Fault {
					if n == 1 || test.always {
						return test.fault
					}
					return nil
				})
				i.ingest()
				i.worker()
				i.send(callBody("conv_outcome"))
				eventually(t, func() string {
					i.hasten()
					if got := i.text(`select state from river_job where kind = 'crm_bpmsoft'`); got != test.job {
						return "the job is " + got + " after " + i.text(`select string_agg(status, ' ' order by id) from crm_dispatches`)
					}
					return ""
				})
				statuses := i.text(`select string_agg(status, ' ' order by id) from crm_dispatches where target = 'bpmsoft'`)
				if statuses != test.statuses {
					t.Errorf("attempts %q, want %q", statuses, test.statuses)
				}
				if n := len(stand.Leads()); n != test.leads {
					t.Errorf("%d leads, want %d", n, test.leads)
				}
				if got := i.text(`select count(*) from crm_dispatches where payload is null`); got != "0" {
					t.Errorf("%s attempts without what was sent", got)
				}
				results <- [4]string{test.name, statuses, test.job, strconv.Itoa(len(stand.Leads()))}
			})
		}
	})
	close(results)
	for r := range results {
		fmt.Fprintln(w, strings.Join(r[:], "\t"))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
}

// A dry run records what would be sent and sends nothing; what the rules leave
// out says why; a second analysis of a call that was delivered is not sent.
func TestLeadsNotSent(t *testing.T) {
	t.Parallel()
	i, stand := crm(t, map[string]string{"EXTERNAL_CRM_DRY_RUN": "true"})
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_dry"))
	i.wait("dry_run", `select status from crm_dispatches where event_id = $1`, a.EventID)
	if got := i.text(`select payload -> 'formData' ->> 'formId' from crm_dispatches where event_id = $1`, a.EventID); got != landingID {
		t.Errorf("what would be sent is not recorded: %s", got)
	}
	if stand.Requests() != 0 {
		t.Error("a dry run asked the stand")
	}
	rules := t.TempDir() + "/map.yaml"
	if err := os.WriteFile(rules, []byte("send: {has_phone: true}\nfields: {Name: {value: \"{{.ClientName}}\", default: x}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i, stand = crm(t, map[string]string{"CRM_FIELD_MAP": rules})
	i.ingest()
	i.worker()
	a = i.send(callBody("conv_no_phone"))
	i.wait("skipped: left out by the rules: no phone number is known",
		`select status || ': ' || response_text from crm_dispatches where event_id = $1`, a.EventID)
	if stand.Requests() != 0 {
		t.Error("what the rules leave out was sent")
	}
}

// After failures in a row nothing is sent for a while, health says so, the
// analyses go on, and once the stand is well again what waited arrives.
func TestCircuit(t *testing.T) {
	t.Parallel()
	viewer, err := access.NewToken("anna", access.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	i, stand := crm(t, map[string]string{
		"CRM_CIRCUIT_FAILURES": "2", "CRM_CIRCUIT_OPEN_MS": "900000", "CRM_MAX_CONCURRENCY": "1", "ADMIN_TOKENS": viewer.Entry(),
	})
	health := func() (int, string) {
		resp := i.get("/api/health/full", map[string]string{"Authorization": "Bearer " + viewer.Plain})
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	stand.Fail(func(int) *bpmsofttest.Fault { return &bpmsofttest.Fault{Status: http.StatusInternalServerError} })
	i.ingest()
	i.worker()
	if status, body := health(); status != http.StatusOK {
		t.Errorf("before anything failed: %d %s", status, body)
	}
	const calls = 6
	for n := range calls {
		i.send(callBody("conv_circuit_" + strconv.Itoa(n)))
	}
	i.wait("true", `select open_until is not null from crm_targets where target = 'bpmsoft'`)
	i.wait(strconv.Itoa(calls), `select count(*) from webhook_events where analysis_state = 'done'`)
	i.wait(strconv.Itoa(calls), `select count(*) from river_job where kind = 'crm_bpmsoft' and state in ('retryable', 'scheduled')`)
	if n := stand.Requests(); n != 2 {
		t.Errorf("%d requests while the circuit is open, want 2", n)
	}
	if status, body := health(); status != http.StatusServiceUnavailable || !strings.Contains(body, "target bpmsoft") || !strings.Contains(body, "HTTP 500") {
		t.Errorf("while it is open: %d %s", status, body)
	}
	if got := i.text(`select count(*) from river_job where kind = 'crm_bpmsoft' and cardinality(errors) > 1`); got != "0" {
		t.Errorf("%s jobs used up attempts while nothing was sent", got)
	}
	later := func() {
		t.Helper()
		if _, err := i.pool.Exec(t.Context(), `update crm_targets set open_until = now()`); err != nil { // a quarter of an hour later
			t.Fatal(err)
		}
	}
	// A stand that asks to wait is not yet one that takes something.
	stand.Fail(func(int) *bpmsofttest.Fault {
		return &bpmsofttest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}}
	})
	later()
	eventually(t, func() string {
		i.hasten()
		if stand.Requests() < 3 {
			return "nobody has looked"
		}
		return ""
	})
	i.wait("1", `select count(*) from crm_dispatches where http_status = 429`)
	if got := i.text(`select open_until > now() + interval '1 minute' from crm_targets where target = 'bpmsoft'`); got != "true" {
		t.Errorf("after a 429 the circuit is open for a while still: %s", got)
	}
	stand.Fail(nil)
	later()
	eventually(t, func() string {
		i.hasten()
		if n := len(stand.Leads()); n != calls {
			return fmt.Sprintf("%d leads", n)
		}
		return ""
	})
	i.wait(strconv.Itoa(calls), `select count(*) from crm_dispatches where status = 'delivered'`)
	if status, body := health(); status != http.StatusOK {
		t.Errorf("after it: %d %s", status, body)
	}
}

// What was delivered is sent again only by force, and then updates its record.
func TestResend(t *testing.T) {
	t.Parallel()
	i, stand := crm(t, nil)
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_resend"))
	i.wait("1", `select count(*) from crm_dispatches where status = 'delivered' and event_id = $1`, a.EventID)
	client, err := queue.NewInserter(i.pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	resend := func(force bool) {
		t.Helper()
		var job int64
		err := pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) (err error) {
			job, err = queue.ResendCRM(t.Context(), tx, client, a.EventID, call.TargetBPMSoft, force)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		i.wait("completed", `select state from river_job where id = $1`, job)
	}
	resend(false)
	if n := stand.Requests(); n != 1 {
		t.Errorf("without force the stand was asked %d times", n)
	}
	resend(true)
	if leads := stand.Leads(); stand.Requests() != 2 || len(leads) != 1 || leads[0].Saves != 2 {
		t.Errorf("by force: %d requests, leads %+v", stand.Requests(), leads)
	}
}

// A resend is tried as often as the worker's configuration says, whoever asked
// for it.
func TestResendAttempts(t *testing.T) {
	t.Parallel()
	i, stand := crm(t, map[string]string{"CRM_MAX_RETRIES": "1", "CRM_CIRCUIT_FAILURES": "100"})
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_resend_attempts"))
	i.wait("1", `select count(*) from crm_dispatches where status = 'delivered' and event_id = $1`, a.EventID)
	stand.Fail(func(int) *bpmsofttest.Fault { return &bpmsofttest.Fault{Status: http.StatusInternalServerError} })
	client, err := queue.NewInserter(i.pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	var job int64
	if err := pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) (err error) {
		job, err = queue.ResendCRM(t.Context(), tx, client, a.EventID, call.TargetBPMSoft, true)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		i.hasten()
		if state := i.text(`select state from river_job where id = $1`, job); state != "discarded" {
			return "the job is " + state
		}
		return ""
	})
	if got := stand.Requests(); got != 3 {
		t.Errorf("%d requests, want the first call's and two of the resend", got)
	}
}

// What the Node service has sent is not sent again, unless by force; what it
// failed to send is.
func TestLeadsSentByNode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		response string
		want     string // of the call's own dispatch
		leads    int
	}{
		"taken":   {`{"SaveWebFormObjectDataResult":"{resultMessage:\"\",resultCode:0}"}`, "skipped", 0},
		"refused": {`{"SaveWebFormObjectDataResult":"{resultMessage:\"Нет доступа\",resultCode:-1}"}`, "delivered", 1},
		"a page":  {`<html>Вход</html>`, "delivered", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i, stand := crm(t, nil)
			i.ingest()
			a := i.send(callBody("conv_node"))
			// The Node service kept no analysis, no target and no attempt.
			if _, err := i.pool.Exec(t.Context(), `
				insert into crm_dispatches (event_id, payload, response_text, status)
				values ($1, '{}', $2, 'success')`, a.EventID, test.response); err != nil {
				t.Fatal(err)
			}
			i.worker()
			i.wait(test.want, `select status from crm_dispatches where event_id = $1 and analysis_id is not null and status <> 'sending'`, a.EventID)
			if n := len(stand.Leads()); n != test.leads {
				t.Errorf("%d leads, want %d", n, test.leads)
			}
			if test.leads > 0 {
				return
			}
			client, err := queue.NewInserter(i.pool, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) error {
				_, err := queue.ResendCRM(t.Context(), tx, client, a.EventID, call.TargetBPMSoft, true)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			i.wait("1", `select count(*) from crm_dispatches where status = 'delivered'`)
		})
	}
}

// However many workers and jobs there are, the stand is asked no oftener than
// CRM_MIN_MS allows.
func TestLeadsPaced(t *testing.T) {
	t.Parallel()
	const gap, calls = 400 * time.Millisecond, 6
	i, stand := crm(t, map[string]string{"CRM_MIN_MS": strconv.Itoa(int(gap.Milliseconds()))})
	i.ingest()
	i.worker()
	i.worker()
	var starts []time.Time
	stand.Fail(func(int) *bpmsofttest.Fault { // under the server's lock
		starts = append(starts, time.Now())
		return nil
	})
	for n := range calls {
		i.send(callBody("conv_paced_" + strconv.Itoa(n)))
	}
	i.wait(strconv.Itoa(calls), `select count(*) from crm_dispatches where status = 'delivered'`)
	stand.Fail(nil)
	// A single gap may shrink on a busy machine, when the earlier of two requests
	// was held up on its way; all of them together cannot.
	if took := starts[len(starts)-1].Sub(starts[0]); len(starts) != calls || took < (calls-2)*gap {
		t.Errorf("%d requests within %s", len(starts), took)
	}
}
