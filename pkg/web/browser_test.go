package web_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"postcall/pkg/access"
	"postcall/pkg/work"
)

// TestPeople goes through the dashboard as people do.
func TestPeople(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.browse(1280) // without Chromium nothing is begun
	h.fill()
	dead := h.send(body("conv_dead", "Сколько стоит двухкомнатная квартира?", nil))
	h.kill(dead, "model-503")
	id := h.sampleCall()
	b := h.browse(1280)

	t.Log("signing in, with a wrong token first")
	b.open("/calls?q=ипотека")
	b.do(chromedp.SendKeys("#token", "pcl_wrong\r"), chromedp.WaitVisible(".alert"))
	b.clean401()
	b.do(chromedp.SendKeys("#token", h.tokens[access.Operator]+"\r"), chromedp.WaitVisible(".top nav"))
	if got := eval[string](b, `decodeURIComponent(location.pathname + location.search)`); got != "/calls?q=ипотека" {
		t.Errorf("after signing in: %s", got)
	}
	found := eval[int](b, `document.querySelectorAll(".row").length`)
	b.open("/calls")
	all := eval[int](b, `document.querySelectorAll(".row").length`)
	if found == 0 || found >= all {
		t.Errorf("the search shows %d of %d", found, all)
	}

	t.Log("filtering by the form: the address is what is shared")
	b.do(chromedp.Click(".filters summary"), chromedp.SetValue("#f-quality", "4,5"), chromedp.Click(".searchline .primary"))
	b.awaits(`location.search === "?quality=4%2C5&sort=-received_at"`)
	if n := eval[int](b, `document.querySelectorAll(".row").length`); n == 0 || n >= all || n != eval[int](b, `document.querySelectorAll(".quality.high").length`) {
		t.Errorf("%d calls of quality 4 and 5", n)
	}

	t.Log("a call: a click on a turn is heard from there")
	b.open(fmt.Sprintf("/calls/%d", id))
	b.awaits(`document.querySelector("#player").readyState > 0 || document.querySelector("#player").error`)
	b.do(chromedp.Click(".turn:nth-child(4) .seek"))
	b.awaits(`document.querySelector("#player").currentTime >= Number(document.querySelector(".turn:nth-child(4)").dataset.at) + 0.3`) // it plays
	if !eval[bool](b, `document.querySelector(".turn:nth-child(4)").matches("[aria-current]") && document.querySelectorAll(".tool").length > 0`) {
		t.Error("the turn that is heard is not lit, or no tool call is folded")
	}
	b.do(chromedp.SetValue("#speed", "2"), chromedp.KeyEvent("k"))
	b.awaits(`document.querySelector("#player").paused && document.querySelector("#player").playbackRate === 2`)
	b.do(chromedp.KeyEvent("l"), chromedp.KeyEvent("l"))
	b.awaits(`document.querySelectorAll(".turn[aria-current]").length === 1 && document.querySelector(".turn:nth-child(5)").matches("[aria-current]")`)

	t.Log("correcting, by the keyboard alone")
	b.do(chromedp.Focus(".fields > div:first-child .edit summary"), chromedp.KeyEvent("\r"), chromedp.Focus("#c-topic"),
		chromedp.SetValue("#c-topic", "Проверено человеком"), chromedp.KeyEvent("\r"))
	b.awaits(`document.querySelector(".notice") && document.querySelector("h1").textContent === "Проверено человеком"`)
	if said := eval[string](b, `document.querySelector(".corrected").textContent`); !strings.Contains(said, "the-operator") {
		t.Errorf("the correction says %s", said)
	}
	h.indexed()
	b.open("/calls?topic=" + "проверено")
	if got := eval[string](b, `document.querySelector(".row .title").textContent`); got != "Проверено человеком" {
		t.Errorf("the list shows %s", got)
	}

	t.Log("what is sent again has the corrected value; the model's stays where it was")
	b.open(fmt.Sprintf("/calls/%d", id))
	b.do(chromedp.SetValue("#target", "markdown"), chromedp.Click("input[name=force]"), chromedp.Click(`form[action$="/resend"] button`))
	b.awaits(`location.search === "?done=resend"`)
	h.until("2", `select count(*) from crm_dispatches where event_id = $1 and target = 'markdown' and status = 'delivered'`, id)
	var analysis int64
	if err := h.pool.QueryRow(t.Context(), `select max(id) from analyses where event_id = $1`, id).Scan(&analysis); err != nil {
		t.Fatal(err)
	}
	if d, err := work.Delivery(t.Context(), h.pool, analysis); err != nil || d.Analysis.Result.Topic == nil || *d.Analysis.Result.Topic != "Проверено человеком" {
		t.Errorf("what is sent: %+v %v", d.Analysis.Result, err)
	}
	h.until("0", `select count(*) from analyses where result ->> 'topic' = 'Проверено человеком'`)

	t.Log("reprocessing")
	b.open(fmt.Sprintf("/calls/%d", id))
	b.do(chromedp.Click(`form[action$="/reprocess"] button`))
	b.awaits(`location.search === "?done=reprocess"`)
	h.until("2", `select count(*) from analyses where event_id = $1`, id)
	h.until("event.reprocess|done", `select action || '|' || outcome from audit_log where target = $1 and action = 'event.reprocess'`, fmt.Sprintf("event %d", id))

	t.Log("a dead letter")
	b.open("/dead-letters")
	b.do(chromedp.Click(`.group button[name=event]`))
	b.awaits(`location.search === "?done=retry"`)
	h.until("done", `select analysis_state from webhook_events where id = $1`, dead)

	t.Log("live arrival, which moves nothing")
	b.open("/calls")
	before := eval[string](b, `document.querySelector(".rows").textContent`)
	h.send(body("conv_new", "Здравствуйте, я только что позвонил.", nil))
	b.awaits(`!document.querySelector(".live").hidden`)
	if eval[string](b, `document.querySelector(".rows").textContent`) != before {
		t.Error("the list moved")
	}
	b.do(chromedp.Click(".live a"))
	b.awaits(fmt.Sprintf(`document.querySelectorAll(".row").length === %d`, all+1))

	t.Log("language and signing out")
	b.do(chromedp.Click(`button[name=lang]`))
	b.awaits(`document.documentElement.lang === "ru" && document.querySelector("h1").textContent === "Звонки"`)
	b.do(chromedp.Click(`form[action="/session/end"] button`), chromedp.WaitVisible("#token"))
	b.open("/calls")
	if eval[string](b, `location.pathname`) != "/session" {
		t.Error("signed out, and the calls are shown")
	}
	b.clean()
}

