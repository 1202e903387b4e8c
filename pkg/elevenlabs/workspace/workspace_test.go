package workspace_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs/workspace"
	"postcall/pkg/elevenlabstest"
)

func client(t *testing.T, url, key string) *workspace.Client {
	t.Helper()
	c, err := workspace.New(workspace.Options{BaseURL: url, Key: key, PerSecond: 1000, Attempts: 3})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Pages give every call of the window once, the oldest first, whatever its id
// looks like.
func TestPages(t *testing.T) {
	t.Parallel()
	s := elevenlabstest.New(t)
	now := time.Now().Truncate(time.Second)
	const calls = 250
	for n := range calls {
		s.Add(elevenlabstest.Call{ID: strings.Repeat("ü /%", n%3) + time.Duration(n).String(), Agent: "a/" + string(rune('a'+n%2)), Start: now.Add(-time.Duration(n) * time.Minute), Duration: time.Minute, Data: []byte(`{"n": 1}`)})
	}
	c := client(t, s.URL()+"/", elevenlabstest.Key)
	for agent, want := range map[string]int{"": calls, "a/b": calls / 2, "nobody": 0} {
		seen := map[string]bool{}
		q := workspace.Query{Since: now.Add(-24 * time.Hour), Until: now.Add(time.Hour), AgentID: agent}
		var last time.Time
		for {
			p, err := c.Conversations(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range p.Conversations {
				if seen[one.ID] || one.Started().Before(last) || !one.Over() || !one.Ended().Equal(one.Started().Add(time.Minute)) {
					t.Fatalf("%+v", one)
				}
				seen[one.ID], last = true, one.Started()
				if len(seen)%100 == 1 {
					if data, err := c.Conversation(t.Context(), one.ID); err != nil || string(data) != `{"n": 1}` {
						t.Errorf("%q: %s, %v", one.ID, data, err)
					}
				}
			}
			if !p.More {
				break
			}
			q.Cursor = p.Next
		}
		if len(seen) != want {
			t.Errorf("%d calls of %q, want %d", len(seen), agent, want)
		}
	}
	q := workspace.Query{Since: now, Until: now, Cursor: "no place"}
	if _, err := c.Conversations(t.Context(), q); call.CodeOf(err) != call.Invalid {
		t.Errorf("a place that is not known: %v", err)
	}
}

// Faults of the way and of the server are tried again, politely; what stays is
// told by its code, without the key and without what the server said.
func TestFaults(t *testing.T) {
	t.Parallel()
	const secret = "what the server said"
	for name, test := range map[string]struct {
		answers []func(http.ResponseWriter)
		want    call.Code // empty for an answer
		asked   int
		waits   time.Duration
	}{
		"an answer":         {nil, "", 1, 0},
		"a fault":           {[]func(http.ResponseWriter){status(503)}, "", 2, 0},
		"cut off":           {[]func(http.ResponseWriter){cut, cut}, "", 3, 0},
		"faults":            {[]func(http.ResponseWriter){status(500), status(502), status(503)}, call.Unavailable, 3, 0},
		"cut off always":    {[]func(http.ResponseWriter){cut, cut, cut}, call.Unavailable, 3, 0},
		"too many requests": {[]func(http.ResponseWriter){later}, "", 2, time.Second},
		"always too many":   {[]func(http.ResponseWriter){later, later, later}, call.RateLimited, 3, 2 * time.Second},
		"a wrong key":       {[]func(http.ResponseWriter){status(401)}, call.Credentials, 1, 0},
		"no right":          {[]func(http.ResponseWriter){status(403)}, call.Credentials, 1, 0},
		"gone":              {[]func(http.ResponseWriter){status(404)}, call.NotFound, 1, 0},
		"not understood":    {[]func(http.ResponseWriter){status(422)}, call.Invalid, 1, 0},
		"sent elsewhere": {[]func(http.ResponseWriter){func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		}}, call.Invalid, 1, 0},
		"half an answer": {[]func(http.ResponseWriter){func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"conversations": [`+secret) }}, call.Unavailable, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("xi-api-key") != "sk_secret" {
					t.Error("asked without the key")
				}
				if n := int(requests.Add(1)); n <= len(test.answers) {
					test.answers[n-1](w)
				}
				_, _ = io.WriteString(w, `{"conversations": [], "has_more": false}`)
			}))
			defer s.Close()
			began := time.Now()
			_, err := client(t, s.URL, "sk_secret").Conversations(t.Context(), workspace.Query{})
			switch {
			case test.want == "" && err != nil, test.want != "" && (err == nil || call.CodeOf(err) != test.want):
				t.Errorf("%v, want %q", err, test.want)
			case err != nil && (strings.Contains(err.Error(), "sk_secret") || strings.Contains(err.Error(), secret)):
				t.Errorf("it tells: %v", err)
			}
			asked := int(requests.Load())
			if asked != test.asked || time.Since(began) < test.waits {
				t.Errorf("asked %d times within %s, want %d and %s", asked, time.Since(began), test.asked, test.waits)
			}
		})
	}
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func later(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusTooManyRequests)
}

func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// Whatever an API answers, reading it neither fails in another way than by an
// error nor gives times that cannot be stored.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"conversations": [{"agent_id": "a", "conversation_id": "c", "start_time_unix_secs": 1795000000, "call_duration_secs": 12, "message_count": 4, "status": "done"}], "next_cursor": null, "has_more": false}`))
	f.Add([]byte(`{"conversations": [{"start_time_unix_secs": 1e300, "call_duration_secs": -1e300}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var p workspace.Page
		if json.Unmarshal(body, &p) != nil {
			return
		}
		for _, c := range p.Conversations {
			for _, at := range []time.Time{c.Started(), c.Ended()} {
				if y := at.Year(); y < 1970 || y > 9999 {
					t.Errorf("%+v is at %s", c, at)
				}
			}
		}
	})
}
