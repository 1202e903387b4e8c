// Package openai is the analyser that asks a language model, through the Chat
// Completions API of OpenAI or of any server that speaks it.
//
// The model is asked for strict structured output, and its answer is trusted
// in nothing: every field is checked against bounds and closed lists, quotes
// must occur in the transcript, quality is held down by what was proved, names
// and phone numbers must come from the call. An answer that breaks the form is
// sent back once for repair.
//
// A call that does not fit into the model's window is read in parts, and the
// parts' answers are made into one (long.go).
//
// Nothing is retried here but a cut-off answer and a repair: the queue owns
// retrying. What becomes of each failure:
//
//	the context was cancelled or ran out       Unavailable, errors.Is finds the context's error
//	time-out, no connection, connection lost   Unavailable
//	408, 409, 5xx                              Unavailable
//	429                                        RateLimited, RetryAfter as told, at most 15 minutes
//	429 insufficient_quota, 402                Credentials
//	401, 403                                   Credentials
//	403 as a page, while a probe is taken      Unavailable: something forbids this call alone
//	404: no such model or no such address      Credentials: a person must mend the configuration
//	400 that blames the model's name, the      Credentials: the same; every other call would
//	  response format or another setting,        fail as this one did
//	  or names the response format in words
//	400 content_filter, invalid_prompt         Refused
//	other 4xx                                  Invalid
//	refusal, finish_reason content_filter      Refused
//	finish_reason length, twice, or 400        Invalid: the same call would be cut off again; a
//	  that says so                               person may raise MaxOutputTokens and retry it
//	more parts than MaxParts                   Invalid: before anything is sent
//	no choices, not the API's JSON             Internal: the queue may retry
//	answer not as asked, repair included       Internal: the queue may retry
//
// Error texts carry the server's code, type and message and its request id.
// They never carry the key or what was said in the call.
package openai

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/redact"
)

// Name is the analyser's name in configuration and in stored results.
const Name = "openai"

// DefaultBaseURL is OpenAI's own server.
const DefaultBaseURL = "https://api.openai.com/v1"

// MaxRequests is the most that an analysis makes of a call that fits into the
// model's window: the first, one for a cut-off answer, and one for a repair. A
// call in n parts takes at most MaxRequests×(2n-1): Requests tells.
const MaxRequests = 3

// MaxParts is the most parts that a long call is read in.
const MaxParts = 32

// ResponseFormat is what the server is asked to answer in.
type ResponseFormat string

// The response formats, from the strictest. The answer is checked alike.
const (
	JSONSchema ResponseFormat = "json_schema"
	JSONObject ResponseFormat = "json_object" // some form of JSON; the schema is in the prompt
	None       ResponseFormat = "none"        // the schema in the prompt is all
)

// Dialect is which parameters a server is sure to take.
type Dialect string

// The dialects.
const (
	// OpenAI sends store, prompt_cache_key and max_completion_tokens.
	OpenAI Dialect = "openai"
	// Compatible leaves out what other servers refuse and sends max_tokens.
	Compatible Dialect = "compatible"
)

// Options set up an Analyzer. The environment is not read.
type Options struct {
	APIKey  string
	BaseURL string // empty means DefaultBaseURL
	Model   string

	// Timeout bounds one request; empty means a minute. Limit says how long an
	// analysis may take.
	Timeout time.Duration
	// HTTPClient sends the requests; nil means one of the Analyzer's own.
	HTTPClient *http.Client

	ResponseFormat ResponseFormat // empty means JSONSchema
	Dialect        Dialect        // empty means OpenAI for openai.com, else Compatible

	// Redact masks personal data (package redact) before a text leaves for the
	// server, and puts it back into the answer.
	Redact bool
	// DefaultRegion is the country (ISO 3166, two letters) of phone numbers
	// without a country code; empty means analyze.DefaultRegion.
	DefaultRegion string
	// MaxOutputTokens caps an answer, a reasoning model's thoughts included; 0
	// means 8192. A cut-off answer is asked for once more with four times that.
	MaxOutputTokens int64
	// ContextTokens is the model's window: input and answer together; 0 means
	// DefaultContextTokens. Tokens are counted as OpenAI's newer models do
	// (o200k_base); for a model that takes more of them for the same text, say
	// less than its window.
	ContextTokens int
	// MaxInputTokens caps the input of one request below what the window allows;
	// 0 means that the window alone decides.
	MaxInputTokens int
	// Rules are the deployment's own.
	Rules Rules
	// Prices by model, over and above the known ones and those of Rules.
	Prices map[string]Price
	// Prompt is the system message in place of the built-in one, for trying
	// another: its results carry a version made from its text. Empty means the
	// built-in one.
	Prompt string
}

