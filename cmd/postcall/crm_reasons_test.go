package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/export"
	"postcall/pkg/export/exporttest"
	"postcall/pkg/pgtest"
	"postcall/pkg/postgres"
)

// nowhere is documentation's own address: whatever connected there would hang.
const nowhere = "https://192.0.2.1"

func landing(more map[string]string) map[string]string {
	env := map[string]string{
		"EXTERNAL_CRM_ENABLED": "true", "CRM_LANDING_ID": "5f0c1d1e-7d3a-4b0f-9b0a-0d6f6a1f2c3b", "CRM_REFERER": "https://calls.example.by/",
		"CRM_SERVICE_URL": nowhere + "/0/ServiceModel/GeneratedObjectWebFormService.svc/SaveWebFormObjectData",
		"CRM_ODATA_URL":   nowhere + "/0/odata", "CRM_ODATA_USER": "postcall", "CRM_ODATA_PASS": "hunter2",
	}
	maps.Copy(env, more)
	return env
}

// analysed keeps a call and an analysis of it.
func analysed(t *testing.T, pool *pgxpool.Pool) (eventID, analysisID int64) {
	t.Helper()
	body, err := os.ReadFile("../../pkg/elevenlabs/testdata/made/19-made-russian-sip-inbound-full.json")
	if err != nil {
		t.Fatal(err)
	}
	event := elevenlabs.Parse(body, time.Now())
	event.Source, event.State = call.SourceWebhook, call.StateDone
	analysis := call.Analysis{Analyzer: "builtin", Trigger: call.TriggerAuto, Result: exporttest.Delivery(1).Analysis.Result}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		kept, err := postgres.InsertEvents(t.Context(), tx, []*call.Event{&event})
		if err != nil {
			return err
		}
		analysis.EventID = kept[0].EventID
		return postgres.InsertAnalysis(t.Context(), tx, &analysis)
	})
	if err != nil {
		t.Fatal(err)
	}
	return analysis.EventID, analysis.ID
}

// What a preview prints, and every reason that it gives for not sending.
func TestPreviewReasons(t *testing.T) {
	t.Parallel()
	rules := filepath.Join(t.TempDir(), "fields.yaml")
	if err := os.WriteFile(rules, []byte("send: {outcomes: [complaint]}\nfields: {Name: \"{{.ClientName}}\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		env    map[string]string
		status postgres.DispatchStatus // of an earlier attempt, if any
		body   string                  // a text in the body
		note   string                  // empty for none
	}{
		"landing":              {nil, "", `"formFieldsData"`, ""},
		"OData":                {map[string]string{"CRM_MODE": "odata"}, "", `"DetailedResult"`, ""},
		"not switched on":      {map[string]string{"EXTERNAL_CRM_ENABLED": ""}, "", `"Ольга"`, "EXTERNAL_CRM_ENABLED is not true"},
		"dry run":              {map[string]string{"EXTERNAL_CRM_DRY_RUN": "true"}, "", `"Ольга"`, "EXTERNAL_CRM_DRY_RUN is true"},
		"left out":             {map[string]string{"CRM_FIELD_MAP": rules}, "", `"Ольга"`, `the outcome is "meeting"`},
		"left out, over OData": {map[string]string{"CRM_FIELD_MAP": rules, "CRM_MODE": "odata"}, "", `"Title"`, `the outcome is "meeting"`},
		"there already":        {nil, postgres.DispatchDelivered, `"Ольга"`, "it is there already"},
		"refused before":       {nil, postgres.DispatchRefused, `"Ольга"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			event, analysis := analysed(t, pool)
			if test.status != "" {
				d := postgres.Dispatch{EventID: event, AnalysisID: analysis, Target: call.TargetBPMSoft, Status: test.status}
				if err := postgres.InsertDispatch(t.Context(), pool, &d); err != nil {
					t.Fatal(err)
				}
			}
			c, crm, err := bpmsoft(t.Context(), config.Map(landing(test.env), nil))
			if err != nil {
				t.Fatal(err)
			}
			var out, notes bytes.Buffer
			if err := preview(t.Context(), pool, c, crm, event, &out, &notes); err != nil {
				t.Fatal(err)
			}
			if !json.Valid(out.Bytes()) || !strings.Contains(out.String(), test.body) {
				t.Errorf("the body is %s", out.String())
			}
			if (test.note == "") != (notes.Len() == 0) || !strings.Contains(notes.String(), test.note) {
				t.Errorf("it says %q, want %q", notes.String(), test.note)
			}
			if strings.Contains(out.String()+notes.String(), "hunter2") {
				t.Error("a password is printed")
			}
			err = preview(t.Context(), pool, c, crm, event+1, &out, &notes)
			if call.CodeOf(err) != call.NotFound {
				t.Errorf("of an event that is not there: %v", err)
			}
		})
	}
}

// Settings that lack something are named before anything is connected to.
func TestCRMSettings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change map[string]string
		says   string
	}{
		"no Referer":        {map[string]string{"CRM_REFERER": ""}, "CRM_REFERER is not set"},
		"no address":        {map[string]string{"CRM_SERVICE_URL": ""}, "CRM_SERVICE_URL is not set"},
		"landing no GUID":   {map[string]string{"CRM_LANDING_ID": "42"}, "CRM_LANDING_ID is not a GUID"},
		"http":              {map[string]string{"CRM_SERVICE_URL": "http://192.0.2.1/x"}, "CRM_ALLOW_HTTP=true"},
		"OData, no user":    {map[string]string{"CRM_MODE": "odata", "CRM_ODATA_USER": ""}, "CRM_ODATA_USER is not set"},
		"OData, wrong path": {map[string]string{"CRM_MODE": "odata", "CRM_ODATA_URL": nowhere + "/0"}, "does not end in /odata"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := bpmsoft(t.Context(), config.Map(landing(test.change), nil))
			if app.ExitCode(err) != app.ExitUsage || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("exit code %d: %v", app.ExitCode(err), err)
			}
		})
	}
}

// The webhook is asked without a message.
func TestWebhookCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		say    string
		level  export.Level
	}{
		"answers":         {http.StatusMethodNotAllowed, "answers (HTTP 405", export.OK},
		"elsewhere":       {http.StatusFound, "elsewhere", export.Fail},
		"wants no more":   {http.StatusGone, "wants nothing more", export.Fail},
		"nobody is there": {0, "nothing answers", export.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			methods := make(chan string, 2)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				methods <- r.Method
				w.WriteHeader(test.status)
			}))
			t.Cleanup(s.Close)
			if test.status == 0 {
				s.Close()
			}
			c, err := config.LoadCRM(t.Context(), config.Map(landing(map[string]string{
				"WEBHOOK_OUT_URL": s.URL, "WEBHOOK_OUT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "WEBHOOK_OUT_ALLOW_HTTP": "true",
			}), nil))
			if err != nil {
				t.Fatal(err)
			}
			hook, err := app.Webhook(c)
			if err != nil {
				t.Fatal(err)
			}
			list := hook.Check(t.Context())
			if len(list) != 1 || list[0].Level != test.level || !strings.Contains(list[0].Text, test.say) {
				t.Errorf("found %+v", list)
			}
			var out bytes.Buffer
			if err := printFindings(&out, list, "no"); (err != nil) != (test.level == export.Fail) || !strings.Contains(out.String(), test.say) {
				t.Errorf("%v: %s", err, out.String())
			}
			if test.status != 0 && <-methods != http.MethodHead {
				t.Error("the check sent more than a HEAD")
			}
		})
	}
}
