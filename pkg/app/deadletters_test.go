package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

// kill makes a dead letter of an event that is queued, as the last attempt of
// its job does.
func (o *office) kill(id int64, f call.Failure) {
	o.t.Helper()
	for _, sql := range []string{
		`update river_job set state = 'discarded', finalized_at = now(), attempt = max_attempts,
			errors = array[jsonb_build_object('attempt', max_attempts, 'at', now(), 'error', $2::text, 'trace', '')]
		where kind = 'analyze' and (args ->> 'event_id')::bigint = $1`,
		`update webhook_events set analysis_state = 'dead', processor_note = $2, failed_at = now() where id = $1`,
	} {
		if _, err := o.pool.Exec(o.t.Context(), sql, id, f.Message); err != nil {
			o.t.Fatal(err)
		}
	}
	if _, err := o.pool.Exec(o.t.Context(), `update webhook_events set failure_code = $2, failure_fingerprint = $3 where id = $1`, id, f.Code, f.Fingerprint); err != nil {
		o.t.Fatal(err)
	}
}

// Dead letters are shown by groups of those that failed alike, and retried one
// by one, by group or all together, a dry run before; and then they are analysed.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	timeout := func(n int) call.Failure {
		return call.NewFailure(call.Unavailable, fmt.Sprintf("the model server did not answer within %d s", n))
	}
	var ids []int64
	for n := range 7 {
		ids = append(ids, o.send(callBody("conv_dead_"+strconv.Itoa(n))).EventID)
		f := timeout(n)
		switch n {
		case 5:
			f = call.NewFailure(call.Refused, "the model refuses this content")
		case 6:
			f = call.NewFailure(call.Internal, "something else")
		}
		o.kill(ids[n], f)
	}
	alive := o.send(callBody("conv_alive")).EventID

	list := o.as(access.Viewer, "GET", "/api/dead-letters", "")
	if list.status != http.StatusOK || list.field(t, "total") != 7.0 || len(list.field(t, "groups").([]any)) != 3 {
		t.Fatalf("%d %s", list.status, list.body)
	}
	found := false
	for n := range 3 {
		group := func(name string) any { return list.field(t, "groups", strconv.Itoa(n), name) }
		if group("failure_code") != "unavailable" {
			continue
		}
		found = true
		if group("count") != 5.0 || group("fingerprint") != timeout(1).Fingerprint || group("sample") != timeout(4).Message ||
			group("sample_event_id") != float64(ids[4]) || !strings.Contains(group("advice").(string), "retry the group") || group("first_at").(string) >= group("last_at").(string) {
			t.Errorf("%s", list.body)
		}
	}
	if !found {
		t.Errorf("%s", list.body)
	}

	const retry = "/api/dead-letters/retry"
	for _, wrong := range []string{``, `{}`, `{"all": false}`, `{"all": true, "event_id": 1}`, `{"fingerprint": 7}`, `{"everything": true}`, `{"all": true, "limit": 501}`} {
		o.want(http.StatusBadRequest, retry, wrong)
	}
	o.want(http.StatusNotFound, retry, fmt.Sprintf(`{"event_id": %d}`, alive))
	o.want(http.StatusNotFound, retry, `{"fingerprint": "0123456789ab"}`)

	one := o.want(http.StatusOK, retry, fmt.Sprintf(`{"event_id": %d}`, ids[6]))
	if one.field(t, "done") != 1.0 || one.field(t, "results", "0", "outcome") != "queued" || one.field(t, "dry_run") != false {
		t.Errorf("%s", one.body)
	}
	group := fmt.Sprintf(`{"fingerprint": %q`, timeout(1).Fingerprint)
	if dry := o.want(http.StatusOK, retry, group+`}`); dry.field(t, "dry_run") != true || dry.field(t, "matched") != 5.0 || dry.field(t, "done") != 0.0 {
		t.Errorf("%s", dry.body)
	}
	o.wait("6", `select count(*) from webhook_events where analysis_state = 'dead'`)
	o.want(http.StatusConflict, retry, group+`, "dry_run": false, "expect": 4}`)
	part := o.want(http.StatusOK, retry, group+`, "dry_run": false, "expect": 5, "limit": 3}`)
	if part.field(t, "done") != 3.0 || part.field(t, "next_cursor") == nil || len(part.field(t, "results").([]any)) != 3 {
		t.Errorf("%s", part.body)
	}
	rest := o.want(http.StatusOK, retry, `{"all": true, "dry_run": false}`)
	if rest.field(t, "done") != 3.0 || rest.field(t, "failed") != 0.0 || rest.field(t, "next_cursor") != nil {
		t.Errorf("%s", rest.body)
	}
	if got := o.text(`select count(*) || ' ' || count(*) filter (where state = 'available') from river_job where kind = 'analyze'`); got != "8 8" {
		t.Errorf("jobs, and those that may run: %s", got)
	}
	o.worker()
	o.wait("8", `select count(*) from webhook_events where analysis_state = 'done' and failure_code is null`)
	if got := o.text(`select string_agg(concat_ws('|', target, outcome, detail ->> 'done'), ' ' order by id) from audit_log where action = 'dead_letters.retry' and outcome = 'done'`); got !=
		fmt.Sprintf("event %d|done|1 dead letters|done|3 dead letters|done|3", ids[6]) {
		t.Errorf("audited: %s", got)
	}
}

