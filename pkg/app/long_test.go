package app_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcall/pkg/openaitest"
)

// longBody is a delivery of a call that does not fit into a window of 16 000
// tokens.
func longBody(t *testing.T, id string) []byte {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(callBody(id), &body); err != nil {
		t.Fatal(err)
	}
	var turns []map[string]any
	for n := range 1100 {
		turns = append(turns, map[string]any{
			"role": []string{"agent", "user"}[n%2], "time_in_call_secs": 5 * n,
			"message": fmt.Sprintf("Реплика номер %d: про площадь, отделку, парковку, сроки сдачи дома и школу рядом с ним.", n),
		})
	}
	body["data"].(map[string]any)["transcript"] = turns
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An analysis of a call in parts goes on where the attempt before it ended: the
// time of one is used up, the next fails in the middle, and no part is paid for
// twice. Nothing of it stays behind.
func TestLongCallGoesOn(t *testing.T) {
	t.Parallel()
	const slow = 5
	ai := openaitest.New(t, openaitest.WithReply(func(q openaitest.Request) openaitest.Reply {
		switch {
		case q.N < slow:
			// These use up more than half of an attempt's six time-outs.
			return openaitest.After(1300*time.Millisecond, openaitest.Success())
		case q.N == slow+1:
			return openaitest.ServerError(500)
		}
		return openaitest.Success()
	}))
	i := install(t, ai, map[string]string{"ANALYZE_CONTEXT_TOKENS": "16000", "OPENAI_TIMEOUT_MS": "2000"})
	i.ingest()
	i.worker()
	a := i.send(longBody(t, "conv_long"))
	const job = ` from river_job where kind = 'analyze'`
	i.wait("retryable 1", `select state || ' ' || attempt`+job)
	if kept := i.text(`select count(*) from analysis_parts where event_id = $1`, a.EventID); kept != strconv.Itoa(slow+1) {
		t.Errorf("%s answers are kept, want %d", kept, slow+1)
	}
	if note := i.text(`select processor_note from webhook_events`); !strings.Contains(note, "attempt 1 of 8 failed: part 7 of ") {
		t.Errorf("note %q", note)
	}
	if n := i.text(`select (metadata ->> 'snoozes')::int` + job); n == "NULL" || n == "0" {
		t.Error("the attempt's time was not used up: this tests nothing")
	}
	if _, err := i.pool.Exec(t.Context(), `update river_job set scheduled_at = now() where state = 'retryable'`); err != nil {
		t.Fatal(err)
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, a.EventID)
	asked := map[string]int{}
	for _, q := range ai.Requests() {
		head, _, _ := strings.Cut(q.Chat.Text(1), "\n")
		asked[head]++
	}
	for head, n := range asked {
		want := 1
		if strings.HasPrefix(head, "This is part 7 of ") { // the one that failed
			want = 2
		}
		if n != want {
			t.Errorf("%q was asked %d times", head, n)
		}
	}
	if kept := i.text(`select count(*) from analysis_parts`); kept != "0" {
		t.Errorf("%s answers stay behind", kept)
	}
	// The fake counts a token for four bytes of each request. The failed one cost
	// nothing.
	paid := -len(ai.Requests()[slow+1].Body) / 4
	for _, q := range ai.Requests() {
		paid += len(q.Body) / 4
	}
	if got, want := i.text(`select tokens_in || ' ' || coalesce(cost_usd::text, 'not known') from analyses`), fmt.Sprintf("%d not known", paid); got != want {
		t.Errorf("tokens and cost are %s, want %s", got, want)
	}
}
