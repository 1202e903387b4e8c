package app_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"

	"postcall/pkg/app"
	"postcall/pkg/bpmsofttest"
	"postcall/pkg/config"
	"postcall/pkg/export"
)

// What a check says of a stand in each state; nothing is ever sent.
func TestCRMCheck(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Вход</html>")
	})
	elsewhere := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/Login", http.StatusFound) })
	for name, test := range map[string]struct {
		change  func(env map[string]string, o *bpmsofttest.LandingOptions, odata *bpmsofttest.OData)
		handler http.Handler // in place of the stand
		say     string
		advice  string
		worst   export.Level
	}{
		"all is well as far as can be seen": {func(map[string]string, *bpmsofttest.LandingOptions, *bpmsofttest.OData) {}, nil, "answers", "CRM_ODATA_URL", export.Warn},
		"password missing": {func(_ map[string]string, o *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			o.User, o.Password = "a", "b"
		}, nil, "401", "CRM_BASIC_AUTH_USER", export.Fail},
		"without /0": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_SERVICE_URL"] = strings.Replace(env["CRM_SERVICE_URL"], "/0/", "/", 1)
		}, nil, "but there is one at", "/0/", export.Fail},
		"another path": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_SERVICE_URL"] += "x"
		}, nil, "404", "SaveWebFormObjectData", export.Fail},
		"nobody there": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_SERVICE_URL"] = "http://127.0.0.1:1/0/x"
		}, nil, "nothing answers", "host and port", export.Fail},
		"a page":     {nil, page, "a page", "CRM_SERVICE_URL", export.Fail},
		"a redirect": {nil, elsewhere, "/Login)", "not followed", export.Fail},
		"busy":       {nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }), "429", "CRM_SERVICE_URL", export.Fail},
		"no TLS there": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_SERVICE_URL"] = strings.Replace(env["CRM_SERVICE_URL"], "http://", "https://", 1)
		}, nil, "nothing answers", "does not speak TLS", export.Fail},
		"unknown name": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_SERVICE_URL"] = "https://stand.invalid" + bpmsofttest.LandingPath
		}, nil, "nothing answers", "DNS does not know", export.Fail},
		"OData alone": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_MODE"], env["CRM_ODATA_PASS"] = "odata", bpmsofttest.Password
		}, nil, "contacts can be found", "", export.OK},
		"no right to search": {func(env map[string]string, _ *bpmsofttest.LandingOptions, odata *bpmsofttest.OData) {
			env["CRM_MODE"], env["CRM_ODATA_PASS"] = "odata", bpmsofttest.Password
			odata.Always(bpmsofttest.Search, bpmsofttest.Fault{Status: http.StatusForbidden})
		}, nil, "contacts cannot be found", "ContactCommunication", export.Warn},
		"the landing is off": {func(env map[string]string, _ *bpmsofttest.LandingOptions, odata *bpmsofttest.OData) {
			odata.AddLanding(landingID, "https://flats.example", "22222222-2222-4222-8222-222222222222")
			env["CRM_ODATA_PASS"] = bpmsofttest.Password
		}, nil, "does not seem to be enabled", "to active", export.Warn},
		"the landing is seen": {func(env map[string]string, _ *bpmsofttest.LandingOptions, odata *bpmsofttest.OData) {
			odata.AddLanding(landingID, "https://flats.example", "")
			env["CRM_ODATA_PASS"] = bpmsofttest.Password
		}, nil, "has the domain of the Referer", "", export.Warn},
		"the landing is another": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_ODATA_PASS"] = bpmsofttest.Password
		}, nil, "there is no landing", "CRM_LANDING_ID", export.Fail},
		"the domain is not registered": {func(env map[string]string, _ *bpmsofttest.LandingOptions, odata *bpmsofttest.OData) {
			odata.AddLanding(landingID, "https://other.example", "")
			env["CRM_ODATA_PASS"] = bpmsofttest.Password
		}, nil, "does not have the domain", "CRM_REFERER", export.Fail},
		"login refused": {func(env map[string]string, _ *bpmsofttest.LandingOptions, _ *bpmsofttest.OData) {
			env["CRM_ODATA_PASS"] = "wrong"
		}, nil, "", "CRM_ODATA_PASS", export.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			odata := bpmsofttest.NewOData(t, false)
			o := bpmsofttest.LandingOptions{ID: landingID, Domain: "https://flats.example"}
			env := map[string]string{
				"CRM_ALLOW_HTTP": "true", "CRM_LANDING_ID": landingID, "CRM_REFERER": "https://flats.example/",
				"CRM_ODATA_URL": odata.URL(), "CRM_ODATA_USER": bpmsofttest.User, "CRM_SERVICE_URL": "http://placeholder" + bpmsofttest.LandingPath,
			}
			if test.change != nil {
				test.change(env, &o, odata)
			}
			stand := bpmsofttest.NewLanding(t, o)
			host := strings.TrimSuffix(stand.URL(), bpmsofttest.LandingPath)
			if test.handler != nil {
				other := httptest.NewServer(test.handler)
				t.Cleanup(other.Close)
				host = other.URL
			}
			env["CRM_SERVICE_URL"] = strings.Replace(env["CRM_SERVICE_URL"], "http://placeholder", host, 1)
			env["CRM_SERVICE_URL"] = strings.Replace(env["CRM_SERVICE_URL"], "https://placeholder", strings.Replace(host, "http://", "https://", 1), 1)
			c, err := config.LoadCRM(t.Context(), config.Map(env, nil))
			if err != nil {
				t.Fatal(err)
			}
			crm, err := app.BPMSoft(c, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			list := crm.Check(t.Context())
			i := slices.IndexFunc(list, func(f export.Finding) bool { return strings.Contains(f.Text, test.say) })
			if i < 0 || !slices.ContainsFunc(list, func(f export.Finding) bool { return strings.Contains(f.Advice, test.advice) }) {
				t.Errorf("found %+v", list)
			}
			if failed := slices.ContainsFunc(list, func(f export.Finding) bool { return f.Level == export.Fail }); failed != (test.worst == export.Fail) {
				t.Errorf("found %+v", list)
			}
			for _, f := range list {
				if strings.Contains(f.Text+f.Advice, bpmsofttest.Password) {
					t.Errorf("a password is shown: %+v", f)
				}
				if (f.Level == export.OK) != (f.Advice == "") {
					t.Errorf("a finding without what to do about it: %+v", f)
				}
			}
			if n := len(stand.Leads()); n != 0 {
				t.Errorf("a check made %d leads", n)
			}
		})
	}
}