// TestKeyboard goes from signing in to a correction without a pointer, and sees
// where it is on the way.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	h := open(t)
	b := h.browse(1280)
	h.send(body("conv_keys", "Сколько стоит двухкомнатная квартира?", nil))
	b.open("/")
	b.do(chromedp.KeyEvent(h.tokens[access.Operator]), chromedp.KeyEvent("\r"), chromedp.WaitVisible(".top nav"))
	b.tabTo(".skip")
	b.do(chromedp.KeyEvent("\r"))
	b.awaits(`document.activeElement.id === "main"`)
	b.open("/")
	b.tabTo(`.top nav a[href="/calls"]`)
	b.do(chromedp.KeyEvent("\r"))
	b.awaits(`location.pathname === "/calls" && document.readyState === "complete"`)
	b.tabTo("#q")
	b.do(chromedp.KeyEvent("квартира"), chromedp.KeyEvent("\r"))
	b.awaits(`location.search.includes("q=") && document.readyState === "complete"`)
	b.tabTo(".filters summary")
	b.do(chromedp.KeyEvent(" "))
	b.tabTo("#f-quality")
	b.tabTo(".row .title")
	b.do(chromedp.KeyEvent("\r"))
	b.awaits(`location.pathname.startsWith("/calls/") && document.readyState === "complete"`)
	b.tabTo(".fields > div:first-child .edit summary")
	b.do(chromedp.KeyEvent("\r"))
	b.tabTo("#c-topic")
	b.do(chromedp.KeyEvent("Клавиатура"), chromedp.KeyEvent("\r"))
	b.awaits(`document.querySelector("h1").textContent === "Клавиатура"`)
	b.tabTo(`button[name=lang]`)
	b.do(chromedp.KeyEvent(" "))
	b.awaits(`document.documentElement.lang === "ru"`)
	b.clean()
}

