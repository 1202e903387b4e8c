package privacy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/pgtest"
	"postcall/pkg/privacy"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const day = 24 * time.Hour

// shelf is an audio store that may refuse to delete.
type shelf struct {
	mu      sync.Mutex
	deleted []string
	fails   error
}

func (s *shelf) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return s.fails
	}
	s.deleted = append(s.deleted, key)
	return nil
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (s string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "select coalesce(("+sql+")::text, 'NULL')", args...).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// event makes an event of an age with all that hangs on it, under that id.
func event(t *testing.T, pool *pgxpool.Pool, id int, state string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	exec(t, pool, `
		insert into webhook_events (id, event_type, event_timestamp, conversation_id, payload, raw_body, dedup_key, analysis_state, metrics, received_at)
		values ($1::bigint, 'post_call_transcription', 1, 'conv_' || $1::bigint, $2, 'said raw', 'key' || $1::bigint, $3, '{"turns": 2}', $4)`,
		id, `{"type": "post_call_transcription", "data": {"transcript": [{"message": "said"}], "otlp_traces": {"said": 1}, "metadata": {"cost": 5}}}`, state, at)
	exec(t, pool, `insert into analyses (id, event_id, result, created_at) values ($1::bigint, $1::bigint, '{"topic": "x"}', $2)`, id, at)
	exec(t, pool, `insert into crm_dispatches (event_id, analysis_id, target, attempt, payload, response_text, status, created_at)
		values ($1::bigint, $1::bigint, 'bpmsoft', 1, '{"lead": 1}', 'ok', 'delivered', $2)`, id, at)
	exec(t, pool, `insert into call_audio (event_id, conversation_id, kind, object_key, content_type, bytes, sha256, created_at)
		values ($1::bigint, 'conv_' || $1::bigint, 'full_audio', 'key/' || $1::bigint, 'audio/mpeg', 1, '', $2)`, id, at)
}

func retention(pool *pgxpool.Pool, audio privacy.Recordings, ages privacy.Ages) *privacy.Retention {
	return &privacy.Retention{Pool: pool, Audio: audio, Ages: ages, Log: zap.NewNop(),
		Pace: privacy.Pace{Batch: 2, Share: 0.9, Least: time.Microsecond}}
}

func run(t *testing.T, r *privacy.Retention) map[string]int64 {
	t.Helper()
	removed, more, err := r.Run(t.Context())
	if err != nil || more {
		t.Fatalf("more %v, %v", more, err)
	}
	return removed
}

// Each kind goes at its own age and takes nothing else with it.
func TestRetentionOfEachKind(t *testing.T) {
	t.Parallel()
	const age = 90 * day
	// What is left of an event that is old, by kind.
	left := `select concat_ws(' ',
		'body:' || (select case when payload -> 'data' ? 'transcript' then 'whole' when payload -> 'data' ? 'metadata' then 'unsaid' else payload::text end from webhook_events where id = $1),
		'raw:' || (select raw_body is not null from webhook_events where id = $1),
		'metrics:' || (select metrics is not null from webhook_events where id = $1),
		'analyses:' || (select count(*) from analyses where event_id = $1),
		'dispatched:' || (select count(*) filter (where payload is not null and response_text is not null) || '/' || count(*) from crm_dispatches where event_id = $1),
		'audio:' || (select count(*) from call_audio where event_id = $1))`
	const whole = "body:whole raw:true metrics:true analyses:1 dispatched:1/1 audio:1"
	for name, test := range map[string]struct {
		ages privacy.Ages
		want string
	}{
		"nothing":     {privacy.Ages{}, whole},
		"transcripts": {privacy.Ages{Transcripts: age}, "body:unsaid raw:false metrics:true analyses:1 dispatched:1/1 audio:1"},
		"payloads":    {privacy.Ages{Payloads: age}, `body:{"removed": "retention"} raw:false metrics:true analyses:1 dispatched:1/1 audio:1`},
		"both":        {privacy.Ages{Payloads: age, Transcripts: day}, `body:{"removed": "retention"} raw:false metrics:true analyses:1 dispatched:1/1 audio:1`},
		"dispatches":  {privacy.Ages{Dispatches: age}, "body:whole raw:true metrics:true analyses:1 dispatched:0/1 audio:1"},
		// What was sent of an analysis goes with it.
		"analyses": {privacy.Ages{Analyses: age}, "body:whole raw:true metrics:true analyses:0 dispatched:0/0 audio:1"},
		"audio":    {privacy.Ages{Audio: age}, "body:whole raw:true metrics:true analyses:1 dispatched:1/1 audio:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			for id := 1; id <= 5; id++ { // more than two batches
				event(t, pool, id, "done", 100*day)
			}
			event(t, pool, 6, "skipped", 100*day)
			event(t, pool, 7, "done", time.Hour)
			audio := &shelf{}
			run(t, retention(pool, audio, test.ages))
			for id := 1; id <= 6; id++ {
				if got := text(t, pool, left, id); got != test.want {
					t.Errorf("event %d: %s, want %s", id, got, test.want)
				}
			}
			if got := text(t, pool, left, 7); got != whole {
				t.Errorf("the new event: %s", got)
			}
			if want := map[bool]int{true: 6}[name == "audio"]; len(audio.deleted) != want {
				t.Errorf("%d objects deleted, want %d", len(audio.deleted), want)
			}
		})
	}
}

