package web_test

import (
	"fmt"
	"net/url"
	"strings"
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
