package bpmsoft_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/bpmsofttest"
	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/bpmsoft"
	"postcall/pkg/export/exporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	landing  = "7d9f4c1e-2b3a-4c5d-8e6f-0123456789ab"
	user     = "robot"
	password = "s3cret-пароль"
)

func setup(t *testing.T, change func(*bpmsofttest.LandingOptions, *bpmsoft.Options)) (*bpmsoft.Exporter, *bpmsofttest.LandingServer) {
	t.Helper()
	stand := bpmsofttest.LandingOptions{ID: landing, Domain: "https://flats.example", User: user, Password: password}
	o := bpmsoft.Options{
		AllowHTTP: true, LandingID: landing, Referer: "https://flats.example/buy", User: user, Password: password,
		Timeout: exporttest.Patience, LeadSource: "Голосовой агент",
	}
	if change != nil {
		change(&stand, &o)
	}
	server := bpmsofttest.NewLanding(t, stand)
	if o.URL == "" {
		o.URL = server.URL()
	}
	e, err := bpmsoft.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e, server
}

func records(s *bpmsofttest.LandingServer) []string {
	var list []string
	for _, l := range s.Leads() {
		text, err := json.Marshal(map[string]any{"id": l.ID, "fields": l.Fields, "contact": l.Contact})
		if err != nil {
			panic(err)
		}
		list = append(list, string(text))
	}
	return list
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, unquoted := range []bool{false, true} {
		t.Run(fmt.Sprintf("unquoted=%t", unquoted), func(t *testing.T) {
			t.Parallel()
			exporttest.Test(t, func(t *testing.T) exporttest.Bench {
				t.Helper()
				e, s := setup(t, func(stand *bpmsofttest.LandingOptions, o *bpmsoft.Options) {
					stand.UnquotedKeys, o.Timeout = unquoted, 3*time.Second
				})
				return exporttest.Bench{
					Exporter: e, Records: func() []string { return records(s) }, Away: s.Close,
					Unread: func() func() { s.Silence(); return s.Answer },
					Refuse: func(text string) {
						first := s.Requests() + 1
						s.Fail(func(n int) *bpmsofttest.Fault {
							if n == first {
								return s.Refusal(text)
							}
							return nil
						})
					},
					Secrets: []string{password},
				}
			})
		})
	}
}

