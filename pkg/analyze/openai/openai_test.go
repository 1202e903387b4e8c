package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postcall/pkg/analyze/analyzetest"
	"postcall/pkg/call"
	"postcall/pkg/openaitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup starts a server with the scripted replies and an analyser on it.
func setup(t *testing.T, change func(*Options), replies ...openaitest.Reply) (*Analyzer, *openaitest.Server) {
	t.Helper()
	server := openaitest.New(t, openaitest.WithReplies(replies...))
	o := Options{
		APIKey: openaitest.Key, BaseURL: server.URL(), Model: "gpt-5-mini", HTTPClient: server.Client(),
		Timeout: 20 * time.Second, Dialect: OpenAI,
	}
	if change != nil {
		change(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a, server
}

func TestAnalyzer(t *testing.T) {
	t.Parallel()
	for _, format := range []ResponseFormat{JSONSchema, JSONObject, None} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			a, _ := setup(t, func(o *Options) { o.ResponseFormat = format })
			analyzetest.Test(t, a)
		})
	}
}

func TestAnalysisSaysWhereItIsFrom(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) {
		o.Prices = map[string]Price{"gpt-5-mini": {Input: 1, Cached: 0.5, Output: 10}}
	})
	got, err := a.Analyze(t.Context(), analyzetest.Conversation())
	if err != nil {
		t.Fatal(err)
	}
	q := server.Requests()[0]
	in := int64(len(q.Body) / 4)
	if got.Model != "gpt-5-mini" || got.PromptVersion != "v3" || got.RequestID != openaitest.RequestID(0) || got.Duration <= 0 {
		t.Errorf("provenance is %+v", got)
	}
	u := got.Usage
	if u.InputTokens != in || u.CachedTokens != in/2 || u.OutputTokens == 0 {
		t.Errorf("usage is %+v of a request of %d tokens", u, in)
	}
	want := (float64(in-in/2)*1 + float64(in/2)*0.5 + float64(u.OutputTokens)*10) / 1e6
	if u.CostUSD == nil || *u.CostUSD != want {
		t.Errorf("cost is %v, not %v", u.CostUSD, want)
	}
}

func TestCostIsNilWhereThePriceIsNotKnown(t *testing.T) {
	t.Parallel()
	u := call.Usage{InputTokens: 1_000_000, CachedTokens: 0, OutputTokens: 100_000}
	for name, test := range map[string]struct {
		a     Analyzer
		model string
		want  float64 // 0 for nil
	}{
		"OpenAI's own":           {Analyzer{official: true}, "gpt-4o-mini", 0.21},
		"a dated version":        {Analyzer{official: true}, "gpt-4o-mini-2024-07-18", 0.21},
		"unknown model":          {Analyzer{official: true}, "gpt-9", 0},
		"same name, elsewhere":   {Analyzer{}, "gpt-4o-mini", 0},
		"told by the operator":   {Analyzer{o: Options{Prices: map[string]Price{"qwen": {Input: 1}}}}, "qwen", 1},
		"told for another model": {Analyzer{o: Options{Prices: map[string]Price{"qwen": {Input: 1}}}}, "glm", 0},
	} {
		got := test.a.cost(test.model, u)
		if (got == nil) != (test.want == 0) || got != nil && *got != test.want {
			t.Errorf("%s: %v, not %v", name, got, test.want)
		}
	}
	if got := (&Analyzer{official: true}).cost("gpt-4o-mini", call.Usage{}); got != nil {
		t.Errorf("a server that does not tell what was used: %v", *got)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	a, server := setup(t, nil)
	c := analyzetest.Conversation()
	c.ExternalNumber, c.KnownName, c.ID = "+79990000002", "Секретное Имя", "conv_secret"
	for range 2 {
		if _, err := a.Analyze(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	first, second := server.Requests()[0], server.Requests()[1]
	if first.Chat.Text(0) != prompt || second.Chat.Text(0) != prompt || first.Chat.Messages[0].Role != "system" {
		t.Error("the system message must be the prompt, the same for each call")
	}
	if first.Chat.Text(1) == second.Chat.Text(1) {
		t.Error("the delimiters must be random")
	}
	for _, leak := range []string{"79990000002", "Секретное", "conv_secret", openaitest.Key} {
		if bytes.Contains(first.Body, []byte(leak)) {
			t.Errorf("the request carries %q", leak)
		}
	}
	if !bytes.Contains(first.Body, []byte(`"store":false`)) || bytes.Contains(first.Body, []byte("temperature")) {
		t.Errorf("the request is %s", first.Body)
	}
	lines := strings.Split(strings.TrimSuffix(first.Chat.Text(1), "\n"), "\n")
	begin, id, _ := strings.Cut(lines[0], " ")
	if begin != "BEGIN" || len(id) < 20 || lines[len(lines)-1] != "END "+id {
		t.Errorf("delimiters are %q and %q", lines[0], lines[len(lines)-1])
	}
	for _, l := range lines[1 : len(lines)-1] {
		if !json.Valid([]byte(l)) {
			t.Errorf("not a JSON line: %q", l)
		}
	}
	if got := len(first.Transcript()); got != 4 {
		t.Errorf("%d spoken turns were sent, not 4", got)
	}
}

func TestCompatibleDialect(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) { o.Dialect = "" }) // by the host: not OpenAI's
	if _, err := a.Analyze(t.Context(), analyzetest.Conversation()); err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(server.Requests()[0].Body, &body); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store", "prompt_cache_key", "max_completion_tokens", "metadata", "safety_identifier"} {
		if _, found := body[name]; found {
			t.Errorf("%s was sent", name)
		}
	}
	if body["max_tokens"] == nil {
		t.Error("max_tokens was not sent")
	}
}

