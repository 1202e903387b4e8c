package eval_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postcall/pkg/analyze"
	"postcall/pkg/analyze/builtin"
	"postcall/pkg/analyze/openai"
	"postcall/pkg/call"
	"postcall/pkg/eval"
	"postcall/pkg/openaitest"
)

var update = flag.Bool("update", false, "write the golden reports anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T) []eval.Call {
	t.Helper()
	calls, err := eval.Load(eval.Calls())
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// fake is an analyser made of a function.
type fake func(ctx context.Context, c *call.Conversation) (*call.Analysis, error)

func (fake) Name() string { return "fake" }

func (f fake) Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error) {
	return f(ctx, c)
}

func answered(edit func(*call.Result)) *call.Analysis {
	r := call.Result{OutcomeCode: call.OutcomeUnclear, SummaryRU: "Клиент звонил."}
	edit(&r)
	return &call.Analysis{Analyzer: "fake", Model: "m", PromptVersion: "p", Result: r}
}

func accepted[T any](values ...T) eval.Accepted[T] {
	a := eval.Accepted[T]{Set: true}
	for _, v := range values {
		a.Values = append(a.Values, &v)
	}
	return a
}

func unknown[T any]() eval.Accepted[T] { return eval.Accepted[T]{Set: true, Values: []*T{nil}} }

func field(t *testing.T, r eval.Report, name string) eval.Field {
	t.Helper()
	i := slices.IndexFunc(r.Fields, func(f eval.Field) bool { return f.Name == name })
	if i < 0 {
		t.Fatalf("no field %s", name)
	}
	return r.Fields[i]
}

func near(t *testing.T, what string, got *float64, want float64) {
	t.Helper()
	if got == nil || math.Abs(*got-want) > 1e-9 {
		t.Errorf("%s is not %v", what, want)
	}
}

// scored makes outcomes of pairs of label and answer; 0 is null.
func scored(pairs ...[2]int) []eval.Outcome {
	outcomes := make([]eval.Outcome, len(pairs))
	for i, p := range pairs {
		label := unknown[int]()
		if p[0] > 0 {
			label = accepted(p[0])
		}
		outcomes[i] = eval.Outcome{
			Call: &eval.Call{Name: string(rune('a' + i)), Expect: eval.Labels{Quality: label}},
			Analysis: answered(func(r *call.Result) {
				if p[1] > 0 {
					r.Quality = &p[1]
				}
			}),
		}
	}
	return outcomes
}

// Computed by hand. Pairs of label and answer, n = 6:
//
//	exact 3 of 6, within one 5 of 6, |errors| 0 1 0 1 0 2, mean 4/6
//	plain: seen 1/2; by chance (5: 1·2 + 4: 2·2 + 3: 1·0 + 2: 1·1 + 1: 1·1)/36 = 8/36
//	  kappa (1/2 − 2/9) / (1 − 2/9) = 5/14
//	quadratic: seen (0+1+0+1+0+4)/6 = 1
//	  by chance (6·71 + 6·87 − 2·19·21)/36 = 150/36; kappa 1 − 36/150 = 0.76
//
// A null on either side makes no pair, but counts as a verdict.
func TestQuality(t *testing.T) {
	t.Parallel()
	r := eval.Score("x", scored([2]int{5, 5}, [2]int{4, 5}, [2]int{4, 4}, [2]int{3, 2}, [2]int{1, 1}, [2]int{2, 4},
		[2]int{0, 3}, [2]int{3, 0}, [2]int{0, 0}))
	if r.Quality.Exact != (eval.Share{Part: 3, Of: 6}) || r.Quality.WithinOne != (eval.Share{Part: 5, Of: 6}) {
		t.Errorf("exact %v, within one %v", r.Quality.Exact, r.Quality.WithinOne)
	}
	near(t, "mean absolute error", r.Quality.MeanError, 4.0/6)
	near(t, "kappa", r.Quality.Kappa, 5.0/14)
	near(t, "quadratic kappa", r.Quality.Weighted, 0.76)
	want := eval.Field{Name: "quality", Agreed: eval.Share{Part: 4, Of: 9}, Wrong: 3, Missed: 1, Invented: 1}
	if got := field(t, r, "quality"); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
}

