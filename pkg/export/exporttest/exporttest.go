// Package exporttest holds what every exporter must do, as one function that
// each exporter's tests run, and deliveries to do it on.
package exporttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// Bench is an exporter with the target that it speaks to, made anew for each
// case. A nil function is something that the target cannot do; its cases are
// skipped.
type Bench struct {
	Exporter export.Exporter
	// Records gives each record that the target holds, as text. A repetition
	// that the target takes for one record is one.
	Records func() []string
	// Unread makes the target do its work and never answer, until the function
	// it returns is called. The exporter must have a time-out far below
	// Patience.
	Unread func() (restore func())
	// Refuse makes the target turn the next result down with a reply that holds
	// the text.
	Refuse func(text string)
	// Away takes the target off the network for good.
	Away func()
	// Secrets are what may stand neither in a receipt nor in an error.
	Secrets []string
}

// Bounds that every exporter keeps, whatever a call holds.
const (
	MaxPayload  = 256 << 10 // bytes of Receipt.Payload and of a record
	MaxResponse = 64 << 10  // bytes of Receipt.Response
)

// Patience is how long a case waits before it takes an exporter for stuck.
const Patience = 20 * time.Second

// Delivery makes the delivery of the n-th call, with every value set.
func Delivery(n int64) export.Delivery {
	conversation := fmt.Sprintf("conv_%d", n)
	started := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Minute)
	return export.Delivery{
		Event: call.Event{
			ID: 1000 + n, Type: call.TypeTranscription, Timestamp: started.Add(94 * time.Second).Unix(),
			AgentID: "agent_7101ru", ConversationID: conversation, Status: "done",
			DedupKey: "call:post_call_transcription:" + conversation + ":1795000110",
			Source:   call.SourceWebhook, ReceivedAt: started.Add(96 * time.Second),
		},
		Conversation: call.Conversation{
			ID: conversation, AgentID: "agent_7101ru", AgentName: "Менеджер «Минск Мир»", Status: "done",
			StartedAt: started, Duration: 94 * time.Second, Language: "ru", Direction: "inbound",
			ExternalNumber: "+375291234567",
		},
		Analysis: call.Analysis{
			ID: 5000 + n, EventID: 1000 + n, Analyzer: "openai", Model: "gpt-5-mini", PromptVersion: "v1",
			Trigger: call.TriggerAuto, CreatedAt: started.Add(2 * time.Minute),
			Result: call.Result{
				Topic: new("Подбор двухкомнатной квартиры"), Intent: new("Посмотреть квартиру до 95 000 евро у метро"),
				Quality: new(5), Outcome: new("Просмотр в субботу в 12:00 в доме «Манила»"), OutcomeCode: call.OutcomeMeeting,
				Sentiment:       new(call.SentimentPositive),
				SummaryRU:       "Ольга ищет квартиру 55–58 м². Агент предложил дом «Манила»; договорились о просмотре.",
				Recommendations: call.Recommendations{"Подтвердить просмотр в пятницу вечером", "Подготовить расчёт рассрочки"},
				ClientName:      new("Ольга"), Phone: new("+375291234567"),
				Evidence: []call.Evidence{{Claim: "phone", Turn: 4, Quote: "Да, записывайте: +375 29 123-45-67.", Supported: true}},
				Metrics:  &call.Metrics{Turns: 5, UserTurns: 2, AgentTurns: 3},
			},
		},
	}
}

// Hostile makes a delivery whose every text tries to be something else: markup,
// header and line breaks, what jsonb cannot hold, quotes of every language, a
// megabyte.
func Hostile(n int64) export.Delivery {
	d := Delivery(n)
	const nasty = "<script>alert(1)</script>\r\nX-Evil: 1\r\n\r\n' or 1 eq 1 or startswith(Name,'\" {{.Event}} ${jndi:x}\x00\x1b[2J\u202e\u200b\ufeff\xff "
	text := nasty + strings.Repeat("А<b>&'\"\\", 1<<20/10)
	d.Event.AgentID, d.Event.ConversationID, d.Event.RequestID, d.Event.Status = text, strconv.FormatInt(n, 10)+text, text, text
	d.Event.DedupKey = strconv.FormatInt(n, 10) + text
	c := &d.Conversation
	c.ID, c.AgentID, c.AgentName, c.Language, c.Direction, c.ExternalNumber, c.KnownName = text, text, text, text, text, text, text
	c.Title, c.Summary, c.TerminationReason, c.Error = text, text, text, text
	r := &d.Analysis.Result
	r.Topic, r.Intent, r.Outcome, r.ClientName, r.Phone, r.SummaryRU = &text, &text, &text, &text, &text, text
	r.OutcomeCode = call.OutcomeCode(nasty)
	r.Sentiment = new(call.Sentiment(nasty))
	r.Recommendations, r.Evidence, r.Criteria = nil, nil, nil
	for range 50 {
		r.Recommendations = append(r.Recommendations, text)
		r.Evidence = append(r.Evidence, call.Evidence{Claim: text, Quote: text, Supported: true})
		r.Criteria = append(r.Criteria, call.Judgement{ID: text, Verdict: call.Verdict(text), Turn: new(1), Quote: &text, Supported: true})
	}
	d.Analysis.Model, d.Analysis.Analyzer, d.Analysis.PromptVersion = text, text, text
	return d
}

