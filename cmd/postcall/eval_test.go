package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/eval"
	"postcall/pkg/openaitest"
)

// evaluate runs the command's work with an environment of the test's own.
func evaluate(t *testing.T, env map[string]string, o evalOptions) (out, progress string, err error) {
	t.Helper()
	var a, b bytes.Buffer
	if o.tries == 0 {
		o.tries = 1
	}
	err = runEval(t.Context(), o, eval.Calls(), config.Map(env, nil), &a, &b)
	return a.String(), b.String(), err
}

func TestEvalBuiltin(t *testing.T) {
	t.Parallel()
	out, progress, err := evaluate(t, nil, evalOptions{builtin: true, minimum: []string{"valid=1", "withstood=100%", "outcome_code=0.9"}})
	if err != nil || !strings.Contains(out, "30 of 30 calls judged") || !strings.HasPrefix(progress, "30 calls,") {
		t.Errorf("%v\n%s%s", err, progress, out)
	}
	if strings.Contains(out, "not known") {
		t.Error("what asks nobody costs nothing")
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colour without a terminal")
	}
	_, _, err = evaluate(t, nil, evalOptions{builtin: true, minimum: []string{"sentiment=0.99"}})
	if app.ExitCode(err) != app.ExitFault || !strings.Contains(err.Error(), "sentiment") {
		t.Errorf("a share that is too low: %v", err)
	}
}

