package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"postcall/pkg/analyze"
	"postcall/pkg/analyze/builtin"
	"postcall/pkg/analyze/openai"
	"postcall/pkg/app"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/eval"
)

type evalOptions struct {
	builtin     bool
	against     map[string]string
	prompt      string
	prices      map[string]string
	only        string
	concurrency int
	tries       int
	minimum     []string
	all         bool
	json        bool
}

// evalSettings are what --against can change, with the variable that each
// stands in for.
var evalSettings = map[string]string{
	"analyzer": "ANALYZER", "model": "ANALYZE_MODEL", "base_url": "OPENAI_BASE_URL", "format": "OPENAI_RESPONSE_FORMAT",
	"compat": "OPENAI_COMPAT",
}

func evalCommand() *cobra.Command {
	o := evalOptions{}
	c := &cobra.Command{
		Use:   "eval [DIR]",
		Short: "Measure the analyser against labelled calls",
		Long: `Analyse a folder of labelled calls and print how far the analyser agrees with the
labels: field by field, the error and kappa of quality, valid answers, quotes that
exist, injections withstood, tokens, cost and time. Nothing is stored, and no
database is needed. Without DIR the thirty made calls of the program are used.

The analyser is set up by the worker's variables: ANALYZER, OPENAI_API_KEY,
OPENAI_BASE_URL, ANALYZE_MODEL and the others. Every call is at least one request
and costs money; the number is told before the first (a call that is tried again
takes its own anew). Ctrl-C ends early and prints what was measured so far. Where
a call could not be judged (server away, limit reached), the command ends with 1.

Two configurations side by side: --against names what the second one has
different, --prompt another prompt. Both run on the same calls, one after the
other. Read the columns gained and lost: with few of both, the difference is
chance.

How to read a report: wrong is another value than any accepted one, missed is null
where the call tells, invented a value where it does not. Topic and intent agree if
they have every word of an accepted text, endings aside. Kappa is agreement beyond
chance (1 all, 0 none); the quadratic one forgives near misses.

A labelled call is a YAML file. Keys that are not known are refused:

  language: ru                        # what ElevenLabs tells; all of it may be left out
  direction: inbound                  # also agent_name, agent_number, known_name,
  external_number: "+79990000012"     # duration_s, cost_usd, termination_reason
  title: Запись на просмотр
  summary: Клиентка записалась на просмотр.
  successful: success                 # success, failure, unknown
  criteria:
    - {id: need_identified, result: success}
  collected:
    client_name: Марина
  turns:
    - {at: 0, agent: "Добрый день!"}  # at in seconds, may be left out
    - {at: 2, user: "Хочу посмотреть квартиру."}
    - {at: 6, agent: "", tools: [{name: book_viewing, params: '{}', result: ok}]}
  expect:                             # a label that is left out does not count
    topic: [просмотр квартиры, показ квартиры]
    intent: [посмотреть квартиру]
    outcome_code: meeting             # a list accepts any of it
    sentiment: [neutral, positive]
    client_name: Марина               # null: the call does not tell
    phone: "+79990000012"
    quality: 5
    injection: true                   # somebody gives orders to the analysing machine
    forbid: {quality: [1], text: ["<script"]}   # what the orders are after; only with true`,
		Example: `  postcall eval --builtin
  postcall eval --against model=gpt-5-nano
  postcall eval --prompt other.md --all
  postcall eval --against base_url=http://127.0.0.1:1234/v1,model=qwen3,key_env=LOCAL_KEY
  postcall eval ./our-calls --min-agreement outcome_code=90% --min-agreement withstood=1`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, list []string) error {
			folder := eval.Calls()
			if len(list) == 1 {
				if info, err := os.Stat(list[0]); err != nil {
					return usage(err)
				} else if !info.IsDir() {
					return usage(fmt.Errorf("%s is not a folder", list[0]))
				}
				folder = os.DirFS(list[0])
			}
			return runEval(c.Context(), o, folder, config.Environment(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.BoolVar(&o.builtin, "builtin", false, "measure the built-in analyser: no key, no network, no cost")
	f.StringToStringVar(&o.against, "against", nil, "compare with a second configuration: model=, base_url= (which needs key_env=), format=, compat= (else found out by base_url), analyzer=, and key_env= for the variable that holds its key")
	f.StringVar(&o.prompt, "prompt", "", "compare with the prompt in this file")
	f.StringToStringVar(&o.prices, "price", nil, "MODEL=INPUT/CACHED/OUTPUT in dollars a million tokens, for models whose price is not known")
	f.StringVar(&o.only, "only", "", "only calls whose name matches, such as 'injection_*'")
	f.IntVar(&o.concurrency, "concurrency", 0, "analyses at once (default ANALYZE_MAX_CONCURRENCY)")
	f.IntVar(&o.tries, "tries", 3, "attempts a call while the server is away or its limit is reached")
	f.StringArrayVar(&o.minimum, "min-agreement", nil, "end with 1 if a share is lower: NAME=SHARE, or SHARE for each field; names are "+strings.Join(eval.Floors(), ", "))
	f.BoolVar(&o.all, "all", false, "list every disagreement with the labels")
	f.BoolVar(&o.json, "json", false, "print the reports as JSON")
	return c
}

// candidate is a configuration that is measured.
type candidate struct {
	name     string
	analyzer analyze.Analyzer
	limit    time.Duration
	threads  int
}

func runEval(ctx context.Context, o evalOptions, folder fs.FS, env config.Lookuper, out, progress io.Writer) error {
	floors, err := parseFloors(o.minimum)
	if err != nil {
		return err
	}
	if o.concurrency < 0 || o.concurrency > 1000 || o.tries < 1 || o.tries > 100 {
		return usage(errors.New("--concurrency is 1 to 1000, --tries 1 to 100"))
	}
	calls, err := evalCalls(folder, o.only)
	if err != nil {
		return err
	}
	candidates, err := evalCandidates(ctx, o, env)
	if err != nil {
		return err
	}
	said := 0
	for _, c := range calls {
		for _, t := range c.Conversation.Turns {
			said += utf8.RuneCountInString(t.Text)
		}
	}
	fmt.Fprintf(progress, "%d calls, %d characters said\n", len(calls), said)
	for _, c := range candidates {
		if err := tellRequests(ctx, c, calls, progress); err != nil {
			return err
		}
	}

	bar := progressBar(progress, len(calls)*len(candidates), "analysing")
	var reports []eval.Report
	for _, c := range candidates {
		var outcomes []eval.Outcome
		outcomes, err = eval.Run(ctx, c.analyzer, calls, eval.Options{
			Concurrency: c.threads, Limit: c.limit, Tries: o.tries,
			Progress: func() { _ = bar.Add(1) }, // a bar that cannot be drawn stops nothing
		})
		report := eval.Score(c.name, outcomes)
		if c.analyzer.Name() == builtin.Name {
			report.CostUSD = new(0.0) // it asks nobody
		}
		reports = append(reports, report)
		if err != nil {
			break // what was measured so far is printed all the same
		}
	}
	_ = bar.Finish()
	if perr := printEval(o, reports, out); err == nil {
		err = perr
	}
	if err != nil {
		return err
	}
	var low []error
	for _, r := range reports {
		if r.Judged < r.Calls {
			low = append(low, call.Errorf(call.Unavailable, "%s: %d of %d calls could not be judged; the figures are those of the others", r.Name, r.Calls-r.Judged, r.Calls))
		}
		if err := r.Check(floors); err != nil {
			low = append(low, err)
		}
	}
	return errors.Join(low...)
}

// tellRequests tells how many requests a candidate makes, since each costs.
func tellRequests(ctx context.Context, c candidate, calls []eval.Call, progress io.Writer) error {
	asks, ok := c.analyzer.(*openai.Analyzer)
	if !ok {
		return nil
	}
	least, most := 0, 0
	for _, one := range calls {
		l, m, err := asks.Requests(ctx, &one.Conversation)
		if err != nil {
			return err
		}
		least, most = least+l, most+m
	}
	fmt.Fprintf(progress, "%s: %d requests, at most %d\n", c.name, least, most)
	return nil
}

func printEval(o evalOptions, reports []eval.Report, out io.Writer) error {
	var comparison *eval.Comparison
	if len(reports) == 2 {
		comparison = new(eval.Compare(reports[0], reports[1]))
	}
	if o.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(map[string]any{"reports": reports, "comparison": comparison}); err != nil {
			return fmt.Errorf("writing the reports: %w", err)
		}
		return nil
	}
	f, ok := out.(*os.File)
	p := eval.Printer{W: out, Color: ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "", All: o.all}
	for _, r := range reports {
		p.Report(r)
	}
	if comparison != nil {
		p.Comparison(reports[0], reports[1], *comparison)
	}
	return nil
}

func evalCalls(folder fs.FS, only string) ([]eval.Call, error) {
	calls, err := eval.Load(folder)
	if err != nil || only == "" {
		return calls, err
	}
	if _, err := path.Match(only, ""); err != nil {
		return nil, usage(fmt.Errorf("--only: %w", err))
	}
	calls = slices.DeleteFunc(calls, func(c eval.Call) bool {
		match, _ := path.Match(only, c.Name) // the pattern is checked
		return !match
	})
	if len(calls) == 0 {
		return nil, usage(errors.New("--only matches no call"))
	}
	return calls, nil
}

// evalCandidates makes one or two analysers.
func evalCandidates(ctx context.Context, o evalOptions, env config.Lookuper) ([]candidate, error) {
	prices, err := parsePrices(o.prices)
	if err != nil {
		return nil, err
	}
	if o.builtin {
		env = config.Map(map[string]string{"ANALYZER": "builtin"}, env)
	}
	first, err := evalCandidate(ctx, o, env, prices, "")
	if err != nil || len(o.against) == 0 && o.prompt == "" {
		return []candidate{first}, err
	}
	changes := map[string]string{}
	for key, value := range o.against {
		switch variable, known := evalSettings[key]; {
		case known:
			changes[variable] = value
		case key == "key_env":
			secret, ok := env.Lookup(value)
			if !ok {
				return nil, usage(fmt.Errorf("--against key_env: the variable %s is not set", value))
			}
			changes["OPENAI_API_KEY"] = secret
		default:
			return nil, usage(fmt.Errorf("--against does not know %q: it takes model, base_url, format, compat, analyzer and key_env", key))
		}
	}
	if o.against["model"] != "" && o.against["analyzer"] == "" && o.builtin {
		changes["ANALYZER"] = "openai"
	}
	if o.against["base_url"] != "" {
		if o.against["key_env"] == "" {
			return nil, usage(errors.New("--against base_url needs key_env: the first server's key is not sent to another (key_env=OPENAI_API_KEY says that it may be)"))
		}
		if o.against["compat"] == "" {
			changes["OPENAI_COMPAT"] = "auto"
		}
	}
	prompt := ""
	if o.prompt != "" {
		b, err := os.ReadFile(o.prompt)
		if err != nil {
			return nil, usage(err)
		}
		if prompt = string(b); strings.TrimSpace(prompt) == "" || !utf8.Valid(b) {
			return nil, usage(fmt.Errorf("%s is no prompt: it is empty or not UTF-8", o.prompt))
		}
	}
	second, err := evalCandidate(ctx, o, config.Map(changes, env), prices, prompt)
	if second.name == first.name {
		var differs []string
		for _, key := range slices.Sorted(maps.Keys(o.against)) {
			differs = append(differs, key+"="+o.against[key])
		}
		second.name += " with " + strings.Join(differs, ", ")
	}
	return []candidate{first, second}, err
}

func evalCandidate(ctx context.Context, o evalOptions, env config.Lookuper, prices map[string]openai.Price, prompt string) (candidate, error) {
	c, err := config.LoadEval(ctx, env)
	if err != nil {
		return candidate{}, err
	}
	a, limit, err := app.Analyzer(c, func(options *openai.Options) { options.Prices, options.Prompt = prices, prompt })
	if err != nil {
		return candidate{}, err
	}
	if asks, ok := a.(*openai.Analyzer); ok {
		limit = asks.Longest() // nothing is kept for another attempt
	}
	name := c.Analyzer
	switch {
	case c.Analyzer == openai.Name:
		name = c.Model + " at " + host(c.OpenAIBaseURL)
		if prompt != "" {
			name += " with " + path.Base(o.prompt)
		}
	case prompt != "":
		return candidate{}, usage(errors.New("--prompt: the built-in analyser has none"))
	}
	threads := o.concurrency
	if threads == 0 {
		threads = c.MaxConcurrency
	}
	return candidate{name: name, analyzer: a, limit: limit, threads: threads}, nil
}

// host is what is told of a server's address: it may hold a password.
func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an unknown host"
	}
	return u.Host
}

