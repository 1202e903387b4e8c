package webhook_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/exporttest"
	"postcall/pkg/export/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	older  = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// receiver verifies messages with the scheme's own library and keeps each id
// once, as a real receiver does.
type receiver struct {
	http *httptest.Server

	mu       sync.Mutex
	messages map[string]string // body by webhook-id
	requests []*http.Request
	answer   http.HandlerFunc // in place of the usual one, if not nil
	silent   chan struct{}    // open while answers are held back
}

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{messages: map[string]string{}}
	r.http = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.http.Close)
	return r
}

func (r *receiver) serve(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	answer, silent := r.answer, r.silent
	r.requests = append(r.requests, q)
	r.mu.Unlock()
	if answer != nil {
		answer(w, q)
		return
	}
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err == nil {
		err = verifier.Verify(body, q.Header)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	r.messages[q.Header.Get("webhook-id")] = string(body)
	r.mu.Unlock()
	if silent != nil {
		<-silent
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) set(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) records() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Values(r.messages))
}

func (r *receiver) unread() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := make(chan struct{})
	r.silent = held
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.silent = nil
		close(held)
	}
}

func setup(t *testing.T, o webhook.Options) (*webhook.Exporter, *receiver) {
	t.Helper()
	r := receive(t)
	o.URL = r.http.URL + "/hook"
	o.Transport = r.http.Client().Transport
	if o.Secrets == nil {
		o.Secrets = []string{secret, older}
	}
	if o.Timeout == 0 {
		o.Timeout = exporttest.Patience
	}
	e, err := webhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e, r
}

func TestConformance(t *testing.T) {
	t.Parallel()
	exporttest.Test(t, func(t *testing.T) exporttest.Bench {
		t.Helper()
		e, r := setup(t, webhook.Options{Timeout: time.Second})
		return exporttest.Bench{
			Exporter: e, Records: r.records, Unread: r.unread, Away: r.http.Close,
			Refuse: func(text string) {
				r.set(func(w http.ResponseWriter, _ *http.Request) {
					r.set(nil)
					http.Error(w, text+" "+secret, http.StatusUnprocessableEntity)
				})
			},
			Secrets: []string{secret, older, strings.TrimPrefix(secret, "whsec_")},
		}
	})
}