// Test runs what every exporter must do.
//
//nolint:tparallel // whoever calls it decides that
func Test(t *testing.T, setup func(t *testing.T) Bench) {
	t.Helper()
	for name, run := range map[string]func(t *testing.T, b Bench){
		"delivered once":                             once,
		"a repeat gives the same record":             again,
		"a repeat where nothing had arrived":         againAbsent,
		"each call has its record":                   each,
		"many at once":                               together,
		"an answer that never comes is unknown":      unread,
		"a target that is away has nothing":          away,
		"a refusal carries its reply":                refused,
		"a context that is over sends nothing":       over,
		"a context that ends is obeyed at once":      cancelled,
		"hostile texts arrive bounded and inert":     hostile,
		"an analysis that tells little is handed on": bare,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, setup(t))
		})
	}
}

func once(t *testing.T, b Bench) {
	t.Helper()
	if b.Exporter.Target() == "" {
		t.Error("the exporter does not name its target")
	}
	delivered(t, b, Delivery(1))
	records(t, b, 1)
}

func again(t *testing.T, b Bench) {
	t.Helper()
	d := Delivery(1)
	delivered(t, b, d)
	before := records(t, b, 1)
	d.Again = true
	for range 3 {
		delivered(t, b, d)
	}
	if after := records(t, b, 1); after[0] != before[0] {
		t.Errorf("the repeat changed the record from\n%s\nto\n%s", before[0], after[0])
	}
}

func againAbsent(t *testing.T, b Bench) {
	t.Helper()
	d := Delivery(1)
	d.Again = true
	delivered(t, b, d)
	records(t, b, 1)
}

func each(t *testing.T, b Bench) {
	t.Helper()
	for n := range int64(3) {
		delivered(t, b, Delivery(n+1))
	}
	records(t, b, 3)
}

func together(t *testing.T, b Bench) {
	t.Helper()
	const calls, copies = 10, 3
	for n := range int64(calls) { // so that the copies below are true repetitions
		delivered(t, b, Delivery(n+1))
	}
	var wg sync.WaitGroup
	for n := range int64(calls) {
		for range copies {
			wg.Go(func() {
				d := Delivery(n + 1)
				d.Again = true
				if _, err := b.Exporter.Export(t.Context(), d); err != nil {
					t.Errorf("call %d: %v", n+1, err)
				}
			})
		}
		wg.Go(func() {
			if _, err := b.Exporter.Export(t.Context(), Delivery(calls+n+1)); err != nil {
				t.Errorf("call %d: %v", calls+n+1, err)
			}
		})
	}
	wg.Wait()
	records(t, b, 2*calls)
}

func unread(t *testing.T, b Bench) {
	t.Helper()
	if b.Unread == nil {
		t.Skip("the target answers at once")
	}
	d := Delivery(1)
	restore := b.Unread()
	receipt, err := export1(t, b, t.Context(), d)
	restore()
	if call.CodeOf(err) != call.Unavailable || receipt.Outcome != export.Unknown {
		t.Fatalf("outcome %q and error %v, want unknown and unavailable", receipt.Outcome, err)
	}
	d.Again = true
	delivered(t, b, d)
	records(t, b, 1)
}

func away(t *testing.T, b Bench) {
	t.Helper()
	if b.Away == nil {
		t.Skip("the target cannot be away")
	}
	b.Away()
	receipt, err := export1(t, b, t.Context(), Delivery(1))
	if call.CodeOf(err) != call.Unavailable || receipt.Outcome != export.Failed {
		t.Fatalf("outcome %q and error %v, want failed and unavailable", receipt.Outcome, err)
	}
}

func refused(t *testing.T, b Bench) {
	t.Helper()
	if b.Refuse == nil {
		t.Skip("the target refuses nothing")
	}
	const why = "Колонка «Тема» заполнена неверно"
	b.Refuse(why)
	receipt, err := export1(t, b, t.Context(), Delivery(1))
	switch code := call.CodeOf(err); {
	case err == nil:
		t.Fatal("a refusal was taken for a delivery")
	case code != call.Invalid && code != call.Refused:
		t.Errorf("error is %v of code %s, want invalid or refused", err, code)
	case receipt.Outcome != export.Refused:
		t.Errorf("outcome is %q", receipt.Outcome)
	case !strings.Contains(receipt.Response, why):
		t.Errorf("the receipt's response is %q, without %q", receipt.Response, why)
	}
	records(t, b, 0)
	delivered(t, b, Delivery(2))
}