// tabTo presses the tabulator until an element has the focus, which must show.
func (b *browser) tabTo(selector string) {
	b.h.t.Helper()
	for range 80 {
		b.do(chromedp.KeyEvent("\t"))
		if eval[bool](b, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			if !eval[bool](b, `document.activeElement.matches(":focus-visible") && getComputedStyle(document.activeElement).outlineStyle !== "none"`) {
				b.h.t.Errorf("the focus on %s does not show", selector)
			}
			return
		}
	}
	b.h.t.Fatalf("the keyboard does not reach %s", selector)
}

// clean401 takes what the browser says of a refused sign-in for what it is.
func (b *browser) clean401() {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.wrongs[:0]
	for _, w := range b.wrongs {
		if !strings.Contains(w, "401") {
			kept = append(kept, w)
		}
	}
	b.wrongs = kept
}

// pages are all there are, with a call of some id.
func pages(id int64) []string {
	return []string{"/?days=30", "/calls", "/calls?quality=1,2", fmt.Sprintf("/calls/%d", id), "/dead-letters", "/rejections", "/system", "/audit", "/session"}
}

// TestAxe looks for what keeps people from using a page.
func TestAxe(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("testdata/node_modules/axe-core/axe.min.js")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("axe-core is not installed: npm ci in pkg/web/testdata")
		}
		t.Skip("axe-core is not installed: npm ci in pkg/web/testdata")
	}
	h := open(t)
	b := h.browse(1280)
	b.signIn(access.Admin)
	b.open("/calls") // the empty state
	check := func(what string) {
		eval[bool](b, string(axe)+"; true")
		found := eval[[]string](b, `axe.run({resultTypes: ["violations"]}).then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 200) + " " + n.failureSummary.slice(0, 200))))`)
		for _, v := range found {
			t.Errorf("%s: %s", what, v)
		}
	}
	check("no calls yet")
	h.fill()
	dead := h.send(body("conv_dead", "Сколько стоит квартира?", nil))
	h.kill(dead, "model-503")
	h.sampleRejections()
	h.exec(`insert into import_days (day, upstream, present, imported, failed) values (current_date, 12, 9, 2, 1)`)
	b.open("/")
	if text := eval[string](b, `document.querySelector('a[href="/system#upstream"]').textContent`); !strings.Contains(text, "12 there, 11 here, 2 imported") {
		t.Errorf("the overview says of ElevenLabs' calls: %s", text)
	}
	for _, theme := range []string{"light", "dark"} {
		b.choose("theme", theme)
		for _, path := range pages(h.sampleCall()) {
			b.open(path)
			eval[bool](b, `document.querySelectorAll("details").forEach(d => d.open = true) || true`)
			check(theme + " " + path)
		}
	}
	b.open("/calls/999999999")
	check("an error")
}

