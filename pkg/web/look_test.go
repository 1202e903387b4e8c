package web_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"postcall/pkg/access"
)

// TestLook writes a picture of every page in both languages and themes, for a
// desktop and a telephone, to the folder SCREENSHOTS names.
func TestLook(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		t.Skip("SCREENSHOTS names no folder")
	}
	h := open(t)
	h.fill()
	h.exec(`update webhook_events set received_at = received_at - (id % 9) * interval '17 hours'`)
	h.past()
	dead := h.send(body("conv_dead", "Сколько стоит двухкомнатная квартира?", nil))
	h.kill(dead, "model-503")
	shoot := h.sampleCall()
	h.sampleRejections()
	for _, size := range []struct {
		name string
		w    int
	}{{"desktop", 1280}, {"phone", 390}} {
		b := h.browse(size.w)
		b.do(chromedp.EmulateViewport(int64(size.w), 900))
		b.signIn(access.Admin)
		for _, lang := range []string{"en", "ru"} {
			b.choose("lang", lang)
			for _, theme := range []string{"light", "dark"} {
				b.choose("theme", theme)
				for name, path := range map[string]string{
					"overview": "/?days=30", "calls": "/calls", "call": fmt.Sprintf("/calls/%d", shoot), "dead": "/dead-letters",
					"rejections": "/rejections", "system": "/system", "audit": "/audit", "signin": "/session",
				} {
					b.open(path)
					// The head of a list is enough of it.
					eval[bool](b, `document.querySelectorAll(".row:nth-child(n+15)").forEach(r => r.remove()) || true`)
					picture, err := chromedp.Run(b.Context, chromedp.FullScreenshot(60))
					b.try(err)
					file := filepath.Join(dir, fmt.Sprintf("%s-%s-%s-%s.jpg", name, size.name, lang, theme))
					if err := os.WriteFile(file, picture, 0o600); err != nil {
						t.Fatal(err)
					}
					if wide := eval[int](b, `document.documentElement.scrollWidth`); wide > size.w {
						t.Errorf("%s is %d wide on %d", path, wide, size.w)
					}
				}
			}
		}
		b.clean()
	}
}

// past makes two months of calls out of those that there are, so that figures
// have something to be compared with.
func (h *house) past() {
	h.t.Helper()
	h.exec(`
		insert into webhook_events (event_type, event_timestamp, agent_id, conversation_id, status, payload, processed, processed_at,
			received_at, dedup_key, analysis_state, request_id)
		select event_type, event_timestamp, agent_id, conversation_id || '_' || n, status, payload, true, now(),
			now() - interval '6 hours' - 1440 * interval '1 hour' * power(((id * 31 + n * 17) % 97) / 97.0, 1.3), 'look:' || id || ':' || n, analysis_state, id::text
		from webhook_events, generate_series(1, 5 + (id * 13 % 31)::int) n where analysis_state = 'done' or event_type = 'call_initiation_failure'`)
	h.exec(`
		insert into analyses (event_id, model, analyzer, prompt_version, trigger, cost_usd, result)
		select e.id, 'gpt-5-mini', 'openai', 'sales/4', 'auto', 0.0011 + e.id % 7 * 0.0001,
			a.result || jsonb_build_object('sentiment', (array['positive', 'neutral', 'neutral', 'positive', 'mixed', 'negative'])[1 + e.id % 6],
				'quality', (array[5, 4, 4, 3, 5, 4, 2, 5])[1 + e.id % 8])
		from webhook_events e join analyses a on a.event_id = e.request_id::bigint where e.dedup_key like 'look:%'`)
	h.exec(`insert into handled (event_id, who) select id, 'olga' from webhook_events where dedup_key like 'look:%' and now() - received_at > interval '3 days'`)
	h.indexed()
}
