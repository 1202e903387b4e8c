package odata_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postcall/pkg/bpmsofttest"
	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/exporttest"
	"postcall/pkg/export/odata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func options(s *bpmsofttest.OData) odata.Options {
	return odata.Options{
		URL: s.URL(), User: bpmsofttest.User, Password: bpmsofttest.Password,
		Timeout: exporttest.Patience, Plain: true, Region: "BY", Transport: s.Transport(),
	}
}

func setup(t *testing.T) (*odata.Exporter, *bpmsofttest.OData) {
	t.Helper()
	s := bpmsofttest.NewOData(t, false)
	return exporter(t, options(s)), s
}

func exporter(t *testing.T, o odata.Options) *odata.Exporter {
	t.Helper()
	e, err := odata.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// want checks an attempt's outcome and error code, the empty code for none.
func want(t *testing.T, receipt export.Receipt, err error, outcome export.Outcome, code call.Code) {
	t.Helper()
	if receipt.Outcome != outcome {
		t.Errorf("outcome is %q, want %q (%v)", receipt.Outcome, outcome, err)
	}
	if code == "" && err != nil || code != "" && (err == nil || call.CodeOf(err) != code) {
		t.Errorf("error is %v, want code %q", err, code)
	}
	text := receipt.Response + string(receipt.Payload)
	if err != nil {
		text += err.Error()
	}
	for _, hidden := range []string{bpmsofttest.Password, "auth-", bpmsofttest.User} {
		if strings.Contains(text, hidden) {
			t.Errorf("the receipt or the error holds %q: %s", hidden, text)
		}
	}
}

func rows(t *testing.T, s *bpmsofttest.OData, n int) []bpmsofttest.Row {
	t.Helper()
	list := s.Activities()
	if len(list) != n {
		t.Fatalf("BPMSoft holds %d activities, want %d: %v", len(list), n, list)
	}
	return list
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, net8 := range map[string]bool{"NET Framework": false, "NET 8": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exporttest.Test(t, func(t *testing.T) exporttest.Bench {
				t.Helper()
				s := bpmsofttest.NewOData(t, net8)
				o := options(s)
				o.Timeout = time.Second
				return exporttest.Bench{
					Exporter: exporter(t, o),
					Records: func() []string {
						var list []string
						for _, row := range s.Activities() {
							b, err := json.Marshal(row)
							if err != nil {
								t.Error(err)
							}
							list = append(list, string(b))
						}
						return list
					},
					Unread: func() func() {
						s.Silence(bpmsofttest.Create, bpmsofttest.Read)
						return s.Speak
					},
					Refuse: func(text string) {
						s.Next(bpmsofttest.Create, bpmsofttest.Fault{Status: http.StatusBadRequest, Body: text + " " + bpmsofttest.Password})
					},
					Away:    s.Close,
					Secrets: []string{bpmsofttest.User, bpmsofttest.Password},
				}
			})
		})
	}
}

