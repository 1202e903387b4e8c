package analyze

import (
	"cmp"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"postcall/pkg/call"
)

// speechRate is how fast people and synthetic voices speak, in characters a
// second: about 150 words a minute, in Russian as in English.
const speechRate = 15

// Metrics computes from the transcript what code can tell better than a model.
//
//   - Turns count entries with text; entries that only carry tool traffic count
//     as no turn.
//   - Talk shares are shares of characters, 0 to 1, nil when nobody spoke.
//   - Response latency is the nearest-rank percentile of Turn.Latency (the time
//     to the first byte of the voice agent's own model), in seconds, nil when no
//     turn has one.
//   - Interruptions count the turns that ElevenLabs marks as interrupted.
//   - ToolCalls count calls, ToolErrors the results that are marked as errors.
//   - LongestSilence is the longest time between two turns in which nobody can
//     have been speaking, in seconds; tools work in silence. A transcript has the
//     starts of turns and no ends, so an end is estimated from the length of the
//     text at 15 characters a second (for an interrupted turn at the latest when
//     the next one starts). A time after the call's end is none, and next to a
//     turn without a time nothing is known. It is an estimate, nil where no two
//     turns tell.
//   - Duration (seconds) and CostUSD are ElevenLabs' own figures, nil when they
//     are not told.
func Metrics(c *call.Conversation) call.Metrics {
	var m call.Metrics
	var spoken [2]int // characters of users, of agents
	var latencies []time.Duration
	for _, t := range c.Turns {
		if t.Text != "" {
			m.Turns++
			switch t.Role {
			case call.RoleUser:
				m.UserTurns++
				spoken[0] += utf8.RuneCountInString(t.Text)
			case call.RoleAgent:
				m.AgentTurns++
				spoken[1] += utf8.RuneCountInString(t.Text)
			}
		}
		if t.Interrupted {
			m.Interruptions++
		}
		m.ToolCalls += len(t.ToolCalls)
		for _, r := range t.ToolResults {
			if r.IsError {
				m.ToolErrors++
			}
		}
		if t.Latency != nil && *t.Latency >= 0 {
			latencies = append(latencies, *t.Latency)
		}
	}
	if all := float64(spoken[0] + spoken[1]); all > 0 {
		m.UserTalkShare = new(round(float64(spoken[0]) / all))
		m.AgentTalkShare = new(round(float64(spoken[1]) / all))
	}
	m.ResponseLatencyP50 = percentile(latencies, 50)
	m.ResponseLatencyP95 = percentile(latencies, 95)
	m.LongestSilence = longestSilence(c)
	if c.Duration > 0 {
		m.Duration = seconds(c.Duration)
	}
	// JSON has no infinities and no NaN: one would make the result impossible
	// to store.
	if c.CostUSD != nil && !math.IsInf(*c.CostUSD, 0) && !math.IsNaN(*c.CostUSD) {
		m.CostUSD = new(*c.CostUSD)
	}
	return m
}

func longestSilence(c *call.Conversation) *float64 {
	type speech struct {
		from, to    time.Duration
		interrupted bool
		unsure      bool // a turn before it has no time
	}
	var list []speech
	unsure := false
	for _, t := range c.Turns {
		if t.Text == "" {
			continue
		}
		// Times are told in whole seconds.
		if t.At == nil || *t.At < 0 || c.Duration > 0 && *t.At > c.Duration+time.Second {
			unsure = true
			continue
		}
		length := time.Duration(utf8.RuneCountInString(t.Text)) * time.Second / speechRate
		list = append(list, speech{*t.At, *t.At + length, t.Interrupted, unsure})
		unsure = false
	}
	slices.SortStableFunc(list, func(a, b speech) int { return cmp.Compare(a.from, b.from) })
	var longest, until time.Duration
	known := false
	for i, s := range list {
		if i > 0 && list[i-1].interrupted {
			until = min(until, s.from)
		}
		if i > 0 && !s.unsure {
			known = true
			longest = max(longest, s.from-until)
		}
		until = max(until, s.to)
	}
	if !known {
		return nil
	}
	return seconds(longest)
}

// percentile is the nearest-rank percentile in seconds.
func percentile(values []time.Duration, p int) *float64 {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	rank := (len(values)*p + 99) / 100
	return seconds(values[max(rank, 1)-1])
}

func seconds(d time.Duration) *float64 { return new(round(d.Seconds())) }

// round keeps three decimals, so that equal transcripts give equal JSON.
func round(f float64) float64 { return math.Round(f*1000) / 1000 }
