// Package elevenlabstest is ElevenLabs' API for tests: conversations, their
// recordings and webhooks over HTTP, in the documented shapes, with faults.
package elevenlabstest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Key is the one that the server takes.
const Key = "sk_test_elevenlabs"

// Call is a conversation that took place.
type Call struct {
	ID, Agent string
	Start     time.Time
	Duration  time.Duration
	Status    string // empty for done
	// Data is the body of GET …/conversations/ID, the `data` of the webhook.
	Data []byte
	// Sound is the recording; nil for none.
	Sound []byte
}

// Fault is what the server does instead of answering.
type Fault struct {
	Status     int           // 0 cuts the connection
	RetryAfter time.Duration // with it, unless 0
}

// Server is the API.
type Server struct {
	// Webhooks and PostCall are the workspace's settings, as JSON values.
	Webhooks []map[string]any
	PostCall string
	// Skew is how far its clock is off.
	Skew time.Duration

	http *httptest.Server

	mu     sync.Mutex
	calls  []Call
	faults []Fault
	log    []string
	most   int // requests at once
	now    int
	hook   func(path string)
}

// New starts a server, which ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{Webhooks: []map[string]any{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/convai/conversations", s.list)
	mux.HandleFunc("GET /v1/convai/conversations/{id}", s.one)
	mux.HandleFunc("GET /v1/convai/conversations/{id}/audio", s.sound)
	mux.HandleFunc("GET /v1/workspace/webhooks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"webhooks": s.Webhooks})
	})
	mux.HandleFunc("GET /v1/convai/settings", func(w http.ResponseWriter, _ *http.Request) {
		hook := any(nil)
		if s.PostCall != "" {
			hook = s.PostCall
		}
		answer(w, map[string]any{"webhooks": map[string]any{"post_call_webhook_id": hook, "send_audio": false}})
	})
	s.http = httptest.NewServer(s.guarded(mux))
	tb.Cleanup(s.http.Close)
	return s
}

// URL is its base URL.
func (s *Server) URL() string { return s.http.URL }

// Add adds calls that took place.
func (s *Server) Add(calls ...Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, calls...)
}

// Fail makes the next requests meet faults, each one.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// OnRequest is called before each answer with the request's path.
func (s *Server) OnRequest(hook func(path string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Requests are the paths that were asked for so far, with their queries, and
// how many at once at most.
func (s *Server) Requests() (paths []string, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log), s.most
}

func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.URL.RequestURI())
		s.now++
		s.most = max(s.most, s.now)
		hook := s.hook
		var fault *Fault
		if len(s.faults) > 0 {
			fault, s.faults = &s.faults[0], s.faults[1:]
		}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			s.now--
			s.mu.Unlock()
		}()
		if hook != nil {
			hook(r.URL.Path)
		}
		w.Header().Set("Date", time.Now().Add(s.Skew).UTC().Format(http.TimeFormat))
		switch {
		case fault != nil && fault.Status == 0:
			panic(http.ErrAbortHandler)
		case fault != nil:
			if fault.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter.Seconds())))
			}
			refuse(w, fault.Status, "a fault")
		case r.Header.Get("xi-api-key") != Key:
			refuse(w, http.StatusUnauthorized, "invalid_api_key")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func refuse(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"detail": map[string]string{"status": detail, "message": detail}}) // the client may have gone
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

// list answers with a page. A cursor names the last call of the page before, so
// that calls which come meanwhile neither repeat nor hide others.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	size, err := strconv.Atoi(q.Get("page_size"))
	if err != nil || size < 1 || size > 100 {
		refuse(w, http.StatusUnprocessableEntity, "page_size")
		return
	}
	bound := func(name string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(q.Get(name), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	after, before := bound("call_start_after_unix", 0), bound("call_start_before_unix", 1<<60)
	s.mu.Lock()
	calls := slices.Clone(s.calls)
	s.mu.Unlock()
	calls = slices.DeleteFunc(calls, func(c Call) bool {
		return c.Start.Unix() < after || c.Start.Unix() > before || q.Get("agent_id") != "" && c.Agent != q.Get("agent_id")
	})
	slices.SortStableFunc(calls, func(a, b Call) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	if q.Get("sort_direction") != "asc" {
		slices.Reverse(calls)
	}
	if cursor := q.Get("cursor"); cursor != "" {
		last, err := base64.URLEncoding.DecodeString(cursor)
		at := slices.IndexFunc(calls, func(c Call) bool { return c.ID == string(last) })
		if err != nil || at < 0 {
			refuse(w, http.StatusUnprocessableEntity, "cursor")
			return
		}
		calls = calls[at+1:]
	}
	more := len(calls) > size
	calls = calls[:min(size, len(calls))]
	list := make([]map[string]any, len(calls))
	for i, c := range calls {
		list[i] = map[string]any{
			"agent_id": c.Agent, "conversation_id": c.ID, "agent_name": "Agent", "start_time_unix_secs": c.Start.Unix(),
			"call_duration_secs": int(c.Duration.Seconds()), "message_count": 4, "status": c.status(), "call_successful": "success",
		}
	}
	next := any(nil)
	if more {
		next = base64.URLEncoding.EncodeToString([]byte(calls[len(calls)-1].ID))
	}
	answer(w, map[string]any{"conversations": list, "next_cursor": next, "has_more": more})
}

func (c Call) status() string {
	if c.Status == "" {
		return "done"
	}
	return c.Status
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) (Call, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.calls, func(c Call) bool { return c.ID == r.PathValue("id") })
	if i < 0 {
		refuse(w, http.StatusNotFound, "no conversation "+r.PathValue("id"))
		return Call{}, false
	}
	return s.calls[i], true
}

func (s *Server) one(w http.ResponseWriter, r *http.Request) {
	if c, ok := s.find(w, r); ok {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(c.Data) // the client may have gone
	}
}

func (s *Server) sound(w http.ResponseWriter, r *http.Request) {
	c, ok := s.find(w, r)
	if !ok {
		return
	}
	if c.Sound == nil {
		refuse(w, http.StatusNotFound, "no audio")
		return
	}
	w.Header().Set("Content-Type", "audio/mpeg")
	_, _ = w.Write(c.Sound) // the client may have gone
}