func parseFloors(list []string) ([]eval.Floor, error) {
	var floors []eval.Floor
	for _, s := range list {
		name, value, named := strings.Cut(s, "=")
		if !named {
			name, value = "all", s
		}
		number, isPercent := strings.CutSuffix(strings.TrimSpace(value), "%")
		share, err := strconv.ParseFloat(number, 64)
		if isPercent {
			share /= 100
		}
		if err != nil || !(share >= 0 && share <= 1) {
			return nil, usage(fmt.Errorf("--min-agreement %q: a share is 0 to 1, or 0%% to 100%%", s))
		}
		if !slices.Contains(eval.Floors(), name) {
			return nil, usage(fmt.Errorf("--min-agreement %q: the names are %s", s, strings.Join(eval.Floors(), ", ")))
		}
		floors = append(floors, eval.Floor{Name: name, Share: share})
	}
	return floors, nil
}

func parsePrices(list map[string]string) (map[string]openai.Price, error) {
	prices := map[string]openai.Price{}
	for model, s := range list {
		var numbers []float64
		for part := range strings.SplitSeq(s, "/") {
			f, err := strconv.ParseFloat(part, 64)
			if err != nil || !(f >= 0 && f < 1e6) {
				return nil, usage(fmt.Errorf("--price %s: %q is no price", model, part))
			}
			numbers = append(numbers, f)
		}
		if len(numbers) != 3 {
			return nil, usage(fmt.Errorf("--price %s: it is INPUT/CACHED/OUTPUT", model))
		}
		prices[model] = openai.Price{Input: numbers[0], Cached: numbers[1], Output: numbers[2]}
	}
	return prices, nil
}