// TestVector holds signing against the example of the scheme's specification.
func TestVector(t *testing.T) {
	t.Parallel()
	key, err := webhook.Key(secret)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := signer.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; err != nil || got != want {
		t.Errorf("signature is %s (%v), want %s", got, err, want)
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	e, r := setup(t, webhook.Options{})
	d := exporttest.Delivery(1)
	receipt, err := e.Export(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	q := r.requests[0]
	if q.Header.Get("Content-Type") != "application/json" || q.URL.Path != "/hook" || q.Method != http.MethodPost {
		t.Errorf("request is %s %s of %q", q.Method, q.URL, q.Header.Get("Content-Type"))
	}
	if got := strings.Fields(q.Header.Get("webhook-signature")); len(got) != 2 {
		t.Errorf("there are %d signatures, want one for each secret", len(got))
	}
	if got := r.records()[0]; got != string(receipt.Payload) {
		t.Errorf("the receipt's payload is not what arrived:\n%s\n%s", receipt.Payload, got)
	}
	var m struct {
		Type      string
		Timestamp time.Time
		Data      struct {
			EventID        int64  `json:"event_id"`
			ConversationID string `json:"conversation_id"`
			AnalysisID     int64  `json:"analysis_id"`
			Call           struct {
				StartedAt time.Time `json:"started_at"`
				Duration  float64   `json:"duration_s"`
				Number    string    `json:"customer_number"`
			}
			Result  call.Result
			Metrics *call.Metrics
		}
	}
	if err := json.Unmarshal(receipt.Payload, &m); err != nil {
		t.Fatal(err)
	}
	switch {
	case m.Type != webhook.Type || !m.Timestamp.Equal(d.Analysis.CreatedAt):
		t.Errorf("type %q, timestamp %s", m.Type, m.Timestamp)
	case m.Data.EventID != d.Event.ID || m.Data.ConversationID != d.Event.ConversationID || m.Data.AnalysisID != d.Analysis.ID:
		t.Errorf("ids are %+v", m.Data)
	case *m.Data.Result.Topic != *d.Analysis.Result.Topic || m.Data.Result.SummaryRU != d.Analysis.Result.SummaryRU:
		t.Errorf("result is %+v", m.Data.Result)
	case m.Data.Result.Metrics != nil || m.Data.Metrics == nil || m.Data.Metrics.Turns != 5:
		t.Errorf("metrics are %+v beside %+v", m.Data.Metrics, m.Data.Result.Metrics)
	case !m.Data.Call.StartedAt.Equal(d.Conversation.StartedAt) || m.Data.Call.Duration != 94 || m.Data.Call.Number != "+375291234567":
		t.Errorf("call is %+v", m.Data.Call)
	}
}

// TestID checks that a message keeps its id over attempts, and that nothing
// else has it.
// What a model made up is not passed on as proof.
func TestUnsupportedQuotes(t *testing.T) {
	t.Parallel()
	d := exporttest.Delivery(1)
	r := &d.Analysis.Result
	r.Evidence = append(r.Evidence, call.Evidence{Claim: "made up", Turn: 2, Quote: "made-up quote"})
	r.Criteria = []call.Judgement{
		{ID: "courteous", Verdict: call.VerdictMet, Turn: new(1), Quote: new("Добрый день"), Supported: true},
		{ID: "goal_reached", Verdict: call.VerdictMet, Turn: new(2), Quote: new("made-up quote")},
	}
	body, err := webhook.Body(d)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Data struct{ Result call.Result }
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	got := m.Data.Result
	if strings.Contains(string(body), "made") || len(got.Evidence) != 1 || len(got.Criteria) != 2 ||
		got.Criteria[0].Quote == nil || *got.Criteria[0].Quote != "Добрый день" || got.Criteria[1].Verdict != call.VerdictMet {
		t.Errorf("message is %s", body)
	}
	if len(r.Evidence) != 2 || r.Criteria[1].Quote == nil {
		t.Error("the delivery itself was changed")
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	d := exporttest.Delivery(1)
	repeat := d
	repeat.Again = true
	if webhook.ID(d) != webhook.ID(repeat) {
		t.Error("a repeat has another id")
	}
	reprocessed, later, other := d, d, exporttest.Delivery(2)
	reprocessed.Analysis.ID++
	later.Analysis.CreatedAt = later.Analysis.CreatedAt.Add(time.Hour) // the same number in a new database
	other.Analysis.ID, other.Analysis.CreatedAt = d.Analysis.ID, d.Analysis.CreatedAt
	for name, o := range map[string]export.Delivery{"another analysis": reprocessed, "another database": later, "another call": other} {
		if webhook.ID(d) == webhook.ID(o) {
			t.Errorf("%s has the same id", name)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		status  int
		header  http.Header
		outcome export.Outcome
		code    call.Code // empty for no error
		wait    time.Duration
	}{
		{"200", 200, nil, export.Delivered, "", 0},
		{"201", 201, nil, export.Delivered, "", 0},
		{"202", 202, nil, export.Delivered, "", 0},
		{"redirect", 302, http.Header{"Location": {"https://192.0.2.1/"}}, export.Failed, call.Credentials, 0},
		{"permanent redirect", 308, http.Header{"Location": {"/elsewhere"}}, export.Failed, call.Credentials, 0},
		{"bad request", 400, nil, export.Refused, call.Invalid, 0},
		{"unknown secret", 401, nil, export.Refused, call.Credentials, 0},
		{"not allowed", 403, nil, export.Refused, call.Credentials, 0},
		{"not found", 404, nil, export.Refused, call.Invalid, 0},
		{"slow request", 408, nil, export.Failed, call.Unavailable, 0},
		{"gone", 410, nil, export.Refused, call.Invalid, 0},
		{"too many, seconds", 429, http.Header{"Retry-After": {"7"}}, export.Failed, call.RateLimited, 7 * time.Second},
		{"too many, date", 429, http.Header{"Retry-After": {"Mon, 23 Nov 2026 12:01:00 GMT"}, "Date": {"Mon, 23 Nov 2026 12:00:00 GMT"}}, export.Failed, call.RateLimited, time.Minute},
		{"too many, for years", 429, http.Header{"Retry-After": {"99999999"}}, export.Failed, call.RateLimited, 15 * time.Minute},
		{"too many, nonsense", 429, http.Header{"Retry-After": {"-1 soon"}}, export.Failed, call.RateLimited, 0},
		{"fault", 500, nil, export.Unknown, call.Unavailable, 0},
		{"gateway", 502, nil, export.Unknown, call.Unavailable, 0},
		{"busy", 503, nil, export.Unknown, call.Unavailable, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, r := setup(t, webhook.Options{})
			r.set(func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), tt.header)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, "why\x00\x1b[31m")
			})
			receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
			if receipt.Outcome != tt.outcome || receipt.HTTPStatus != tt.status {
				t.Errorf("outcome %q of status %d", receipt.Outcome, receipt.HTTPStatus)
			}
			if receipt.Response != "why[31m" || len(receipt.Payload) == 0 {
				t.Errorf("response %q, payload of %d bytes", receipt.Response, len(receipt.Payload))
			}
			if tt.code == "" && err != nil || tt.code != "" && (err == nil || call.CodeOf(err) != tt.code) {
				t.Fatalf("error is %v, want code %q", err, tt.code)
			}
			if failure, ok := err.(*call.Error); ok && failure.RetryAfter != tt.wait { //nolint:errorlint // the exporter's own
				t.Errorf("wait is %s, want %s", failure.RetryAfter, tt.wait)
			}
			if len(r.requests) != 1 {
				t.Errorf("%d requests were made, want one: redirects are not followed, and the queue owns retrying", len(r.requests))
			}
		})
	}
}

