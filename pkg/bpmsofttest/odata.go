// Package bpmsofttest is a BPMSoft for tests, over real HTTP and by the
// server's real rules: its OData service with the login before it, and its
// landing service.
package bpmsofttest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The account that an OData server knows.
const (
	User     = "postcall-robot"
	Password = "s3cret «пароль»"
)

// Operation is what a request to an OData server is about.
type Operation string

// The operations.
const (
	Login   Operation = "login"
	Search  Operation = "search"  // GET ContactCommunication
	List    Operation = "list"    // GET Activity
	Read    Operation = "read"    // GET Activity(id)
	Create  Operation = "create"  // POST Activity
	Update  Operation = "update"  // PATCH Activity(id)
	Landing Operation = "landing" // GET GeneratedWebForm(id)
	Other   Operation = "other"
)

// Fault is something that goes wrong with one request.
type Fault struct {
	// Done says that the server does its work all the same, before the fault.
	Done   bool
	Silent bool // no answer, until the client leaves (the landing service alone)
	Status int  // 0 cuts the connection
	Header http.Header
	Body   string
}

// Row is a record as the server keeps it: column and value.
type Row map[string]any

// Communication is a means of reaching a contact; the server derives
// SearchNumber from Number, as BPMSoft does.
type Communication struct{ ContactID, Number string }

// OData is a BPMSoft with its login service and OData 4 over HTTP, by the
// server's real rules: a login that refuses with 200, four cookies, BPMCSRF
// against forged requests, a session of its own behind ForceUseSession,
// primary keys, column sizes. Its methods may be called from any goroutine.
type OData struct {
	http *httptest.Server
	root string // "/0" on .NET Framework, "" on .NET 8

	mu          sync.Mutex
	sessions    map[string]*session // by .ASPXAUTH
	attempts    int                 // of logging in, refused ones included
	logins      int
	wrong       int // passwords in a row
	activities  map[string]Row
	contacts    []Communication
	landings    map[string]Row
	faults      map[Operation][]Fault
	always      map[Operation]Fault
	counts      map[Operation]int
	silence     chan struct{} // open while it lasts
	silent      []Operation
	lastFilters []string
}

type session struct{ csrf, loader, id string }

// lockedAfter is how many wrong passwords in a row lock the account.
const lockedAfter = 5

// NewOData starts a server that lives as long as the test. With net8 its
// addresses are without /0.
func NewOData(tb testing.TB, net8 bool) *OData {
	tb.Helper()
	s := &OData{
		root: "/0", sessions: map[string]*session{}, activities: map[string]Row{}, landings: map[string]Row{},
		faults: map[Operation][]Fault{}, always: map[Operation]Fault{}, counts: map[Operation]int{},
	}
	if net8 {
		s.root = ""
	}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	tb.Cleanup(func() {
		s.Speak()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// URL is the whole address of the OData service.
func (s *OData) URL() string { return s.http.URL + s.root + "/odata" }

// Close takes the server off the network.
func (s *OData) Close() { s.http.Close() }

// Transport carries a client's requests; its connections end with the server.
func (s *OData) Transport() http.RoundTripper { return s.http.Client().Transport }

// AddContact adds a contact's number.
func (s *OData) AddContact(c Communication) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contacts = append(s.contacts, c)
}

// AddLanding adds a landing: its id, the registered domains, and the id of its
// state.
func (s *OData) AddLanding(id, domains, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landings[strings.ToLower(id)] = Row{"Id": strings.ToLower(id), "Name": "Заявки с сайта", "ExternalURL": domains, "StateId": state}
}

// Activities gives the rows of Activity, by their Id.
func (s *OData) Activities() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Row
	for _, id := range slices.Sorted(maps.Keys(s.activities)) {
		list = append(list, maps.Clone(s.activities[id]))
	}
	return list
}

// Edit changes a row as a person would.
func (s *OData) Edit(id, column string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.activities[strings.ToLower(id)][column] = value
}

// Next queues faults for the next requests of an operation, one each.
func (s *OData) Next(o Operation, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[o] = append(s.faults[o], faults...)
}

// Always puts a fault on every request of an operation.
func (s *OData) Always(o Operation, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[o] = f
}

// Expire ends all sessions.
func (s *OData) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Silence makes the server do the work of operations and not answer, until
// Speak.
func (s *OData) Silence(operations ...Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = operations
	if s.silence == nil {
		s.silence = make(chan struct{})
	}
}

// Speak ends a Silence.
func (s *OData) Speak() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silence != nil {
		close(s.silence)
		s.silence = nil
	}
}