// Not parallel: it sets the environment.
func TestEnvironmentIsNotRead(t *testing.T) {
	t.Setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/never")
	t.Setenv("OPENAI_ORG_ID", "org-leak")
	t.Setenv("OPENAI_PROJECT_ID", "proj-leak")
	t.Setenv("OPENAI_API_KEY", "sk-leak")
	t.Setenv("OPENAI_CUSTOM_HEADERS", "X-Leak: leak")
	a, server := setup(t, nil)
	if _, err := a.Analyze(t.Context(), analyzetest.Conversation()); err != nil {
		t.Fatal(err)
	}
	for name, values := range server.Requests()[0].Header {
		if strings.Contains(strings.Join(values, " "), "leak") {
			t.Errorf("header %s came from the environment", name)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	good := Options{APIKey: "k", Model: "m"}
	for name, change := range map[string]func(*Options){
		"key":       func(o *Options) { o.APIKey = "" },
		"model":     func(o *Options) { o.Model = "" },
		"base":      func(o *Options) { o.BaseURL = "://" },
		"relative":  func(o *Options) { o.BaseURL = "/v1" },
		"scheme":    func(o *Options) { o.BaseURL = "ftp://host/v1" },
		"format":    func(o *Options) { o.ResponseFormat = "xml" },
		"dialect":   func(o *Options) { o.Dialect = "klingon" },
		"time-out":  func(o *Options) { o.Timeout = -1 },
		"token cap": func(o *Options) { o.MaxOutputTokens = -1 },
	} {
		o := good
		change(&o)
		if _, err := New(o); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	a, err := New(good)
	if err != nil || a.o.Dialect != OpenAI || !a.official || a.o.Timeout != time.Minute || a.o.ResponseFormat != JSONSchema {
		t.Errorf("defaults are %+v, %v", a, err)
	}
}

// TestFailures is the table of the package documentation over a real socket.
func TestFailures(t *testing.T) {
	t.Parallel()
	secret := analyzetest.Conversation().Turns[1].Text
	one := func(r openaitest.Reply) []openaitest.Reply { return []openaitest.Reply{r} }
	two := func(r openaitest.Reply) []openaitest.Reply { return []openaitest.Reply{r, r} }
	bad := func(status int, code, param, message string) []openaitest.Reply {
		return one(openaitest.Error(status, "invalid_request_error", code, param, message))
	}
	for name, test := range map[string]struct {
		replies  []openaitest.Reply
		timeout  time.Duration
		code     call.Code
		wait     time.Duration
		requests int
		text     string // that the error must carry
	}{
		"refusal":                      {replies: one(openaitest.Refusal()), code: call.Refused, requests: 1, text: openaitest.RequestID(0)},
		"content filter":               {replies: one(openaitest.ContentFilter()), code: call.Refused, requests: 1},
		"content filter as an error":   {replies: bad(400, "content_filter", "prompt", "filtered"), code: call.Refused, requests: 1},
		"invalid prompt":               {replies: bad(400, "invalid_prompt", "", "flagged"), code: call.Refused, requests: 1},
		"length twice":                 {replies: two(openaitest.Length()), code: call.Invalid, requests: 2},
		"output limit twice":           {replies: two(openaitest.OutputLimit()), code: call.Invalid, requests: 2, text: openaitest.RequestID(1)},
		"no choices":                   {replies: one(openaitest.NoChoices()), code: call.Internal, requests: 1},
		"invalid JSON twice":           {replies: two(openaitest.InvalidJSON()), code: call.Internal, requests: 2},
		"schema violation twice":       {replies: two(openaitest.SchemaViolation()), code: call.Internal, requests: 2, text: "quality"},
		"rate limit":                   {replies: one(openaitest.RateLimited(1500 * time.Millisecond)), code: call.RateLimited, wait: 1500 * time.Millisecond, requests: 1, text: "rate_limit_exceeded"},
		"rate limit, no time":          {replies: one(openaitest.RateLimited(-1)), code: call.RateLimited, requests: 1},
		"rate limit for a week":        {replies: one(openaitest.RateLimited(7 * 24 * time.Hour)), code: call.RateLimited, wait: 15 * time.Minute, requests: 1},
		"rate limit as a page":         {replies: one(openaitest.Page(429)), code: call.RateLimited, requests: 1},
		"no quota":                     {replies: one(openaitest.InsufficientQuota()), code: call.Credentials, requests: 1, text: "insufficient_quota"},
		"no money":                     {replies: bad(402, "", "", "Insufficient Balance"), code: call.Credentials, requests: 1},
		"wrong key":                    {replies: one(openaitest.Unauthorized()), code: call.Credentials, requests: 1, text: "invalid_api_key"},
		"forbidden":                    {replies: bad(403, "unsupported_country_region_territory", "", "Country, region, or territory not supported"), code: call.Credentials, requests: 1},
		"forbidden by a page, for all": {replies: []openaitest.Reply{openaitest.Page(403), openaitest.Unauthorized()}, code: call.Credentials, requests: 2, text: "403"},
		"forbidden by a page, unsure":  {replies: []openaitest.Reply{openaitest.Page(403), openaitest.ServerError(500)}, code: call.Credentials, requests: 2, text: "403"},
		"this call is forbidden":       {replies: one(openaitest.Page(403)), code: call.Unavailable, requests: 2, text: "takes others"},
		"no such model":                {replies: one(openaitest.ModelNotFound()), code: call.Credentials, requests: 1, text: "gpt-5-mini"},
		"no such address":              {replies: one(openaitest.Page(404)), code: call.Credentials, requests: 1},
		"setting not taken":            {replies: bad(400, "unsupported_value", "response_format.type", "not supported"), code: call.Credentials, requests: 1},
		"too long a call":              {replies: bad(400, "context_length_exceeded", "messages", "maximum context length is 128000 tokens"), code: call.Invalid, requests: 1, text: "context_length_exceeded"},
		"bad request":                  {replies: bad(400, "", "", "bad"), code: call.Invalid, requests: 1},
		"bad request that repeats":     {replies: bad(400, "", "", "cannot read: "+secret), code: call.Invalid, requests: 1, text: "withheld"},
		"unprocessable":                {replies: bad(422, "", "messages", "bad"), code: call.Invalid, requests: 1},
		"too large":                    {replies: bad(413, "", "", "too large"), code: call.Invalid, requests: 1},
		"request time-out":             {replies: one(openaitest.ServerError(408)), code: call.Unavailable, requests: 1},
		"conflict":                     {replies: one(openaitest.ServerError(409)), code: call.Unavailable, requests: 1},
		"internal":                     {replies: one(openaitest.ServerError(500)), code: call.Unavailable, requests: 1, text: "server_error"},
		"overloaded":                   {replies: one(openaitest.ServerError(503)), code: call.Unavailable, requests: 1, text: openaitest.RequestID(0)},
		"bad gateway as a page":        {replies: one(openaitest.Page(502)), code: call.Unavailable, requests: 1, text: "502"},
		"a page for an answer":         {replies: one(openaitest.Page(200)), code: call.Internal, requests: 1},
		"no answer":                    {replies: one(openaitest.Hang()), timeout: 50 * time.Millisecond, code: call.Unavailable, requests: 1, text: "50ms"},
		"no end of the answer":         {replies: one(openaitest.HangInBody()), timeout: 50 * time.Millisecond, code: call.Unavailable, requests: 1},
		"dropped":                      {replies: one(openaitest.Drop()), code: call.Unavailable, requests: 1},
		"server fails on the repair":   {replies: []openaitest.Reply{openaitest.InvalidJSON(), openaitest.ServerError(500)}, code: call.Unavailable, requests: 2},
		"refusal after a cut":          {replies: []openaitest.Reply{openaitest.Length(), openaitest.Refusal()}, code: call.Refused, requests: 2},
		"cut, then wrong, then wrong":  {replies: []openaitest.Reply{openaitest.Length(), openaitest.InvalidJSON(), openaitest.InvalidJSON()}, code: call.Internal, requests: 3},
		"wrong, then cut twice":        {replies: []openaitest.Reply{openaitest.InvalidJSON(), openaitest.Length(), openaitest.Length()}, code: call.Invalid, requests: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, server := setup(t, func(o *Options) {
				if test.timeout > 0 {
					o.Timeout = test.timeout
				}
			}, test.replies...)
			analysis, err := a.Analyze(t.Context(), analyzetest.Conversation())
			if analysis != nil || err == nil {
				t.Fatalf("got %+v, %v", analysis, err)
			}
			e, ok := errors.AsType[*call.Error](err)
			if !ok || e.Code != test.code || e.RetryAfter != test.wait {
				t.Errorf("got %#v", err)
			}
			if got := len(server.Requests()); got != test.requests {
				t.Errorf("%d requests were made, not %d", got, test.requests)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("%q does not say %q", err, test.text)
			}
			for _, leak := range []string{openaitest.Key, "Ольга", "площадь", "flat", "29 123"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("%q carries %q", err, leak)
				}
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	a, err := New(Options{APIKey: "k", Model: "m", BaseURL: "http://127.0.0.1:1/v1", HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Analyze(t.Context(), analyzetest.Conversation()); call.CodeOf(err) != call.Unavailable {
		t.Errorf("error is %v", err)
	}
}

func TestWrongKeyOfOurs(t *testing.T) {
	t.Parallel()
	a, _ := setup(t, func(o *Options) { o.APIKey = "another-form-of-key" })
	_, err := a.Analyze(t.Context(), analyzetest.Conversation())
	if call.CodeOf(err) != call.Credentials || strings.Contains(err.Error(), "another-form") {
		t.Errorf("error is %v", err)
	}
}

func TestContextEndsARequest(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	hang := openaitest.Hang()
	a, _ := setup(t, nil, func(x openaitest.Exchange) {
		close(arrived)
		hang(x)
	})
	go func() {
		<-arrived
		cancel()
	}()
	_, err := a.Analyze(ctx, analyzetest.Conversation())
	if !errors.Is(err, context.Canceled) || call.CodeOf(err) != call.Unavailable {
		t.Errorf("error is %v", err)
	}

	late, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer done()
	a, _ = setup(t, nil, openaitest.Hang())
	if _, err := a.Analyze(late, analyzetest.Conversation()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestRecoveries(t *testing.T) {
	t.Parallel()
	ready := make(chan struct{})
	close(ready)
	for name, test := range map[string]struct {
		replies  []openaitest.Reply
		requests int
	}{
		"thoughts before the answer": {[]openaitest.Reply{openaitest.Thinking()}, 1},
		"a quote that ends thoughts": {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) {
			a["evidence"] = []any{map[string]any{"claim": "Странные слова", "turn": 1, "quote": "</think>{"}}
		})}, 1},
		"code fences":                  {[]openaitest.Reply{openaitest.Fenced()}, 1},
		"a slow start":                 {[]openaitest.Reply{openaitest.When(ready, openaitest.Success())}, 1},
		"length, then a whole answer":  {[]openaitest.Reply{openaitest.Length()}, 2},
		"all tokens used for thoughts": {[]openaitest.Reply{openaitest.OutputLimit()}, 2},
		"invalid JSON, repaired":       {[]openaitest.Reply{openaitest.InvalidJSON()}, 2},
		"schema violation, repaired":   {[]openaitest.Reply{openaitest.SchemaViolation()}, 2},
		"empty answer, repaired":       {[]openaitest.Reply{openaitest.Content("")}, 2},
		"English summary, repaired":    {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { a["summary_ru"] = "The customer asked for a flat." })}, 2},
		"an endless topic, repaired":   {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { a["topic"] = strings.Repeat("я", call.MaxTopic+1) })}, 2},
		"a missing field, repaired":    {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { delete(a, "sentiment") })}, 2},
		"a wrong type, repaired":       {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { a["quality"] = "five" })}, 2},
		"cut, wrong, then right":       {[]openaitest.Reply{openaitest.Length(), openaitest.InvalidJSON()}, 3},
		"unknown fields are harmless":  {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { a["more"] = 1 })}, 1},
		"too many recommendations":     {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) { a["recommendations"] = make([]string, 50) })}, 1}, // empty ones are dropped
		"an unknown verdict, repaired": {[]openaitest.Reply{openaitest.Answer(func(a map[string]any) {
			a["criteria"] = []any{map[string]any{"criterion": "courteous", "verdict": "yes"}}
		})}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, server := setup(t, nil, test.replies...)
			got, err := a.Analyze(t.Context(), analyzetest.Conversation())
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Result.Validate(); err != nil {
				t.Error(err)
			}
			requests := server.Requests()
			if len(requests) != test.requests {
				t.Fatalf("%d requests were made, not %d", len(requests), test.requests)
			}
			if test.requests > 1 && got.RequestID == openaitest.RequestID(0) {
				t.Error("the request id is not the last one's")
			}
		})
	}
}

