// Package openaitest is an OpenAI server for tests: Chat Completions over real
// HTTP, with a script of good, bad and failing answers and a journal of what
// was asked.
//
// The server checks each request as the real one does (key, shape, the rules
// of strict schemas) and refuses a bad one with the real one's error bodies.
// What it answers to a good one is a Reply: Success builds an answer that fits
// Postcall's analyser from the transcript in the request; the others are the
// faults that a client must survive. When the test ends, what was answered is
// held against OpenAI's own description of its API as well (see Description).
package openaitest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Key is the API key that a Server takes unless WithKey sets another.
const Key = "sk-test-0000000000000000"

// Request is one request as the journal keeps it.
type Request struct {
	N      int // counted from 0
	Path   string
	Header http.Header
	Body   []byte
	Chat   Chat
	Began  time.Time // when its header was received; on Linux by the kernel, however busy the machine is
	Status int       // what was refused before a Reply ran; 0 when a Reply answered
}

// Chat is the part of a request's body that replies and tests look at.
type Chat struct {
	Model    string `json:"model"`
	Messages []struct {
		Role    string `json:"role"`
		Content any    `json:"content"`
	} `json:"messages"`
	ResponseFormat *struct {
		Type       string `json:"type"`
		JSONSchema *struct {
			Name   string          `json:"name"`
			Strict bool            `json:"strict"`
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
	Temperature         *float64 `json:"temperature"`
	MaxTokens           *int64   `json:"max_tokens"`
	MaxCompletionTokens *int64   `json:"max_completion_tokens"`
}

// Text gives the content of a message as text.
func (c Chat) Text(i int) string {
	s, _ := c.Messages[i].Content.(string)
	return s
}

// Server is a fake OpenAI server. Its methods may be called from any goroutine.
type Server struct {
	key     string
	reply   func(Request) Reply
	http    *httptest.Server
	closing chan struct{}

	mu      sync.Mutex
	script  []Reply
	journal []Request
	running int
	high    int
}

// Option sets up a Server.
type Option func(*Server)

// WithKey sets the API key that the server takes.
func WithKey(key string) Option { return func(s *Server) { s.key = key } }

// WithReplies scripts the first replies, one a request, in order. Afterwards
// the server answers as WithReply says.
func WithReplies(replies ...Reply) Option { return func(s *Server) { s.script = replies } }

// WithReply sets what decides on the reply to a request that the script does
// not cover. The default is Success for every request.
func WithReply(f func(Request) Reply) Option { return func(s *Server) { s.reply = f } }

// New starts a server on a local port. It is closed when the test ends; replies
// that still hang are released then.
func New(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s := &Server{key: Key, reply: func(Request) Reply { return Success() }, closing: make(chan struct{})}
	for _, o := range opts {
		o(s)
	}
	s.http = &httptest.Server{Listener: listen(tb), Config: &http.Server{
		Handler: http.HandlerFunc(s.serve),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}}
	s.http.Start()
	tb.Cleanup(func() {
		close(s.closing)
		s.http.CloseClientConnections()
		s.http.Close()
		if _, measuring := tb.(*testing.B); !measuring {
			s.hold(tb)
		}
	})
	return s
}

// URL is the base URL to give to a client: it ends in /v1.
func (s *Server) URL() string { return s.http.URL + "/v1" }

// Client is an HTTP client whose idle connections are closed with the server.
func (s *Server) Client() *http.Client { return s.http.Client() }

// Script appends replies for the next requests.
func (s *Server) Script(replies ...Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, replies...)
}

// Requests gives the journal so far, in the order in which the requests were
// read to their end, as N counts.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.journal)
}

// Arrivals gives when each request so far began, in that order.
func (s *Server) Arrivals() []time.Time {
	var list []time.Time
	for _, q := range s.Requests() {
		list = append(list, q.Began)
	}
	slices.SortFunc(list, time.Time.Compare)
	return list
}

// MaxConcurrent is the largest number of requests that were in the server at
// once.
func (s *Server) MaxConcurrent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.high
}

type connKey struct{}

// began is when a request came: by the kernel's clock where that is known, else
// by when its handler began.
func began(r *http.Request) time.Time {
	if conn, ok := r.Context().Value(connKey{}).(interface{ received() *time.Time }); ok {
		if at := conn.received(); at != nil {
			return *at
		}
	}
	return time.Now()
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	q := Request{Path: r.URL.Path, Header: r.Header.Clone(), Began: began(r)}
	s.mu.Lock()
	s.running++
	s.high = max(s.high, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
	}()

	var err error
	q.Body, err = io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	refusal := s.check(r, &q)

	s.mu.Lock()
	q.N = len(s.journal)
	if refusal != nil {
		q.Status = refusal.status
	}
	s.journal = append(s.journal, q)
	var reply Reply
	switch {
	case refusal != nil:
		reply = refusal.reply()
	case len(s.script) > 0:
		reply, s.script = s.script[0], s.script[1:]
	}
	s.mu.Unlock()
	if reply == nil {
		reply = s.reply(q)
	}

	w.Header().Set("x-request-id", RequestID(q.N))
	w.Header().Set("openai-version", "2020-10-01")
	reply(Exchange{w: w, r: r, Request: q, closing: s.closing})
}

// RequestID is the x-request-id that the server gives to its n-th request,
// counted from 0.
func RequestID(n int) string { return fmt.Sprintf("req_%032d", n) }

// fault is a request refused as the real server would.
type fault struct {
	status                  int
	message, kind, code, at string
}

func (f *fault) reply() Reply { return Error(f.status, f.kind, f.code, f.at, f.message) }

