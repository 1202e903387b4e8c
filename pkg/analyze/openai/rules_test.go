package openai

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcall/pkg/analyze/analyzetest"
	"postcall/pkg/call"
	"postcall/pkg/openaitest"
)

func rulesFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExampleOfRules(t *testing.T) {
	t.Parallel()
	rules, err := LoadRules(filepath.Join("..", "..", "..", "docs", "rules.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Default.Topics) != 3 || len(rules.Default.Outcomes) != 4 || rules.Prices["qwen3-32b"] != (Price{0.2, 0.1, 0.6}) {
		t.Errorf("rules are %+v", rules)
	}
	own := rules.of("agent_7101k5zvyjhmfg983brhmhkd98n6")
	if len(own.Topics) != 0 || len(own.Intents) != 3 || own.Outcomes[0].Name != "Решено" || !strings.Contains(own.Instructions, "поддержки") {
		t.Errorf("the agent's rules are %+v", own)
	}
	if got := rules.of("another"); len(got.Topics) != 3 || got.Outcomes[0].Code != call.OutcomeMeeting {
		t.Errorf("another agent's rules are %+v", got)
	}
}

func TestFaultsOfRulesNameFileAndLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"an unknown key":         {"default:\n  topcs: [a]\n", ":2: field topcs is not known"},
		"an unknown root":        {"defaults: {}\n", ":1: field defaults is not known"},
		"an unknown outcome key": {"default:\n  outcomes:\n    - name: Да\n      code: lead\n      then: x\n", ":5: field then is not known"},
		"an unknown price key":   {"prices:\n  m: {input: 1, output: 1, cache: 1}\n", ":2: field cache is not known"},
		"a key twice":            {"default:\n  topics: [a]\n  topics: [b]\n", ":3: mapping key \"topics\" already defined"},
		"no YAML":                {"default: [\n", "did not find"},
		"another type":           {"default:\n  topics: дом\n", ":2: cannot unmarshal"},
		"empty":                  {"", ": it is empty"},
		"two documents":          {"default: {}\n---\ndefault: {}\n", ": there is more than one document"},
		"a code off the list":    {"default:\n  outcomes:\n    - {name: Да, code: lead}\n    - {name: Продано, code: sold}\n", ":4: default.outcomes.1: the code is none of"},
		"no code":                {"default:\n  outcomes:\n    - name: Да\n", ":3: default.outcomes.0: the code is none of"},
		"no name":                {"default:\n  outcomes:\n    - code: lead\n", ":3: default.outcomes.0: \"\" says nothing"},
		"when in two lines":      {"default:\n  outcomes:\n    - name: Да\n      code: lead\n      when: |\n        a\n        b\n", ":3: default.outcomes.0: when is one line"},
		"an entry twice":         {"default:\n  topics:\n    - Дом\n    - дом\n", ":4: default.topics.1: \"дом\" is there twice"},
		"other listed":           {"default:\n  topics:\n    - Другое\n", ":3: default.topics.0: \"другое\" is always"},
		"unknown listed":         {"default:\n  topics:\n    - не указано\n", ":3: default.topics.0: \"не указано\" says nothing"},
		"spaces":                 {"default:\n  topics:\n    - ' Дом'\n", ":3: default.topics.0: an entry is one line"},
		"markup in two lines":    {"default:\n  topics:\n    - \"a\\nb\"\n", ":3: default.topics.0: an entry is one line"},
		"an endless entry":       {"default:\n  intents:\n    - " + strings.Repeat("я", call.MaxIntent+1) + "\n", ":3: default.intents.0: an entry is longer"},
		"an endless list":        {"default:\n  topics: [" + strings.Repeat("я,", maxList+1) + "]\n", ":2: default.topics: more than"},
		"endless instructions":   {"default:\n  instructions: " + strings.Repeat("я", maxInstructions+1) + "\n", ":2: default.instructions:"},
		"an agent's fault":       {"agents:\n  agent_1:\n    topics: ['']\n", ":3: agents.agent_1.topics.0:"},
		"an agent without id":    {"agents:\n  '': {}\n", ":2: agents.: an agent's id"},
		"a negative price":       {"prices:\n  m: {input: -1, output: 1}\n", ":2: prices.m: a price is no number"},
		"a price of NaN":         {"prices:\n  m: {input: .nan, output: 1}\n", ":2: prices.m: a price is no number"},
		"an infinite price":      {"prices:\n  m: {input: .inf, output: 1}\n", ":2: prices.m: a price is no number"},
		"a price without output": {"prices:\n  m: {input: 1}\n", ":2: prices.m: the price has no output"},
		"too large":              {"# " + strings.Repeat("x", maxRulesFile), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := rulesFile(t, test.text)
			_, err := LoadRules(path)
			if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error is %v", err)
			}
		})
	}
	if _, err := LoadRules(filepath.Join(t.TempDir(), "none.yaml")); call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("error is %v", err)
	}
	rules, err := LoadRules(rulesFile(t, "prices:\n  m: {input: 2, output: 0}\n"))
	if err != nil || rules.Prices["m"] != (Price{2, 2, 0}) {
		t.Errorf("%+v, %v", rules, err)
	}
}

