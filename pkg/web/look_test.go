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
