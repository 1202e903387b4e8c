package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/app"
	"postcall/pkg/backfill"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabstest"
	"postcall/pkg/privacy"
)

// importMain imports a month, as the command does.
func importMain() int {
	ctx := context.Background()
	c, err := config.LoadImport(ctx, config.Environment())
	if err == nil {
		_, err = app.Import(ctx, c, aMonth(), false, zap.NewNop(), nil)
	}
	return app.ExitCode(err)
}

func aMonth() backfill.Window {
	return backfill.Window{Since: time.Now().Add(-30 * 24 * time.Hour), Until: time.Now()}
}

// upstream prepares an installation beside a workspace of ElevenLabs.
func upstream(t *testing.T, env map[string]string) (*installation, *elevenlabstest.Server) {
	t.Helper()
	eleven := elevenlabstest.New(t)
	i := install(t, nil, env)
	i.env["ELEVENLABS_BASE_URL"], i.env["ELEVENLABS_RPS"] = eleven.URL(), "1000"
	i.env["ANALYZE_MAX_CONCURRENCY"] = "16"
	return i, eleven
}

// tookPlace is a call of some hours ago, and the webhook that tells of it.
func tookPlace(id string, hours int) (elevenlabstest.Call, []byte) {
	start := time.Now().Add(-time.Duration(hours) * time.Hour).Truncate(time.Second)
	data := map[string]any{
		"agent_id": "agent_1", "conversation_id": id, "status": "done",
		"transcript": []map[string]any{
			{"role": "agent", "message": "Добрый день! Какую квартиру ищете?", "time_in_call_secs": 0},
			{"role": "user", "message": "Двухкомнатную. Меня зовут Ольга.", "time_in_call_secs": 4},
		},
		"metadata": map[string]any{"start_time_unix_secs": start.Unix(), "call_duration_secs": 12},
		"analysis": map[string]any{"call_successful": "success", "transcript_summary": "Клиент ищет двухкомнатную квартиру.", "call_summary_title": "Подбор квартиры"},
	}
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	// The webhook comes a while after the call's end.
	body, err := json.Marshal(map[string]any{"type": "post_call_transcription", "event_timestamp": start.Unix() + 15, "data": data})
	if err != nil {
		panic(err)
	}
	return elevenlabstest.Call{ID: id, Agent: "agent_1", Start: start, Duration: 12 * time.Second, Data: raw}, body
}

// fetch imports a month by hand.
func (i *installation) fetch(edit func(*backfill.Window)) (backfill.Run, error) {
	i.t.Helper()
	i.env["ELEVENLABS_API_KEY"] = elevenlabstest.Key
	c, err := config.LoadImport(i.t.Context(), config.Map(i.env, nil))
	if err != nil {
		i.t.Fatal(err)
	}
	w := aMonth()
	if edit != nil {
		edit(&w)
	}
	return app.Import(i.t.Context(), c, w, false, zap.NewNop(), nil)
}