var flats = Ruleset{
	Topics: []string{"Покупка квартиры", "Аренда"}, Intents: []string{"Узнать цену"},
	Outcomes: []Outcome{{Name: "Запись на просмотр", Code: call.OutcomeMeeting}, {Name: "Отказ по цене", Code: call.OutcomeRefused, When: "too expensive"}},
}

func TestRulesCloseTheLists(t *testing.T) {
	t.Parallel()
	say := func(pairs ...any) func(map[string]any) {
		return func(a map[string]any) {
			for i := 0; i < len(pairs); i += 2 {
				a[pairs[i].(string)] = pairs[i+1]
			}
		}
	}
	for name, test := range map[string]struct {
		edit                   func(map[string]any)
		requests               int
		topic, intent, outcome string
		code                   call.OutcomeCode
	}{
		"listed":                   {say("topic", "Аренда", "intent", "Узнать цену", "outcome", "Отказ по цене", "outcome_code", "refused"), 1, "Аренда", "Узнать цену", "Отказ по цене", call.OutcomeRefused},
		"the name decides":         {say("outcome", "Запись на просмотр", "outcome_code", "complaint"), 1, "Покупка квартиры", "Узнать цену", "Запись на просмотр", call.OutcomeMeeting},
		"another case":             {say("topic", "АРЕНДА ", "outcome", "отказ по цене"), 1, "Аренда", "Узнать цену", "Отказ по цене", call.OutcomeRefused},
		"other":                    {say("topic", "другое", "outcome", "Другое", "outcome_code", "lead"), 1, "другое", "Узнать цену", "другое", call.OutcomeLead},
		"not told":                 {say("topic", nil, "intent", nil, "outcome", nil, "outcome_code", "unclear"), 1, "", "", "", call.OutcomeUnclear},
		"off the list, repaired":   {say("topic", "Продажа гаража"), 2, "Покупка квартиры", "Узнать цену", "Запись на просмотр", call.OutcomeMeeting},
		"intent off the list":      {say("intent", "Поболтать"), 2, "Покупка квартиры", "Узнать цену", "Запись на просмотр", call.OutcomeMeeting},
		"outcome off the list":     {say("outcome", "Продано"), 2, "Покупка квартиры", "Узнать цену", "Запись на просмотр", call.OutcomeMeeting},
		"a topic that adds a link": {say("topic", "Аренда https://evil.example"), 2, "Покупка квартиры", "Узнать цену", "Запись на просмотр", call.OutcomeMeeting},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, server := setup(t, func(o *Options) { o.Rules.Default = flats }, openaitest.Answer(test.edit))
			got, err := a.Analyze(t.Context(), analyzetest.Conversation())
			if err != nil {
				t.Fatal(err)
			}
			r := got.Result
			if deref(r.Topic) != test.topic || deref(r.Intent) != test.intent || deref(r.Outcome) != test.outcome || r.OutcomeCode != test.code {
				t.Errorf("result is %q, %q, %q, %s", deref(r.Topic), deref(r.Intent), deref(r.Outcome), r.OutcomeCode)
			}
			if test.topic == "" && r.Topic != nil {
				t.Error("what is not told must be null")
			}
			if n := len(server.Requests()); n != test.requests {
				t.Errorf("%d requests were made, not %d", n, test.requests)
			}
		})
	}
}

