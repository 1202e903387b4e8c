package bpmsoft

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// builtin is the mapping of the Node service, and the example of one.
//
//go:embed fields.yaml
var builtin []byte

// Mapping says which fields are sent, and for which calls.
type Mapping struct {
	name    string // of the file, for errors
	rules   rules
	fields  []column
	contact []column
}

// column is one field and where its value comes from.
type column struct {
	name     string
	value    *template.Template
	max      int // characters; 0 for no limit
	fallback string
	table    map[string]string // what the value is looked up in; nil for nothing
}

// Load reads a mapping, the built-in one if path is empty, and tries it on
// sample data. The error names the file and, where it is one's fault, the
// field; its code is Invalid.
func Load(path string) (*Mapping, error) {
	if path == "" {
		return Parse("the built-in mapping", builtin)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, call.Errorf(call.Invalid, "reading CRM_FIELD_MAP: %w", err)
	}
	return Parse(path, text)
}

// file is the form of a mapping.
type file struct {
	Send          rules                        `yaml:"send"`
	Lookups       map[string]map[string]string `yaml:"lookups"`
	Fields        yaml.Node                    `yaml:"fields"`
	ContactFields yaml.Node                    `yaml:"contactFields"`
}

// entry is the form of a field: a template alone, or a template with what is to
// be done with its value.
type entry struct {
	Value   string `yaml:"value"`
	Max     int    `yaml:"max"`
	Default string `yaml:"default"`
	Lookup  string `yaml:"lookup"`
}

// Parse reads a mapping as Load does. name is what errors call it.
func Parse(name string, text []byte) (*Mapping, error) {
	var f file
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, call.Errorf(call.Invalid, "%s is not understood: %w", name, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, call.Errorf(call.Invalid, "%s holds more than one document", name)
	}
	m := &Mapping{name: name, rules: f.Send}
	if err := m.rules.check(); err != nil {
		return nil, call.Errorf(call.Invalid, "%s, send: %w", name, err)
	}
	var err error
	if m.fields, err = columns(name, "fields", f.Fields, f.Lookups); err != nil {
		return nil, err
	}
	if m.contact, err = columns(name, "contactFields", f.ContactFields, f.Lookups); err != nil {
		return nil, err
	}
	if len(m.fields) == 0 {
		return nil, call.Errorf(call.Invalid, "%s maps no fields", name)
	}
	for _, v := range samples() {
		for _, list := range [][]column{m.fields, m.contact} {
			if _, err := m.render(v, list, zap.NewNop()); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// columns reads the fields of a section in the file's order.
func columns(name, section string, n yaml.Node, lookups map[string]map[string]string) ([]column, error) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return nil, nil
	}
	if n.Kind != yaml.MappingNode {
		return nil, call.Errorf(call.Invalid, "%s, line %d: %s is no list of name: value", name, n.Line, section)
	}
	var list []column
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		wrong := func(format string, args ...any) error {
			return call.Errorf(call.Invalid, "%s, line %d, field %s: %w", name, key.Line, key.Value, fmt.Errorf(format, args...))
		}
		switch {
		case key.Value == "" || clean(key.Value) != key.Value:
			return nil, wrong("this is no name of a column")
		case strings.EqualFold(key.Value, "Id"):
			return nil, wrong("the record's key is set by Postcall, so that a call is never sent twice")
		case slices.ContainsFunc(list, func(c column) bool { return c.name == key.Value }):
			return nil, wrong("it is there twice")
		}
		e, err := readEntry(value)
		if err != nil {
			return nil, wrong("%w", err)
		}
		c := column{name: key.Value, max: e.Max, fallback: clean(e.Default)}
		if e.Max < 0 {
			return nil, wrong("max is less than nothing")
		}
		if e.Lookup != "" {
			if c.table = lookups[e.Lookup]; c.table == nil {
				return nil, wrong("there is no table %q under lookups", e.Lookup)
			}
		}
		if c.value, err = template.New(key.Value).Option("missingkey=error").Funcs(functions(lookups)).Parse(e.Value); err != nil {
			return nil, wrong("%w", err)
		}
		if err := checkTemplate(c.value, lookups); err != nil {
			return nil, wrong("%w", err)
		}
		list = append(list, c)
	}
	return list, nil
}

func readEntry(n *yaml.Node) (entry, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode {
		return entry{Value: n.Value}, nil
	}
	if n.Kind != yaml.MappingNode {
		return entry{}, errors.New("it is neither a template nor value, max, default, lookup")
	}
	for i := 0; i < len(n.Content); i += 2 { // a node does not know which fields are known
		if key := n.Content[i].Value; !slices.Contains([]string{"value", "max", "default", "lookup"}, key) {
			return entry{}, fmt.Errorf("%q is none of value, max, default, lookup", key)
		}
	}
	var e entry
	err := n.Decode(&e)
	return e, err
}

