package call_test

import (
	"encoding/json"
	"strings"
	"testing"

	"postcall/pkg/call"
)

func TestResultBoundsCriteria(t *testing.T) {
	t.Parallel()
	good := call.Judgement{ID: "courteous", Verdict: call.VerdictMet, Turn: new(3), Quote: new("Спасибо"), Supported: true}
	for name, test := range map[string]struct {
		change func(*call.Judgement)
		want   string // of the error; empty for none
	}{
		"as it should be":         {func(*call.Judgement) {}, ""},
		"without proof":           {func(j *call.Judgement) { j.Turn, j.Quote, j.Supported = nil, nil, false }, ""},
		"an unsupported quote":    {func(j *call.Judgement) { j.Supported = false }, ""},
		"no id":                   {func(j *call.Judgement) { j.ID = "" }, "id"},
		"an endless id":           {func(j *call.Judgement) { j.ID = strings.Repeat("x", call.MaxCriterionID+1) }, "id"},
		"no verdict":              {func(j *call.Judgement) { j.Verdict = "" }, "verdict"},
		"another verdict":         {func(j *call.Judgement) { j.Verdict = "yes" }, "verdict"},
		"an endless quote":        {func(j *call.Judgement) { j.Quote = new(strings.Repeat("я", call.MaxQuote+1)) }, "quote"},
		"supported without quote": {func(j *call.Judgement) { j.Quote = nil }, "supported"},
		"supported without turn":  {func(j *call.Judgement) { j.Turn = nil }, "supported"},
		"supported by nothing":    {func(j *call.Judgement) { j.Quote = new("") }, "supported"},
	} {
		j := good
		test.change(&j)
		r := call.Result{OutcomeCode: call.OutcomeUnclear, SummaryRU: "Кратко.", Criteria: []call.Judgement{j}}
		err := r.Validate()
		if test.want == "" && err != nil || test.want != "" && (call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := call.Result{OutcomeCode: call.OutcomeUnclear, SummaryRU: "Кратко."}
	for range call.MaxCriteria + 1 {
		many.Criteria = append(many.Criteria, good)
	}
	if many.Validate() == nil {
		t.Error("any number of criteria is taken")
	}
}

// Rows that were stored before results had criteria must still be read.
func TestResultOfBeforeIsRead(t *testing.T) {
	t.Parallel()
	for _, row := range []string{
		`{"topic":"Тема","outcome_code":"lead","summary_ru":"Кратко.","recommendations":"Позвонить.","evidence":[]}`,
		`{"outcome_code":"lead","summary_ru":"Кратко.","recommendations":null,"criteria":null}`,
	} {
		var r call.Result
		if err := json.Unmarshal([]byte(row), &r); err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(); err != nil || r.Criteria != nil {
			t.Errorf("%s: %v, %v", row, err, r.Criteria)
		}
	}
}