func TestLongerCapAndRepairMessages(t *testing.T) {
	t.Parallel()
	a, server := setup(t, func(o *Options) { o.MaxOutputTokens = 100 }, openaitest.Length(), openaitest.SchemaViolation())
	if _, err := a.Analyze(t.Context(), analyzetest.Conversation()); err != nil {
		t.Fatal(err)
	}
	q := server.Requests()
	if *q[0].Chat.MaxCompletionTokens != 100 || *q[1].Chat.MaxCompletionTokens != 400 || *q[2].Chat.MaxCompletionTokens != 400 {
		t.Errorf("caps are %d, %d, %d", *q[0].Chat.MaxCompletionTokens, *q[1].Chat.MaxCompletionTokens, *q[2].Chat.MaxCompletionTokens)
	}
	repair := q[2].Chat
	if len(repair.Messages) != 4 || repair.Messages[2].Role != "assistant" || !strings.Contains(repair.Text(2), `"sold"`) ||
		repair.Messages[3].Role != "user" || !strings.Contains(repair.Text(3), "quality is 11") {
		t.Errorf("the repair shows %+v", repair.Messages[2:])
	}
}

func TestQualityIsHeldDownToWhatWasProved(t *testing.T) {
	t.Parallel()
	c := analyzetest.Conversation()
	const met, notMet, unsure = call.VerdictMet, call.VerdictNotMet, call.VerdictUnknown
	entry := func(name string, turn int, quote string, v call.Verdict) call.Judgement {
		return call.Judgement{ID: name, Turn: &turn, Quote: &quote, Verdict: v}
	}
	proved := []call.Judgement{
		entry("need_identified", 1, "меня зовут Ольга", met), entry("question_answered", 3, "Нашла три варианта", met),
		entry("next_step_agreed", 4, "Да, записывайте", met), entry("courteous", 0, "Добрый день!", met), entry("goal_reached", 4, "123-45-67", met),
	}
	invented := entry("courteous", 0, "Спасибо за ожидание", met)
	with := func(n int, more ...call.Judgement) []call.Judgement { return append(slices.Clone(proved[:n]), more...) }
	for name, test := range map[string]struct {
		criteria []call.Judgement
		given    *int
		want     int // 0 for null
	}{
		"null stays":                {proved, nil, 0},
		"all five proved":           {proved, new(5), 5},
		"four proved":               {with(4), new(5), 4},
		"three proved":              {with(3), new(5), 3},
		"two proved":                {with(2), new(5), 2},
		"one proved":                {with(1), new(5), 2},
		"nothing told":              {nil, new(5), 0},
		"only unknown":              {[]call.Judgement{{ID: "courteous", Verdict: unsure}}, new(5), 0},
		"only made-up quotes":       {[]call.Judgement{invented}, new(5), 0},
		"only made-up quotes, low":  {[]call.Judgement{invented}, new(1), 0},
		"nothing met":               {[]call.Judgement{{ID: "goal_reached", Verdict: notMet}, {ID: "courteous", Verdict: notMet}}, new(5), 2},
		"nothing met, low":          {[]call.Judgement{{ID: "goal_reached", Verdict: notMet}, {ID: "courteous", Verdict: notMet}}, new(1), 1},
		"a made-up quote is none":   {with(3, invented), new(5), 3},
		"not met is not proved":     {with(3, call.Judgement{ID: "courteous", Verdict: notMet}, call.Judgement{ID: "goal_reached", Verdict: notMet}), new(5), 3},
		"unknown is not proved":     {with(4, call.Judgement{ID: "goal_reached", Verdict: unsure}), new(5), 4},
		"a quote of what is unmet":  {with(3, entry("courteous", 0, "Добрый день!", notMet)), new(5), 3},
		"never raised":              {proved, new(2), 2},
		"met without any quote":     {with(4, call.Judgement{ID: "goal_reached", Verdict: met}), new(5), 4},
		"proved in a misnamed turn": {with(4, entry("goal_reached", 3, "123-45-67", met)), new(5), 5},
	} {
		got := 0
		d := &draft{}
		d.Criteria = test.criteria
		verify(c, d)
		if q := ceiling(d.Criteria, test.given); q != nil {
			got = *q
		}
		if got != test.want {
			t.Errorf("%s: %d, not %d", name, got, test.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"none":             {http.Header{}, 0},
		"seconds":          {http.Header{"Retry-After": {"7"}}, 7 * time.Second},
		"milliseconds":     {http.Header{"Retry-After": {"7"}, "Retry-After-Ms": {"1500"}}, 1500 * time.Millisecond},
		"a fraction":       {http.Header{"Retry-After": {"0.5"}}, 500 * time.Millisecond},
		"negative":         {http.Header{"Retry-After": {"-5"}}, 0},
		"infinite":         {http.Header{"Retry-After": {"inf"}}, maxRetryAfter},
		"no number":        {http.Header{"Retry-After": {"NaN"}}, 0},
		"a date":           {http.Header{"Retry-After": {"Mon, 23 Nov 2026 10:00:30 GMT"}, "Date": {"Mon, 23 Nov 2026 10:00:00 GMT"}}, 30 * time.Second},
		"a date long past": {http.Header{"Retry-After": {"Mon, 23 Nov 2020 10:00:30 GMT"}}, 0},
		"nonsense":         {http.Header{"Retry-After": {"soon"}}, 0},
	} {
		if got := retryAfter(test.header); got != test.want {
			t.Errorf("%s: %s, not %s", name, got, test.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{}`)
	f.Add("```json\n{\"quality\":5}\n```")
	f.Add(`{"injection_suspected":false,"criteria":[{"criterion":"courteous","turn":0,"quote":"да","verdict":"met"}],"evidence":[{"claim":"а","turn":1,"quote":"б"}],"client_name":"Ольга","phone":"+375291234567","topic":"т","intent":null,"outcome_code":"lead","outcome":"о","sentiment":"mixed","summary_ru":"Кратко: +7 905 123-45-67 <b>x</b>","recommendations":["р"],"quality":5}`)
	a, err := newForm(Options{ContextTokens: DefaultContextTokens}, Ruleset{})
	if err != nil {
		f.Fatal(err)
	}
	c := analyzetest.Conversation()
	f.Fuzz(func(t *testing.T, text string) {
		d, err := a.read(text)
		if err != nil {
			if call.CodeOf(err) != call.Invalid {
				t.Errorf("the fault has code %s", call.CodeOf(err))
			}
			return
		}
		if err := d.Validate(); err != nil {
			t.Errorf("read let through: %v", err)
		}
		if err := a.finish(c, d); err != nil && d.SummaryRU != "" {
			t.Errorf("finish broke it: %v", err)
		}
		if _, err := json.Marshal(d.Result); err != nil {
			t.Errorf("the result cannot be stored: %v", err)
		}
		if strings.ContainsAny(d.SummaryRU, "\n\r\x00\x1b") {
			t.Errorf("control characters are left: %q", d.SummaryRU)
		}
	})
}
