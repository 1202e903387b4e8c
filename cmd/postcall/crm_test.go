package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"

	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/pgtest"
)

// A preview prints what would be sent of an event's newest analysis, and why
// it would not be.
func TestPreview(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	var event int64
	err := pool.QueryRow(t.Context(), `
		with e as (
			insert into webhook_events (event_type, event_timestamp, conversation_id, agent_id, payload, dedup_key, analysis_state)
			values ('post_call_transcription', 1795000110, 'conv_preview', 'agent_1', '{"data": {"conversation_id": "conv_preview"}}', 'k', 'done')
			returning id
		)
		insert into analyses (event_id, model, analyzer, result)
		select id, 'm', 'openai', r::jsonb from e, (values
			('{"summary_ru": "Старый.", "outcome_code": "unclear", "recommendations": []}'),
			('{"summary_ru": "Новый.", "outcome_code": "refused", "client_name": "Ольга", "recommendations": []}')) old_and_new(r)
		returning event_id`).Scan(&event)
	if err != nil {
		t.Fatal(err)
	}
	rules := t.TempDir() + "/map.yaml"
	if err := os.WriteFile(rules, []byte("send: {outcomes: [lead]}\nfields: {Name: \"{{.ClientName}}\", Commentary: \"{{.Summary}}\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadCRM(t.Context(), config.Map(map[string]string{
		"CRM_SERVICE_URL": "https://crm.example/0/x", "CRM_LANDING_ID": "7d9f4c1e-2b3a-4c5d-8e6f-0123456789ab",
		"CRM_REFERER": "https://flats.example", "CRM_FIELD_MAP": rules,
	}, nil))
	if err != nil {
		t.Fatal(err)
	}
	crm, err := app.BPMSoft(c, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	var out, notes bytes.Buffer
	if err := preview(t.Context(), pool, c, crm, event, &out, &notes); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(out.Bytes()) || !strings.Contains(out.String(), "Новый.") || !strings.Contains(out.String(), "Ольга") {
		t.Errorf("printed %s", out.String())
	}
	if !strings.Contains(notes.String(), `the outcome is "refused"`) {
		t.Errorf("noted %q", notes.String())
	}
	if err := preview(t.Context(), pool, c, crm, event+1, &out, &notes); call.CodeOf(err) != call.NotFound {
		t.Errorf("of no event: %v", err)
	}
}
