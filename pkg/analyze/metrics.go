package analyze

import (
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
//   - LongestSilence is the longest time in which nobody can have been
//     speaking, in seconds. A transcript has the starts of turns and no ends, so
//     an end is estimated from the length of the text at 15 characters a second
//     (for an interrupted turn at the latest when the next one starts). It is
//     an estimate, nil with fewer than two timed turns.
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
	m.LongestSilence = longestSilence(c.Turns)
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

func longestSilence(turns []call.Turn) *float64 {
	var longest, busyUntil time.Duration
	var timed int
	var interrupted bool
	for _, t := range turns {
		if t.At == nil || *t.At < 0 {
			continue
		}
		if timed > 0 {
			if interrupted {
				busyUntil = min(busyUntil, *t.At)
			}
			longest = max(longest, *t.At-busyUntil)
		}
		timed++
		interrupted = t.Interrupted
		speech := time.Duration(utf8.RuneCountInString(t.Text)) * time.Second / speechRate
		busyUntil = max(busyUntil, *t.At+speech)
	}
	if timed < 2 {
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
