package builtin

import (
	"cmp"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// judgements repeats ElevenLabs' verdicts. They come with a rationale and without
// a quote, so that none is supported.
func judgements(c *call.Conversation) []call.Judgement {
	verdicts := map[string]call.Verdict{"success": call.VerdictMet, "failure": call.VerdictNotMet}
	list := []call.Judgement{}
	for _, k := range c.Criteria {
		id := analyze.Shorten(analyze.Clean(k.ID), call.MaxCriterionID)
		if id == "" || len(list) == call.MaxCriteria {
			continue
		}
		list = append(list, call.Judgement{ID: id, Verdict: cmp.Or(verdicts[k.Result], call.VerdictUnknown)})
	}
	return list
}
