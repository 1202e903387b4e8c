package app_test

import (
	"strings"
	"testing"
	"time"

	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabstest"
	"postcall/pkg/export"
	"postcall/pkg/openaitest"
)

// Each broken state is one line that names it and one that says what to do;
// nothing else is held against a sound installation.
func TestDoctor(t *testing.T) {
	t.Parallel()
	const public = "https://calls.example.com"
	type state struct {
		eleven *elevenlabstest.Server
		hook   map[string]any
		env    map[string]string
		now    func() time.Time
		i      *installation
		old    bool // the schema
	}
	for name, test := range map[string]struct {
		breaks func(*state)
		fault  string // of the one line that fails; empty for none
		advice string
	}{
		"sound":            {func(*state) {}, "", ""},
		"disabled":         {func(s *state) { s.hook["is_disabled"] = true }, "the post-call webhook is switched off", "Switch it on"},
		"disabled by them": {func(s *state) { s.hook["is_auto_disabled"] = true }, "ElevenLabs has switched the post-call webhook off", "postcall import"},
		"retries off":      {func(s *state) { s.hook["retry_enabled"] = false }, "retries of the post-call webhook are off", "Switch the webhook's retries on"},
		"failing": {func(s *state) {
			s.hook["most_recent_failure_error_code"], s.hook["most_recent_failure_timestamp"] = 502, time.Now().Add(-time.Hour).Unix()
		}, "it was answered 502", "ingest's log"},
		"failing without an answer": {func(s *state) { s.hook["most_recent_failure_timestamp"] = time.Now().Add(-time.Hour).Unix() }, "it was not answered", "postcall import"},
		"foreign URL":               {func(s *state) { s.hook["webhook_url"] = "https://other.example.com/webhook/elevenlabs" }, "goes to https://other.example.com/webhook/elevenlabs, which is not ours", public + "/webhook/elevenlabs"},
		"another path":              {func(s *state) { s.hook["webhook_url"] = public + "/hook" }, "which is not ours", public + "/webhook/elevenlabs"},
		"not signed":                {func(s *state) { s.hook["auth_type"] = "none" }, "is not signed", "HMAC"},
		"no webhook":                {func(s *state) { s.eleven.PostCall = "" }, "no post-call webhook is set", "choose a post-call webhook"},
		"wrong key":                 {func(s *state) { s.env["ELEVENLABS_API_KEY"] = "sk_wrong" }, "refuses ELEVENLABS_API_KEY", "Make another key"},
		"their clock": {func(s *state) { s.eleven.Skew = 10 * time.Minute },
			" behind ElevenLabs'", "Synchronise"},
		"no database":  {func(s *state) { s.env["DATABASE_URL"] = "postgres://nobody@127.0.0.1:1/none" }, "the database does not answer", "Look at PostgreSQL"},
		"old schema":   {func(s *state) { s.old = true }, "and this program wants", "postcall migrate up"},
		"no model key": {func(s *state) { s.env["OPENAI_API_KEY"] = "sk-wrong" }, "the model server refuses", "OPENAI_API_KEY"},
		"no secret":    {func(s *state) { s.env["WEBHOOK_SECRET"] = "" }, "WEBHOOK_SECRET is not set", "README"},
		"away":         {func(s *state) { s.env["ELEVENLABS_BASE_URL"] = "http://127.0.0.1:1" }, "ElevenLabs:", "status.elevenlabs.io"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &state{eleven: elevenlabstest.New(t), hook: map[string]any{
				"webhook_id": "wh_1", "name": "Postcall", "webhook_url": public + "/webhook/elevenlabs", "is_disabled": false, "is_auto_disabled": false,
				"created_at_unix": 1795000000, "auth_type": "hmac", "retry_enabled": true, "usage": []map[string]any{{"usage_type": "ConvAI Settings"}},
				"most_recent_failure_error_code": nil, "most_recent_failure_timestamp": nil,
			}}
			s.eleven.Webhooks, s.eleven.PostCall = []map[string]any{{"webhook_id": "wh_0", "webhook_url": "https://x.example.com"}, s.hook}, "wh_1"
			s.i = install(t, openaitest.New(t), map[string]string{"ELEVENLABS_API_KEY": elevenlabstest.Key, "ELEVENLABS_BASE_URL": s.eleven.URL(), "ELEVENLABS_RPS": "1000"})
			s.env = s.i.env
			s.i.ingest() // makes the spool's directory
			s.i.worker()
			s.i.wait("1", `select count(*) from workers`)
			test.breaks(s)
			if s.old {
				if _, err := s.i.pool.Exec(t.Context(), `delete from goose_db_version where version_id = (select max(version_id) from goose_db_version)`); err != nil {
					t.Fatal(err)
				}
			}
			var failed []export.Finding
			for _, f := range app.Examine(t.Context(), config.Map(s.env, nil), app.Examination{PublicURL: public, Now: s.now}) {
				if f.Level != export.OK && f.Advice == "" {
					t.Errorf("what is to be done about %q?", f.Text)
				}
				if strings.Contains(f.Text+f.Advice, elevenlabstest.Key) || strings.Contains(f.Text+f.Advice, "sk_wrong") || strings.ContainsAny(f.Text+f.Advice, "\n\r") {
					t.Errorf("%+v", f)
				}
				if f.Level == export.Fail {
					failed = append(failed, f)
				}
				if f.Level == export.Warn && name == "sound" {
					t.Errorf("in a sound installation: %+v", f)
				}
			}
			switch {
			case test.fault == "":
				if len(failed) > 0 {
					t.Errorf("found: %+v", failed)
				}
			case len(failed) != 1 || !strings.Contains(failed[0].Text, test.fault) || !strings.Contains(failed[0].Advice, test.advice):
				t.Errorf("found: %+v, want %q and %q", failed, test.fault, test.advice)
			}
			t.Logf("%+v", failed)
		})
	}
}