// What each answer of the stand means.
func TestAnswers(t *testing.T) {
	t.Parallel()
	reply := func(status int, body string) *bpmsofttest.Fault {
		return &bpmsofttest.Fault{Status: status, Body: body}
	}
	done := func(f *bpmsofttest.Fault) *bpmsofttest.Fault { f.Done = true; return f }
	header := func(f *bpmsofttest.Fault, name, value string) *bpmsofttest.Fault {
		f.Header = http.Header{name: {value}}
		return f
	}
	for name, test := range map[string]struct {
		fault   *bpmsofttest.Fault
		outcome export.Outcome
		code    call.Code // empty for none
		leads   int
	}{
		"taken":                       {nil, export.Delivered, "", 1},
		"keys without quotes":         {done(reply(200, `{"SaveWebFormObjectDataResult":"{resultMessage:\"\",resultCode:0}"}`)), export.Delivered, "", 1},
		"an object inside":            {done(reply(200, `{"SaveWebFormObjectDataResult":{"resultMessage":"","resultCode":0}}`)), export.Delivered, "", 1},
		"without the outer object":    {done(reply(200, `{resultMessage:"",resultCode:0}`)), export.Delivered, "", 1},
		"refused":                     {reply(200, `{"SaveWebFormObjectDataResult":"{resultMessage:\"Успешно, resultCode:0\",resultCode:-1}"}`), export.Refused, call.Refused, 0},
		"another code":                {reply(200, `{"SaveWebFormObjectDataResult":"{resultCode:7}"}`), export.Unknown, call.Unavailable, 0},
		"empty result":                {reply(200, `{"SaveWebFormObjectDataResult":""}`), export.Failed, call.Credentials, 0},
		"empty answer":                {reply(200, ``), export.Failed, call.Credentials, 0},
		"a page":                      {header(reply(200, `<!DOCTYPE html><title>Вход</title>`), "Content-Type", "text/html"), export.Failed, call.Credentials, 0},
		"not understood":              {done(reply(200, `{"ok":true}`)), export.Unknown, call.Unavailable, 1},
		"half an answer":              {done(reply(200, `{"SaveWebFormObjectDataResult":"{resultMe`)), export.Unknown, call.Unavailable, 1},
		"two codes":                   {reply(200, `{"SaveWebFormObjectDataResult":"{resultCode:-1,resultCode:0}"}`), export.Unknown, call.Unavailable, 0},
		"redirect":                    {header(reply(302, ""), "Location", "https://elsewhere.example/"), export.Failed, call.Credentials, 0},
		"401":                         {reply(401, ""), export.Failed, call.Credentials, 0},
		"403":                         {reply(403, ""), export.Failed, call.Credentials, 0},
		"404":                         {reply(404, ""), export.Failed, call.Credentials, 0},
		"408":                         {reply(408, ""), export.Unknown, call.Unavailable, 0},
		"413":                         {reply(413, ""), export.Refused, call.Refused, 0},
		"429":                         {header(reply(429, ""), "Retry-After", "7"), export.Failed, call.RateLimited, 0},
		"500 before":                  {reply(500, "boom"), export.Unknown, call.Unavailable, 0},
		"500 after":                   {done(reply(500, "boom")), export.Unknown, call.Unavailable, 1},
		"connection cut, not arrived": {&bpmsofttest.Fault{}, export.Unknown, call.Unavailable, 0},
		"connection cut, arrived":     {&bpmsofttest.Fault{Done: true}, export.Unknown, call.Unavailable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, s := setup(t, nil)
			s.Fail(func(n int) *bpmsofttest.Fault {
				if n == 1 {
					return test.fault
				}
				return nil
			})
			d := exporttest.Delivery(1)
			receipt, err := e.Export(t.Context(), d)
			if receipt.Outcome != test.outcome || (err == nil) != (test.code == "") || err != nil && call.CodeOf(err) != test.code {
				t.Errorf("outcome %s, %v", receipt.Outcome, err)
			}
			if test.fault != nil && test.fault.Status != 0 && (receipt.HTTPStatus != test.fault.Status || receipt.Response != test.fault.Body) {
				t.Errorf("receipt has %d %q", receipt.HTTPStatus, receipt.Response)
			}
			if wait, ok := errors.AsType[*call.Error](err); ok && name == "429" && wait.RetryAfter != 7*time.Second {
				t.Errorf("to wait %s", wait.RetryAfter)
			}
			if n := len(s.Leads()); n != test.leads {
				t.Errorf("%d leads, want %d", n, test.leads)
			}
			// The same Id settles every doubt.
			if _, err := e.Export(t.Context(), d); err != nil {
				t.Error(err)
			}
			if n := len(s.Leads()); n != 1 {
				t.Errorf("%d leads after a repeat", n)
			}
		})
	}
}

// The built-in mapping fills what the earlier service filled.
func TestBuiltInMapping(t *testing.T) {
	t.Parallel()
	e, s := setup(t, nil)
	if _, err := e.Export(t.Context(), exporttest.Delivery(1)); err != nil {
		t.Fatal(err)
	}
	lead := s.Leads()[0]
	for name, want := range map[string]string{
		"Name": "Ольга", "MobilePhone": "+375291234567", "LeadSource": "Голосовой агент",
		"UsrPhoneNumberCode": "+37529", "UsrTelephoneNumberForCode": "1234567",
		"UsrQualityScore": "5", "UsrEventId": "1001", "UsrConversationId": "conv_1", "UsrAgentId": "agent_7101ru",
		"UsrQualificationTopic": "Подбор двухкомнатной квартиры", "UsrTSLeadStatus": "Просмотр в субботу в 12:00 в доме «Манила»",
	} {
		if lead.Fields[name] != want {
			t.Errorf("%s is %q, want %q", name, lead.Fields[name], want)
		}
	}
	for _, part := range []string{"Тема: Подбор", "Качество: 5", "Кратко: Ольга ищет", "Разговор: conv_1"} {
		if !strings.Contains(lead.Fields["Commentary"], part) {
			t.Errorf("the comment lacks %q: %s", part, lead.Fields["Commentary"])
		}
	}
	if lead.Contact["FullName"] != "Ольга" || lead.Contact["Phone"] != "+375291234567" {
		t.Errorf("contact is %v", lead.Contact)
	}
}