func TestActivity(t *testing.T) {
	t.Parallel()
	e, s := setup(t)
	d := exporttest.Delivery(1)
	receipt, err := e.Export(t.Context(), d)
	want(t, receipt, err, export.Delivered, "")
	row := rows(t, s, 1)[0]
	for column, value := range map[string]string{
		"Id":             odata.ActivityID(d),
		"Title":          "Звонок: Подбор двухкомнатной квартиры",
		"DetailedResult": "Просмотр в субботу в 12:00 в доме «Манила». Ольга ищет квартиру 55–58 м². Агент предложил дом «Манила»; договорились о просмотре.",
		"StartDate":      "2026-11-23T12:01:00Z",
		"DueDate":        "2026-11-23T12:02:34Z",
		"TypeId":         "e1831dec-cfc0-df11-b00f-001d60e938c6",
	} {
		if row[column] != value {
			t.Errorf("%s is %q, want %q", column, row[column], value)
		}
	}
	if _, linked := row["ContactId"]; linked {
		t.Error("a contact is linked where none has the number")
	}
	notes, _ := row["Notes"].(string)
	for _, line := range []string{
		"Намерение: Посмотреть квартиру до 95 000 евро у метро", "Качество: 5/5", "Клиент: Ольга", "Телефон: +375291234567",
		"Рекомендация 1: Подтвердить просмотр в пятницу вечером", "Агент: Менеджер «Минск Мир»", "Разговор: conv_1", "Postcall: анализ 5001, событие 1001",
	} {
		if !strings.Contains("\n"+notes+"\n", "\n"+line+"\n") {
			t.Errorf("the notes have no line %q:\n%s", line, notes)
		}
	}
	var payload map[string]any
	if err := json.Unmarshal(receipt.Payload, &payload); err != nil || payload["Title"] != row["Title"] {
		t.Errorf("the receipt's payload is %s (%v)", receipt.Payload, err)
	}
	if receipt.HTTPStatus != http.StatusCreated || !strings.Contains(receipt.Response, odata.ActivityID(d)) {
		t.Errorf("status %d, response %q", receipt.HTTPStatus, receipt.Response)
	}
}

func TestContact(t *testing.T) {
	t.Parallel()
	const ann, bob = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	tests := []struct {
		name     string
		phone    string
		external string
		known    []bpmsofttest.Communication
		linked   string
		searches int
	}{
		{"as it is", "+375291234567", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375 (29) 123-45-67"}}, ann, 1},
		{"domestic in Belarus", "+375291234567", "", []bpmsofttest.Communication{{ContactID: ann, Number: "8 029 123-45-67"}}, ann, 1},
		{"domestic in Russia", "+79990000002", "", []bpmsofttest.Communication{{ContactID: ann, Number: "8 (999) 000-00-02"}}, ann, 1},
		{"twice the same contact", "+375291234567", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}, {ContactID: ann, Number: "80291234567"}}, ann, 1},
		{"two contacts", "+375291234567", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}, {ContactID: bob, Number: "80291234567"}}, "", 1},
		{"another country's number that ends alike", "+375291234567", "", []bpmsofttest.Communication{{ContactID: bob, Number: "+7 929 123-45-67"}, {ContactID: ann, Number: "+49 7 291234567"}}, "", 1},
		{"beside one that ends alike", "+375291234567", "", []bpmsofttest.Communication{{ContactID: bob, Number: "+49 7 291234567"}, {ContactID: ann, Number: "+375291234567"}}, ann, 1},
		{"nobody's", "+375291234567", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375297654321"}}, "", 1},
		{"no contact in the row", "+375291234567", "", []bpmsofttest.Communication{{ContactID: "00000000-0000-0000-0000-000000000000", Number: "+375291234567"}}, "", 1},
		{"from the telephony", "", "+375291234567", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}}, ann, 1},
		{"said badly, from the telephony", "не сказал", "+375291234567", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}}, ann, 1},
		{"without a country code", "29 123-45-67", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}}, ann, 1},
		{"none", "", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}}, "", 0},
		{"too short", "112", "", []bpmsofttest.Communication{{ContactID: ann, Number: "112"}}, "", 0},
		{"an expression", "') or startswith(SearchNumber,'", "", []bpmsofttest.Communication{{ContactID: ann, Number: "+375291234567"}}, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, s := setup(t)
			for _, c := range tt.known {
				s.AddContact(c)
			}
			d := exporttest.Delivery(1)
			d.Analysis.Result.Phone, d.Conversation.ExternalNumber = &tt.phone, tt.external
			receipt, err := e.Export(t.Context(), d)
			want(t, receipt, err, export.Delivered, "")
			if got, _ := rows(t, s, 1)[0]["ContactId"].(string); got != tt.linked {
				t.Errorf("the contact is %q, want %q (filters %q)", got, tt.linked, s.Filters())
			}
			if got := s.Count(bpmsofttest.Search); got != tt.searches {
				t.Errorf("%d searches, want %d", got, tt.searches)
			}
		})
	}
}