// functions are all that a template can call beside the language's own.
func functions(lookups map[string]map[string]string) template.FuncMap {
	return template.FuncMap{
		"join":  join,
		"label": func(name, value string) string { return labelled(name, value) },
		"default": func(fallback, value string) string {
			if value == "" {
				return fallback
			}
			return value
		},
		"truncate": func(limit int, s string) (string, error) {
			if limit < 1 {
				return "", errors.New("truncate: the length must be at least 1")
			}
			return truncate(s, limit), nil
		},
		"lookup": func(table, key string) (string, error) {
			t := lookups[table]
			if t == nil {
				return "", fmt.Errorf("there is no table %q under lookups", table)
			}
			return lookUp(t, key), nil
		},
		"phone": func(s string) phone {
			if list := phones(s, ""); len(list) > 0 {
				return list[0]
			}
			return phone{}
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}
}

// join puts a sign between texts and lists of texts, the empty ones left out.
func join(sep string, parts ...any) (string, error) {
	var list []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			list = append(list, p)
		case []string:
			list = append(list, p...)
		case []phone:
			for _, n := range p {
				list = append(list, n.Full)
			}
		default:
			return "", fmt.Errorf("join: a %T is neither a text nor a list of texts", p)
		}
	}
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), sep), nil
}

func labelled(name, value string) string {
	if value == "" {
		return ""
	}
	return name + ": " + value
}

// truncate cuts a text to at most limit characters and marks the cut.
func truncate(s string, limit int) string {
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	r := []rune(s)[:limit]
	if limit > 1 {
		r[limit-1] = '…'
	}
	return string(r)
}

// rest is the key of a table's value for everything that it does not hold.
const rest = "*"

func lookUp(table map[string]string, key string) string {
	if v, ok := table[key]; ok {
		return v
	}
	return table[rest]
}

// maxValue bounds any value, in characters, whatever a mapping says.
const maxValue = 20_000

// render fills the fields of a list. Empty ones are left out: BPMSoft would
// skip them anyhow. What was sent, cut, filled from a default or left out is
// logged by the fields' names, never with their values.
func (m *Mapping) render(v view, list []column, log *zap.Logger) ([]field, error) {
	var (
		out                             []field
		sent, defaulted, shorted, empty []string
	)
	for _, c := range list {
		var b strings.Builder
		if err := c.value.Execute(&b, v); err != nil {
			return nil, call.Errorf(call.Invalid, "%s, field %s: %w", m.name, c.name, err)
		}
		value := clean(b.String())
		if c.table != nil && value != "" {
			value = clean(lookUp(c.table, value))
		}
		if value == "" && c.fallback != "" {
			value = c.fallback
			defaulted = append(defaulted, c.name)
		}
		if value == "" {
			empty = append(empty, c.name)
			continue
		}
		limit := c.max
		if limit == 0 || limit > maxValue {
			limit = maxValue
		}
		if cut := truncate(value, limit); cut != value {
			value = cut
			shorted = append(shorted, c.name)
		}
		sent = append(sent, c.name)
		out = append(out, field{c.name, value})
	}
	if len(defaulted) > 0 {
		log.Info("the CRM's fields are filled with their defaults, for the call does not tell", zap.Strings("fields", defaulted))
	}
	if len(list) > 0 {
		log.Debug("fields for the CRM", zap.Strings("sent", sent), zap.Strings("empty", empty), zap.Strings("cut", shorted))
	}
	return out, nil
}

// uses reports whether a template of the mapping mentions a name of the view.
func (m *Mapping) uses(name string) bool {
	return slices.ContainsFunc(slices.Concat(m.fields, m.contact), func(c column) bool {
		return strings.Contains(c.value.Root.String(), "."+name)
	})
}

// samples are a call of which everything is known, and one of which nothing is.
func samples() []view {
	s, n := "образец", 5
	at := time.Unix(1_795_000_000, 0)
	sentiment, address := call.SentimentPositive, "client@example.com"
	phone := "+375291234567"
	return []view{
		newView(export.Delivery{
			Event: call.Event{ID: 1, Type: call.TypeTranscription, ConversationID: "conv_sample", AgentID: "agent_sample", ReceivedAt: at},
			Conversation: call.Conversation{
				AgentName: s, Direction: "inbound", AgentNumber: "+375171234567", StartedAt: at, Duration: time.Minute, Language: "ru",
				Collected: []call.DataPoint{{ID: "email", Value: &address}},
			},
			Analysis: call.Analysis{ID: 1, Analyzer: "openai", Result: call.Result{
				Topic: &s, Intent: &s, Quality: &n, Outcome: &s, OutcomeCode: call.OutcomeLead, Sentiment: &sentiment,
				SummaryRU: s, Recommendations: call.Recommendations{s, s}, ClientName: &s, Phone: &phone, InjectionSuspected: true,
			}},
		}, s, "BY"),
		newView(export.Delivery{}, "", ""),
	}
}