func TestEvalCompares(t *testing.T) {
	t.Parallel()
	server := openaitest.New(t)
	prompt := filepath.Join(t.TempDir(), "other.md")
	if err := os.WriteFile(prompt, []byte("Analyse the call, answer in JSON."), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": server.URL()}
	out, progress, err := evaluate(t, env, evalOptions{
		only: "injection_*", json: true, prompt: prompt, against: map[string]string{"model": "other"}, prices: map[string]string{"other": "1/0/0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Reports    []eval.Report
		Comparison *eval.Comparison
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Reports) != 2 || got.Comparison == nil || got.Reports[1].Model != "other" ||
		got.Reports[0].CostUSD != nil || got.Reports[1].CostUSD == nil ||
		got.Reports[0].PromptVersion == got.Reports[1].PromptVersion || !strings.HasPrefix(got.Reports[1].PromptVersion, "custom-") {
		t.Errorf("reports: %s", out)
	}
	if strings.Contains(out+progress, openaitest.Key) || !strings.Contains(progress, "4 requests, at most 12\n") {
		t.Errorf("told beforehand: %s", progress)
	}
	others := 0
	for _, q := range server.Requests() {
		if q.Chat.Model == "other" {
			others++
			if !strings.HasPrefix(q.Chat.Text(0), "Analyse the call") && !strings.Contains(q.Chat.Text(0), "Analyse the call") {
				t.Error("the other prompt was not sent")
			}
		}
	}
	if others != 4 {
		t.Errorf("%d requests to the other model, not 4", others)
	}
}

// A call in parts is several requests: they are told, since they cost.
func TestEvalTellsOfParts(t *testing.T) {
	t.Parallel()
	var turns strings.Builder
	for n := range 800 {
		fmt.Fprintf(&turns, "  - {user: \"Реплика номер %d: про площадь, отделку, парковку, сроки сдачи дома и школу рядом.\"}\n", n)
	}
	folder := fstest.MapFS{
		"long.yaml":  {Data: []byte("turns:\n" + turns.String() + "expect: {outcome_code: informed}\n")},
		"short.yaml": {Data: []byte("turns:\n  - {user: \"Сколько стоит студия?\"}\nexpect: {outcome_code: informed}\n")},
	}
	server := openaitest.New(t)
	env := config.Map(map[string]string{
		"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": server.URL(), "ANALYZE_CONTEXT_TOKENS": "16000",
	}, nil)
	var out, progress bytes.Buffer
	if err := runEval(t.Context(), evalOptions{tries: 1, concurrency: 1}, folder, env, &out, &progress); err != nil {
		t.Fatal(err)
	}
	parts, sent := 0, len(server.Requests())
	for _, q := range server.Requests() {
		if strings.HasPrefix(q.Chat.Text(1), "This is part ") {
			parts++
		}
	}
	// The short one, its parts, and what makes one of them: as many again less one
	// at most, and each three times at worst.
	least, most := 1+parts+1, 3*(1+parts+parts-1)
	if want := fmt.Sprintf("%d requests, at most %d", least, most); parts < 2 || !strings.Contains(progress.String(), want) || sent < least || sent > most {
		t.Errorf("%d parts, %d requests sent; wanted to be told %q: %s", parts, sent, want, progress.String())
	}
}

// A second server is spoken to in its own dialect, not in the first one's.
func TestEvalAgainstAnotherServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		compat string // the first server's
		own    string // what --against says
		want   [2]bool
	}{
		"found out for itself": {"false", "", [2]bool{true, false}},
		"said":                 {"true", "false", [2]bool{false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := openaitest.New(t), openaitest.New(t, openaitest.WithKey("sk-second-00000000"))
			env := map[string]string{
				"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": first.URL(), "OPENAI_COMPAT": test.compat, "SECOND_KEY": "sk-second-00000000",
			}
			against := map[string]string{"base_url": second.URL(), "key_env": "SECOND_KEY"}
			if test.own != "" {
				against["compat"] = test.own
			}
			if out, _, err := evaluate(t, env, evalOptions{only: "flat_lead", against: against}); err != nil {
				t.Fatal(err, out)
			}
			for n, server := range []*openaitest.Server{first, second} {
				chat := server.Requests()[0].Chat
				if openai := chat.MaxCompletionTokens != nil && chat.MaxTokens == nil; openai != test.want[n] {
					t.Errorf("server %d was spoken to as OpenAI's own: %t", n, openai)
				}
			}
		})
	}
}

func TestEvalStoppedPrintsWhatItHas(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server := openaitest.New(t, openaitest.WithReply(func(q openaitest.Request) openaitest.Reply {
		if q.N < 2 {
			return openaitest.Success()
		}
		cancel()
		return openaitest.Hang()
	}))
	var out, progress bytes.Buffer
	env := config.Map(map[string]string{"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": server.URL()}, nil)
	err := runEval(ctx, evalOptions{tries: 3, concurrency: 1, minimum: []string{"0"}}, eval.Calls(), env, &out, &progress)
	if app.ExitCode(err) != app.ExitFault || !strings.Contains(out.String(), "2 of 30 calls judged") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// Who copies the example of --help has a call that is taken.
func TestEvalExampleIsTaken(t *testing.T) {
	t.Parallel()
	_, example, found := strings.Cut(evalCommand().Long, "are refused:\n\n")
	calls, err := eval.Load(fstest.MapFS{"example.yaml": {Data: []byte(strings.ReplaceAll("\n"+example, "\n  ", "\n"))}})
	if !found || err != nil || calls[0].Expect.Forbid == nil {
		t.Errorf("%v, %+v", err, calls)
	}
}

// Figures of a part of the folder are not those of the folder.
func TestEvalTellsOfCallsNotJudged(t *testing.T) {
	t.Parallel()
	server := openaitest.New(t, openaitest.WithReply(func(q openaitest.Request) openaitest.Reply {
		if q.N == 0 {
			return openaitest.ServerError(503)
		}
		return openaitest.Success()
	}))
	env := map[string]string{"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": server.URL()}
	out, _, err := evaluate(t, env, evalOptions{only: "flat_*", minimum: []string{"valid=1"}})
	if app.ExitCode(err) != app.ExitFault || !strings.Contains(fmt.Sprint(err), "1 of 10 calls") || !strings.Contains(out, "9 of 10 calls judged") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Two configurations of one model have names that tell them apart.
func TestEvalNamesWhatDiffers(t *testing.T) {
	t.Parallel()
	server := openaitest.New(t)
	env := map[string]string{"OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": server.URL(), "OTHER_KEY": openaitest.Key}
	out, _, err := evaluate(t, env, evalOptions{only: "flat_lead", against: map[string]string{"format": "json_object", "key_env": "OTHER_KEY"}})
	if err != nil || !strings.Contains(out, " with format=json_object, key_env=OTHER_KEY\n") || strings.Contains(out, openaitest.Key) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestEvalUsage(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]evalOptions{
		"no key":             {},
		"unknown setting":    {builtin: true, against: map[string]string{"temperature": "1"}},
		"key of another":     {builtin: true, against: map[string]string{"base_url": "http://127.0.0.1:1"}},
		"key not set":        {builtin: true, against: map[string]string{"key_env": "NOWHERE"}},
		"prompt of builtin":  {builtin: true, prompt: "eval.go"},
		"prompt not there":   {builtin: true, prompt: "nowhere.md"},
		"no such call":       {builtin: true, only: "nowhere"},
		"bad pattern":        {builtin: true, only: "["},
		"unknown name":       {builtin: true, minimum: []string{"colour=1"}},
		"share above one":    {builtin: true, minimum: []string{"2"}},
		"share that is none": {builtin: true, minimum: []string{"NaN"}},
		"price of two parts": {builtin: true, prices: map[string]string{"m": "1/2"}},
		"concurrency":        {builtin: true, concurrency: -1},
	} {
		if _, _, err := evaluate(t, nil, o); app.ExitCode(err) != app.ExitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
}