// TestSearchRefused checks that a call is not lost where the user may not
// search: it goes without a contact and says why.
func TestSearchRefused(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			e, s := setup(t)
			s.Always(bpmsofttest.Search, bpmsofttest.Fault{Status: status, Body: "{}"})
			receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
			want(t, receipt, err, export.Delivered, "")
			if notes, _ := rows(t, s, 1)[0]["Notes"].(string); !strings.HasPrefix(notes, "Контакт не искали") {
				t.Errorf("the notes do not say that nobody searched:\n%s", notes)
			}
			d := exporttest.Delivery(1)
			d.Again = true
			if receipt, err = e.Export(t.Context(), d); receipt.Outcome != export.Delivered || err != nil || s.Count(bpmsofttest.Update) != 0 {
				t.Errorf("the repeat: %q, %v, %d updates", receipt.Outcome, err, s.Count(bpmsofttest.Update))
			}
		})
	}
}

// TestFaults is the table of what can go wrong with one attempt: what is known
// of it then, how many rows there are, and that a repetition ends with one.
func TestFaults(t *testing.T) {
	t.Parallel()
	const create, login, search = bpmsofttest.Create, bpmsofttest.Login, bpmsofttest.Search
	type fault = bpmsofttest.Fault
	html := http.Header{"Content-Type": {"text/html"}}
	tests := []struct {
		name    string
		on      bpmsofttest.Operation
		fault   fault
		outcome export.Outcome
		code    call.Code
		rows    int
	}{
		{"creation cut off before", create, fault{}, export.Unknown, call.Unavailable, 0},
		{"creation cut off after", create, fault{Done: true}, export.Delivered, "", 1},
		{"creation answered 500 and not done", create, fault{Status: 500}, export.Failed, call.Unavailable, 0},
		{"creation answered 500 and done", create, fault{Status: 500, Done: true}, export.Delivered, "", 1},
		{"gateway gave up, done", create, fault{Status: 504, Done: true}, export.Delivered, "", 1},
		{"creation refused", create, fault{Status: 400, Body: "no such column"}, export.Refused, call.Invalid, 0},
		{"creation refused and done", create, fault{Status: 400, Done: true}, export.Delivered, "", 1},
		{"too many", create, fault{Status: 429, Header: http.Header{"Retry-After": {"9"}}}, export.Failed, call.RateLimited, 0},
		{"a page for people", create, fault{Status: 200, Header: html, Body: "<!DOCTYPE html>"}, export.Failed, call.Credentials, 0},
		{"no such service", create, fault{Status: 404, Header: html}, export.Failed, call.Credentials, 0},
		{"login is away", login, fault{Status: 503}, export.Failed, call.Unavailable, 0},
		{"login cut off", login, fault{}, export.Failed, call.Unavailable, 0},
		{"login not found", login, fault{Status: 404}, export.Failed, call.Credentials, 0},
		{"login elsewhere", login, fault{Status: 302, Header: http.Header{"Location": {"https://192.0.2.1"}}}, export.Failed, call.Credentials, 0},
		{"login is a page", login, fault{Status: 200, Header: html, Body: "<html>"}, export.Failed, call.Credentials, 0},
		{"password before BPMSoft", login, fault{Status: 401}, export.Failed, call.Credentials, 0},
		{"login limited", login, fault{Status: 429}, export.Failed, call.RateLimited, 0},
		{"login without cookies", login, fault{Status: 200, Body: `{"Code":0}`}, export.Failed, call.Credentials, 0},
		{"search cut off", search, fault{}, export.Failed, call.Unavailable, 0},
		{"search answered 500", search, fault{Status: 500}, export.Failed, call.Unavailable, 0},
		{"search is nonsense", search, fault{Status: 200, Body: "{"}, export.Failed, call.Unavailable, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := bpmsofttest.NewOData(t, false)
			c := &clock{at: time.Now()}
			o := options(s)
			o.Now = c.now
			e := exporter(t, o)
			s.Next(tt.on, tt.fault)
			if tt.on == search && tt.fault.Status == 0 {
				s.Next(tt.on, tt.fault) // net/http itself repeats a GET once
			}
			d := exporttest.Delivery(1)
			receipt, err := e.Export(t.Context(), d)
			want(t, receipt, err, tt.outcome, tt.code)
			rows(t, s, tt.rows)
			c.add(time.Hour) // a remembered refusal is over
			d.Again = true
			receipt, err = e.Export(t.Context(), d)
			want(t, receipt, err, export.Delivered, "")
			rows(t, s, 1)
		})
	}
}

