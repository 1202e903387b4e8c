package eval_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/eval"
)

const good = `
turns:
  - {at: 0, agent: "Да?"}
  - {at: 1.5, user: "Алло"}
expect: {client_name: null, quality: 3, sentiment: [neutral, null]}
`

func parse(text string) ([]eval.Call, error) {
	return eval.Load(fstest.MapFS{"a.yaml": {Data: []byte(text)}})
}

func TestLoad(t *testing.T) {
	t.Parallel()
	calls, err := parse(good)
	if err != nil {
		t.Fatal(err)
	}
	l := calls[0].Expect
	if l.Phone.Set || !l.ClientName.Set || l.ClientName.Values[0] != nil || len(l.Sentiment.Values) != 2 || *l.Quality.Values[0] != 3 {
		t.Errorf("labels: %+v", l)
	}
	if turn := calls[0].Conversation.Turns[1]; turn.Role != call.RoleUser || turn.Index != 1 || turn.At.Milliseconds() != 1500 {
		t.Errorf("turn: %+v", turn)
	}
	if _, err := eval.Load(fstest.MapFS{}); call.CodeOf(err) != call.Invalid {
		t.Errorf("an empty folder: %v", err)
	}
	for name, change := range map[string][2]string{
		"not YAML":             {"turns:", "turns: ["},
		"an unknown key":       {"quality: 3", "qualty: 3"},
		"no labels":            {"expect: {client_name: null, quality: 3, sentiment: [neutral, null]}", ""},
		"nobody speaks":        {"user: \"Алло\"", "agent: \"Алло\""},
		"two speakers at once": {"user: \"Алло\"", "user: a, agent: b"},
		"quality of six":       {"quality: 3", "quality: 6"},
		"two qualities":        {"quality: 3", "quality: [3, 4]"},
		"unknown code":         {"quality: 3", "outcome_code: sold"},
		"outcome null":         {"quality: 3", "outcome_code: null"},
		"unknown mood":         {"neutral", "gloomy"},
		"number in words":      {"quality: 3", "phone: восемь"},
		"empty list":           {"quality: 3", "topic: []"},
		"text without words":   {"quality: 3", "topic: '?!'"},
		"forbids without need": {"quality: 3", "forbid: {quality: [5]}"},
		"forbids nothing":      {"quality: 3", "injection: true, forbid: {}"},
		"forbids no text":      {"quality: 3", "injection: true, forbid: {text: ['']}"},
		"forbids no name":      {"quality: 3", "injection: true, forbid: {client_name: ['?']}"},
		"forbids quality 6":    {"quality: 3", "injection: true, forbid: {quality: [6]}"},
		"forbids no code":      {"quality: 3", "injection: true, forbid: {outcome_code: [sold]}"},
		"forbids no mood":      {"quality: 3", "injection: true, forbid: {sentiment: [gloomy]}"},
		"forbids no number":    {"quality: 3", "injection: true, forbid: {phone: ['8 999 000-00-79']}"},
		"a call behind it":     {"null]}", "null]}\n---\nexpect: {quality: 1}"},
		"time before the call": {"1.5", "-1"},
		"time that is none":    {"1.5", ".nan"},
	} {
		changed := strings.Replace(good, change[0], change[1], 1)
		if changed == good {
			t.Errorf("%s changes nothing", name)
		}
		if _, err := parse(changed); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "a.yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(good)
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		calls, err := parse(text)
		if err == nil && !calls[0].Conversation.Spoken() {
			t.Error("a call in which nobody speaks was taken")
		}
	})
}

var fictional = regexp.MustCompile(`^(?:\+7999000\d{4}|\+120255501\d\d)$`)

// TestCalls holds the calls of the program against themselves.
func TestCalls(t *testing.T) {
	t.Parallel()
	calls := load(t)
	var outcomes []call.OutcomeCode
	var injections, russian, longest int
	for _, c := range calls {
		l := c.Expect
		for name, set := range map[string]bool{
			"topic": l.Topic.Set, "intent": l.Intent.Set, "outcome_code": l.OutcomeCode.Set, "sentiment": l.Sentiment.Set,
			"client_name": l.ClientName.Set, "phone": l.Phone.Set, "quality": l.Quality.Set,
		} {
			if !set {
				t.Errorf("%s has no label for %s", c.Name, name)
			}
		}
		outcomes = append(outcomes, *l.OutcomeCode.Values[0])
		longest = max(longest, len(c.Conversation.Turns))
		if l.Injection {
			injections++
			if l.Forbid == nil {
				t.Errorf("%s does not say what the orders are after", c.Name)
			}
		}
		if c.Conversation.Language == "ru" {
			russian++
		}
		heard := numberWords(said(c))
		for _, p := range l.Phone.Values {
			if p == nil {
				continue
			}
			if !fictional.MatchString(*p) {
				t.Errorf("%s: %s is of no made-up range", c.Name, *p)
			}
			if c.Conversation.ExternalNumber != *p && !strings.Contains(heard, (*p)[2:]) {
				t.Errorf("%s: the number %s is not in the call", c.Name, *p)
			}
		}
		if n := c.Conversation.ExternalNumber; n != "" {
			if own, ok := analyze.NormalPhone(n, ""); !ok || !slices.ContainsFunc(l.Phone.Values, func(p *string) bool { return p != nil && *p == own }) {
				t.Errorf("%s: the telephony's number is not the expected one", c.Name)
			}
		}
		if name := l.ClientName.Values[0]; name != nil && !strings.Contains(said(c)+c.Conversation.KnownName, (*name)[:len(*name)/2]) {
			t.Errorf("%s: the name %s is not in the call", c.Name, *name)
		}
		last := -1.0
		for _, turn := range c.Conversation.Turns {
			if turn.At == nil || turn.At.Seconds() < last || *turn.At > c.Conversation.Duration {
				t.Errorf("%s: the time of turn %d is not in order", c.Name, turn.Index)
				break
			}
			last = turn.At.Seconds()
		}
	}
	for _, code := range call.OutcomeCodes() {
		if !slices.Contains(outcomes, code) {
			t.Errorf("no call comes to %s", code)
		}
	}
	if len(calls) != 30 || injections != 4 || russian <= len(calls)/2 || longest < 80 {
		t.Errorf("%d calls, %d injections, %d Russian, the longest has %d turns", len(calls), injections, russian, longest)
	}
}

func said(c eval.Call) string {
	var b strings.Builder
	for _, t := range c.Conversation.Turns {
		if t.Role == call.RoleUser {
			b.WriteString(t.Text + " ")
		}
	}
	return b.String()
}

// numberWords gives the digits of a text, those in Russian words included as
// far as the calls need them.
func numberWords(s string) string {
	for _, w := range [][2]string{{"девятьсот девяносто девять", "999"}, {"тридцать один", "31"}, {"ноль", "0"}} {
		s = strings.ReplaceAll(s, w[0], w[1])
	}
	return regexp.MustCompile(`\D`).ReplaceAllString(s, "")
}
