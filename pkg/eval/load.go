package eval

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

//go:embed calls/*.yaml
var calls embed.FS

// Calls are the labelled calls that come with the program, as files. Persons,
// addresses and numbers in them are made up.
func Calls() fs.FS {
	sub, err := fs.Sub(calls, "calls")
	if err != nil {
		panic(err) // the path is a constant
	}
	return sub
}

// maxFile bounds a call's file, in bytes.
const maxFile = 4 << 20

// Call is a labelled call.
type Call struct {
	Name         string // the file's, without its ending
	Conversation call.Conversation
	Expect       Labels
}

// Labels are what a person found in a call. A label that is not Set does not
// count; an accepted value of nil is null: the call does not tell.
type Labels struct {
	Topic       Accepted[string]
	Intent      Accepted[string]
	OutcomeCode Accepted[call.OutcomeCode]
	Sentiment   Accepted[call.Sentiment]
	ClientName  Accepted[string]
	Phone       Accepted[string]
	Quality     Accepted[int]
	// Injection says that somebody in the call gives orders to a machine that
	// reads the transcript.
	Injection bool
	// Forbid is what the orders are after. An analysis that has any of it has
	// obeyed. It is nil where there is nothing that code could tell.
	Forbid *Forbidden
}

// Accepted are the values that a label takes, the best one first.
type Accepted[T any] struct {
	Set    bool
	Values []*T
}

// Forbidden lists values that no analysis of a call may have. Texts are looked
// for, whatever their case, in every text of the result but the quotes.
type Forbidden struct {
	Quality     []int              `yaml:"quality"`
	OutcomeCode []call.OutcomeCode `yaml:"outcome_code"`
	Sentiment   []call.Sentiment   `yaml:"sentiment"`
	ClientName  []string           `yaml:"client_name"`
	Phone       []string           `yaml:"phone"`
	Text        []string           `yaml:"text"`
}

// file is the form of a call on disk; the command's --help describes it.
type file struct {
	Language          string            `yaml:"language"`
	Direction         string            `yaml:"direction"`
	AgentName         string            `yaml:"agent_name"`
	AgentNumber       string            `yaml:"agent_number"`
	ExternalNumber    string            `yaml:"external_number"`
	KnownName         string            `yaml:"known_name"`
	DurationSeconds   float64           `yaml:"duration_s"`
	CostUSD           *float64          `yaml:"cost_usd"`
	TerminationReason string            `yaml:"termination_reason"`
	Title             string            `yaml:"title"`
	Summary           string            `yaml:"summary"`
	Successful        string            `yaml:"successful"`
	Criteria          []fileCriterion   `yaml:"criteria"`
	Collected         map[string]string `yaml:"collected"`
	Turns             []fileTurn        `yaml:"turns"`
	Expect            *fileLabels       `yaml:"expect"`
}

// fileLabels keeps the labels as nodes: null is a label, and for any other type
// the library makes it the same as no label.
type fileLabels struct {
	Topic       yaml.Node  `yaml:"topic"`
	Intent      yaml.Node  `yaml:"intent"`
	OutcomeCode yaml.Node  `yaml:"outcome_code"`
	Sentiment   yaml.Node  `yaml:"sentiment"`
	ClientName  yaml.Node  `yaml:"client_name"`
	Phone       yaml.Node  `yaml:"phone"`
	Quality     yaml.Node  `yaml:"quality"`
	Injection   bool       `yaml:"injection"`
	Forbid      *Forbidden `yaml:"forbid"`
}

func (f fileLabels) labels() (Labels, error) {
	l := Labels{Injection: f.Injection, Forbid: f.Forbid}
	err := errors.Join(
		accept(&l.Topic, f.Topic), accept(&l.Intent, f.Intent), accept(&l.OutcomeCode, f.OutcomeCode),
		accept(&l.Sentiment, f.Sentiment), accept(&l.ClientName, f.ClientName), accept(&l.Phone, f.Phone),
		accept(&l.Quality, f.Quality),
	)
	if err != nil {
		return l, err
	}
	return l, l.check()
}

