package web

import (
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/call"
)

// The catalogues have the same keys with the same arguments, and every key that
// is used.
func TestCatalogues(t *testing.T) {
	t.Parallel()
	all := map[string]texts{}
	for _, lang := range Languages() {
		c, err := catalogue(lang)
		if err != nil {
			t.Fatal(err)
		}
		all[lang] = c
	}
	verbs := regexp.MustCompile(`%[a-z]`)
	first := all[Languages()[0]]
	for lang, c := range all {
		for key, text := range c {
			if other, ok := first[key]; !ok || !slices.Equal(verbs.FindAllString(text, -1), verbs.FindAllString(other, -1)) {
				t.Errorf("%s: %s is %q here and %q in the first catalogue", lang, key, text, other)
			}
		}
		for key := range first {
			if c[key] == "" && key != "" {
				t.Errorf("%s: %s is missing", lang, key)
			}
		}
	}
	used := map[string]bool{}
	key := regexp.MustCompile(`(?:\{\{|\(| )t "([^"]+)"`)
	err := fs.WalkDir(templateFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := templateFiles.ReadFile(path)
		for _, m := range key.FindAllStringSubmatch(string(b), -1) {
			used[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	source := regexp.MustCompile(`"((?:tile|trend|overview|calls|error|dead|audit|rejections|call)\.[a-z0-9]+)"`)
	for _, file := range []string{"overview.go", "functions.go", "web.go", "calls.go", "call.go", "lists.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range source.FindAllStringSubmatch(string(b), -1) {
			if !strings.HasSuffix(m[1], ".html") {
				used[m[1]] = true
			}
		}
	}
	lists := map[string][]string{
		"outcome": strs(call.OutcomeCodes()), "sentiment": strs(call.Sentiments()), "state": strs(States()), "verdict": strs(call.Verdicts()),
		"role": strs(access.Roles()), "audited": strs(access.Outcomes()), "field": admin.CorrectedFields(), "refuseddo": append(refusals(), "other"), "refused": refusals(),
		"done": {"reprocess", "resend", "correct", "handled", "retry"}, "speaker": {"agent", "user"}, "error": {"400", "403", "404", "409", "422", "429", "500", "503"},
		"sort": {"-received_at", "received_at", "-quality", "quality"}, "target": {"bpmsoft", "markdown", "webhook"}, "number": {"space"}, "format": {"day"}, "check": {"queue", "target", "database", "spool", "workers"}, "health": {"ok", "warn", "fail"}, "note": {"silent", "audio", "none"},
	}
	for _, f := range (&Dashboard{}).fields(nil) {
		used["filter."+f.Name] = true
		for _, o := range f.Options {
			used[o.Key] = true
		}
	}
	for _, code := range []call.Code{call.Credentials, call.Unavailable, call.RateLimited, call.Refused, call.Invalid, call.TooLarge, call.Cancelled, call.Lost, call.NotFound, call.Internal} {
		used["code."+string(code)], used["advice."+advice(code)] = true, true
	}
	for list, values := range lists {
		for _, v := range values {
			used[list+"."+v] = true
		}
	}
	if len(used) < 150 {
		t.Fatalf("only %d keys were found", len(used))
	}
	for _, k := range slices.Sorted(maps.Keys(used)) {
		if _, ok := first[k]; !ok {
			t.Errorf("%s is used and in no catalogue", k)
		}
	}
}

func TestLanguage(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"": "en", "ru": "ru", "ru-RU,ru;q=0.9,en;q=0.8": "ru", "de,ru;q=0.4,en;q=0.6": "en", "de": "en", "ru;q=x": "en", "ru;q=0": "en", ";;;,": "en",
	} {
		r := &http.Request{Header: http.Header{"Accept-Language": {header}}}
		if got := language(r); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
		r.Header.Set("Cookie", langCookie+"=ru")
		if got := language(r); got != "ru" {
			t.Errorf("%q with a cookie: %s", header, got)
		}
		r.Header.Set("Cookie", langCookie+"=<script>")
		if got := language(r); got != want {
			t.Errorf("%q with a strange cookie: %s", header, got)
		}
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/calls?q=1": "/calls?q=1", "": "/", "//evil": "/", "https://evil": "/", `/\evil`: "/", "/\t/evil": "/", "calls": "/"} {
		if got := local(path, "/"); got != want {
			t.Errorf("%q: %s", path, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		clock(65.2): "1:05", clock(7265): "2:01:05", clock((*float64)(nil)): "–", grouped(1234567, ","): "1,234,567", grouped(12, ","): "12",
		percent(0.456): "46 %", money(0.01234): "$0.0123", money(12.345): "$12.35", level(2): "low", level(3): "mid", level(4): "high", level((*int)(nil)): "none",
		fmt.Sprint(trend(new(0.25), -1)): "{↑ trend.up 25 % bad}", fmt.Sprint(trend(new(-0.25), -1)): "{↓ trend.down 25 % good}",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