// Logins is how many logins were taken.
func (s *OData) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// LoginAttempts is how many logins were tried.
func (s *OData) LoginAttempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempts
}

// Count is how many requests there were for an operation.
func (s *OData) Count(o Operation) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[o]
}

// Filters gives the $filter of each search, in order.
func (s *OData) Filters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lastFilters)
}

// answer is a reply before it is written.
type answer struct {
	status int
	header http.Header
	body   any // text, or what becomes JSON
}

func page(status int, title string) answer {
	return answer{status, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, "<!DOCTYPE html><html><title>" + title + "</title></html>"}
}

func refusal(status int, message string) answer {
	return answer{status: status, body: map[string]any{"error": map[string]any{
		"code": "", "message": "An error has occurred.", "innererror": map[string]any{"message": message, "type": "System.Exception"},
	}}}
}

func (s *OData) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	o, id := s.route(r)
	s.mu.Lock()
	s.counts[o]++
	fault, faulty := s.always[o]
	if list := s.faults[o]; len(list) > 0 {
		fault, faulty = list[0], true
		s.faults[o] = list[1:]
	}
	var a answer
	if !faulty || fault.Done {
		a = s.work(r, o, id, body)
	}
	silence := s.silence
	if !slices.Contains(s.silent, o) {
		silence = nil
	}
	s.mu.Unlock()

	if silence != nil {
		select {
		case <-silence:
		case <-r.Context().Done():
		}
	}
	if faulty {
		if fault.Status == 0 {
			panic(http.ErrAbortHandler)
		}
		a = answer{fault.Status, fault.Header, fault.Body}
	}
	write(w, a)
}

func write(w http.ResponseWriter, a answer) {
	maps.Copy(w.Header(), a.header)
	text, plain := a.body.(string)
	if !plain && a.body != nil {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json; odata.metadata=minimal")
		}
		b, err := json.Marshal(a.body)
		if err != nil {
			panic(err)
		}
		text = string(b)
	}
	w.WriteHeader(cmp.Or(a.status, http.StatusOK))
	_, _ = io.WriteString(w, text)
}

var keyed = regexp.MustCompile(`^/(Activity|GeneratedWebForm)\(([0-9a-fA-F-]{36})\)$`)

// route says what a request is about, and the key in its address.
func (s *OData) route(r *http.Request) (Operation, string) {
	if r.URL.Path == "/ServiceModel/AuthService.svc/Login" {
		return Login, ""
	}
	path, ok := strings.CutPrefix(r.URL.Path, s.root+"/odata")
	if !ok {
		return Other, ""
	}
	m := keyed.FindStringSubmatch(path)
	switch {
	case path == "/Activity" && r.Method == http.MethodPost:
		return Create, ""
	case path == "/Activity" && r.Method == http.MethodGet:
		return List, ""
	case path == "/ContactCommunication" && r.Method == http.MethodGet:
		return Search, ""
	case m != nil && m[1] == "GeneratedWebForm" && r.Method == http.MethodGet:
		return Landing, strings.ToLower(m[2])
	case m != nil && m[1] == "Activity" && r.Method == http.MethodGet:
		return Read, strings.ToLower(m[2])
	case m != nil && m[1] == "Activity" && r.Method == http.MethodPatch:
		return Update, strings.ToLower(m[2])
	}
	return Other, ""
}

// work answers a request; the lock is held.
func (s *OData) work(r *http.Request, o Operation, id string, body []byte) answer {
	if o == Login {
		return s.login(r, body)
	}
	if strings.HasPrefix(r.URL.Path, "/0/") && s.root == "" || strings.HasPrefix(r.URL.Path, "/odata") && s.root != "" {
		return page(http.StatusNotFound, "404 - File or directory not found.")
	}
	header, refused := s.enter(r)
	if refused != nil {
		return *refused
	}
	var a answer
	switch o {
	case Search:
		a = s.search(r)
	case List:
		a = answer{body: map[string]any{"value": slices.Collect(maps.Values(s.activities))}}
	case Create:
		a = s.create(r, body)
	case Read:
		a = found(s.activities[id])
	case Update:
		a = s.update(r, id, body)
	case Landing:
		a = found(s.landings[id])
	case Login, Other:
		a = answer{status: http.StatusNotFound, body: map[string]any{"error": map[string]any{"message": "No HTTP resource was found that matches the request URI"}}}
	}
	if header != nil {
		if a.header == nil {
			a.header = http.Header{}
		}
		maps.Copy(a.header, header)
	}
	return a
}

