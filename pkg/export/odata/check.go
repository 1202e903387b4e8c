package odata

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// Check logs in and looks around without writing anything: whether the user may
// read Activities and, where landingID is not empty, whether that landing
// exists and has the domain of referer.
func (e *Exporter) Check(ctx context.Context, landingID, referer string) []export.Finding {
	reply, err := e.do(ctx, http.MethodGet, "/Activity", url.Values{"$top": {"1"}, "$select": {"Id"}}, nil)
	if err == nil && (!reply.OK() || reply.HTML()) {
		_, fault := failure(reply)
		err = fault
	}
	if err != nil {
		advice := "Check CRM_ODATA_URL and the network between here and there."
		if call.CodeOf(err) == call.Credentials {
			advice = "Check CRM_ODATA_URL, CRM_ODATA_USER and CRM_ODATA_PASS, and that the user may use OData."
		}
		return []export.Finding{{Level: export.Fail, Text: err.Error(), Advice: advice}}
	}
	list := []export.Finding{{Level: export.OK, Text: "OData answers, the user is logged in and may read Activities"}}
	if landingID == "" {
		return list
	}
	return append(list, e.landing(ctx, landingID, referer))
}

func (e *Exporter) landing(ctx context.Context, id, referer string) export.Finding {
	reply, err := e.do(ctx, http.MethodGet, "/GeneratedWebForm("+id+")", nil, nil)
	switch {
	case err == nil && reply.Status == http.StatusNotFound:
		return export.Finding{Level: export.Fail, Text: "there is no landing " + id, Advice: "Copy formId from the code on the landing's page into CRM_LANDING_ID."}
	case err == nil && (!reply.OK() || reply.HTML()):
		_, fault := failure(reply)
		err = fault
	}
	if err != nil {
		return export.Finding{Level: export.Warn, Text: fmt.Sprintf("the landing cannot be read: %v", err), Advice: "Let the user read landings, or compare by hand."}
	}
	var form struct {
		Name        string `json:"Name"`
		ExternalURL string `json:"ExternalURL"`
	}
	if err := json.Unmarshal([]byte(reply.Text(maxResponse)), &form); err != nil {
		return export.Finding{Level: export.Warn, Text: "the landing's answer is not understood", Advice: "Compare the landing with the settings by hand."}
	}
	for _, domain := range strings.FieldsFunc(form.ExternalURL, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\n' }) {
		if strings.HasPrefix(bareDomain(referer), bareDomain(domain)) {
			return export.Finding{Level: export.OK, Text: fmt.Sprintf("landing %q is there and has the domain of the Referer", form.Name)}
		}
	}
	return export.Finding{
		Level: export.Fail, Text: fmt.Sprintf("landing %q does not have the domain of %s", form.Name, referer),
		Advice: "Add it to the landing's domains in BPMSoft, or set CRM_REFERER to one that is there.",
	}
}

// bareDomain is an address without its scheme, as landings have it or not.
func bareDomain(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	return strings.TrimPrefix(strings.TrimSuffix(s, "/"), "www.")
}

// Preview gives what would be sent, without the contact that sending looks for.
// The receipt's outcome says that nothing was sent.
func (e *Exporter) Preview(d export.Delivery) (export.Receipt, error) {
	return export.Receipt{Outcome: export.Failed, Payload: e.activity(d).encode()}, nil
}