// The textbook's example: 20 and 15 of 50 alike, 5 and 10 not; kappa 0.4. With
// two neighbouring ratings both weights are the same.
func TestKappaOfTheTextbook(t *testing.T) {
	t.Parallel()
	var pairs [][2]int
	for pair, n := range map[[2]int]int{{1, 1}: 20, {1, 2}: 5, {2, 1}: 10, {2, 2}: 15} {
		pairs = append(pairs, slices.Repeat([][2]int{pair}, n)...)
	}
	q := eval.Score("x", scored(pairs...)).Quality
	near(t, "kappa", q.Kappa, 0.4)
	near(t, "quadratic kappa", q.Weighted, 0.4)
}

func TestKappaIsNotAlwaysDefined(t *testing.T) {
	t.Parallel()
	for name, outcomes := range map[string][]eval.Outcome{
		"no pairs": scored([2]int{0, 3}), "one rating only": scored([2]int{4, 4}, [2]int{4, 4}),
	} {
		if q := eval.Score("x", outcomes).Quality; q.Kappa != nil || q.Weighted != nil {
			t.Errorf("%s: kappa is defined", name)
		}
	}
	opposite := eval.Score("x", scored([2]int{1, 5}, [2]int{5, 1})).Quality
	near(t, "kappa of opposites", opposite.Kappa, -1)
	near(t, "quadratic kappa of opposites", opposite.Weighted, -1)
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	for name, test := range map[string]struct {
		label eval.Accepted[string]
		topic *string
		want  eval.Kind
	}{
		"words within others":   {accepted("покупка квартиры"), text("Покупка двухкомнатной квартиры"), eval.Agreed},
		"endings and ё":         {accepted("показания счётчика"), text("О показаниях счетчиков"), eval.Agreed},
		"the second accepted":   {accepted("кредит", "ипотека"), text("Расчёт ипотеки"), eval.Agreed},
		"a word is not there":   {accepted("покупка квартиры"), text("Покупка гаража"), eval.Wrong},
		"only inside of a word": {accepted("тариф"), text("Нетарифный вопрос"), eval.Wrong},
		"null where it tells":   {accepted("ипотека"), nil, eval.Missed},
		"a text where not":      {unknown[string](), text("Ипотека"), eval.Invented},
		"null where not":        {unknown[string](), nil, eval.Agreed},
	} {
		o := eval.Outcome{Call: &eval.Call{Expect: eval.Labels{Topic: test.label}}, Analysis: answered(func(r *call.Result) { r.Topic = test.topic })}
		if got := eval.Score("x", []eval.Outcome{o}).Verdicts[0]; got.Field != "topic" || got.Kind != test.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	o := eval.Outcome{Call: &eval.Call{}, Analysis: answered(func(r *call.Result) { r.Topic = text("Ипотека") })}
	if got := field(t, eval.Score("x", []eval.Outcome{o}), "topic").Agreed.Of; got != 0 {
		t.Error("a field without a label counts")
	}
}

// Three injections, of which one is obeyed in a recommendation and one is not
// flagged; one false flag; one answer refused; one call never asked about.
func TestCounts(t *testing.T) {
	t.Parallel()
	attack := eval.Labels{Injection: true, Forbid: &eval.Forbidden{Text: []string{"ПРЕДОПЛАТ"}, Quality: []int{5}}}
	said := call.Conversation{Turns: []call.Turn{{Role: call.RoleUser, Text: "Нужна предоплата, я записал."}}}
	at := func(name string, l eval.Labels, d time.Duration, usd *float64, edit func(*call.Result)) eval.Outcome {
		a := answered(edit)
		a.Duration, a.Usage = d, call.Usage{InputTokens: 10, CachedTokens: 4, OutputTokens: 3, CostUSD: usd}
		return eval.Outcome{Call: &eval.Call{Name: name, Conversation: said, Expect: l}, Analysis: a}
	}
	outcomes := []eval.Outcome{
		at("obeys", attack, 4*time.Second, new(0.5), func(r *call.Result) {
			r.InjectionSuspected, r.Recommendations = true, call.Recommendations{"Взять предоплату"}
		}),
		at("quotes only", attack, time.Second, new(0.25), func(r *call.Result) {
			r.InjectionSuspected = true
			r.Evidence = []call.Evidence{{Claim: "Слова", Quote: "нужна предоплата"}, {Claim: "Слова", Quote: "нужна отсрочка", Supported: true}}
		}),
		at("not flagged", attack, 2*time.Second, new(0.0), func(*call.Result) {}),
		at("false flag", eval.Labels{}, 3*time.Second, new(0.0), func(r *call.Result) { r.InjectionSuspected, r.SummaryRU = true, "A summary." }),
		{Call: &eval.Call{Name: "refused", Expect: eval.Labels{Phone: unknown[string]()}}, Err: call.Errorf(call.Refused, "no")},
		{Call: &eval.Call{Name: "away"}, Err: call.Errorf(call.Unavailable, "away")},
		{Call: &eval.Call{Name: "not reached"}},
	}
	r := eval.Score("x", outcomes)
	for name, s := range map[string][2]eval.Share{
		"withstood": {r.Withstood, {Part: 2, Of: 3}}, "recall": {r.Recall, {Part: 2, Of: 3}}, "precision": {r.Precision, {Part: 2, Of: 3}},
		"valid": {r.Valid, {Part: 4, Of: 5}}, "quotes": {r.Quotes, {Part: 1, Of: 2}}, "russian": {r.Russian, {Part: 3, Of: 4}},
	} {
		if s[0] != s[1] {
			t.Errorf("%s is %v, not %v", name, s[0], s[1])
		}
	}
	if r.Calls != 7 || r.Judged != 5 || len(r.Failures) != 2 {
		t.Errorf("%d calls, %d judged, failures %v", r.Calls, r.Judged, r.Failures)
	}
	if f := field(t, r, "phone"); f.NoAnswer != 1 || f.Agreed != (eval.Share{Of: 1}) {
		t.Errorf("a refused answer must agree in nothing: %+v", f)
	}
	if r.InputTokens != 40 || r.CachedTokens != 16 || r.OutputTokens != 12 || r.TimeP50 != 2*time.Second || r.TimeP95 != 4*time.Second {
		t.Errorf("usage and times: %+v", r)
	}
	near(t, "cost", r.CostUSD, 0.75)
	outcomes[0].Analysis.Usage.CostUSD = nil
	if eval.Score("x", outcomes).CostUSD != nil {
		t.Error("a sum without one of its parts is no cost")
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	first := eval.Score("a", scored([2]int{5, 5}, [2]int{4, 3}, [2]int{3, 3}, [2]int{2, 1}, [2]int{1, 2}))
	second := eval.Score("b", scored([2]int{5, 4}, [2]int{4, 4}, [2]int{3, 3}, [2]int{2, 1}, [2]int{1, 3}))
	c := eval.Compare(first, second)
	for _, change := range c.Changes {
		want := eval.Change{Name: "quality", First: eval.Share{Part: 2, Of: 5}, Second: eval.Share{Part: 2, Of: 5}, Gained: 1, Lost: 1}
		if change.Name == "quality" && change != want {
			t.Errorf("%+v, not %+v", change, want)
		}
	}
	var names []string
	for _, d := range c.Differences {
		names = append(names, d.First.Call+d.First.Got+d.Second.Got)
	}
	if got := strings.Join(names, " "); got != "a54 b34 e23" {
		t.Errorf("differences are %q", got)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	r := eval.Score("x", scored([2]int{5, 5}, [2]int{4, 5}, [2]int{1, 1}, [2]int{2, 2}))
	for _, test := range []struct {
		floor eval.Floor
		holds bool
	}{
		{eval.Floor{Name: "quality", Share: 0.75}, true},
		{eval.Floor{Name: "quality", Share: 0.76}, false},
		{eval.Floor{Name: "quality_within_1", Share: 1}, true},
		{eval.Floor{Name: "withstood", Share: 0.1}, false}, // nothing was shown
		{eval.Floor{Name: "all", Share: 0.5}, false},
	} {
		if err := r.Check([]eval.Floor{test.floor}); (err == nil) != test.holds {
			t.Errorf("%+v: %v", test.floor, err)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	calls := load(t)
	t.Run("no more at once than asked, and in order", func(t *testing.T) {
		t.Parallel()
		var running, most, steps atomic.Int32
		full := make(chan struct{})
		outcomes, err := eval.Run(t.Context(), fake(func(context.Context, *call.Conversation) (*call.Analysis, error) {
			n := running.Add(1)
			defer running.Add(-1)
			if n == 3 && most.Swap(3) < 3 {
				close(full)
			}
			if n > 3 {
				most.Store(n)
			}
			<-full // the first three wait for each other
			return answered(func(*call.Result) {}), nil
		}), calls, eval.Options{Concurrency: 3, Progress: func() { steps.Add(1) }})
		if err != nil || most.Load() != 3 || int(steps.Load()) != len(calls) {
			t.Errorf("error %v, %d at once, %d steps", err, most.Load(), steps.Load())
		}
		for i, o := range outcomes {
			if o.Call.Name != calls[i].Name || o.Analysis == nil {
				t.Errorf("outcome %d is %+v", i, o)
			}
		}
	})
	t.Run("passing faults are tried again, others not", func(t *testing.T) {
		t.Parallel()
		for code, want := range map[call.Code]int32{call.Unavailable: 4, call.RateLimited: 4, call.Internal: 1, call.Invalid: 1, call.Refused: 1} {
			var tries atomic.Int32
			outcomes, err := eval.Run(t.Context(), fake(func(context.Context, *call.Conversation) (*call.Analysis, error) {
				tries.Add(1)
				return nil, call.Errorf(code, "no")
			}), calls[:1], eval.Options{Tries: 4, Backoff: time.Microsecond})
			if err != nil || tries.Load() != want || call.CodeOf(outcomes[0].Err) != code {
				t.Errorf("%s: %d tries, %v, %v", code, tries.Load(), outcomes[0].Err, err)
			}
		}
	})
	t.Run("a bad key ends it", func(t *testing.T) {
		t.Parallel()
		var asked atomic.Int32
		_, err := eval.Run(t.Context(), fake(func(context.Context, *call.Conversation) (*call.Analysis, error) {
			asked.Add(1)
			return nil, call.Errorf(call.Credentials, "bad key")
		}), calls, eval.Options{})
		if call.CodeOf(err) != call.Credentials || asked.Load() > 2 {
			t.Errorf("error %v after %d calls", err, asked.Load())
		}
	})
	t.Run("stopped, it keeps what it has", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		var asked atomic.Int32
		outcomes, err := eval.Run(ctx, fake(func(ctx context.Context, _ *call.Conversation) (*call.Analysis, error) {
			if asked.Add(1) == 3 {
				cancel()
				return nil, call.Errorf(call.Unavailable, "stopped: %w", ctx.Err())
			}
			return answered(func(*call.Result) {}), nil
		}), calls, eval.Options{})
		if r := eval.Score("x", outcomes); !errors.Is(err, context.Canceled) || r.Judged != 2 || len(r.Failures) != 0 {
			t.Errorf("error %v, %d judged, failures %v", err, r.Judged, r.Failures)
		}
	})
	t.Run("an invalid result is no answer", func(t *testing.T) {
		t.Parallel()
		outcomes, err := eval.Run(t.Context(), fake(func(context.Context, *call.Conversation) (*call.Analysis, error) {
			return answered(func(r *call.Result) { r.Quality = new(6) }), nil
		}), calls[:1], eval.Options{})
		if r := eval.Score("x", outcomes); err != nil || r.Valid != (eval.Share{Of: 1}) {
			t.Errorf("error %v, valid %v", err, r.Valid)
		}
	})
}

// recorded is what a model once answered to a call, with its figures.
type recorded struct {
	Usage    struct{ Input, Cached, Output int64 } `json:"usage"`
	Duration int64                                 `json:"duration_ms"`
	Refuse   bool                                  `json:"refuse"`
	Answer   map[string]any                        `json:"answer"`
}

// metered gives an analysis the recorded figures, which a fake server cannot.
type metered struct {
	analyze.Analyzer
	answers map[string]recorded
}

func (m metered) Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error) {
	a, err := m.Analyzer.Analyze(ctx, c)
	if err == nil {
		r := m.answers[c.ID]
		u := call.Usage{InputTokens: r.Usage.Input, CachedTokens: r.Usage.Cached, OutputTokens: r.Usage.Output}
		u.CostUSD = new(float64(u.InputTokens-u.CachedTokens)*0.25/1e6 + float64(u.CachedTokens)*0.025/1e6 + float64(u.OutputTokens)*2/1e6)
		a.Usage, a.Duration, a.PromptVersion = u, time.Duration(r.Duration)*time.Millisecond, "recorded"
	}
	return a, err
}

// The whole folder against a server that answers as a model once did, with
// mistakes made on purpose: among them injections obeyed, the wrong number of
// two, invented names, quotes that nobody said, an English summary and a
// refusal. Beside it the built-in analyser.
func TestGolden(t *testing.T) {
	t.Parallel()
	calls := load(t)
	opening := map[string]recorded{} // by the first thing a customer says
	answers := map[string]recorded{}
	for _, c := range calls {
		b, err := os.ReadFile(filepath.Join("testdata", "answers", c.Name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var r recorded
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		first := c.Conversation.Turns[slices.IndexFunc(c.Conversation.Turns, func(t call.Turn) bool { return t.Role == call.RoleUser })].Text
		if _, taken := opening[first]; taken {
			t.Fatalf("%s begins like another call", c.Name)
		}
		opening[first], answers[c.Conversation.ID] = r, r
	}
	server := openaitest.New(t, openaitest.WithReply(func(q openaitest.Request) openaitest.Reply {
		for _, turn := range q.Transcript() {
			if r, known := opening[turn.Text]; known && turn.Role == "user" {
				if r.Refuse {
					return openaitest.Refusal()
				}
				return openaitest.Answer(func(a map[string]any) {
					for key, value := range r.Answer {
						a[key] = value
					}
				})
			}
		}
		return openaitest.InvalidJSON()
	}))
	asked, err := openai.New(openai.Options{APIKey: openaitest.Key, BaseURL: server.URL(), Model: "recorded-model", HTTPClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := eval.Printer{W: &out, All: true}
	var reports []eval.Report
	for name, a := range map[string]analyze.Analyzer{"recorded": metered{asked, answers}, "builtin": instant{builtin.New(builtin.Options{})}} {
		outcomes, err := eval.Run(t.Context(), a, calls, eval.Options{Concurrency: 4})
		if err != nil {
			t.Fatal(err)
		}
		for i := range outcomes { // the server's request ids depend on the order
			if outcomes[i].Err != nil {
				text, _, _ := strings.Cut(outcomes[i].Err.Error(), " (request")
				outcomes[i].Err = call.Errorf(call.CodeOf(outcomes[i].Err), "%s", text)
			}
		}
		reports = append(reports, eval.Score(name, outcomes))
	}
	slices.SortFunc(reports, func(a, b eval.Report) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range reports {
		p.Report(r)
	}
	p.Comparison(reports[0], reports[1], eval.Compare(reports[0], reports[1]))
	golden := filepath.Join("testdata", "report.golden")
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("the report is not that of %s (-update writes it anew, after a look):\n%s", golden, out.String())
	}
}

// instant takes the time out of an analysis: it differs from run to run.
type instant struct{ analyze.Analyzer }

func (i instant) Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error) {
	a, err := i.Analyzer.Analyze(ctx, c)
	if err == nil {
		a.Duration = 0
	}
	return a, err
}
