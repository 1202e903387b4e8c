package webhook

import (
	"context"
	"fmt"
	"net/http"

	"postcall/pkg/export"
)

// Check asks the address by HEAD, which carries no message. A receiver may
// answer that with anything: only whether it answers, and does not send us
// elsewhere, is told.
func (e *Exporter) Check(ctx context.Context) []export.Finding {
	fail := func(advice, format string, args ...any) []export.Finding {
		return []export.Finding{{Level: export.Fail, Text: fmt.Sprintf(format, args...), Advice: advice}}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, e.url.String(), nil)
	if err != nil {
		return fail("Correct WEBHOOK_OUT_URL.", "no request can be made of the webhook's address")
	}
	reply, err := e.client.Do(ctx, r)
	switch {
	case err != nil:
		return []export.Finding{export.Unreachable(err, "WEBHOOK_OUT_URL")}
	case reply.Redirects():
		return fail("Set WEBHOOK_OUT_URL to the final address; redirects are not followed.", "the webhook's receiver sends us elsewhere (HTTP %d)", reply.Status)
	case reply.Status == http.StatusGone:
		return fail("Take WEBHOOK_OUT_URL away, or ask the receiver's owner.", "the webhook's receiver wants nothing more (HTTP 410)")
	}
	return []export.Finding{{Level: export.OK, Text: fmt.Sprintf("the webhook's receiver answers (HTTP %d to a request without a message)", reply.Status)}}
}