// By OData each call becomes one activity of its contact.
func TestODataMode(t *testing.T) {
	t.Parallel()
	stand := bpmsofttest.NewOData(t, true)
	i := install(t, nil, map[string]string{
		"EXTERNAL_CRM_ENABLED": "true", "CRM_MODE": "odata", "CRM_ALLOW_HTTP": "true", "CRM_ODATA_URL": stand.URL(),
		"CRM_ODATA_USER": bpmsofttest.User, "CRM_ODATA_PASS": bpmsofttest.Password,
	})
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_odata"))
	i.wait("delivered", `select status from crm_dispatches where target = 'bpmsoft' and event_id = $1`, a.EventID)
	if n := len(stand.Activities()); n != 1 {
		t.Errorf("%d activities", n)
	}
	if got := i.text(`select count(*) from crm_dispatches where payload::text like '%' || $1 || '%' or response_text like '%' || $1 || '%'`, bpmsofttest.Password); got != "0" {
		t.Error("the password is in the records")
	}
}

// Each result is posted to a webhook, signed, beside the other targets.
func TestWebhookOut(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	verifier, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var bodies []string
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || verifier.Verify(body, r.Header) != nil {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body))
	}))
	t.Cleanup(receiver.Close)
	i := install(t, nil, map[string]string{"WEBHOOK_OUT_URL": receiver.URL, "WEBHOOK_OUT_SECRET": "whsec_" + key, "WEBHOOK_OUT_ALLOW_HTTP": "true"})
	i.ingest()
	i.worker()
	a := i.send(callBody("conv_out"))
	i.wait("delivered", `select status from crm_dispatches where target = 'webhook' and event_id = $1`, a.EventID)
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 1 || !strings.Contains(bodies[0], "conv_out") || !strings.Contains(bodies[0], "call.analyzed") {
		t.Errorf("received %q", bodies)
	}
}