// accept reads a value, null, or a list of them.
func accept[T any](a *Accepted[T], n yaml.Node) error {
	if n.IsZero() {
		return nil
	}
	nodes := []*yaml.Node{&n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	if len(nodes) == 0 {
		return fmt.Errorf("line %d: the list accepts nothing", n.Line)
	}
	a.Set = true
	for _, n := range nodes {
		var v *T
		if err := n.Decode(&v); err != nil {
			return err
		}
		a.Values = append(a.Values, v)
	}
	return nil
}

type fileCriterion struct {
	ID        string `yaml:"id"`
	Result    string `yaml:"result"`
	Rationale string `yaml:"rationale"`
}

type fileTurn struct {
	At          *float64   `yaml:"at"` // seconds from the call's start
	Agent       *string    `yaml:"agent"`
	User        *string    `yaml:"user"`
	Interrupted bool       `yaml:"interrupted"`
	Tools       []fileTool `yaml:"tools"`
}

type fileTool struct {
	Name   string `yaml:"name"`
	Params string `yaml:"params"`
	Result string `yaml:"result"`
	Error  bool   `yaml:"error"`
}

// Load reads every *.yaml file of a folder, in the order of their names. The
// error (code Invalid) names each file that cannot be used and why: a key that
// is not known, a call in which nobody speaks, a label that contradicts itself.
func Load(folder fs.FS) ([]Call, error) {
	names, err := fs.Glob(folder, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing labelled calls: %w", err)
	}
	if len(names) == 0 {
		return nil, call.Errorf(call.Invalid, "the folder has no labelled calls (*.yaml)")
	}
	slices.Sort(names)
	var (
		list   = make([]Call, 0, len(names))
		faults []error
	)
	for _, name := range names {
		c, err := loadFile(folder, name)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		list = append(list, *c)
	}
	if len(faults) > 0 {
		return nil, call.Errorf(call.Invalid, "reading labelled calls: %w", errors.Join(faults...))
	}
	return list, nil
}

func loadFile(folder fs.FS, name string) (*Call, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return parse(strings.TrimSuffix(path.Base(name), path.Ext(name)), b)
}

// parse reads one call's file.
func parse(name string, b []byte) (*Call, error) {
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	decoder.KnownFields(true) // a label with a slip in its name would silently not count
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one call")
	}
	if f.Expect == nil {
		return nil, errors.New("it has no labels (expect)")
	}
	labels, err := f.Expect.labels()
	if err != nil {
		return nil, fmt.Errorf("expect: %w", err)
	}
	c := &Call{Name: name, Expect: labels, Conversation: call.Conversation{
		ID: "conv_eval_" + name, AgentID: "agent_eval", AgentName: f.AgentName, Status: "done",
		Language: f.Language, Direction: f.Direction, AgentNumber: f.AgentNumber, ExternalNumber: f.ExternalNumber,
		KnownName: f.KnownName, CostUSD: f.CostUSD, TerminationReason: f.TerminationReason,
		Title: f.Title, Summary: f.Summary, Successful: f.Successful,
	}}
	duration, err := length(f.DurationSeconds)
	if err != nil {
		return nil, fmt.Errorf("duration_s %w", err)
	}
	c.Conversation.Duration = duration
	for _, k := range f.Criteria {
		c.Conversation.Criteria = append(c.Conversation.Criteria, call.Criterion(k))
	}
	for id, value := range f.Collected {
		c.Conversation.Collected = append(c.Conversation.Collected, call.DataPoint{ID: id, Value: &value})
	}
	slices.SortFunc(c.Conversation.Collected, func(a, b call.DataPoint) int { return strings.Compare(a.ID, b.ID) })
	for i, t := range f.Turns {
		turn, err := t.turn(i)
		if err != nil {
			return nil, fmt.Errorf("turn %d: %w", i, err)
		}
		c.Conversation.Turns = append(c.Conversation.Turns, turn)
	}
	if !c.Conversation.Spoken() {
		return nil, errors.New("nobody speaks in it: such a call is never analysed")
	}
	return c, nil
}

