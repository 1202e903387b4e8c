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
		if call.CodeOf(err) == call.Unavailable {
			return []export.Finding{export.Unreachable(err, "CRM_ODATA_URL")}
		}
		return []export.Finding{{Level: export.Fail, Text: err.Error(), Advice: "Check CRM_ODATA_URL, CRM_ODATA_USER and CRM_ODATA_PASS, and that the user may use OData."}}
	}
	list := []export.Finding{{Level: export.OK, Text: "OData answers, the user is logged in and may read Activities"}}
	if landingID == "" {
		return append(list, e.search(ctx))
	}
	return append(list, e.landing(ctx, landingID, referer))
}

// search looks whether contacts can be found by their number.
func (e *Exporter) search(ctx context.Context) export.Finding {
	reply, err := e.do(ctx, http.MethodGet, "/ContactCommunication", url.Values{
		"$filter": {"startswith(SearchNumber," + literal("00000000000000") + ")"}, "$select": {"ContactId"}, "$top": {"1"},
	}, nil)
	if err == nil && reply.OK() && !reply.HTML() {
		return export.Finding{Level: export.OK, Text: "contacts can be found by their number"}
	}
	return export.Finding{
		Level: export.Warn, Text: fmt.Sprintf("contacts cannot be found by their number (HTTP %d): calls arrive without one", reply.Status),
		Advice: "Let the user read ContactCommunication.",
	}
}

// activeLanding is the Id of the state that BPMSoft gives to a new landing.
const activeLanding = "fbe29614-c02c-446e-ac8c-e7f62c4899ec"

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
		StateID     string `json:"StateId"`
	}
	if err := json.Unmarshal([]byte(reply.Text(maxResponse)), &form); err != nil {
		return export.Finding{Level: export.Warn, Text: "the landing's answer is not understood", Advice: "Compare the landing with the settings by hand."}
	}
	if form.StateID != "" && !strings.EqualFold(form.StateID, activeLanding) {
		// A stand may have states of its own, so this is no more than a hint.
		return export.Finding{Level: export.Warn, Text: fmt.Sprintf("landing %q does not seem to be enabled", form.Name), Advice: "Set its state to active on its page in BPMSoft."}
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
