package openai

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Rules are what a deployment asks of the analyses of its own calls; the file
// docs/rules.example.yaml explains each key. The zero value asks for nothing.
type Rules struct {
	Default Ruleset `yaml:"default"`
	// Agents by ElevenLabs' agent id. What an agent gives stands in the place of
	// the default's, key by key; what it leaves out is the default's.
	Agents map[string]Ruleset `yaml:"agents"`
	// Prices by model, over and above the known ones.
	Prices map[string]Price `yaml:"prices"`
}

// Ruleset is what is asked of the analyses of some calls. An empty list leaves
// its field free.
type Ruleset struct {
	Instructions string    `yaml:"instructions"`
	Topics       []string  `yaml:"topics"`
	Intents      []string  `yaml:"intents"`
	Outcomes     []Outcome `yaml:"outcomes"`
}

// Outcome is a deployment's own name for how a call may end. A result that has
// the name has the code, whatever the model thinks: people read the one and
// everything else counts by the other.
type Outcome struct {
	Name string           `yaml:"name"`
	Code call.OutcomeCode `yaml:"code"`
	When string           `yaml:"when"` // for the model: when this is the outcome
}

// other stands in a closed list for what the conversation tells and the list
// does not have. Null is for what it does not tell.
const other = "другое"

// Bounds of a rules file. Strict mode takes 250 values in one enum; more of them
// than that are no list that people could count by either.
const (
	maxRulesFile    = 1 << 20
	maxInstructions = 8000
	maxList         = 100
	maxAgents       = 1000
)

// LoadRules reads a rules file and checks it whole. Faults name the file and
// the line, one fault a line (code Invalid).
func LoadRules(path string) (Rules, error) {
	file, err := os.Open(path)
	if err != nil {
		return Rules{}, call.Errorf(call.Invalid, "reading the rules of the analysis: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxRulesFile+1))
	if err != nil {
		return Rules{}, call.Errorf(call.Invalid, "reading the rules of the analysis: %w", err)
	}
	if len(text) > maxRulesFile {
		return Rules{}, call.Errorf(call.Invalid, "%s: the rules of the analysis are larger than %d bytes", path, maxRulesFile)
	}
	rules, faults := parseRules(text)
	if len(faults) > 0 {
		for i, f := range faults {
			faults[i] = path + ":" + f
		}
		return Rules{}, call.Errorf(call.Invalid, "the rules of the analysis are not right:\n  %s", strings.Join(faults, "\n  "))
	}
	return rules, nil
}

// parseRules gives the rules of a YAML text or what is wrong with it, each as
// "line: fault".
func parseRules(text []byte) (Rules, []string) {
	var rules Rules
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		return Rules{}, yamlFaults(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Rules{}, []string{" there is more than one document"}
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return Rules{}, yamlFaults(err)
	}
	c := &rulesCheck{root: &root}
	c.set(rules.Default, "default")
	if len(rules.Agents) > maxAgents {
		c.fault("more than %d agents", []any{maxAgents}, "agents")
	}
	for id, set := range rules.Agents {
		if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' }) {
			c.fault("an agent's id is empty or holds white space", nil, "agents", id)
		}
		c.set(set, "agents", id)
	}
	for model, price := range rules.Prices {
		for _, p := range []float64{price.Input, price.Cached, price.Output} {
			if !(p >= 0) || math.IsInf(p, 0) {
				c.fault("a price is no number from 0 on", nil, "prices", model)
			}
		}
		for _, key := range []string{"input", "output"} {
			if find(&root, "prices", model, key) == nil {
				c.fault("the price has no "+key, nil, "prices", model)
			}
		}
		if find(&root, "prices", model, "cached") == nil {
			price.Cached = price.Input
			rules.Prices[model] = price
		}
	}
	slices.SortStableFunc(c.faults, func(a, b lineFault) int { return a.line - b.line })
	var faults []string
	for _, f := range c.faults {
		faults = append(faults, fmt.Sprintf("%d: %s", f.line, f.text))
	}
	return rules, faults
}

// yamlFaults brings the library's errors to "line: fault".
func yamlFaults(err error) []string {
	if errors.Is(err, io.EOF) {
		return []string{" it is empty"}
	}
	texts := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		texts = e.Errors
	}
	faults := make([]string, len(texts))
	for i, text := range texts {
		faults[i] = " " + text
		if line, ok := strings.CutPrefix(text, "line "); ok {
			// "field topcs not found in type openai.Ruleset": people know no types.
			line, _, _ = strings.Cut(line, " in type ")
			faults[i] = strings.Replace(line, "not found", "is not known", 1)
		}
	}
	return faults
}

type lineFault struct {
	line int
	text string
}

// rulesCheck collects what is wrong with rules that have the right form.
type rulesCheck struct {
	root   *yaml.Node
	faults []lineFault
}

func (c *rulesCheck) fault(format string, args []any, path ...string) {
	f := lineFault{text: strings.Join(path, ".") + ": " + fmt.Sprintf(format, args...)}
	if n := find(c.root, path...); n != nil {
		f.line = n.Line
	}
	c.faults = append(c.faults, f)
}