// check reads the request into q and finds what is wrong with it.
func (s *Server) check(r *http.Request, q *Request) *fault {
	bad := func(code, at, format string, args ...any) *fault {
		return &fault{http.StatusBadRequest, fmt.Sprintf(format, args...), "invalid_request_error", code, at}
	}
	switch key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); {
	case r.URL.Path != "/v1/chat/completions" || r.Method != http.MethodPost:
		return &fault{http.StatusNotFound, fmt.Sprintf("Invalid URL (%s %s)", r.Method, r.URL.Path), "invalid_request_error", "", ""}
	case !bearer || key == "":
		return &fault{http.StatusUnauthorized, "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).", "invalid_request_error", "", ""}
	case key != s.key:
		return wrongKey(key)
	case !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"):
		return bad("", "", "We could not parse the JSON body of your request: the Content-Type is not application/json.")
	}
	if err := json.Unmarshal(q.Body, &q.Chat); err != nil {
		return bad("", "", "We could not parse the JSON body of your request. (%s)", err)
	}
	chat := q.Chat
	switch {
	case chat.Model == "":
		return bad("missing_required_parameter", "model", "you must provide a model parameter")
	case len(chat.Messages) == 0:
		return bad("empty_array", "messages", "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	case chat.MaxTokens != nil && chat.MaxCompletionTokens != nil:
		return bad("invalid_parameter_combination", "max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	case chat.Temperature != nil && (*chat.Temperature < 0 || *chat.Temperature > 2):
		return bad("decimal_above_max_value", "temperature", "Invalid 'temperature': decimal above maximum value.")
	}
	if limit := cmp.Or(chat.MaxTokens, chat.MaxCompletionTokens); limit != nil && *limit < 1 {
		return bad("integer_below_min_value", "max_completion_tokens", "Invalid 'max_completion_tokens': integer below minimum value. Expected a value >= 1, but got %d instead.", *limit)
	}
	saysJSON := false
	for i, m := range chat.Messages {
		if !slices.Contains([]string{"system", "developer", "user", "assistant", "tool", "function"}, m.Role) {
			return bad("invalid_value", fmt.Sprintf("messages[%d].role", i), "Invalid value: '%s'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.", m.Role)
		}
		switch m.Content.(type) {
		case string, []any:
		default:
			return bad("invalid_type", fmt.Sprintf("messages[%d].content", i), "Invalid type for 'messages[%d].content': expected one of a string or array of objects.", i)
		}
		saysJSON = saysJSON || strings.Contains(strings.ToLower(chat.Text(i)), "json")
	}
	if f := chat.ResponseFormat; f != nil {
		switch f.Type {
		case "text":
		case "json_object":
			if !saysJSON {
				return bad("", "messages", "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
			}
		case "json_schema":
			if f.JSONSchema == nil || f.JSONSchema.Name == "" {
				return bad("missing_required_parameter", "response_format.json_schema.name", "Missing required parameter: 'response_format.json_schema.name'.")
			}
			if f.JSONSchema.Strict {
				if wrong := strictFault(f.JSONSchema.Schema); wrong != "" {
					return bad("invalid_json_schema", "response_format", "Invalid schema for response_format '%s': %s", f.JSONSchema.Name, wrong)
				}
			}
		default:
			return bad("invalid_value", "response_format.type", "Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', and 'text'.", f.Type)
		}
	}
	return nil
}

// strictFault finds what in a schema strict mode does not take.
func strictFault(raw json.RawMessage) string {
	var schema map[string]any
	if err := json.Unmarshal(raw, &schema); err != nil || schema["type"] != "object" {
		return `schema must be a JSON Schema of 'type: "object"'`
	}
	return walk(schema, "()")
}

// forbidden are keywords outside the documented subset of strict mode.
var forbidden = []string{
	"oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
	"unevaluatedProperties", "propertyNames", "minProperties", "maxProperties", "contains", "uniqueItems",
	"minLength", "maxLength", "default",
}

func walk(schema map[string]any, context string) string {
	for _, k := range forbidden {
		if _, found := schema[k]; found {
			return fmt.Sprintf("In context=%s, '%s' is not permitted.", context, k)
		}
	}
	if schema["type"] == "object" {
		properties, _ := schema["properties"].(map[string]any)
		if schema["additionalProperties"] != false {
			return fmt.Sprintf("In context=%s, 'additionalProperties' is required to be supplied and to be false.", context)
		}
		required, _ := schema["required"].([]any)
		for name, p := range properties {
			if !slices.Contains(required, any(name)) {
				return fmt.Sprintf("In context=%s, 'required' is required to be supplied and to be an array including every key in properties. Missing '%s'.", context, name)
			}
			inner, ok := p.(map[string]any)
			if !ok {
				return fmt.Sprintf("In context=%s, property '%s' is not a schema.", context, name)
			}
			if wrong := walk(inner, fmt.Sprintf("('properties', '%s')", name)); wrong != "" {
				return wrong
			}
		}
	}
	if schema["type"] == "array" {
		items, ok := schema["items"].(map[string]any)
		if !ok {
			return fmt.Sprintf("In context=%s, array schema missing items.", context)
		}
		return walk(items, context+" items")
	}
	if union, ok := schema["anyOf"].([]any); ok {
		for _, u := range union {
			inner, _ := u.(map[string]any)
			if wrong := walk(inner, context+" anyOf"); wrong != "" {
				return wrong
			}
		}
	} else if schema["type"] == nil {
		return fmt.Sprintf("In context=%s, schema must have a 'type' key.", context)
	}
	return ""
}