// DefaultContextTokens is the window of Options.ContextTokens.
const DefaultContextTokens = 128_000

// Analyzer implements analyze.Analyzer. It is safe for concurrent use.
type Analyzer struct {
	o        Options
	chat     sdk.ChatCompletionService
	common   *form            // of the default rules
	agents   map[string]*form // by agent id
	official bool             // the server is OpenAI's own: its prices hold
}

// form is what is asked of the model under one set of rules, and how its
// answer is read. It is made once.
type form struct {
	rules      Ruleset
	format     ResponseFormat
	region     string
	system     string
	version    string
	schema     *jsonschema.Schema
	schemaJSON []byte
	input      int // the tokens that a user message may have
}

var _ analyze.Resumer = (*Analyzer)(nil)

// New checks the options and makes the analyser; it does not call the server.
func New(o Options) (*Analyzer, error) {
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	base, err := url.Parse(o.BaseURL)
	official := err == nil && (base.Hostname() == "openai.com" || strings.HasSuffix(base.Hostname(), ".openai.com"))
	if o.ResponseFormat == "" {
		o.ResponseFormat = JSONSchema
	}
	if o.Dialect == "" {
		o.Dialect = Compatible
		if official {
			o.Dialect = OpenAI
		}
	}
	if o.Prompt == "" {
		o.Prompt = prompt
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.ContextTokens == 0 {
		o.ContextTokens = DefaultContextTokens
	}
	if o.MaxOutputTokens == 0 {
		o.MaxOutputTokens = int64(min(8192, o.ContextTokens/8))
	}
	// The caller's map is not written to, and what it says comes first.
	prices := maps.Clone(o.Rules.Prices)
	if prices == nil {
		prices = map[string]Price{}
	}
	maps.Copy(prices, o.Prices)
	o.Prices = prices
	switch {
	case o.APIKey == "":
		return nil, call.Errorf(call.Invalid, "the openai analyser needs an API key")
	case o.Model == "":
		return nil, call.Errorf(call.Invalid, "the openai analyser needs the name of a model")
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return nil, call.Errorf(call.Invalid, "the base URL of the openai analyser is not an http or https URL")
	case o.Timeout < 0 || o.MaxOutputTokens < 0 || o.ContextTokens < 0 || o.MaxInputTokens < 0:
		return nil, call.Errorf(call.Invalid, "the time-out and the token caps of the openai analyser cannot be negative")
	case o.ResponseFormat != JSONSchema && o.ResponseFormat != JSONObject && o.ResponseFormat != None:
		return nil, call.Errorf(call.Invalid, "the response format is json_schema, json_object or none")
	case o.Dialect != OpenAI && o.Dialect != Compatible:
		return nil, call.Errorf(call.Invalid, "the dialect is openai or compatible")
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: Transport()}
	}
	common, err := newForm(o, o.Rules.of(""))
	if err != nil {
		return nil, err
	}
	agents := make(map[string]*form, len(o.Rules.Agents))
	for id := range o.Rules.Agents {
		if agents[id], err = newForm(o, o.Rules.of(id)); err != nil {
			return nil, fmt.Errorf("the rules of agent %s: %w", id, err)
		}
	}
	return &Analyzer{
		o: o,
		// NewClient would read OPENAI_* from the environment and send an
		// organisation or headers that nobody configured here; the service takes
		// only these.
		chat: sdk.NewChatCompletionService(
			option.WithBaseURL(o.BaseURL),
			option.WithAPIKey(o.APIKey),
			option.WithHTTPClient(o.HTTPClient),
			option.WithMaxRetries(0),
			option.WithRequestTimeout(o.Timeout),
			option.WithMiddleware(limitBody),
		),
		common:   common,
		agents:   agents,
		official: official,
	}, nil
}