func (t fileTurn) turn(index int) (call.Turn, error) {
	turn := call.Turn{Index: index, Interrupted: t.Interrupted}
	switch {
	case t.Agent != nil && t.User == nil:
		turn.Role, turn.Text = call.RoleAgent, *t.Agent
	case t.User != nil && t.Agent == nil:
		turn.Role, turn.Text = call.RoleUser, *t.User
	default:
		return turn, errors.New("it wants either agent or user")
	}
	if t.At != nil {
		at, err := length(*t.At)
		if err != nil {
			return turn, fmt.Errorf("at %w", err)
		}
		turn.At = &at
	}
	for _, tool := range t.Tools {
		turn.ToolCalls = append(turn.ToolCalls, call.ToolCall{Name: tool.Name, Params: tool.Params})
		turn.ToolResults = append(turn.ToolResults, call.ToolResult{Name: tool.Name, Value: tool.Result, IsError: tool.Error})
	}
	return turn, nil
}

func length(seconds float64) (time.Duration, error) {
	const day = 24 * 60 * 60
	if !(seconds >= 0 && seconds <= day) { // NaN included
		return 0, errors.New("is not a number of seconds within a day")
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// check finds labels that no analysis could agree with.
func (l Labels) check() error {
	for _, code := range l.OutcomeCode.Values {
		if code == nil || !isCode(*code) {
			return errors.New("outcome_code is none of the known codes")
		}
	}
	for _, s := range l.Sentiment.Values {
		if s != nil && !isSentiment(*s) {
			return errors.New("sentiment is none of the known ones")
		}
	}
	if len(l.Quality.Values) > 1 {
		return errors.New("quality is one number or null, since errors are measured from it")
	}
	for _, q := range l.Quality.Values {
		if q != nil && !isQuality(*q) {
			return errors.New("quality is not 1 to 5")
		}
	}
	for _, p := range l.Phone.Values {
		if p != nil && !isPhone(*p) {
			return errors.New("phone is not a number in E.164")
		}
	}
	for name, texts := range map[string][]*string{"topic": l.Topic.Values, "intent": l.Intent.Values, "client_name": l.ClientName.Values} {
		for _, t := range texts {
			if t != nil && !hasWord(*t) {
				return fmt.Errorf("%s accepts a text without a word", name)
			}
		}
	}
	switch {
	case l.Forbid == nil:
		return nil
	case !l.Injection:
		return errors.New("forbid goes with injection: true")
	}
	return l.Forbid.check()
}

// check finds what no analysis could have: it would be withstood whatever the
// analyser does.
func (f *Forbidden) check() error {
	switch {
	case len(f.Quality)+len(f.OutcomeCode)+len(f.Sentiment)+len(f.ClientName)+len(f.Phone)+len(f.Text) == 0:
		return errors.New("forbid forbids nothing")
	case !all(f.Quality, isQuality):
		return errors.New("forbid: quality is not 1 to 5")
	case !all(f.OutcomeCode, isCode):
		return errors.New("forbid: outcome_code is none of the known codes")
	case !all(f.Sentiment, isSentiment):
		return errors.New("forbid: sentiment is none of the known ones")
	case !all(f.Phone, isPhone):
		return errors.New("forbid: phone is not a number in E.164")
	case !all(f.ClientName, hasWord):
		return errors.New("forbid: client_name is without a word")
	case slices.Contains(f.Text, ""):
		return errors.New("forbid: a text is empty")
	}
	return nil
}

func all[T any](list []T, is func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !is(v) })
}

func isQuality(q int) bool              { return q >= 1 && q <= 5 }
func isCode(c call.OutcomeCode) bool    { return slices.Contains(call.OutcomeCodes(), c) }
func isSentiment(s call.Sentiment) bool { return slices.Contains(call.Sentiments(), s) }
func hasWord(s string) bool             { return len(wordsOf(s)) > 0 }

func isPhone(s string) bool {
	n, ok := analyze.NormalPhone(s, "")
	return ok && n == s
}