// Calls whose webhooks were never sent, came twice or come after the import:
// each is one call, one analysis, one entry, also where the import is killed
// in the middle.
func TestImport(t *testing.T) {
	t.Parallel()
	calls := 160
	if n := os.Getenv("POSTCALL_TEST_IMPORT"); n != "" {
		var err error
		if calls, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	never, twice, late := calls*15/100, calls*25/1000, calls/100
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%t", killed), func(t *testing.T) {
			t.Parallel()
			i, eleven := upstream(t, map[string]string{"ELEVENLABS_API_KEY": elevenlabstest.Key, "IMPORT_EVERY_MINUTES": "1440"})
			i.env["ELEVENLABS_API_KEY"] = "" // the worker does not import by itself here
			i.ingest()
			i.worker()
			webhooks := make([][]byte, calls)
			for n := range calls {
				c, body := tookPlace(fmt.Sprintf("conv_%05d", n), 1+n%600)
				eleven.Add(c)
				webhooks[n] = body
				switch {
				case n < never+late: // not yet, or never
				case n < never+late+twice:
					i.send(body)
					i.send(body)
				default:
					i.send(body)
				}
			}
			if killed {
				i.env["ELEVENLABS_API_KEY"] = elevenlabstest.Key
				var fetched atomic.Int64
				half := make(chan struct{})
				eleven.OnRequest(func(path string) {
					if strings.Count(path, "/") == 4 && fetched.Add(1) == int64(never/2) {
						close(half)
					}
				})
				cmd, out := i.process("import")
				select {
				case <-half:
				case <-time.After(time.Minute):
					t.Fatal("it fetches nothing: " + out.String())
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
			}
			run, err := i.fetch(nil)
			if err != nil {
				t.Fatal(err)
			}
			if run.Upstream != calls || run.Failed != 0 || run.Present+run.Imported != calls || !killed && run.Imported != never+late {
				t.Errorf("%+v", run)
			}
			for n := range late {
				i.send(webhooks[n])
			}
			again, err := i.fetch(nil)
			if err != nil || again.Imported != 0 || again.Present != calls {
				t.Errorf("again: %+v, %v", again, err)
			}
			i.wait("0", `select count(*) from river_job where state in ('available', 'running', 'retryable', 'scheduled', 'pending') and kind <> 'reconcile'`)
			i.wait("0", `select count(*) from calls_due`)
			for what, sql := range map[string]string{
				"calls":          `select count(distinct conversation_id) from webhook_events`,
				"listed calls":   `select count(*) from calls`,
				"events counted": `select count(*) from webhook_events where duplicate_of is null`,
				"analyses":       `select count(*) from analyses`,
				"analysed calls": `select count(distinct e.conversation_id) from analyses a join webhook_events e on e.id = a.event_id`,
				"handed on":      `select count(distinct e.conversation_id) from crm_dispatches d join webhook_events e on e.id = d.event_id where d.status = 'delivered'`,
			} {
				if got := i.text(sql); got != strconv.Itoa(calls) {
					t.Errorf("%s %s, want %d", got, what, calls)
				}
			}
			if got := i.entries(); got != calls {
				t.Errorf("%d entries in crm.md, want %d", got, calls)
			}
			if _, most := eleven.Requests(); most > 2 {
				t.Errorf("%d requests at once", most)
			}
		})
	}
}

// What the worker finds by itself, at its time.
func TestScheduledImport(t *testing.T) {
	t.Parallel()
	i, eleven := upstream(t, map[string]string{"ELEVENLABS_API_KEY": elevenlabstest.Key})
	for n := range 130 { // two pages
		c, _ := tookPlace(fmt.Sprintf("conv_%03d", n), 1+n%20)
		eleven.Add(c)
	}
	running, _ := tookPlace("conv_running", 1)
	running.Status = "in-progress"
	eleven.Add(running)
	eleven.Fail(elevenlabstest.Fault{Status: http.StatusTooManyRequests, RetryAfter: time.Second}, elevenlabstest.Fault{Status: http.StatusBadGateway}, elevenlabstest.Fault{})
	i.worker()
	i.wait("130", `select count(*) from analyses`)
	i.wait("schedule|130|130|0|", `select concat_ws('|', trigger, upstream, imported, failed, coalesce(error, '')) from import_runs where ended_at is not null`)
	i.wait("130|130", `select sum(upstream) || '|' || sum(imported) from import_days`)
	if got := i.text(`select count(*) from webhook_events where source = 'import' and received_at < now() - interval '50 minutes'`); got != "130" {
		t.Errorf("%s calls stand at their own time", got)
	}
}

// A wrong key is told once in the run, and nothing else happens.
func TestImportRefused(t *testing.T) {
	t.Parallel()
	i, eleven := upstream(t, map[string]string{"ELEVENLABS_API_KEY": "sk_wrong"})
	c, _ := tookPlace("conv_1", 1)
	eleven.Add(c)
	i.worker()
	i.wait("true", `select error like '%ELEVENLABS_API_KEY is wrong%' from import_runs where ended_at is not null`)
	i.wait("completed", `select state from river_job where kind = 'import'`)
}