// Transport makes the transport that an Analyzer has by itself, for a client
// that does something more on the way.
func Transport() *http.Transport {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented by net/http
	transport.MaxIdleConnsPerHost = 64                           // as many as analyses may run at once
	return transport
}

func newForm(o Options, rules Ruleset) (*form, error) {
	f := &form{
		rules: rules, format: o.ResponseFormat, region: o.DefaultRegion,
		schema: answerSchema(rules), version: promptVersion(o, rules),
	}
	var err error
	if f.schemaJSON, err = json.Marshal(f.schema); err != nil {
		return nil, call.Errorf(call.Internal, "encoding the answer's schema: %w", err)
	}
	f.system = systemMessage(o, rules, f.schemaJSON)
	f.input, err = inputTokens(o, f)
	return f, err
}

// form is what holds for a conversation.
func (a *Analyzer) form(c *call.Conversation) *form {
	if f, ok := a.agents[c.AgentID]; ok {
		return f
	}
	return a.common
}

func unchanged(s string) string { return s }

// masks gives what hides one call's personal data from the server, and what
// shows it again.
func (a *Analyzer) masks() (hide, show func(string) string) {
	if !a.o.Redact {
		return unchanged, unchanged
	}
	var m redact.Map
	return m.Mask, m.Restore
}

// Probe asks the server for next to nothing, in the way that analyses ask, and
// so finds out whether it takes the key, the model and the settings. Errors are
// those of Analyze. It costs a few tokens: looking the model up would be free
// but says nothing of the account's quota, and not every server can.
func (a *Analyzer) Probe(ctx context.Context) error {
	_, err := a.ask(ctx, a.common, []sdk.ChatCompletionMessageParamUnion{
		sdk.UserMessage("This is a check of the connection. Answer with an empty JSON object."),
	}, probeTokens, "")
	if call.CodeOf(err) == call.Refused {
		return nil // it was understood
	}
	return err
}

// probeTokens caps the answer to a probe; reasoning models take no less.
const probeTokens = 16

// maxBody bounds a response: an answer within the token cap is far smaller,
// and a server gone mad must not fill the worker's memory.
const maxBody = 8 << 20

func limitBody(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	res, err := next(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxBody)
	}
	return res, err
}

// Name is "openai".
func (a *Analyzer) Name() string { return Name }

// timeouts is how many of Options.Timeout an attempt of Resume may take. One
// question needs MaxRequests of them at worst, and no other is asked when less
// than that is left.
const timeouts = 2 * MaxRequests

// Limit is the longest that Resume takes, whatever the call and the server: a
// job that was lost with its worker is not missed for longer.
func (a *Analyzer) Limit() time.Duration { return timeouts * a.o.Timeout }

// Longest is the longest that Analyze takes.
func (a *Analyzer) Longest() time.Duration {
	return MaxRequests * 2 * MaxParts * a.o.Timeout
}

// Requests is how many requests Analyze makes of a conversation, at least where
// it succeeds and at most; none for a call that is refused beforehand.
func (a *Analyzer) Requests(ctx context.Context, c *call.Conversation) (least, most int, err error) {
	if !c.Spoken() {
		return 0, 0, nil
	}
	hide, _ := a.masks()
	parts, err := a.run(c, hide).parts(ctx)
	switch n := len(parts); {
	case call.CodeOf(err) == call.Invalid: // too long
		return 0, 0, nil
	case err != nil:
		return 0, 0, err
	case n == 1:
		return 1, MaxRequests, nil
	default:
		// What makes one of two or more is there once less than they are.
		return n + 1, MaxRequests * (2*n - 1), nil
	}
}

