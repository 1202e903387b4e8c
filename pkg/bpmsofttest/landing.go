package bpmsofttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// LandingPath is where the landing service lies on a .NET Framework stand.
const LandingPath = "/0/ServiceModel/GeneratedObjectWebFormService.svc/SaveWebFormObjectData"

// LandingOptions say what kind of stand it is.
type LandingOptions struct {
	ID     string // the landing's GUID
	Domain string // registered on the landing; the Referer must begin with it
	// Columns are what the landing's object has; others are skipped in silence.
	// Empty for any.
	Columns []string
	// UnquotedKeys answers as older versions do.
	UnquotedKeys bool
	// Async takes what has contact fields and works it later: its leads are there
	// after Settle.
	Async bool
	// User and Password, if any, are asked for by basic authentication.
	User, Password string
}

// Lead is a record: what was sent last under its Id.
type Lead struct {
	ID      string
	Fields  map[string]string
	Contact map[string]string
	Saves   int // how often it was sent
}

// LandingServer is BPMSoft's landing service.
type LandingServer struct {
	options LandingOptions
	http    *httptest.Server

	mu     sync.Mutex
	leads  map[string]*Lead
	later  []func() // what an asynchronous stand has taken
	asked  int
	fault  func(n int) *Fault
	silent chan struct{}
}

// NewLanding starts a landing service that ends with the test.
func NewLanding(tb testing.TB, o LandingOptions) *LandingServer {
	tb.Helper()
	s := &LandingServer{options: o, leads: map[string]*Lead{}}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	tb.Cleanup(func() {
		s.Answer()
		s.http.Close()
	})
	return s
}

// URL is the service's whole address.
func (s *LandingServer) URL() string { return s.http.URL + LandingPath }

// Close takes the server off the network.
func (s *LandingServer) Close() { s.http.Close() }

// Requests is how many requests came.
func (s *LandingServer) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Leads gives the records, sorted by their Id.
func (s *LandingServer) Leads() []Lead {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Lead, 0, len(s.leads))
	for _, l := range s.leads {
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b Lead) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Settle lets an asynchronous stand work what it has taken.
func (s *LandingServer) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.later {
		f()
	}
	s.later = nil
}

// Fail asks f about each request, counted from 1; nil lets it pass.
func (s *LandingServer) Fail(f func(n int) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Silence makes the server do its work and not answer, until Answer.
func (s *LandingServer) Silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent == nil {
		s.silent = make(chan struct{})
	}
}

// Answer ends Silence.
func (s *LandingServer) Answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent != nil {
		close(s.silent)
		s.silent = nil
	}
}

// Refusal is the answer to a lead that is refused: HTTP 200, code -1, and a
// message in the stand's language.
func (s *LandingServer) Refusal(message string) *Fault {
	return &Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}, Body: s.reply(-1, message)}
}

func (s *LandingServer) reply(code int, message string) string {
	quoted, err := json.Marshal(message)
	if err != nil {
		panic(err) // a text always encodes
	}
	inner := `{"resultMessage":` + string(quoted) + `,"resultCode":` + strconv.Itoa(code) + `}`
	if s.options.UnquotedKeys {
		inner = `{resultMessage:` + string(quoted) + `,resultCode:` + strconv.Itoa(code) + `}`
	}
	outer, err := json.Marshal(map[string]string{"SaveWebFormObjectDataResult": inner})
	if err != nil {
		panic(err)
	}
	return string(outer)
}

type pair struct {
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

func (s *LandingServer) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	s.asked++
	var fault *Fault
	if s.fault != nil {
		fault = s.fault(s.asked)
	}
	var status int
	var answer string
	if fault == nil || fault.Done {
		status, answer = s.save(r, body)
	}
	silent := s.silent
	s.mu.Unlock()
	if fault != nil && fault.Silent {
		<-r.Context().Done()
		return
	}
	if silent != nil {
		select {
		case <-silent:
		case <-r.Context().Done():
		}
		return
	}
	if fault != nil {
		for name, values := range fault.Header {
			w.Header()[name] = values
		}
		status, answer = fault.Status, fault.Body
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.WriteHeader(status)
	if _, err := io.WriteString(w, answer); err != nil {
		return // the client has gone
	}
}

// save does what the service does with a request. The caller holds mu.
func (s *LandingServer) save(r *http.Request, body []byte) (status int, answer string) {
	if s.options.User != "" {
		user, password, ok := r.BasicAuth()
		if !ok || user != s.options.User || password != s.options.Password {
			return http.StatusUnauthorized, "<html>401</html>"
		}
	}
	if r.URL.Path != LandingPath {
		return http.StatusNotFound, "<html>404</html>"
	}
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, "<html>405</html>"
	}
	var q struct {
		FormData struct {
			FormID  string `json:"formId"`
			Fields  []pair `json:"formFieldsData"`
			Contact []pair `json:"contactFieldsData"`
		} `json:"formData"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return http.StatusBadRequest, fmt.Sprintf(`{"error":%q}`, "the request is no JSON")
	}
	if q.FormData.FormID != s.options.ID {
		return http.StatusOK, `{"SaveWebFormObjectDataResult":""}`
	}
	referer, err := url.Parse(r.Referer())
	if err != nil || referer.Host == "" || !strings.HasPrefix(referer.Scheme+"://"+referer.Host, s.options.Domain) {
		return http.StatusOK, s.reply(-1, "Домен не зарегистрирован на лендинге")
	}
	fields, ok := values(q.FormData.Fields, s.options.Columns)
	contact, okContact := values(q.FormData.Contact, nil)
	if !ok || !okContact {
		return http.StatusOK, s.reply(-1, "Значение поля должно быть строкой")
	}
	id := fields["Id"]
	if _, err := uuid.Parse(id); err != nil {
		id = uuid.NewString() // without a key of its own each save is a new record
	}
	work := func() {
		lead := s.leads[id]
		if lead == nil {
			lead = &Lead{ID: id}
			s.leads[id] = lead
		}
		lead.Fields, lead.Contact = fields, contact
		lead.Saves++
	}
	if s.options.Async && len(contact) > 0 {
		s.later = append(s.later, work)
	} else {
		work()
	}
	return http.StatusOK, s.reply(0, "")
}

// values reads pairs; empty ones and unknown columns are skipped in silence.
func values(pairs []pair, known []string) (map[string]string, bool) {
	m := map[string]string{}
	for _, p := range pairs {
		if p.Value == nil {
			return nil, false
		}
		if *p.Value == "" || known != nil && p.Name != "Id" && !slices.Contains(known, p.Name) {
			continue
		}
		m[p.Name] = *p.Value
	}
	return m, true
}
