package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/archive"
	"postcall/pkg/pgtest"
)

// A correction counts until it is withdrawn, the model's value stands beside
// it, and the audit log says who, of which field, and never the value.
func TestCorrections(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	s := serve(t, pool, 1000)
	id := event(t, pool, payload, result)
	path := fmt.Sprintf("/api/events/%d", id)
	correct := func(want int, body string) {
		t.Helper()
		if got := s.send(access.Operator, http.MethodPost, path+"/corrections", body); got != want {
			t.Errorf("%s answered %d, want %d", body, got, want)
		}
		if _, err := archive.Index(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	found := func(query string) int {
		t.Helper()
		_, body := s.get(access.Operator, "/api/events?"+query)
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return len(list.Items)
	}
	for _, body := range []string{
		``, `{}`, `{"field": "quality"}`, `{"field": "quality", "value": 2, "withdraw": true}`, `{"field": "quality", "value": 6}`,
		`{"field": "quality", "value": 2.5}`, `{"field": "quality", "value": "good"}`, `{"field": "metrics", "value": "x"}`, `{"field": "topic", "value": ["x"]}`,
		`{"field": "topic", "value": " "}`, `{"field": "outcome_code", "value": "won"}`, `{"field": "outcome_code", "value": null}`,
		`{"field": "sentiment", "value": "great"}`, `{"field": "summary_ru", "value": null}`, `{"field": "topic", "value": "a\u0000b"}`,
	} {
		correct(http.StatusBadRequest, body)
	}
	correct(http.StatusOK, `{"field": "quality", "value": 2}`)
	correct(http.StatusOK, `{"field": "client_name", "value": "Мария Тестова"}`)
	if found("quality=2") != 1 || found("quality=4") != 0 || found("clientName=тестова") != 1 {
		t.Error("the list does not go by the corrections")
	}
	_, body := s.get(access.Operator, path)
	var record archive.Record
	if err := json.Unmarshal([]byte(body), &record); err != nil {
		t.Fatal(err)
	}
	if c := record.Corrections; len(c) != 2 || c[1].Field != "quality" || string(c[1].Value) != "2" || string(c[1].ModelValue) != "4" || c[1].Who != "test-operator" {
		t.Errorf("the event has the corrections %+v", c)
	}
	if !strings.Contains(string(record.Analyses[0].Result), `"quality": 4`) && !strings.Contains(string(record.Analyses[0].Result), `"quality":4`) {
		t.Errorf("the model's own result became %s", record.Analyses[0].Result)
	}
	correct(http.StatusOK, `{"field": "quality", "withdraw": true}`)
	if found("quality=2") != 0 || found("quality=4") != 1 {
		t.Error("a withdrawn correction counts")
	}
	var done, refused int
	var details string
	err := pool.QueryRow(t.Context(), `
		select count(*) filter (where outcome = 'done'), count(*) filter (where outcome <> 'done'), string_agg(a::text, ' ')
		from audit_log a where action = 'event.correct'`).Scan(&done, &refused, &details)
	if err != nil {
		t.Fatal(err)
	}
	if done != 3 || refused != 15 || !strings.Contains(details, "client_name") || strings.Contains(details, "Тестова") {
		t.Errorf("the audit log has %d done, %d refused: %s", done, refused, details)
	}
}