// Analyze asks the model about a conversation. Usage adds up the requests it
// took; RequestID is the last one's.
func (a *Analyzer) Analyze(ctx context.Context, c *call.Conversation) (*call.Analysis, error) {
	return a.analyze(ctx, c, a.Longest(), nil)
}

// Resume is Analyze, but keeps the answers about a call in parts in m, takes
// those that are there already, and ends with analyze.ErrUnfinished when the
// next one might not come within Limit. Usage adds up all attempts' answers that
// counted, Duration is the last attempt's.
func (a *Analyzer) Resume(ctx context.Context, c *call.Conversation, m analyze.Memory) (*call.Analysis, error) {
	return a.analyze(ctx, c, a.Limit(), m)
}

func (a *Analyzer) analyze(ctx context.Context, c *call.Conversation, limit time.Duration, m analyze.Memory) (*call.Analysis, error) {
	began := time.Now()
	if !c.Spoken() {
		return nil, call.Errorf(call.Invalid, "nobody spoke in this call")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		fmt.Errorf("it took longer than %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	hide, show := a.masks()
	r := a.run(c, hide)
	r.memory, r.ends = m, began.Add(limit)
	d, err := r.draft(ctx)
	if err != nil {
		return nil, err
	}
	d.restore(show)
	if err := r.form.finish(c, d); err != nil {
		return nil, call.Errorf(call.Internal, "the model's answer could not be made a result (request %s): %w", r.analysis.RequestID, err)
	}
	r.analysis.Result = d.Result
	r.analysis.Usage.CostUSD = a.cost(r.analysis.Model, r.analysis.Usage)
	r.analysis.Duration = time.Since(began)
	return r.analysis, nil
}

// run is one analysis under way.
type run struct {
	a        *Analyzer
	form     *form
	facts    string // about the call, encoded
	lines    []line // its turns
	analysis *call.Analysis

	memory analyze.Memory // nil for none
	ends   time.Time      // when its time is used up
	asked  bool           // a question of a call in parts
}

func (a *Analyzer) run(c *call.Conversation, hide func(string) string) *run {
	f := a.form(c)
	return &run{
		a: a, form: f, facts: object(factsOf(c, hide)), lines: linesOf(c, hide),
		analysis: &call.Analysis{Analyzer: Name, PromptVersion: f.version},
	}
}

// ask has the model answer one user message in the form: once more with a
// larger cap if the answer was cut off, and once more if it breaks the form.
func (r *run) ask(ctx context.Context, message string) (*draft, error) {
	messages := []sdk.ChatCompletionMessageParamUnion{sdk.SystemMessage(r.form.system), sdk.UserMessage(message)}
	tokens := r.a.o.MaxOutputTokens
	widened, repaired := false, false
	for {
		reply, err := r.a.ask(ctx, r.form, messages, tokens, message)
		if err != nil {
			return nil, err
		}
		r.analysis.Model = reply.model
		r.analysis.RequestID = reply.requestID
		r.analysis.Usage.InputTokens += reply.usage.InputTokens
		r.analysis.Usage.CachedTokens += reply.usage.CachedTokens
		r.analysis.Usage.OutputTokens += reply.usage.OutputTokens

		if reply.cut {
			if widened {
				return nil, call.Errorf(call.Invalid, "the model's answer does not fit into %d tokens (request %s); ANALYZE_MAX_OUTPUT_TOKENS allows more", tokens, reply.requestID)
			}
			widened, tokens = true, wider(r.a.o)
			continue
		}
		d, fault := r.form.read(reply.text)
		if fault == nil {
			return d, nil
		}
		if repaired {
			return nil, call.Errorf(call.Internal, "the model's answer is not as asked, repair included (request %s): %w", reply.requestID, fault)
		}
		repaired = true
		messages = append(messages, sdk.AssistantMessage(shown(reply.text, shownTokens(r.a.o))), sdk.UserMessage(repairMessage(fault)))
	}
}
