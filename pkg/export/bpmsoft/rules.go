package bpmsoft

import (
	"fmt"
	"slices"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// rules say which calls are sent. The zero value sends all.
type rules struct {
	Outcomes   []call.OutcomeCode `yaml:"outcomes"` // empty for any
	MinQuality int                `yaml:"min_quality"`
	HasPhone   bool               `yaml:"has_phone"`
	Agents     struct {
		Include []string `yaml:"include"` // empty for any
		Exclude []string `yaml:"exclude"`
	} `yaml:"agents"`
}

func (r rules) check() error {
	for _, o := range r.Outcomes {
		if !slices.Contains(call.OutcomeCodes(), o) {
			return fmt.Errorf("outcomes: %q is none of %v", o, call.OutcomeCodes())
		}
	}
	if r.MinQuality < 0 || r.MinQuality > 5 {
		return fmt.Errorf("min_quality: %d is not 0 to 5", r.MinQuality)
	}
	return nil
}

// Choose says why a result is not to be sent, by the mapping's rules, and
// nothing if it is. region is the country of numbers without a country code.
func (m *Mapping) Choose(d export.Delivery, region string) string {
	return m.choose(newView(d, "", region))
}

// choose says why a call is not to be sent, and nothing if it is.
func (m *Mapping) choose(v view) string {
	r := m.rules
	switch {
	case len(r.Agents.Include) > 0 && !slices.Contains(r.Agents.Include, v.AgentID):
		return "left out by the rules: the agent is not among those whose calls are sent"
	case slices.Contains(r.Agents.Exclude, v.AgentID):
		return "left out by the rules: calls of this agent are not sent"
	case len(r.Outcomes) > 0 && !slices.Contains(r.Outcomes, call.OutcomeCode(v.OutcomeCode)):
		return fmt.Sprintf("left out by the rules: the outcome is %q", v.OutcomeCode)
	case r.MinQuality > 0 && v.quality == 0:
		return "left out by the rules: the quality is not known"
	case v.quality < r.MinQuality:
		return fmt.Sprintf("left out by the rules: the quality is %d, less than %d", v.quality, r.MinQuality)
	case r.HasPhone && v.Phone.Full == "":
		return "left out by the rules: no phone number is known"
	}
	return ""
}
