package openapitest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"postcall/pkg/openapitest"
)

// recorder takes down what a Contract finds wrong.
type recorder struct {
	testing.TB
	wrong []string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

const description = `
openapi: 3.1.0
info: {title: Things, version: "1"}
paths:
  /things/{id}:
    get:
      responses:
        "200":
          description: a thing
          content:
            application/json:
              schema: {$ref: "#/components/schemas/Thing"}
              examples: {one: {value: {name: EXAMPLE}}}
        "404": {description: none}
  /things/all:
    get:
      responses:
        "200":
          description: lines
          content: {application/jsonl: {schema: {$ref: "#/components/schemas/Thing"}}}
components:
  schemas:
    Thing: {type: object, required: [name], additionalProperties: false, properties: {name: {type: [string, "null"]}}}
`

// answers is a server that says what the test wants.
type answers struct {
	status     int
	kind, body string
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: http.Header{"Content-Type": {a.kind}}, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

func TestContract(t *testing.T) {
	t.Parallel()
	const kind = "application/json"
	for name, test := range map[string]struct {
		path   string
		answer answers
		wrong  string // empty for nothing
	}{
		"as described":        {"/things/1", answers{200, kind, `{"name": "x"}`}, ""},
		"null as described":   {"/things/1", answers{200, kind, `{"name": null}`}, ""},
		"a field too many":    {"/things/1", answers{200, kind, `{"name": "x", "age": 1}`}, "age"},
		"a field too few":     {"/things/1", answers{200, kind, `{}`}, "name"},
		"another type":        {"/things/1", answers{200, kind, `{"name": 1}`}, "number"},
		"no JSON":             {"/things/1", answers{200, kind, `<p>`}, "200"},
		"another form":        {"/things/1", answers{200, "text/html", `<p>`}, "text/html"},
		"another status":      {"/things/1", answers{500, kind, `{}`}, "500"},
		"another path":        {"/thing/1", answers{200, kind, `{}`}, "no such operation"},
		"lines":               {"/things/all", answers{200, "application/jsonl", "{\"name\": \"x\"}\n{\"name\": \"y\"}\n"}, ""},
		"no lines":            {"/things/all", answers{200, "application/jsonl", ""}, ""},
		"a line that is none": {"/things/all", answers{200, "application/jsonl", "{\"name\": \"x\"}\n{}\n"}, "name"},
	} {
		r := &recorder{TB: t}
		c := openapitest.New(r, []byte(description))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Client(test.answer).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != test.answer.body {
			t.Errorf("%s: the body became %q, %v", name, body, err)
		}
		response.Body.Close()
		if got := strings.Join(r.wrong, "; "); (test.wrong == "") != (got == "") || !strings.Contains(got, test.wrong) {
			t.Errorf("%s: found wrong is %q, want %q", name, got, test.wrong)
		}
	}
	r := &recorder{TB: t}
	c := openapitest.New(r, []byte(description))
	if unseen := c.Unseen(); len(unseen) != 3 || len(c.Operations()) != 2 {
		t.Errorf("unseen %q of %v", unseen, c.Operations())
	}
	openapitest.New(r, []byte(strings.ReplaceAll(description, "EXAMPLE", "[1]")))
	if len(r.wrong) == 0 {
		t.Error("an example that is not as described was taken")
	}
}