// TestEndlessAnswer checks that an answer is read up to a bound, and that a
// 2xx whose body breaks off is still a delivery.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	e, r := setup(t, webhook.Options{})
	ended := make(chan struct{})
	r.set(func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		for {
			if _, err := io.WriteString(w, strings.Repeat("endless ", 1024)); err != nil {
				return
			}
		}
	})
	receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
	if err != nil || receipt.Outcome != export.Delivered || len([]rune(receipt.Response)) > 4<<10 {
		t.Errorf("outcome %q with a response of %d bytes, %v", receipt.Outcome, len(receipt.Response), err)
	}
	<-ended
}

func TestBrokenAnswer(t *testing.T) {
	t.Parallel()
	e, r := setup(t, webhook.Options{})
	r.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "taken")
	})
	receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
	if err != nil || receipt.Outcome != export.Delivered || receipt.Response != "taken" {
		t.Errorf("outcome %q, response %q, %v", receipt.Outcome, receipt.Response, err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		o       webhook.Options
		problem string // empty where they are right
	}{
		{"https", webhook.Options{URL: "https://example.by/hook", Secrets: []string{secret}}, ""},
		{"http allowed", webhook.Options{URL: "http://127.0.0.1:9/hook", Secrets: []string{secret}, Plain: true}, ""},
		{"http", webhook.Options{URL: "http://example.by/hook", Secrets: []string{secret}}, "use https"},
		{"no address", webhook.Options{Secrets: []string{secret}}, "not an http:// or https://"},
		{"file", webhook.Options{URL: "file:///etc/passwd", Secrets: []string{secret}}, "not an http:// or https://"},
		{"password in the address", webhook.Options{URL: "https://u:hunter2@example.by", Secrets: []string{secret}}, "user name"},
		{"no secret", webhook.Options{URL: "https://example.by"}, "no secret"},
		{"no prefix", webhook.Options{URL: "https://example.by", Secrets: []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}, "number 1 does not begin"},
		{"not base64", webhook.Options{URL: "https://example.by", Secrets: []string{secret, "whsec_***"}}, "number 2 is not"},
		{"short", webhook.Options{URL: "https://example.by", Secrets: []string{"whsec_YWJj"}}, "shorter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := webhook.New(tt.o)
			if tt.problem == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("error is %v, want one that says %q", err, tt.problem)
			}
			for _, hidden := range append(tt.o.Secrets, "hunter2") {
				if strings.Contains(err.Error(), hidden) {
					t.Errorf("the error holds a secret: %v", err)
				}
			}
		})
	}
}
