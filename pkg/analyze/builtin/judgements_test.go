package builtin_test

import (
	"strings"
	"testing"

	"postcall/pkg/call"
)

func TestCriteriaAreElevenLabsOwnAndUnproved(t *testing.T) {
	t.Parallel()
	c := said("Да")
	c.Criteria = []call.Criterion{
		{ID: "greeted", Result: "success", Rationale: "«Добрый день»"}, {ID: " closed\n", Result: "failure"},
		{ID: "offered", Result: "unknown"}, {ID: "odd", Result: "maybe"}, {ID: "\u200b"},
		{ID: strings.Repeat("x", 1000), Result: "success"},
	}
	got := analyse(t, c).Criteria
	var flat []string
	for _, j := range got {
		if j.Supported || j.Quote != nil || j.Turn != nil {
			t.Errorf("%s is proved by nothing: %+v", j.ID, j)
		}
		flat = append(flat, j.ID[:min(len(j.ID), 7)]+"="+string(j.Verdict))
	}
	if want := "greeted=met closed=not_met offered=unknown odd=unknown xxxxxxx=met"; strings.Join(flat, " ") != want {
		t.Errorf("criteria are %v", flat)
	}
	c.Criteria = nil
	if got := analyse(t, c).Criteria; got == nil || len(got) != 0 {
		t.Errorf("without criteria the list is %#v", got)
	}
	for range 10 * call.MaxCriteria {
		c.Criteria = append(c.Criteria, call.Criterion{ID: "x", Result: "success"})
	}
	if got := len(analyse(t, c).Criteria); got != call.MaxCriteria {
		t.Errorf("%d criteria are kept", got)
	}
}