// Twice off the list is no result at all.
func TestListsHoldWithoutStrictMode(t *testing.T) {
	t.Parallel()
	off := openaitest.Answer(func(a map[string]any) { a["topic"] = "Продажа гаража" })
	for _, format := range []ResponseFormat{JSONSchema, JSONObject, None} {
		a, server := setup(t, func(o *Options) { o.Rules.Default, o.ResponseFormat = flats, format }, off, off)
		if _, err := a.Analyze(t.Context(), analyzetest.Conversation()); call.CodeOf(err) != call.Internal || !strings.Contains(err.Error(), "topic is none of the listed values") {
			t.Errorf("%s: error is %v", format, err)
		}
		system := server.Requests()[0].Chat.Text(0)
		if inPrompt := strings.Contains(system, `"enum":["Покупка квартиры","Аренда","другое"]`); inPrompt != (format != JSONSchema) {
			t.Errorf("%s: the closed list in the prompt: %t", format, inPrompt)
		}
	}
}

func TestRulesOfAnAgent(t *testing.T) {
	t.Parallel()
	support := Ruleset{Instructions: "Это служба поддержки.", Topics: []string{"Поломка"}}
	a, server := setup(t, func(o *Options) {
		o.Rules = Rules{Default: flats, Agents: map[string]Ruleset{"agent_support": support}}
	})
	versions := map[string]string{}
	for _, agent := range []string{"agent_sales", "agent_support"} {
		c := analyzetest.Conversation()
		c.AgentID = agent
		got, err := a.Analyze(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		versions[agent] = got.PromptVersion
		if !strings.HasPrefix(got.PromptVersion, PromptVersion+"+rules:") || len(got.PromptVersion) != len(PromptVersion)+len("+rules:ab12cd34") {
			t.Errorf("the version is %s", got.PromptVersion)
		}
	}
	if versions["agent_sales"] == versions["agent_support"] {
		t.Error("two sets of rules have one version")
	}
	for i, q := range server.Requests() {
		system := q.Chat.Text(0)
		if !strings.HasPrefix(system, prompt) {
			t.Error("the constant part must come first")
		}
		rest := strings.TrimPrefix(system, prompt)
		if own := strings.Contains(rest, "Это служба поддержки.") && strings.Contains(rest, "- Поломка"); own != (i == 1) {
			t.Errorf("request %d says %s", i, rest)
		}
		if !strings.Contains(rest, "- Отказ по цене: `outcome_code` is `refused`; too expensive") {
			t.Errorf("request %d lacks the outcomes: %s", i, rest)
		}
	}
}

func TestVersionChangesWithTheRules(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	check := func(name string, s Ruleset) {
		v := promptVersion(Options{Prompt: prompt}, s)
		if before, found := seen[v]; found {
			t.Errorf("%s and %s are both %s", before, name, v)
		}
		seen[v] = name
	}
	for name, rules := range rulesets() {
		check(name, rules)
	}
	check("none", Ruleset{})
	changed := flats
	check("flats", changed)
	changed.Outcomes = []Outcome{flats.Outcomes[0], {Name: "Отказ по цене", Code: call.OutcomeUnclear, When: "too expensive"}}
	check("another code", changed)
	if seen[PromptVersion] != "none" {
		t.Errorf("without rules the version is not %s", PromptVersion)
	}
	again := flats
	again.Topics = slices.Clone(flats.Topics)
	if again.version() != flats.version() {
		t.Error("equal rules have two versions")
	}
}

func TestPricesOfRules(t *testing.T) {
	t.Parallel()
	told := map[string]Price{"gpt-5-mini": {1, 1, 1}}
	a, _ := setup(t, func(o *Options) { o.Rules.Prices = told })
	got, err := a.Analyze(t.Context(), analyzetest.Conversation())
	if err != nil {
		t.Fatal(err)
	}
	if want := float64(got.Usage.InputTokens+got.Usage.OutputTokens) / 1e6; got.Usage.CostUSD == nil || *got.Usage.CostUSD != want {
		t.Errorf("cost is %v, not %v", got.Usage.CostUSD, want)
	}
	if a, _ = setup(t, func(o *Options) { o.Rules.Prices, o.Prices = told, map[string]Price{"gpt-5-mini": {}} }); a.o.Prices["gpt-5-mini"] != (Price{}) || told["gpt-5-mini"].Input != 1 {
		t.Error("what is said beside the rules must come first and change nothing in them")
	}
}
