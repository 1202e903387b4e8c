package privacy_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/pgtest"
	"postcall/pkg/privacy"
)

// A number is found in whatever form it is written in, and no other for it.
func TestPhoneInEveryForm(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	forms := map[string]bool{
		"+79991234567": true, "89991234567": true, "9991234567": true, "79991234567": true, "8 (999) 123-45-67": true,
		"+7 999 123 45 67": true, "тел. 8-999-123-45-67.": true, "+7\u00a0999\u00a0123\u00a045\u00a067": true, "999.123.45.67": true,
		"sip:+79991234567@example.com": true, "8 10 7 999 123 45 67": true, "007 999 1234567": true, "номер79991234567": true,
		"+7 (999) 123 – 45 – 67": true,
		"+79991234568":           false, "199912345670": false, "9991234567123": false, "40817810099991234567": false,
		"999 рублей, 1234567 штук": false, "": false,
	}
	id := 0
	for form, found := range forms {
		id++
		state := map[bool]string{true: "yes", false: "no"}[found]
		exec(t, pool, `insert into webhook_events (id, event_type, event_timestamp, payload, dedup_key, status, analysis_state)
			values ($1, 'post_call_transcription', 1, jsonb_build_object('said', $2::text), $2, $3, 'done')`, id, form, state)
	}
	exec(t, pool, `insert into webhook_events (id, event_type, event_timestamp, payload, dedup_key, status, analysis_state)
		values (1000, 'post_call_transcription', 1, '{"collected": 79991234567}', 'number', 'yes', 'done')`)
	erase(t, pool, privacy.Subject{Phone: "+79991234567"})
	if got := text(t, pool, `select string_agg(dedup_key, ' | ') from webhook_events where status = 'yes'`); got != "NULL" {
		t.Errorf("not found: %s", got)
	}
	if got := text(t, pool, `select count(*) from webhook_events where status = 'no'`); got != "6" {
		t.Errorf("%s of 6 others are left", got)
	}
}

func TestPhoneOfBelarus(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	for i, form := range []string{"+375 29 123-45-67", "8 029 123 45 67", "80291234567", "(29) 1234567"} {
		exec(t, pool, `insert into webhook_events (id, event_type, event_timestamp, payload, dedup_key, analysis_state)
			values ($1, 'post_call_transcription', 1, jsonb_build_object('said', $2::text), $2, 'done')`, i+1, form)
	}
	s, err := privacy.NewSubject("80291234567", "", "BY")
	if err != nil || s.Phone != "+375291234567" {
		t.Fatalf("%+v, %v", s, err)
	}
	erase(t, pool, s)
	if got := text(t, pool, `select string_agg(dedup_key, ' | ') from webhook_events`); got != "NULL" {
		t.Errorf("not found: %s", got)
	}
}

func erase(t *testing.T, pool *pgxpool.Pool, s privacy.Subject) {
	t.Helper()
	id, err := privacy.Order(t.Context(), pool, s, privacy.Fingerprint("", s), privacy.Actor{Name: "dpo", Role: "admin"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&privacy.Eraser{Pool: pool, Audio: &shelf{}, Region: "RU", Log: zap.NewNop()}).Run(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func TestSubject(t *testing.T) {
	t.Parallel()
	for _, wrong := range [][2]string{{"", ""}, {"+79991234567", "conv_12345"}, {"12", ""}, {"", "short"}, {"", "conv with spaces"}, {"no number", ""}} {
		if _, err := privacy.NewSubject(wrong[0], wrong[1], "RU"); call.CodeOf(err) != call.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	for _, form := range []string{"8 (999) 123-45-67", "+79991234567", "999 123 45 67"} {
		if s, err := privacy.NewSubject(form, "", "RU"); err != nil || s.Phone != "+79991234567" {
			t.Errorf("%q: %+v, %v", form, s, err)
		}
	}
	phone := privacy.Subject{Phone: "+79991234567"}
	if privacy.Fingerprint("", phone) != "phone" {
		t.Error("without a key a digest tells the number to whoever tries them all")
	}
	if a, b := privacy.Fingerprint("key 1", phone), privacy.Fingerprint("key 2", phone); a == b {
		t.Error("the digest does not depend on the key")
	}
}

// A long search is done in parts, and goes on where it was.
func TestSearchInParts(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	exec(t, pool, `insert into webhook_events (event_type, event_timestamp, payload, dedup_key, analysis_state)
		select 'x', 1, jsonb_build_object('said', case when n % 400 = 7 then '+79991234567' end), n::text, 'done' from generate_series(1, 2000) n`)
	s := privacy.Subject{Phone: "+79991234567"}
	id, err := privacy.Order(t.Context(), pool, s, "phone", privacy.Actor{Name: "dpo", Role: "admin"}, false)
	if err != nil {
		t.Fatal(err)
	}
	e := &privacy.Eraser{Pool: pool, Audio: &shelf{}, Region: "RU", Log: zap.NewNop(), Search: 1}
	parts := 0
	for {
		r, err := e.Run(t.Context(), id)
		if err == nil {
			if r.Events != 5 {
				t.Errorf("erased %d events, want 5", r.Events)
			}
			break
		}
		if call.CodeOf(err) != call.Unavailable {
			t.Fatal(err)
		}
		parts++
	}
	if parts != 3 { // the fourth of 500 is the last
		t.Errorf("broken off %d times, want 3", parts)
	}
	if got := text(t, pool, `select phone is null and found = '{}' from erasures where id = $1`, id); got != "true" {
		t.Error("the order still tells whom it was about")
	}
}

// Nothing of a call is removed while a job of it runs.
func TestErasureWaitsForRunningJobs(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	event(t, pool, 1, "running", 0)
	exec(t, pool, `insert into river_job (id, args, kind, max_attempts, attempt, queue, state) values (1000, '{"event_id": 1}', 'analyze', 5, 1, 'analyze', 'running')`)
	exec(t, pool, `insert into river_job (args, kind, max_attempts, queue, state) values ('{"analysis_id": 1}', 'crm_bpmsoft', 5, 'crm_bpmsoft', 'available')`)
	exec(t, pool, `update webhook_events set conversation_id = 'conv_000001'`)
	s := privacy.Subject{Conversation: "conv_000001"}
	id, err := privacy.Order(t.Context(), pool, s, privacy.Fingerprint("", s), privacy.Actor{Name: "dpo", Role: "admin"}, false)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := (&privacy.Eraser{Pool: pool, Audio: &shelf{}, Region: "RU", Log: zap.NewNop()}).Run(t.Context(), id)
		done <- err
	}()
	for text(t, pool, `select count(*) from river_job`) != "1" {
		if t.Context().Err() != nil {
			t.Fatal("the waiting job stays")
		}
	}
	if got := text(t, pool, `select count(*) from webhook_events`); got != "1" {
		t.Error("the event is gone while its job runs")
	}
	// The job ends with another analysis and a job for it.
	exec(t, pool, `insert into analyses (id, event_id, result) values (2, 1, '{}')`)
	exec(t, pool, `insert into river_job (args, kind, max_attempts, queue, state) values ('{"analysis_id": 2}', 'crm_bpmsoft', 5, 'crm_bpmsoft', 'available')`)
	exec(t, pool, `update river_job set state = 'completed', finalized_at = now() where id = 1000`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := text(t, pool, `select (select count(*) from webhook_events) + (select count(*) from analyses) + (select count(*) from river_job)`); got != "0" {
		t.Errorf("%s rows are left", got)
	}
}