// TestReprocessed checks that a second analysis of a call updates its Activity
// and that a repetition leaves alone what people wrote.
func TestReprocessed(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"first attempt": false, "repeated": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, s := setup(t)
			first := exporttest.Delivery(1)
			receipt, err := e.Export(t.Context(), first)
			want(t, receipt, err, export.Delivered, "")
			id := odata.ActivityID(first)

			second := exporttest.Delivery(1)
			second.Analysis.ID, second.Again = 6001, again
			second.Analysis.Result.Topic = new("Ипотека")
			receipt, err = e.Export(t.Context(), second)
			want(t, receipt, err, export.Delivered, "")
			if got := rows(t, s, 1)[0]; got["Title"] != "Звонок: Ипотека" || got["Id"] != id {
				t.Errorf("the activity is %v", got)
			}

			s.Edit(id, "Title", "Перезвонить в среду")
			second.Again = true
			receipt, err = e.Export(t.Context(), second)
			want(t, receipt, err, export.Delivered, "")
			if got := rows(t, s, 1)[0]["Title"]; got != "Перезвонить в среду" {
				t.Errorf("a repetition wrote %q over what a person had written", got)
			}
		})
	}
}

func TestUpdateFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		fault   bpmsofttest.Fault
		outcome export.Outcome
		code    call.Code
	}{
		{"cut off", bpmsofttest.Fault{Done: true}, export.Unknown, call.Unavailable},
		{"deleted meanwhile", bpmsofttest.Fault{Status: 404}, export.Failed, call.Unavailable},
		{"refused", bpmsofttest.Fault{Status: 400}, export.Refused, call.Invalid},
		{"fault", bpmsofttest.Fault{Status: 500}, export.Unknown, call.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, s := setup(t)
			receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
			want(t, receipt, err, export.Delivered, "")
			s.Next(bpmsofttest.Update, tt.fault)
			d := exporttest.Delivery(1)
			d.Analysis.ID++
			receipt, err = e.Export(t.Context(), d)
			want(t, receipt, err, tt.outcome, tt.code)
			d.Again = true
			receipt, err = e.Export(t.Context(), d)
			want(t, receipt, err, export.Delivered, "")
			if notes, _ := rows(t, s, 1)[0]["Notes"].(string); !strings.Contains(notes, "анализ 5002") {
				t.Errorf("the update has not arrived:\n%s", notes)
			}
		})
	}
}

// TestOneLogin checks that jobs share a session, and the login after its end.
func TestOneLogin(t *testing.T) {
	t.Parallel()
	e, s := setup(t)
	const jobs = 20
	for round := range int64(3) {
		var wg sync.WaitGroup
		for n := range int64(jobs) {
			wg.Go(func() {
				receipt, err := e.Export(t.Context(), exporttest.Delivery(round*jobs+n))
				want(t, receipt, err, export.Delivered, "")
			})
		}
		wg.Wait()
		rows(t, s, int(round+1)*jobs)
		if got := s.Logins(); got != int(round+1) {
			t.Errorf("%d logins after %d sessions", got, round+1)
		}
		s.Expire()
	}
}