// A call that came in two forms, both of which were given up, is analysed once
// when both are retried; and what comes of it later in another form is its copy,
// whatever became of a further analysis.
func TestDeadCopies(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	copied := func(at string) int64 {
		return o.send(bytes.Replace(callBody("conv_dead_copies"), []byte("1795000110"), []byte(at), 1)).EventID
	}
	for _, at := range []string{"1795000110", "1795000111"} {
		o.kill(copied(at), timeoutFailure)
	}
	o.want(http.StatusOK, "/api/dead-letters/retry", `{"all": true, "dry_run": false}`)
	o.worker()
	o.wait("0", `select count(*) from webhook_events where analysis_state in ('queued', 'running')`)
	const analysed = `select count(*) || ' ' || (select count(*) from webhook_events where duplicate_of is null) from analyses`
	if got := o.text(analysed); got != "1 1" {
		t.Errorf("analyses, and calls that are listed: %s", got)
	}
	if _, err := o.pool.Exec(t.Context(), `update webhook_events set analysis_state = 'dead' where analysis_state = 'done'`); err != nil {
		t.Fatal(err)
	}
	o.wait("skipped", `select analysis_state from webhook_events where id = $1`, copied("1795000112"))
	if got := o.text(analysed); got != "1 1" {
		t.Errorf("with another copy: %s", got)
	}
}