// TestHostile: whatever a call is made of, a page shows it as text.
func TestHostile(t *testing.T) {
	t.Parallel()
	const evil = `"'><script>window.hit=1</script><img src=x onerror="window.hit=2"><svg onload=window.hit=3><a href="javascript:window.hit=4">x</a>{{.}}</textarea></title>`
	h := open(t)
	b := h.browse(1280)
	id := h.send(body(evil, evil, map[string]any{
		"agent_id": evil, "agent_name": evil,
		"transcript": []any{
			map[string]any{"role": "agent", "message": evil, "time_in_call_secs": 0, "tool_calls": []any{map[string]any{"tool_name": evil, "params_as_json": evil}}},
			map[string]any{"role": "user", "message": evil, "time_in_call_secs": 2},
			map[string]any{"role": "agent", "message": evil, "tool_results": []any{map[string]any{"tool_name": evil, "result_value": evil, "is_error": true}}},
		},
	}))
	h.exec(`update analyses set model = $2, prompt_version = $2, result = result || jsonb_build_object('topic', left($2, 120), 'intent', $2::text, 'outcome', $2::text,
		'summary_ru', $2::text, 'client_name', left($2, 120), 'phone', left($2, 32), 'outcome_code', 'callback', 'recommendations', jsonb_build_array($2::text),
		'evidence', jsonb_build_array(jsonb_build_object('claim', $2::text, 'turn', 1, 'quote', $2::text, 'supported', true)),
		'criteria', jsonb_build_array(jsonb_build_object('id', left($2, 60), 'verdict', 'met', 'turn', 1, 'quote', $2::text, 'supported', true),
			jsonb_build_object('id', 'invented', 'verdict', 'met', 'turn', 1, 'quote', 'nobody said this', 'supported', false)))
		where event_id = $1`, id, evil)
	h.exec(`insert into crm_dispatches (event_id, payload, response_text, status, target, attempt) values ($1, jsonb_build_object('a', $2::text), $2, 'failed', 'bpmsoft', 1)`, id, evil)
	h.exec(`insert into audit_log (actor, role, action, target, outcome) values ($1, 'viewer', $1, $1, 'done')`, evil)
	h.exec(`insert into rejections (reason, address, request_id, user_agent, bytes) values ($1, $1, $1, $1, 1)`, evil)
	dead := h.send(body("conv_dead", evil, map[string]any{"agent_id": evil}))
	h.exec(`update webhook_events set analysis_state = 'dead', processor_note = $2, failure_code = 'internal', failure_fingerprint = $2, failed_at = now() where id = $1`, dead, evil)

	b.signIn(access.Admin)
	for _, path := range append(pages(id), "/session?next=%22%3E%3Cscript%3Ewindow.hit=5%3C/script%3E", "/?agentId=%3Cscript%3Ewindow.hit=6%3C/script%3E") {
		b.open(path)
		if eval[bool](b, `window.hit !== undefined || document.querySelector("main script, main img, main a[href^='javascript'], [onload], [onerror]") !== null`) {
			t.Errorf("%s: markup of a call became markup of the page", path)
		}
	}
	b.open(fmt.Sprintf("/calls/%d", id))
	if text := eval[string](b, `document.body.textContent`); !strings.Contains(text, evil) || strings.Contains(text, "nobody said this") {
		t.Error("the transcript is not shown as it was said, or an unsupported quote is shown")
	}
	if n := eval[string](b, `document.querySelector("[data-unsupported]").dataset.unsupported`); n != "1" {
		t.Errorf("%s quotes are called unsupported", n)
	}
	b.clean()
}

// What viewers may not do is not offered and refused; numbers are masked.
func TestViewer(t *testing.T) {
	t.Parallel()
	h := open(t)
	id := h.send(body("conv_phone", "Мой номер +7 999 000-00-17, перезвоните.", nil))
	client := h.signedIn(access.Viewer)
	for path, want := range map[string]int{"/": 200, "/calls": 200, fmt.Sprintf("/calls/%d", id): 200, "/dead-letters": 200, "/rejections": 200, "/system": 200, "/audit": 403, "/calls/999999": 404, "/calls/x": 404, "/calls?quality=9": 400} {
		status, page, header := client("GET", path, "")
		if status != want || !strings.Contains(header.Get("Content-Type"), "text/html") || strings.Contains(header.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: %d %s", path, status, header)
		}
		if strings.Contains(page, "000-00-17") || strings.Contains(page, `method="post" action="/calls/`) {
			t.Errorf("%s shows a viewer a number or an action", path)
		}
		if len(page) > 100<<10 {
			t.Errorf("%s has %d bytes", path, len(page))
		}
	}
	for _, path := range []string{"reprocess", "resend", "correct", "handled"} {
		if status, _, _ := client("POST", fmt.Sprintf("/calls/%d/%s", id, path), "field=topic&value=x"); status != http.StatusForbidden {
			t.Errorf("%s by a viewer: %d", path, status)
		}
	}
	operator := h.signedIn(access.Operator)
	if status, _, _ := operator("POST", fmt.Sprintf("/calls/%d/correct", id), "field=quality&value=9"); status != http.StatusBadRequest {
		t.Errorf("a quality of 9: %d", status)
	}
	if status, _, _ := operator("POST https://evil.example", fmt.Sprintf("/calls/%d/reprocess", id), ""); status != http.StatusForbidden {
		t.Errorf("another site's form: %d", status)
	}
}
