package openaitest_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"postcall/pkg/openaitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func post(t *testing.T, s *openaitest.Server, key, body string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

const good = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`

func TestChecksOfRequests(t *testing.T) {
	t.Parallel()
	s := openaitest.New(t)
	strict := func(schema string) string {
		return `{"model":"m","messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":` + schema + `}}}`
	}
	for name, test := range map[string]struct {
		key, body string
		status    int
		text      string
	}{
		"good":               {openaitest.Key, good, 200, `"finish_reason":"stop"`},
		"good schema":        {openaitest.Key, strict(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}`), 200, ""},
		"no key":             {"", good, 401, "didn't provide"},
		"wrong key":          {"sk-wrong", good, 401, "invalid_api_key"},
		"no JSON":            {openaitest.Key, `{`, 400, "could not parse"},
		"no model":           {openaitest.Key, `{"messages":[{"role":"user","content":"hi"}]}`, 400, "model"},
		"no messages":        {openaitest.Key, `{"model":"m","messages":[]}`, 400, "empty_array"},
		"wrong role":         {openaitest.Key, `{"model":"m","messages":[{"role":"boss","content":"hi"}]}`, 400, "messages[0].role"},
		"no content":         {openaitest.Key, `{"model":"m","messages":[{"role":"user"}]}`, 400, "messages[0].content"},
		"temperature":        {openaitest.Key, `{"model":"m","temperature":9,"messages":[{"role":"user","content":"hi"}]}`, 400, "temperature"},
		"both caps":          {openaitest.Key, `{"model":"m","max_tokens":1,"max_completion_tokens":1,"messages":[{"role":"user","content":"hi"}]}`, 400, "same time"},
		"no cap":             {openaitest.Key, `{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"hi"}]}`, 400, "minimum"},
		"unknown format":     {openaitest.Key, `{"model":"m","response_format":{"type":"xml"},"messages":[{"role":"user","content":"hi"}]}`, 400, "Supported values"},
		"json without json":  {openaitest.Key, `{"model":"m","response_format":{"type":"json_object"},"messages":[{"role":"user","content":"hi"}]}`, 400, "must contain the word"},
		"schema: open":       {openaitest.Key, strict(`{"type":"object","properties":{}}`), 400, "additionalProperties"},
		"schema: optional":   {openaitest.Key, strict(`{"type":"object","properties":{"a":{"type":"string"}},"required":[],"additionalProperties":false}`), 400, "Missing 'a'"},
		"schema: oneOf":      {openaitest.Key, strict(`{"type":"object","properties":{"a":{"oneOf":[]}},"required":["a"],"additionalProperties":false}`), 400, "'oneOf' is not permitted"},
		"schema: maxLength":  {openaitest.Key, strict(`{"type":"object","properties":{"a":{"type":"string","maxLength":1}},"required":["a"],"additionalProperties":false}`), 400, "'maxLength' is not permitted"},
		"schema: no objects": {openaitest.Key, strict(`{"type":"string"}`), 400, "object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, header, body := post(t, s, test.key, test.body)
			if status != test.status || !strings.Contains(body, test.text) || header.Get("X-Request-Id") == "" {
				t.Errorf("%d %v %s", status, header, body)
			}
			if !json.Valid([]byte(body)) {
				t.Errorf("not JSON: %s", body)
			}
		})
	}
}

func TestScriptAndJournal(t *testing.T) {
	t.Parallel()
	s := openaitest.New(t,
		openaitest.WithKey("k"),
		openaitest.WithReplies(openaitest.ServerError(500)),
		openaitest.WithReply(func(q openaitest.Request) openaitest.Reply {
			if q.N == 2 {
				return openaitest.InsufficientQuota()
			}
			return openaitest.Success()
		}))
	s.Script(openaitest.ServerError(503))
	for i, want := range []int{500, 503, 429, 200} {
		if got, _, body := post(t, s, "k", good); got != want {
			t.Errorf("request %d: %d, not %d: %s", i, got, want, body)
		}
	}
	if got := len(s.Requests()); got != 4 {
		t.Errorf("%d requests are in the journal", got)
	}
}

func TestMaxConcurrent(t *testing.T) {
	t.Parallel()
	const n = 3
	var arrived, done sync.WaitGroup
	arrived.Add(n)
	all := make(chan struct{})
	s := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		return openaitest.When(all, openaitest.Success())
	}))
	s.Script(waiting(&arrived, all, n)...)
	for range n {
		done.Go(func() { post(t, s, openaitest.Key, good) })
	}
	arrived.Wait()
	close(all)
	done.Wait()
	if got := s.MaxConcurrent(); got != n {
		t.Errorf("%d at once, not %d", got, n)
	}
}

func waiting(arrived *sync.WaitGroup, all <-chan struct{}, n int) []openaitest.Reply {
	replies := make([]openaitest.Reply, n)
	for i := range replies {
		replies[i] = func(x openaitest.Exchange) {
			arrived.Done()
			openaitest.When(all, openaitest.Success())(x)
		}
	}
	return replies
}

// TestDescriptionBites shows that holding requests against OpenAI's own
// description finds what is wrong with them.
func TestDescriptionBites(t *testing.T) {
	t.Parallel()
	schema, err := openaitest.Description()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for body, fine := range map[string]bool{
		good:            true,
		`{}`:            false,
		`{"model":"m"}`: false,
		`{"model":"m","messages":[{"role":"boss","content":"hi"}]}`:                                                           false,
		`{"model":"m","temperature":9,"messages":[{"role":"user","content":"hi"}]}`:                                           false,
		`{"model":"m","messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema","json_schema":{}}}`: false,
	} {
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); (err == nil) != fine {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A file that is named and is not there must not pass for a description that
// nobody has.
func TestDescriptionThatIsNamedMustBeThere(t *testing.T) {
	t.Parallel()
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDescriptionBites$", "-test.v") //nolint:gosec // this test
	again.Env = append(os.Environ(), openaitest.DescriptionEnv+"="+filepath.Join(t.TempDir(), "none.json"))
	if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "none.json") {
		t.Errorf("it ended with %v: %s", err, out)
	}
}

// The journal says when each request came, in their order.
func TestArrivals(t *testing.T) {
	t.Parallel()
	server := openaitest.New(t)
	var between [][2]time.Time
	for range 3 {
		before := time.Now()
		post(t, server, openaitest.Key, "{}")
		between = append(between, [2]time.Time{before, time.Now()})
	}
	arrivals := server.Arrivals()
	if len(arrivals) != len(between) {
		t.Fatalf("%d requests came", len(arrivals))
	}
	for n, at := range arrivals {
		// The kernel counts in the same clock, but without its monotonic part.
		if at.Before(between[n][0].Round(0)) || at.After(between[n][1].Round(0)) {
			t.Errorf("request %d came at %s, not between %s and %s", n, at, between[n][0], between[n][1])
		}
	}
}
