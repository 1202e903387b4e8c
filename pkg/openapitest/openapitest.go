// Package openapitest holds an HTTP API to its OpenAPI description: every
// answer that passes through a Contract must be one that the description has,
// with a body of the form that stands there. Of application/jsonl, the schema
// is that of each line.
package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// Contract is a description that answers are held against. It is safe for
// concurrent use.
type Contract struct {
	tb        testing.TB
	validator validator.Validator
	list      []Operation
	patterns  []*regexp.Regexp // of the operations' paths

	mu   sync.Mutex
	seen map[string]bool
}

// Operation is a method on a path, as the description has it.
type Operation struct {
	Method   string
	Path     string // with {parameters}
	Statuses []string
	// Open: it needs no security scheme.
	Open bool
}

// New reads a description, which must itself be valid OpenAPI.
func New(tb testing.TB, description []byte) *Contract {
	tb.Helper()
	document, err := libopenapi.NewDocument(description)
	if err != nil {
		tb.Fatalf("the description cannot be read: %v", err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		tb.Fatalf("the description is not OpenAPI 3: %v", err)
	}
	c := &Contract{tb: tb, seen: map[string]bool{}}
	var errs []error
	if c.validator, errs = validator.NewValidator(document); len(errs) > 0 {
		tb.Fatalf("the description cannot be used: %v", errs)
	}
	if ok, wrong := c.validator.ValidateDocument(); !ok {
		for _, e := range wrong {
			tb.Errorf("the description: %s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, operation := range item.GetOperations().FromOldest() {
			c.add(strings.ToUpper(method), path, operation)
			c.examples(strings.ToUpper(method), path, operation)
		}
	}
	return c
}

// examples holds the description's own examples against it.
func (c *Contract) examples(method, path string, operation *v3.Operation) {
	c.tb.Helper()
	for status, answer := range operation.Responses.Codes.FromOldest() {
		for kind, media := range answer.Content.FromOldest() {
			for name, example := range media.Examples.FromOldest() {
				what := fmt.Sprintf("the example %s of %s %s %s", name, method, path, status)
				var v any
				code, err := strconv.Atoi(status)
				if err == nil {
					err = example.Value.Decode(&v)
				}
				var body []byte
				if err == nil {
					body, err = json.Marshal(v)
				}
				var r *http.Request
				if err == nil {
					r, err = http.NewRequestWithContext(c.tb.Context(), method, "http://127.0.0.1"+parameterName.ReplaceAllString(path, "1"), nil)
				}
				if err != nil {
					c.tb.Errorf("%s cannot be read: %v", what, err)
					continue
				}
				c.form(what, r, &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {kind}}}, body)
			}
		}
	}
}

var parameterName = regexp.MustCompile(`\{[^}]*\}`)

var parameter = regexp.MustCompile(`\\\{[^}]*\\\}`)

func (c *Contract) add(method, path string, operation *v3.Operation) {
	o := Operation{Method: method, Path: path, Open: operation.Security != nil && len(operation.Security) == 0}
	for status := range operation.Responses.Codes.KeysFromOldest() {
		o.Statuses = append(o.Statuses, status)
	}
	c.list = append(c.list, o)
	c.patterns = append(c.patterns, regexp.MustCompile("^"+parameter.ReplaceAllString(regexp.QuoteMeta(path), `[^/]+`)+"$"))
}

// Operations are those of the description, in its order.
func (c *Contract) Operations() []Operation { return slices.Clone(c.list) }

// Client sends requests over a transport and checks each answer. A streamed
// answer is read to its end first.
func (c *Contract) Client(over http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport{c, over}}
}

type transport struct {
	*Contract
	over http.RoundTripper
}

// RoundTrip sends a request and checks its answer.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.over.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if cerr := response.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	t.Check(r, response, body)
	return response, nil
}

// Check holds an answer against the description. The body is the response's,
// which is left readable.
func (c *Contract) Check(r *http.Request, response *http.Response, body []byte) {
	c.tb.Helper()
	what := fmt.Sprintf("%s %s answered %d", r.Method, r.URL, response.StatusCode)
	operation, ok := c.operation(r.Method, r.URL.Path)
	if !ok {
		c.tb.Errorf("%s: the description has no such operation", what)
		return
	}
	status := strconv.Itoa(response.StatusCode)
	if !slices.Contains(operation.Statuses, status) {
		c.tb.Errorf("%s: the description does not have that status: %.300s", what, body)
		return
	}
	c.mu.Lock()
	c.seen[operation.Method+" "+operation.Path+" "+status] = true
	c.mu.Unlock()
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); kind != "application/jsonl" {
		c.form(what, r, response, body)
		return
	}
	for line := range bytes.Lines(body) {
		c.form(what, r, response, line)
	}
}

// form checks a body, or a line of one that has a document on each.
func (c *Contract) form(what string, r *http.Request, response *http.Response, body []byte) {
	c.tb.Helper()
	checked := *response
	checked.Body = io.NopCloser(bytes.NewReader(body))
	if ok, wrong := c.validator.ValidateHttpResponse(r, &checked); !ok {
		for _, e := range wrong {
			c.tb.Errorf("%s: %s: %s", what, e.Message, e.Reason)
			for _, s := range e.SchemaValidationErrors {
				c.tb.Errorf("  %s at %s", s.Reason, s.FieldPath)
			}
		}
		c.tb.Logf("the body: %.1000s", body)
	}
}

func (c *Contract) operation(method, path string) (Operation, bool) {
	// A path that is written out comes before one with parameters.
	for _, exact := range []bool{true, false} {
		for i, o := range c.list {
			if o.Method == method && (o.Path == path || !exact && c.patterns[i].MatchString(path)) {
				return o, true
			}
		}
	}
	return Operation{}, false
}

// Unseen are the answers of the description that none was yet: each as method,
// path and status.
func (c *Contract) Unseen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, o := range c.list {
		for _, status := range o.Statuses {
			if answer := o.Method + " " + o.Path + " " + status; !c.seen[answer] {
				list = append(list, answer)
			}
		}
	}
	return list
}