// login refuses with 200, as BPMSoft does.
func (s *OData) login(r *http.Request, body []byte) answer {
	s.attempts++
	var in struct{ UserName, UserPassword string }
	if r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || json.Unmarshal(body, &in) != nil {
		return page(http.StatusBadRequest, "Request Error")
	}
	result := func(code int, message string) map[string]any {
		return map[string]any{"Code": code, "Message": message, "Exception": nil, "PasswordChangeUrl": nil, "RedirectUrl": nil}
	}
	if s.wrong >= lockedAfter {
		return answer{body: result(1, "Учетная запись "+in.UserName+" заблокирована.")}
	}
	if in.UserName != User || in.UserPassword != Password {
		s.wrong++
		return answer{body: result(1, "Вы ввели неверный логин или пароль, либо ваша учетная запись "+in.UserName+" неактивна.")}
	}
	s.wrong = 0
	s.logins++
	auth := fmt.Sprintf("auth-%d-%s", s.logins, uuid.NewString())
	x := &session{csrf: uuid.NewString(), loader: uuid.NewString()}
	s.sessions[auth] = x
	header := http.Header{}
	for _, c := range []http.Cookie{
		// Domain and path as a stand behind a proxy has them.
		{Name: "BPMLOADER", Value: x.loader, Path: "/0", HttpOnly: true},
		{Name: ".ASPXAUTH", Value: auth, Path: "/", Domain: "crm.internal", HttpOnly: true},
		{Name: "BPMCSRF", Value: x.csrf, Path: "/"},
		{Name: "UserName", Value: "old", MaxAge: -1},
	} {
		header.Add("Set-Cookie", c.String())
	}
	return answer{header: header, body: result(0, "")}
}

// enter checks cookies and the token; it gives the cookies of a session that
// begins.
func (s *OData) enter(r *http.Request) (http.Header, *answer) {
	unknown := page(http.StatusUnauthorized, "401 - Unauthorized: Access is denied due to invalid credentials.")
	cookie := func(name string) string {
		c, err := r.Cookie(name)
		if err != nil {
			return ""
		}
		return c.Value
	}
	x := s.sessions[cookie(".ASPXAUTH")]
	if x == nil || cookie("BPMLOADER") != x.loader || cookie("UserName") != "" {
		return nil, &unknown
	}
	if cookie("BPMCSRF") != x.csrf || r.Header.Get("BPMCSRF") != x.csrf {
		a := page(http.StatusForbidden, "403 - Forbidden")
		return nil, &a
	}
	if r.Header.Get("ForceUseSession") != "true" {
		a := page(http.StatusUnauthorized, "no session")
		return nil, &a
	}
	// Concurrent first requests each get the same session.
	if x.id == "" {
		x.id = uuid.NewString()
	}
	switch cookie("BPMSESSIONID") {
	case x.id:
		return nil, nil
	case "":
		return http.Header{"Set-Cookie": {"BPMSESSIONID=" + x.id + "; path=/0; HttpOnly"}}, nil
	}
	return nil, &unknown
}

func found(row Row) answer {
	if row == nil {
		return answer{status: http.StatusNotFound}
	}
	row = maps.Clone(row)
	row["@odata.context"] = "$metadata#Activity/$entity"
	return answer{body: row}
}

var startsWith = regexp.MustCompile(`^startswith\(SearchNumber,'((?:[^']|'')*)'\)$`)