// Many events by filter: a dry run first, with what it will cost; then each
// says what became of it.
func TestBulk(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	o.worker()
	var ids []int64
	for n := range 5 {
		ids = append(ids, o.send(callBody("conv_bulk_"+strconv.Itoa(n))).EventID)
	}
	o.wait("5", `select count(*) from webhook_events where analysis_state = 'done'`)
	audio := o.send([]byte(`{"type": "post_call_audio", "event_timestamp": 1795000111, "data": {"agent_id": "agent_1", "conversation_id": "conv_bulk_0", "full_audio": ""}}`)).EventID
	for n, cost := range []string{"0.01", "0.02", "0.03"} {
		if _, err := o.pool.Exec(t.Context(), `update analyses set cost_usd = $2 where event_id = $1`, ids[n], cost); err != nil {
			t.Fatal(err)
		}
	}
	const many = "/api/events/reprocess"
	for _, wrong := range []string{``, `{}`, `{"filter": {}}`, `{"filter": {"colour": "red"}}`, `{"filter": {"type": ["a"]}}`, `{"filter": {"dateFrom": "yesterday"}}`,
		`{"filter": {"agentId": "a\u0000"}, "dry_run": false}`, `{"filter": {"a\u0000": "\\u0000"}, "dry_run": false}`, `{"all": true, "cursor": "\u0000"}`, `{"dry_run": false}`} {
		o.want(http.StatusBadRequest, many, wrong)
		o.want(http.StatusBadRequest, "/api/events/resend-crm", wrong)
	}
	dry := o.want(http.StatusOK, many, `{"filter": {"agentId": "agent_1"}}`)
	if dry.field(t, "dry_run") != true || dry.field(t, "matched") != 6.0 || dry.field(t, "actionable") != 5.0 || dry.field(t, "average_of") != 3.0 ||
		fmt.Sprintf("%.3f", dry.field(t, "estimated_cost_usd")) != "0.100" || len(dry.field(t, "results").([]any)) != 0 {
		t.Errorf("%s", dry.body)
	}
	if got := o.text(`select count(*) from river_job where kind = 'analyze'`); got != "5" {
		t.Errorf("a dry run made %s jobs", got)
	}
	// Part by part, each event once.
	var seen []string
	for cursor := ""; ; {
		got := o.want(http.StatusOK, "/api/events/resend-crm", fmt.Sprintf(`{"filter": {"agentId": "agent_1"}, "limit": 4, "dry_run": false, "target": "markdown", "cursor": %q}`, cursor))
		for n := range got.field(t, "results").([]any) {
			seen = append(seen, fmt.Sprint(got.field(t, "results", strconv.Itoa(n), "event_id")))
		}
		next, more := got.field(t, "next_cursor").(string)
		if !more {
			break
		}
		cursor = next
	}
	if want := fmt.Sprint(append(ids, audio)); fmt.Sprint(seen) != want {
		t.Errorf("part by part %v, want %s", seen, want)
	}
	o.wait("0", `select count(*) from calls_due`)
	for filter, want := range map[string]float64{
		`{"conversationId": "conv_bulk_0"}`:                                                2,
		`{"type": "post_call_transcription", "state": "done"}`:                             5,
		`{"state": "skipped"}`:                                                             1,
		`{"dateTo": "2020-01-01"}`:                                                         0,
		`{"dateFrom": "2020-01-01", "agentId": "agent_1"}`:                                 6,
		`{"quality": ` + o.text(`select result ->> 'quality' from analyses limit 1`) + `}`: 5,
		`{"outcome": "x' or true --"}`:                                                     0,
	} {
		if got := o.want(http.StatusOK, many, `{"filter": `+filter+`}`).field(t, "matched"); got != want {
			t.Errorf("%s matches %v, want %v", filter, got, want)
		}
	}
	// Paused, so that those that are queued stay so.
	if got := o.as(access.Admin, "POST", "/api/queues/analyze/pause", ""); got.status != http.StatusOK || got.field(t, "paused_at") == nil {
		t.Errorf("%s", got.body)
	}
	o.want(http.StatusAccepted, fmt.Sprintf("/api/events/%d/reprocess", ids[1]), "")
	did := o.want(http.StatusOK, many, `{"filter": {"agentId": "agent_1"}, "dry_run": false, "expect": 6}`)
	if did.field(t, "done") != 4.0 || did.field(t, "failed") != 2.0 {
		t.Errorf("%s", did.body)
	}
	outcomes := map[int64]string{ids[1]: "conflict", audio: "invalid"}
	for n, id := range append(ids, audio) {
		item := func(name string) any { return did.field(t, "results", strconv.Itoa(n), name) }
		want := outcomes[id]
		if want == "" {
			want = "queued"
		}
		if item("event_id") != float64(id) || item("outcome") != want || (want != "queued") != (item("message") != nil) {
			t.Errorf("event %d, %s wanted: %s", id, want, did.body)
		}
	}
	if got := o.as(access.Admin, "POST", "/api/queues/analyze/resume", ""); got.status != http.StatusOK || got.field(t, "paused_at") != nil {
		t.Errorf("%s", got.body)
	}
	o.wait("10", `select count(*) from analyses`)

	// Sent again: only what has an analysis.
	exports := o.text(`select count(*) from crm_dispatches`)
	sent := o.want(http.StatusOK, "/api/events/resend-crm", `{"filter": {"conversationId": "conv_bulk_0"}, "target": "markdown", "force": true, "dry_run": false}`)
	if sent.field(t, "done") != 1.0 || sent.field(t, "failed") != 1.0 || sent.field(t, "results", "0", "job_id") == nil || sent.field(t, "results", "1", "outcome") != "not_found" || sent.field(t, "estimated_cost_usd") != nil {
		t.Errorf("%s", sent.body)
	}
	o.wait("true", `select count(*) > $1::text::int from crm_dispatches where target = 'markdown'`, exports)
	o.want(http.StatusAccepted, fmt.Sprintf("/api/events/%d/resend-crm?target=markdown&force=true", ids[2]), "")
	o.want(http.StatusBadRequest, fmt.Sprintf("/api/events/%d/resend-crm?target=fax", ids[2]), "")
	o.want(http.StatusBadRequest, fmt.Sprintf("/api/events/%d/resend-crm?force=perhaps", ids[2]), "")
	o.want(http.StatusNotFound, fmt.Sprintf("/api/events/%d/resend-crm", audio), "")
	o.want(http.StatusBadRequest, "/api/events/seven/reprocess", "")
	if got := o.as(access.Admin, "POST", "/api/queues/nothing/pause", ""); got.status != http.StatusNotFound {
		t.Errorf("a queue that is none: %d", got.status)
	}
	if got := o.as(access.Admin, "POST", "/api/queues/%00/pause", ""); got.status != http.StatusNotFound && got.status != http.StatusBadRequest {
		t.Errorf("a queue named by a NUL: %d %s", got.status, got.body)
	}
	if got := o.text(`select count(*) from audit_log where action = 'queue.pause' and outcome = 'failed' and target like '%�%'`); got != "1" {
		t.Errorf("it stands %s times in the audit log", got)
	}
	// What was asked for stands in the log, without what a person could be known by.
	o.want(http.StatusOK, many, `{"filter": {"state": "dead"}, "dry_run": false}`)
	if got := o.text(`select detail ->> 'filter' from audit_log where action = 'events.reprocess' order by id desc limit 1`); got != `{"state": "dead"}` {
		t.Errorf("the log has %s", got)
	}
}