// TestNoLoop checks that one answer costs one login and one repetition.
func TestNoLoop(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 302} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			e, s := setup(t)
			s.Always(bpmsofttest.Create, bpmsofttest.Fault{Status: status, Header: http.Header{"Location": {"/Login/NuiLogin.aspx"}}})
			receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
			want(t, receipt, err, export.Failed, call.Credentials)
			if s.Count(bpmsofttest.Create) != 2 || s.LoginAttempts() != 2 {
				t.Errorf("%d requests and %d logins, want two of each", s.Count(bpmsofttest.Create), s.LoginAttempts())
			}
			rows(t, s, 0)
		})
	}
}

// TestRefusedLogin checks that a wrong password is tried once in five minutes,
// however many jobs wait: BPMSoft locks the account after a few.
func TestRefusedLogin(t *testing.T) {
	t.Parallel()
	s := bpmsofttest.NewOData(t, false)
	c := &clock{at: time.Now()}
	o := options(s)
	o.Password, o.Now = "wrong-password", c.now
	e := exporter(t, o)
	var wg sync.WaitGroup
	for n := range int64(20) {
		wg.Go(func() {
			receipt, err := e.Export(t.Context(), exporttest.Delivery(n))
			want(t, receipt, err, export.Failed, call.Credentials)
			if err != nil && (!strings.Contains(err.Error(), "code 1") || strings.Contains(err.Error(), "wrong-password")) {
				t.Errorf("error is %v", err)
			}
		})
	}
	wg.Wait()
	if got := s.LoginAttempts(); got != 1 {
		t.Errorf("%d attempts to log in, want 1", got)
	}
	c.add(5*time.Minute + time.Second)
	receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
	want(t, receipt, err, export.Failed, call.Credentials)
	if got := s.LoginAttempts(); got != 2 {
		t.Errorf("%d attempts to log in after five minutes, want 2", got)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, url, user, password, problem string }{
		{"framework", "https://crm.example.by/0/odata", "u", "p", ""},
		{"with a slash", "https://crm.example.by/0/odata/", "u", "p", ""},
		{"net 8 in a folder", "https://example.by/crm/odata", "u", "p", ""},
		{"the stand's address", "https://crm.example.by", "u", "p", "does not end in /odata"},
		{"the landing's address", "https://crm.example.by/0/ServiceModel/GeneratedObjectWebFormService.svc/SaveWebFormObjectData", "u", "p", "does not end in /odata"},
		{"a query", "https://crm.example.by/odata?x=1", "u", "p", "does not end in /odata"},
		{"http", "http://crm.example.by/0/odata", "u", "p", "use https"},
		{"no user", "https://crm.example.by/0/odata", "", "p", "user and a password"},
		{"no password", "https://crm.example.by/0/odata", "u", "", "user and a password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := odata.New(odata.Options{URL: tt.url, User: tt.user, Password: tt.password})
			if tt.problem == "" && err != nil || tt.problem != "" && (call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), tt.problem)) {
				t.Errorf("error is %v, want one that says %q", err, tt.problem)
			}
		})
	}
}

// TestLoginAddress checks where the login goes for both forms of the address.
func TestLoginAddress(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"/0/odata": "/ServiceModel/AuthService.svc/Login", "/odata/": "/ServiceModel/AuthService.svc/Login",
		"/crm/0/odata": "/crm/ServiceModel/AuthService.svc/Login", "/crm/odata": "/crm/ServiceModel/AuthService.svc/Login",
	} {
		t.Run(given, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 1)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.URL.Path
				w.WriteHeader(http.StatusTeapot)
			}))
			t.Cleanup(s.Close)
			e := exporter(t, odata.Options{URL: s.URL + given, User: "u", Password: "p", Plain: true, Transport: s.Client().Transport})
			if _, err := e.Export(t.Context(), exporttest.Delivery(1)); call.CodeOf(err) != call.Credentials {
				t.Errorf("error is %v", err)
			}
			if got := <-asked; got != want {
				t.Errorf("the login went to %s, want %s", got, want)
			}
		})
	}
}
