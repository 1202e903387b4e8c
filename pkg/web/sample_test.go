package web_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"postcall/pkg/access"
)

// choose sets the language or theme by the page's own form.
func (b *browser) choose(name, value string) {
	b.h.t.Helper()
	b.open("/calls")
	eval[bool](b, fmt.Sprintf(`fetch("/preferences", {method: "POST", body: new URLSearchParams(%q), redirect: "manual"}).then(() => true)`,
		url.Values{name: {value}}.Encode()))
}

// sampleCall is the id of the demo's call with the longest conversation.
func (h *house) sampleCall() (id int64) {
	h.t.Helper()
	err := h.pool.QueryRow(h.t.Context(), `
		select e.id from webhook_events e
		where event_type = 'post_call_transcription' and exists (select from call_audio a where a.conversation_id = e.conversation_id)
		order by jsonb_array_length(payload #> '{data,transcript}') desc limit 1`).Scan(&id)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// sampleRejections posts what is refused.
func (h *house) sampleRejections() {
	h.t.Helper()
	forger := *h.post
	forger.Secret = "wsec_another_0123456789abcdef"
	for range 3 {
		if _, err := forger.Send(h.t.Context(), []byte(`{"type":"post_call_transcription"}`)); err != nil && !strings.Contains(err.Error(), "401") {
			h.t.Fatal(err)
		}
	}
	h.until("true", `select count(*) >= 3 from rejections`)
}

// signedIn makes requests with a session of a role. "POST https://…" is one of
// another site's page.
func (h *house) signedIn(role access.Role) func(method, path, form string) (int, string, http.Header) {
	h.t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	h.t.Cleanup(client.CloseIdleConnections)
	cookie := ""
	do := func(method, path, form string) (int, string, http.Header) {
		h.t.Helper()
		method, origin, _ := strings.Cut(method, " ")
		req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(form))
		if err != nil {
			h.t.Fatal(err)
		}
		req.Header.Set("Accept", "text/html")
		req.Header.Set("Cookie", cookie)
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := client.Do(req)
		if err != nil {
			h.t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // it was read
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			h.t.Fatal(err)
		}
		return resp.StatusCode, string(b), resp.Header
	}
	status, _, header := do(http.MethodPost, "/session", url.Values{"token": {h.tokens[role]}}.Encode())
	if cookie, _, _ = strings.Cut(header.Get("Set-Cookie"), ";"); status != http.StatusSeeOther || header.Get("Location") != "/" {
		h.t.Fatalf("signing in: %d %v", status, header)
	}
	return do
}