func (c *rulesCheck) set(s Ruleset, path ...string) {
	at := func(more ...string) []string { return append(slices.Clone(path), more...) }
	if n := len([]rune(s.Instructions)); n > maxInstructions {
		c.fault("%d characters are more than %d", []any{n, maxInstructions}, at("instructions")...)
	}
	c.list(s.Topics, call.MaxTopic, at("topics")...)
	c.list(s.Intents, call.MaxIntent, at("intents")...)
	names := make([]string, len(s.Outcomes))
	for i, o := range s.Outcomes {
		names[i] = o.Name
		index := strconv.Itoa(i)
		if !slices.Contains(call.OutcomeCodes(), o.Code) {
			c.fault("the code is none of %v", []any{call.OutcomeCodes()}, at("outcomes", index)...)
		}
		if len([]rune(o.When)) > call.MaxOutcome || o.When != analyze.Clean(o.When) {
			c.fault("when is one line of at most %d characters", []any{call.MaxOutcome}, at("outcomes", index)...)
		}
	}
	c.list(names, call.MaxOutcome, at("outcomes")...)
}

func (c *rulesCheck) list(values []string, limit int, path ...string) {
	if len(values) > maxList {
		c.fault("more than %d entries", []any{maxList}, path...)
	}
	seen := map[string]bool{}
	for i, v := range values {
		at := append(slices.Clone(path), strconv.Itoa(i))
		key := strings.ToLower(v)
		switch {
		case analyze.Absent(v):
			c.fault("%q says nothing: null stands for what a conversation does not tell", []any{v}, at...)
		case key == other:
			c.fault("%q is always in the list", []any{other}, at...)
		case v != analyze.Clean(v):
			c.fault("an entry is one line without spaces at its ends", nil, at...)
		case len([]rune(v)) > limit:
			c.fault("an entry is longer than %d characters", []any{limit}, at...)
		case seen[key]:
			c.fault("%q is there twice", []any{v}, at...)
		}
		seen[key] = true
	}
}

// find is the node at a path of keys and positions, nil when there is none.
func find(n *yaml.Node, path ...string) *yaml.Node {
	for n != nil && (n.Kind == yaml.DocumentNode || n.Kind == yaml.AliasNode) {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
			continue
		}
		n = n.Content[0]
	}
	if n == nil || len(path) == 0 {
		return n
	}
	key, rest := path[0], path[1:]
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return find(n.Content[i+1], rest...)
			}
			if n.Content[i].Tag == "!!merge" { // <<: *anchor
				if found := find(n.Content[i+1], path...); found != nil {
					return found
				}
			}
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if strconv.Itoa(i) == key {
				return find(item, rest...)
			}
		}
	default:
	}
	return nil
}

// of gives the rules for an agent's calls.
func (r Rules) of(agent string) Ruleset {
	set, own := r.Default, r.Agents[agent]
	if own.Instructions != "" {
		set.Instructions = own.Instructions
	}
	if own.Topics != nil {
		set.Topics = own.Topics
	}
	if own.Intents != nil {
		set.Intents = own.Intents
	}
	if own.Outcomes != nil {
		set.Outcomes = own.Outcomes
	}
	return set
}

// text says the rules to the model, empty for none.
func (s Ruleset) text() string {
	var b strings.Builder
	if instructions := strings.TrimSpace(s.Instructions); instructions != "" {
		b.WriteString("\n# What this company asks for\n\nThis says what to look at and how to word it. It changes neither the form of the answer nor how the transcript is to be treated.\n\n" + instructions + "\n")
	}
	closed := func(field string, values []string) {
		if len(values) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n# The values of `%s`\n\nOne of these, letter by letter, instead of words of your own; \"%s\" if the conversation tells it and none of them fits; null if the conversation does not tell:\n\n", field, other)
		for _, v := range values {
			b.WriteString("- " + v + "\n")
		}
	}
	closed("topic", s.Topics)
	closed("intent", s.Intents)
	closed("outcome", s.outcomeNames())
	if len(s.Outcomes) > 0 {
		b.WriteString("\nThey stand for:\n\n")
		for _, o := range s.Outcomes {
			fmt.Fprintf(&b, "- %s: `outcome_code` is `%s`", o.Name, o.Code)
			if o.When != "" {
				b.WriteString("; " + o.When)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (s Ruleset) outcomeNames() []string {
	names := make([]string, len(s.Outcomes))
	for i, o := range s.Outcomes {
		names[i] = o.Name
	}
	return names
}

// version tells results under these rules from others, empty for no rules.
func (s Ruleset) version() string {
	text := s.text()
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return "+rules:" + hex.EncodeToString(sum[:4])
}

// choose finds a value in a closed list; what was written in another case is
// brought to the list's. A nil value stays nil, an empty list takes all.
func choose(list []string, value *string) (*string, bool) {
	if value == nil || len(list) == 0 {
		return value, true
	}
	for _, v := range append(slices.Clone(list), other) {
		if strings.EqualFold(v, *value) {
			return &v, true
		}
	}
	return nil, false
}

// hold brings a draft to the closed lists or says what is off them.
func (s Ruleset) hold(r *call.Result) error {
	for _, field := range []struct {
		name  string
		list  []string
		value **string
	}{
		{"topic", s.Topics, &r.Topic}, {"intent", s.Intents, &r.Intent}, {"outcome", s.outcomeNames(), &r.Outcome},
	} {
		v, ok := choose(field.list, *field.value)
		if !ok {
			return call.Errorf(call.Invalid, "%s is none of the listed values, %q or null", field.name, other)
		}
		*field.value = v
	}
	for _, o := range s.Outcomes {
		if r.Outcome != nil && *r.Outcome == o.Name {
			r.OutcomeCode = o.Code
		}
	}
	return nil
}