func (s *OData) search(r *http.Request) answer {
	filter := r.URL.Query().Get("$filter")
	s.lastFilters = append(s.lastFilters, filter)
	m := startsWith.FindStringSubmatch(filter)
	if m == nil {
		return refusal(http.StatusBadRequest, "The query specified in the URI is not valid. Syntax error in '"+filter+"'.")
	}
	prefix := strings.ReplaceAll(m[1], "''", "'")
	rows := []Row{}
	for _, c := range s.contacts {
		if number := searchNumber(c.Number); strings.HasPrefix(number, prefix) {
			rows = append(rows, Row{"ContactId": c.ContactID, "SearchNumber": number})
		}
	}
	return answer{body: map[string]any{"@odata.context": "$metadata#ContactCommunication", "value": rows}}
}

// searchNumber is the number's digits from the last to the first.
func searchNumber(number string) string {
	var b []rune
	for _, r := range number {
		if '0' <= r && r <= '9' {
			b = append(b, r)
		}
	}
	slices.Reverse(b)
	return string(b)
}

// columns of Activity that clients may set, with their size in characters, 0
// for no bound.
var columns = map[string]int{
	"Id": 36, "Title": 450, "DetailedResult": 0, "Notes": 0, "StartDate": 40, "DueDate": 40, "TypeId": 36, "ContactId": 36,
}

// read takes a body apart and checks each column.
func (s *OData) read(r *http.Request, body []byte) (Row, *answer) {
	bad := func(status int, message string) (Row, *answer) {
		a := refusal(status, message)
		return nil, &a
	}
	var row Row
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return bad(http.StatusUnsupportedMediaType, "The content type is not supported.")
	}
	if !utf8.Valid(body) || json.Unmarshal(body, &row) != nil {
		return bad(http.StatusBadRequest, "The body is not a valid JSON object.")
	}
	for name, value := range row {
		size, known := columns[name]
		text, isText := value.(string)
		switch {
		case !known:
			return bad(http.StatusBadRequest, "The property '"+name+"' does not exist on type 'BPMSoft.Configuration.OData.Activity'.")
		case !isText:
			return bad(http.StatusBadRequest, "Cannot convert the value of '"+name+"' to the expected type.")
		case strings.ContainsRune(text, 0):
			return bad(http.StatusInternalServerError, "invalid byte sequence for encoding \"UTF8\": 0x00")
		case size > 0 && utf8.RuneCountInString(text) > size:
			return bad(http.StatusInternalServerError, "String or binary data would be truncated.")
		}
		if strings.HasSuffix(name, "Id") {
			if _, err := uuid.Parse(text); err != nil || len(text) != 36 {
				return bad(http.StatusBadRequest, "Cannot convert the literal '"+text+"' to the expected type 'Edm.Guid'.")
			}
		}
		if strings.HasSuffix(name, "Date") {
			if _, err := time.Parse(time.RFC3339, text); err != nil {
				return bad(http.StatusBadRequest, "Cannot convert the literal '"+text+"' to the expected type 'Edm.DateTimeOffset'.")
			}
		}
	}
	if id, linked := row["ContactId"].(string); linked && !slices.ContainsFunc(s.contacts, func(c Communication) bool { return strings.EqualFold(c.ContactID, id) }) {
		return bad(http.StatusInternalServerError, "The INSERT statement conflicted with the FOREIGN KEY constraint \"FKContact\".")
	}
	return row, nil
}

func (s *OData) create(r *http.Request, body []byte) answer {
	row, refused := s.read(r, body)
	if refused != nil {
		return *refused
	}
	if row["Title"] == nil || row["Title"] == "" {
		return refusal(http.StatusInternalServerError, "Не заполнено обязательное поле Заголовок.")
	}
	id, _ := row["Id"].(string)
	id = strings.ToLower(cmp.Or(id, uuid.NewString()))
	if s.activities[id] != nil {
		return refusal(http.StatusInternalServerError, "Violation of PRIMARY KEY constraint 'PK_Activity'. Cannot insert duplicate key in object 'dbo.Activity'. The duplicate key value is ("+id+").")
	}
	row["Id"] = id
	s.activities[id] = row
	a := found(row)
	a.status = http.StatusCreated
	return a
}

func (s *OData) update(r *http.Request, id string, body []byte) answer {
	row, refused := s.read(r, body)
	if refused != nil {
		return *refused
	}
	if s.activities[id] == nil {
		return answer{status: http.StatusNotFound}
	}
	delete(row, "Id")
	maps.Copy(s.activities[id], row)
	return answer{status: http.StatusNoContent}
}
