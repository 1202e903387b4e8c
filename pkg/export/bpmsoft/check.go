package bpmsoft

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"postcall/pkg/export"
)

// Check connects to the stand and says what is wrong, as far as that can be
// seen without sending anything: the service is asked with GET, which it does
// not take. Whether the landing exists, is enabled and has the Referer's
// domain, it only tells to a lead.
func (e *Exporter) Check(ctx context.Context) []export.Finding {
	status, header, body, err := e.look(ctx, e.url)
	if err != nil {
		return []export.Finding{export.Unreachable(bare(err), "CRM_SERVICE_URL")}
	}
	fail := func(advice, format string, args ...any) []export.Finding {
		return []export.Finding{{Level: export.Fail, Text: fmt.Sprintf(format, args...), Advice: advice}}
	}
	switch {
	case status >= 300 && status < 400:
		return fail("Set CRM_SERVICE_URL to the address that takes the lead itself; redirects are not followed.", "the stand sends us elsewhere (HTTP %d, to %s)", status, whither(header, e.url))
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return fail("Set CRM_BASIC_AUTH_USER and CRM_BASIC_AUTH_PASS to what stands in front of BPMSoft, or allow this machine's address there.", "the stand does not let us in (HTTP %d)", status)
	case status == http.StatusNotFound, status == http.StatusGone:
		if other, ok := e.otherRoot(ctx); ok {
			return fail("Set CRM_SERVICE_URL to "+other, "there is no landing service at this address (HTTP %d), but there is one at %s", status, other)
		}
		return fail("The address ends in /ServiceModel/GeneratedObjectWebFormService.svc/SaveWebFormObjectData, after the stand's root and, on .NET Framework, /0.", "there is no landing service at this address (HTTP %d)", status)
	case status >= 500:
		return fail("Look at the stand, or ask who runs it.", "the stand is broken (HTTP %d)", status)
	case status == http.StatusOK && page(header, body):
		return fail("Set CRM_SERVICE_URL to the service, not to a page for people.", "a page answers at this address, not the landing service")
	case status != http.StatusMethodNotAllowed && status != http.StatusBadRequest && status != http.StatusOK:
		return fail("Check CRM_SERVICE_URL, and what stands before BPMSoft.", "this is not how the landing service answers a GET (HTTP %d)", status)
	}
	return []export.Finding{
		{Level: export.OK, Text: fmt.Sprintf("the landing service answers (HTTP %d to a GET, which it does not take)", status)},
		{
			Level:  export.Warn,
			Text:   fmt.Sprintf("that landing %s exists, is enabled and has the domain of %s cannot be seen without sending a lead", e.landing, e.o.Referer),
			Advice: "Compare both with the landing's page in BPMSoft; or set CRM_ODATA_URL, CRM_ODATA_USER and CRM_ODATA_PASS, with which this check reads the landing.",
		},
	}
}

// look asks an address without sending anything.
func (e *Exporter) look(ctx context.Context, address string) (status int, h http.Header, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Referer", e.o.Referer)
	req.Header.Set("User-Agent", "postcall")
	if e.o.User != "" || e.o.Password != "" {
		req.SetBasicAuth(e.o.User, e.o.Password)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	return resp.StatusCode, resp.Header, body, err
}

// otherRoot looks whether the service is there with /0, or without it.
func (e *Exporter) otherRoot(ctx context.Context) (address string, ok bool) {
	u, err := url.Parse(e.url)
	if err != nil {
		return "", false
	}
	if rest, zero := strings.CutPrefix(u.Path, "/0/"); zero {
		u.Path = "/" + rest
	} else {
		u.Path = "/0" + u.Path
	}
	status, _, _, err := e.look(ctx, u.String())
	return u.String(), err == nil && (status == http.StatusMethodNotAllowed || status == http.StatusOK || status == http.StatusBadRequest)
}

// whither is where a redirect leads, without a query, which could hold a key.
func whither(h http.Header, from string) string {
	const longest = 300
	base, err := url.Parse(from)
	if err != nil {
		return "an address that cannot be read"
	}
	u, err := base.Parse(h.Get("Location"))
	if err != nil || len(u.Host)+len(u.Path) > longest {
		return "an address that cannot be read"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