// What BPMSoft demands and a call does not tell has a stand-in, and the log
// says so.
func TestStandIns(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	e, s := setup(t, func(_ *bpmsofttest.LandingOptions, o *bpmsoft.Options) { o.Log = zap.New(core) })
	d := exporttest.Delivery(1)
	d.Conversation.ExternalNumber, d.Analysis.Result.Phone, d.Analysis.Result.ClientName = "", nil, nil
	if _, err := e.Export(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	f := s.Leads()[0].Fields
	if f["Name"] != "Клиент без имени" || f["UsrPhoneNumberCode"] != "+000" || f["UsrTelephoneNumberForCode"] != "0000000" || f["MobilePhone"] != "" {
		t.Errorf("fields are %v", f)
	}
	if logs.Len() == 0 {
		t.Error("no line says that stand-ins were sent")
	}
}

// A mapping is checked when it is loaded: what is wrong is named.
func TestMappingFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"unknown template field":  {"fields: {Name: \"{{.NoSuch}}\"}", "Name"},
		"in a branch not taken":   {"fields: {Name: '{{if eq .Topic \"x\"}}{{.NoSuch}}{{end}}'}", ".NoSuch"},
		"in with":                 {"fields: {Name: '{{if eq .Topic \"x\"}}{{with .Phone}}{{.NoSuch}}{{end}}{{end}}'}", ".NoSuch"},
		"in range":                {"fields: {Name: '{{if eq .Topic \"x\"}}{{range .Phones}}{{.NoSuch}}{{end}}{{end}}'}", ".NoSuch"},
		"in range's else":         {"fields: {Name: '{{range .Phones}}{{.Full}}{{else}}{{.NoSuch}}{{end}}'}", ".NoSuch"},
		"of a variable":           {"fields: {Name: '{{if eq .Topic \"x\"}}{{$p := .Phone}}{{$p.NoSuch}}{{end}}'}", ".NoSuch"},
		"of a range's variable":   {"fields: {Name: '{{if eq .Topic \"x\"}}{{range $i, $p := .Phones}}{{$p.NoSuch}}{{end}}{{end}}'}", ".NoSuch"},
		"of the whole in a with":  {"fields: {Name: '{{if eq .Topic \"x\"}}{{with .Phone}}{{$.NoSuch}}{{end}}{{end}}'}", ".NoSuch"},
		"of a function's result":  {"fields: {Name: '{{if eq .Topic \"x\"}}{{(phone .Topic).NoSuch}}{{end}}'}", ".NoSuch"},
		"of an element":           {"fields: {Name: '{{if eq .Topic \"x\"}}{{(index .Phones 0).NoSuch}}{{end}}'}", ".NoSuch"},
		"of a text":               {"fields: {Name: '{{if eq .Topic \"x\"}}{{with .Topic}}{{.Full}}{{end}}{{end}}'}", ".Full"},
		"of nobody knows what":    {"fields: {Name: '{{if eq .Topic \"x\"}}{{(or .Phone .Topic).Full}}{{end}}'}", ".Full"},
		"a variable of two kinds": {"fields: {Name: '{{$x := .Phone}}{{range .Phones}}{{$x = .Full}}{{end}}{{$x.Full}}'}", "$x"},
		"a range over a text":     {"fields: {Name: '{{if eq .Topic \"x\"}}{{range .Topic}}x{{end}}{{end}}'}", "range"},
		"a wrong argument":        {"fields: {Name: '{{if eq .Topic \"x\"}}{{truncate .Phone 3}}{{end}}'}", "truncate"},
		"too few arguments":       {"fields: {Name: '{{if eq .Topic \"x\"}}{{lower}}{{end}}'}", "lower"},
		"a table in a branch":     {"fields: {Name: '{{if eq .Topic \"x\"}}{{lookup \"none\" .Topic}}{{end}}'}", "none"},
		"unknown key":             {"fieldz: {}", "fieldz"},
		"broken template":         {"fields: {Name: \"{{.Topic\"}", "Name"},
		"unknown outcome":         {"send: {outcomes: [won]}\nfields: {Name: x}", "won"},
		"unknown lookup":          {"fields: {Name: {value: x, lookup: none}}", "none"},
		"the record's key":        {"fields: {Id: x}", "Id"},
		"unknown function":        {"fields: {Name: \"{{exec .Topic}}\"}", "exec"},
		"quality out of bounds":   {"send: {min_quality: 9}\nfields: {Name: x}", "min_quality"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "map.yaml")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := bpmsoft.Load(path)
			if call.CodeOf(err) != call.Invalid || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What is right passes, however it is nested.
func TestMappingTakes(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"{{with .Phone}}{{.Full}}{{$.Topic}}{{end}}",
		"{{range $i, $p := .Phones}}{{$i}}: {{$p.Full}}, {{.Code}}{{else}}{{.Topic}}{{end}}",
		"{{range .Recommendations}}{{.}}; {{end}}",
		"{{$p := phone .Topic}}{{if $p.Full}}{{$p.Full}}{{else if .Phone.Full}}{{.Phone.Full}}{{end}}",
		"{{$s := .Topic}}{{if .Intent}}{{$s = .Intent}}{{end}}{{$s | upper | truncate 20}}",
		"{{with index .Phones 0}}{{.Full}}{{end}}{{join \", \" .Topic .Recommendations .Phones}}",
		"{{if and .Topic (eq .OutcomeCode \"lead\") (not .Suspicious)}}{{printf \"%s!\" .Topic}}{{end}}",
	} {
		if strings.Contains(value, "index .Phones 0") {
			value = "{{if .Phones}}" + value + "{{end}}"
		}
		_, err := bpmsoft.Parse("map.yaml", []byte("fields:\n  Name: '"+value+"'"))
		if err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// Behind a proxy the only connections are to it: where it is listening says
// nothing of the stand.
func TestProxyOnThisMachine(t *testing.T) {
	t.Parallel()
	stand := bpmsofttest.NewLanding(t, bpmsofttest.LandingOptions{ID: landing, Domain: "https://flats.example"})
	behind, err := url.Parse(stand.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = behind.Scheme, behind.Host, ""
	}})
	t.Cleanup(proxy.Close)
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	e, err := bpmsoft.New(bpmsoft.Options{
		URL: "http://crm.flats.test" + behind.Path, AllowHTTP: true, LandingID: landing, Referer: "https://flats.example/buy",
		Timeout: exporttest.Patience, Proxy: http.ProxyURL(via),
	})
	if err != nil {
		t.Fatal(err)
	}
	if receipt, err := e.Export(t.Context(), exporttest.Delivery(1)); err != nil || receipt.Outcome != export.Delivered || len(stand.Leads()) != 1 {
		t.Errorf("got %+v, %v; %d leads", receipt, err, len(stand.Leads()))
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "map.yaml")
	if err := os.WriteFile(path, []byte("send: {outcomes: [lead, meeting], min_quality: 3, has_phone: true, agents: {exclude: [agent_x]}}\nfields: {Name: \"{{.ClientName}}\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := bpmsoft.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := setup(t, func(_ *bpmsofttest.LandingOptions, o *bpmsoft.Options) { o.Mapping = m })
	for name, test := range map[string]struct {
		change func(d *export.Delivery)
		want   string
	}{
		"sent":            {func(*export.Delivery) {}, ""},
		"another outcome": {func(d *export.Delivery) { d.Analysis.Result.OutcomeCode = call.OutcomeRefused }, "outcome"},
		"poor":            {func(d *export.Delivery) { d.Analysis.Result.Quality = new(2) }, "quality is 2"},
		"not judged":      {func(d *export.Delivery) { d.Analysis.Result.Quality = nil }, "not known"},
		"no phone":        {func(d *export.Delivery) { d.Analysis.Result.Phone, d.Conversation.ExternalNumber = nil, "" }, "phone"},
		"another agent":   {func(d *export.Delivery) { d.Event.AgentID = "agent_x" }, "agent"},
	} {
		d := exporttest.Delivery(1)
		test.change(&d)
		if got := e.Choose(d); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Wrong settings stop the start.
func TestSettings(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*bpmsoft.Options){
		"not encrypted":       func(o *bpmsoft.Options) { o.AllowHTTP = false },
		"no address":          func(o *bpmsoft.Options) { o.URL = "bpm" },
		"a user in it":        func(o *bpmsoft.Options) { o.URL = "https://a:b@bpm.example/" },
		"no landing":          func(o *bpmsoft.Options) { o.LandingID = "1" },
		"no referer":          func(o *bpmsoft.Options) { o.Referer = "" },
		"a referer of no use": func(o *bpmsoft.Options) { o.Referer = "flats" },
	} {
		o := bpmsoft.Options{URL: "http://127.0.0.1:1/x", AllowHTTP: true, LandingID: landing, Referer: "https://flats.example"}
		change(&o)
		if _, err := bpmsoft.New(o); call.CodeOf(err) != call.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Numbers go into the two columns that the customer's CRM keeps apart.
func TestPhoneParts(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][3]string{ // full, code, the last seven digits
		"+375 29 123-45-67":               {"+375291234567", "+37529", "1234567"},
		"8 (999) 000-00-02":               {"+79990000002", "+7999", "0000002"},
		"+7 495 123-45-67 доб. 12":        {"+74951234567", "+7495", "1234567"},
		"+79990000002, +375 29 123-45-67": {"+79990000002", "+7999", "0000002"},
		"101":                             {"", "+000", "0000000"},
	} {
		e, s := setup(t, nil)
		d := exporttest.Delivery(1)
		d.Conversation.ExternalNumber, d.Analysis.Result.Phone = "", &raw
		if _, err := e.Export(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		f := s.Leads()[0].Fields
		if got := [3]string{f["MobilePhone"], f["UsrPhoneNumberCode"], f["UsrTelephoneNumberForCode"]}; got != want {
			t.Errorf("%q became %q, want %q", raw, got, want)
		}
	}
}

// An asynchronous stand's yes only means that the lead was taken.
func TestAsync(t *testing.T) {
	t.Parallel()
	e, s := setup(t, func(stand *bpmsofttest.LandingOptions, o *bpmsoft.Options) { stand.Async, o.Async = true, true })
	for range 2 {
		receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
		if err != nil || receipt.Outcome != export.Accepted {
			t.Errorf("outcome %s, %v", receipt.Outcome, err)
		}
	}
	if n := len(s.Leads()); n != 0 {
		t.Errorf("%d leads before the stand has worked them", n)
	}
	s.Settle()
	if n := len(s.Leads()); n != 1 {
		t.Errorf("%d leads of one call", n)
	}
}

// Columns that the landing's object lacks are skipped in silence, as BPMSoft
// does: the record has the others.
func TestUnknownColumns(t *testing.T) {
	t.Parallel()
	e, s := setup(t, func(stand *bpmsofttest.LandingOptions, _ *bpmsoft.Options) {
		stand.Columns = []string{"Name", "MobilePhone"}
	})
	receipt, err := e.Export(t.Context(), exporttest.Delivery(1))
	if err != nil || receipt.Outcome != export.Delivered {
		t.Fatalf("outcome %s, %v", receipt.Outcome, err)
	}
	if f := s.Leads()[0].Fields; len(f) != 3 || f["Name"] != "Ольга" || !strings.Contains(string(receipt.Payload), "UsrQualityScore") {
		t.Errorf("fields are %v, sent was %s", f, receipt.Payload)
	}
}