var timeoutFailure = call.NewFailure(call.Unavailable, "the model server did not answer within 60 s")

// Results that a target did not take in all its attempts are dead letters too:
// shown by groups, and retried by group or all together.
func TestDeadExports(t *testing.T) {
	t.Parallel()
	o := staff(t, nil, nil)
	o.ingest()
	o.worker()
	for n := range 4 {
		o.send(callBody("conv_export_" + strconv.Itoa(n)))
	}
	o.wait("4", `select count(*) from river_job where kind = 'crm_markdown' and state = 'completed'`)
	if _, err := o.pool.Exec(t.Context(), `
		with numbered as (select id, row_number() over (order by id) as n from river_job where kind = 'crm_markdown')
		update river_job j set state = 'discarded', attempt = 6,
			errors = array[jsonb_build_object('attempt', 6, 'at', now(), 'trace', '', 'error', case when n < 4 then 'disk full on volume ' || n else 'no such directory' end)]
		from numbered where numbered.id = j.id`); err != nil {
		t.Fatal(err)
	}
	list := o.as(access.Viewer, "GET", "/api/dead-letters", "")
	if list.status != http.StatusOK || list.field(t, "total") != 4.0 || len(list.field(t, "groups").([]any)) != 2 {
		t.Fatalf("%d %s", list.status, list.body)
	}
	fingerprint := ""
	for n := range 2 {
		group := func(name string) any { return list.field(t, "groups", strconv.Itoa(n), name) }
		if group("target") != "markdown" || group("advice") == "" || group("sample_event_id") == 0.0 {
			t.Errorf("%s", list.body)
		}
		if group("count") == 3.0 {
			fingerprint = group("fingerprint").(string)
		}
	}
	const retry = "/api/dead-letters/retry"
	for _, wrong := range []string{`{"target": "markdown"}`, `{"target": "fax", "all": true}`, `{"target": "markdown", "all": true, "event_id": 1}`, `{"target": "markdown", "all": true, "cursor": "x"}`} {
		o.want(http.StatusBadRequest, retry, wrong)
	}
	o.want(http.StatusNotFound, retry, `{"target": "bpmsoft", "all": true}`)
	group := fmt.Sprintf(`{"target": "markdown", "fingerprint": %q`, fingerprint)
	if dry := o.want(http.StatusOK, retry, group+`}`); dry.field(t, "matched") != 3.0 || dry.field(t, "dry_run") != true || dry.field(t, "estimated_cost_usd") != nil {
		t.Errorf("%s", dry.body)
	}
	o.wait("4", `select count(*) from river_job where state = 'discarded'`)
	part := o.want(http.StatusOK, retry, group+`, "dry_run": false, "limit": 2}`)
	if part.field(t, "done") != 2.0 || part.field(t, "next_cursor") == nil || part.field(t, "results", "0", "event_id") == 0.0 || part.field(t, "results", "0", "job_id") == nil {
		t.Errorf("%s", part.body)
	}
	// One whose result is on its way again by another job stands back, alone.
	if _, err := o.pool.Exec(t.Context(), `
		with d as (select * from river_job where state = 'discarded' order by id limit 1)
		insert into river_job (kind, queue, args, state, max_attempts, scheduled_at, unique_key, unique_states)
		select kind, 'nowhere', args, 'available', 6, now(), unique_key, unique_states from d`); err != nil {
		t.Fatal(err)
	}
	rest := o.want(http.StatusOK, retry, `{"target": "markdown", "all": true, "dry_run": false}`)
	if rest.field(t, "done") != 1.0 || rest.field(t, "failed") != 1.0 || rest.field(t, "results", "0", "outcome") != "conflict" {
		t.Errorf("%s", rest.body)
	}
	o.wait("3", `select count(*) from river_job where kind = 'crm_markdown' and state = 'completed'`)
	if got := o.text(`select string_agg(concat_ws('|', target, outcome, detail ->> 'done'), ' ' order by id) from audit_log where action = 'dead_letters.retry' and outcome = 'done'`); got !=
		"dead exports to markdown|done|2 dead exports to markdown|done|1" {
		t.Errorf("audited: %s", got)
	}
}