func over(t *testing.T, b Bench) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	receipt, err := export1(t, b, ctx, Delivery(1))
	if !errors.Is(err, context.Canceled) || call.CodeOf(err) != call.Unavailable {
		t.Errorf("error is %v, want an unavailable one that is context.Canceled", err)
	}
	if receipt.Outcome != export.Failed {
		t.Errorf("outcome is %q, nothing can have arrived", receipt.Outcome)
	}
	records(t, b, 0)
}

func cancelled(t *testing.T, b Bench) {
	t.Helper()
	if b.Unread == nil {
		t.Skip("the target answers at once")
	}
	defer b.Unread()()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := export1(t, b, ctx, Delivery(1))
	if !errors.Is(err, context.DeadlineExceeded) || call.CodeOf(err) != call.Unavailable {
		t.Errorf("error is %v, want an unavailable one that is context.DeadlineExceeded", err)
	}
	if took := time.Since(began); took > Patience/4 {
		t.Errorf("it took %s to give up", took)
	}
}

func hostile(t *testing.T, b Bench) {
	t.Helper()
	receipt := delivered(t, b, Hostile(1))
	if strings.ContainsRune(string(receipt.Payload), 0) || strings.Contains(string(receipt.Payload), `\u0000`) {
		t.Error("the payload holds what jsonb cannot")
	}
	for _, r := range records(t, b, 1) {
		if len(r) > MaxPayload {
			t.Errorf("the record takes %d bytes", len(r))
		}
		for _, bad := range []string{"\x00", "\x1b", "\r", "\u202e", `\u0000`, `\u001b`, `\r`, `\u202e`} {
			if strings.Contains(r, bad) {
				t.Errorf("the record holds %q", bad)
			}
		}
		if !utf8.ValidString(r) {
			t.Error("the record is not UTF-8")
		}
	}
	delivered(t, b, Delivery(2))
	records(t, b, 2)
}

func bare(t *testing.T, b Bench) {
	t.Helper()
	d := export.Delivery{
		Event:    call.Event{ID: 1, DedupKey: "sha256:00", ReceivedAt: time.Unix(1795000000, 0)},
		Analysis: call.Analysis{ID: 1, EventID: 1, CreatedAt: time.Unix(1795000001, 0), Result: call.Result{OutcomeCode: call.OutcomeUnclear, SummaryRU: "Ничего не сказано."}},
	}
	delivered(t, b, d)
	records(t, b, 1)
}

// delivered exports and fails the test unless the target has it.
func delivered(t *testing.T, b Bench, d export.Delivery) export.Receipt {
	t.Helper()
	receipt, err := export1(t, b, t.Context(), d)
	if err != nil {
		t.Fatalf("Export: %v", err)
	}
	if receipt.Outcome != export.Delivered && receipt.Outcome != export.Accepted {
		t.Fatalf("without an error the outcome is %q", receipt.Outcome)
	}
	if len(receipt.Payload) == 0 {
		t.Error("the receipt holds no payload")
	}
	return receipt
}

// export1 exports and checks what holds whatever came of it.
func export1(t *testing.T, b Bench, ctx context.Context, d export.Delivery) (export.Receipt, error) { //nolint:revive // t first, as everywhere in tests
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	receipt, err := b.Exporter.Export(ctx, d)
	if err != nil {
		if _, ok := errors.AsType[*call.Error](err); !ok {
			t.Errorf("error %v is no *call.Error", err)
		}
	}
	if receipt.Payload != nil && !json.Valid(receipt.Payload) {
		t.Errorf("the payload is not JSON: %.200s", receipt.Payload)
	}
	if len(receipt.Payload) > MaxPayload || len(receipt.Response) > MaxResponse {
		t.Errorf("the receipt takes %d and %d bytes", len(receipt.Payload), len(receipt.Response))
	}
	if !utf8.ValidString(receipt.Response) || strings.ContainsRune(receipt.Response, 0) {
		t.Errorf("the response is not text that can be stored: %.200q", receipt.Response)
	}
	all := string(receipt.Payload) + receipt.Response
	if err != nil {
		all += err.Error()
	}
	for _, secret := range b.Secrets {
		if strings.Contains(all, secret) {
			t.Errorf("the receipt or the error holds a secret: %.300s", strings.ReplaceAll(all, secret, "[SECRET]"))
		}
	}
	return receipt, err
}

// records fails the test unless the target holds n records.
func records(t *testing.T, b Bench, n int) []string {
	t.Helper()
	list := b.Records()
	if len(list) != n {
		t.Fatalf("the target holds %d records, want %d: %.500q", len(list), n, list)
	}
	return list
}