// An event that is not settled stays whole at any age.
func TestRetentionLeavesUnsettledAlone(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	everything := privacy.Ages{Payloads: day, Transcripts: day, Audio: day, Analyses: day, Dispatches: day}
	states := []string{"none", "queued", "running", "dead"}
	for i, state := range states {
		event(t, pool, i+1, state, 100*day)
	}
	event(t, pool, 10, "done", 100*day) // its result is still to be sent
	exec(t, pool, `insert into river_job (args, kind, max_attempts, queue, state) values ('{"analysis_id": 10}', 'crm_bpmsoft', 5, 'crm_bpmsoft', 'retryable')`)
	event(t, pool, 11, "done", 100*day) // somebody wants it analysed again
	exec(t, pool, `insert into river_job (args, kind, max_attempts, queue, state) values ('{"event_id": 11, "trigger": "manual"}', 'analyze', 5, 'analyze', 'available')`)
	event(t, pool, 12, "done", 100*day) // done with, as a finished job shows
	exec(t, pool, `insert into river_job (args, kind, max_attempts, queue, state, finalized_at) values ('{"analysis_id": 12}', 'crm_bpmsoft', 5, 'crm_bpmsoft', 'completed', now())`)
	audio := &shelf{}
	run(t, retention(pool, audio, everything))
	if got := text(t, pool, `select string_agg(id::text, ' ' order by id) from webhook_events where body_kept <> 'all'`); got != "12" {
		t.Errorf("bodies taken: %s, want 12 alone", got)
	}
	if got := text(t, pool, `select string_agg(event_id::text, ' ' order by event_id) from analyses`); got != "1 2 3 4 10 11" {
		t.Errorf("analyses left: %s", got)
	}
	for _, key := range []string{"key/2", "key/3"} {
		if slices.Contains(audio.deleted, key) {
			t.Errorf("the audio %s of a call that is being analysed is gone", key)
		}
	}
}

// Rows that somebody holds are passed over and taken the next time.
func TestRetentionWaitsForNobody(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	event(t, pool, 1, "done", 100*day)
	event(t, pool, 2, "done", 100*day)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select from webhook_events where id = 1 for update`); err != nil {
		t.Fatal(err)
	}
	r := retention(pool, &shelf{}, privacy.Ages{Payloads: day})
	if removed := run(t, r); removed["payloads"] != 1 {
		t.Errorf("removed %v beside a held row, want 1", removed)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if removed := run(t, r); removed["payloads"] != 1 {
		t.Errorf("removed %v afterwards, want 1", removed)
	}
	// A table that is locked as a whole is left alone without an error.
	event(t, pool, 3, "done", 100*day)
	if tx, err = pool.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `lock table webhook_events in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	if removed := run(t, r); removed["payloads"] != 0 {
		t.Errorf("removed %v from a locked table", removed)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The row outlives an object that cannot be deleted, and the others go on.
func TestRetentionOfAudioGoesOn(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	for id := 1; id <= 3; id++ {
		event(t, pool, id, "done", 100*day)
	}
	audio := &shelf{fails: errors.New("the bucket is away")}
	r := retention(pool, audio, privacy.Ages{Audio: day, Rejections: day})
	exec(t, pool, `insert into rejections (at, reason, address) select now() - interval '2 days', 'x', 'y' from generate_series(1, 5)`)
	removed, _, err := r.Run(t.Context())
	if !errors.Is(err, audio.fails) || removed["rejections"] != 5 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if got := text(t, pool, `select count(*) from call_audio`); got != "3" {
		t.Errorf("%s rows of 3 are left", got)
	}
	stands := `select string_agg(kind || ' ' || (finished_at is not null) || ' ' || (failing_since is not null), ', ' order by kind) from retention_kinds`
	if got := text(t, pool, stands); got != "audio false true, rejections true false" {
		t.Errorf("written down: %s", got)
	}
	audio.fails = nil
	run(t, r)
	if got := text(t, pool, stands); got != "audio true false, rejections true false" {
		t.Errorf("written down afterwards: %s", got)
	}
	if run(t, retention(pool, audio, privacy.Ages{})); text(t, pool, stands) != "NULL" {
		t.Errorf("without ages there is %s", text(t, pool, stands))
	}
	if got := text(t, pool, `select count(*) from call_audio`); got != "0" || len(audio.deleted) != 3 {
		t.Errorf("%s rows are left, deleted %v", got, audio.deleted)
	}
}

func TestRetentionOfAudit(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	for _, days := range []int{1, 50, 400} {
		exec(t, pool, `insert into audit_log (at, actor, role, action, outcome) values (now() - $1::int * interval '1 day', 'a', 'admin', $1::int::text, 'done')`, days)
	}
	run(t, retention(pool, &shelf{}, privacy.Ages{Audit: 365 * day}))
	if got := text(t, pool, `select string_agg(action, ' ' order by at) from audit_log`); got != "50 1" {
		t.Errorf("entries left: %s", got)
	}
}

// A run that has no time left says that there is more.
func TestRetentionStops(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	for id := 1; id <= 5; id++ {
		event(t, pool, id, "done", 100*day)
	}
	r := retention(pool, &shelf{}, privacy.Ages{Payloads: day})
	r.Pace.Least = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string, 1)
	go func() {
		_, more, err := r.Run(ctx)
		done <- fmt.Sprint(more, err)
	}()
	for text(t, pool, `select count(*) from webhook_events where body_kept = 'none'`) != "2" {
		select {
		case got := <-done:
			t.Fatalf("no batch was done: %s", got)
		default:
		}
	}
	cancel()
	if got := <-done; got != "true <nil>" {
		t.Errorf("run gave %s", got)
	}
	if got := text(t, pool, `select count(*) from webhook_events where body_kept = 'none'`); got != "2" {
		t.Errorf("%s rows were taken, want the first batch", got)
	}
}