// What came without its transcript is completed, once, and is one call; what
// was erased stays erased; what cannot be fetched is counted, and told.
func TestImportCompletes(t *testing.T) {
	t.Parallel()
	i, eleven := upstream(t, nil)
	i.ingest()
	i.worker()
	whole, body := tookPlace("conv_later", 5)
	i.send(bytes.Replace(body, []byte(`"transcript":`), []byte(`"not_the_transcript":`), 1))
	i.wait("skipped", `select analysis_state from webhook_events`)
	silent, _ := tookPlace("conv_silent", 6) // nothing was ever said in it
	silent.Data = bytes.Replace(silent.Data, []byte(`"transcript":`), []byte(`"not_the_transcript":`), 1)
	eleven.Add(whole, silent)
	run, err := i.fetch(nil)
	if err != nil || run.Completed != 1 || run.Imported != 1 || run.Present != 1 {
		t.Errorf("%+v, %v", run, err)
	}
	i.wait("done", `select analysis_state from webhook_events where conversation_id = 'conv_later' and source = 'import'`)
	i.wait("1", `select count(*) from calls where event_id in (select id from webhook_events where conversation_id = 'conv_later')`)
	i.wait("skipped", `select analysis_state from webhook_events where conversation_id = 'conv_silent'`)
	if run, err = i.fetch(nil); err != nil || run.Completed != 0 || run.Present != 2 {
		t.Errorf("again: %+v, %v", run, err)
	}
	if _, err := i.archive().Erase(t.Context(), privacy.Subject{Conversation: "conv_later"}, privacy.Actor{Name: "dpo", Role: "admin"}, false, nil); err != nil {
		t.Fatal(err)
	}
	broken, _ := tookPlace("conv_broken", 7)
	broken.Data = []byte("{")
	eleven.Add(broken)
	run, err = i.fetch(nil)
	if err != nil || run.Erased != 1 || run.Present != 1 || run.Failed != 1 {
		t.Errorf("after an erasure: %+v, %v", run, err)
	}
	if got := i.text(`select count(*) from webhook_events where conversation_id = 'conv_later'`); got != "0" {
		t.Error("an erased call came back")
	}
}

// A recording is fetched where there is none, through the store of all others.
func TestImportedRecording(t *testing.T) {
	t.Parallel()
	i, eleven := upstream(t, nil)
	i.ingest()
	i.worker()
	c, _ := tookPlace("conv with / sound", 5)
	c.Sound = append([]byte("ID3\x04\x00\x00\x00\x00\x00\x00"), bytes.Repeat([]byte{0xff, 0xfb, 0x90, 0x00}, 5000)...)
	mute, _ := tookPlace("conv_mute", 5)
	eleven.Add(c, mute)
	for range 2 {
		run, err := i.fetch(func(w *backfill.Window) { w.Recordings = true })
		if err != nil {
			t.Fatal(err)
		}
		if run.Failed != 0 {
			t.Errorf("%+v", run)
		}
	}
	if got := i.text(`select count(*) || ' ' || min(bytes) || ' ' || min(conversation_id) from call_audio`); got != fmt.Sprintf("1 %d conv with / sound", len(c.Sound)) {
		t.Errorf("recordings: %s", got)
	}
	// One that came by webhook and outlived its age stays gone.
	for _, sql := range []string{`update webhook_events set dedup_key = 'another' where event_type = 'post_call_audio'`, `delete from call_audio`} {
		if _, err := i.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if run, err := i.fetch(func(w *backfill.Window) { w.Recordings = true }); err != nil || run.Recordings != 0 {
		t.Errorf("after its age: %+v, %v", run, err)
	}
	if got := i.text(`select count(*) from call_audio`); got != "0" {
		t.Errorf("%s recordings that had outlived their age came back", got)
	}
}

// An event that is claimed while another copy of its call is being analysed
// waits for what comes of that.
func TestCopyWaits(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.ingest()
	first := i.send(callBody("conv_copies")).EventID
	if _, err := i.pool.Exec(t.Context(), `update webhook_events set analysis_state = 'running'`); err != nil {
		t.Fatal(err)
	}
	if _, err := i.pool.Exec(t.Context(), `update river_job set state = 'running', attempt = 1, attempted_at = now()`); err != nil {
		t.Fatal(err)
	}
	second := i.send(bytes.Replace(callBody("conv_copies"), []byte("1795000110"), []byte("1795000999"), 1)).EventID
	i.worker()
	i.wait(fmt.Sprintf("queued: waiting: the same call is being analysed as event %d", first),
		`select analysis_state || ': ' || processor_note from webhook_events where id = $1`, second)
	if _, err := i.pool.Exec(t.Context(), `update webhook_events set analysis_state = 'skipped' where id = $1`, first); err != nil {
		t.Fatal(err)
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, second)
}
