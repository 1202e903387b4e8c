package analyze_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"postcall/pkg/analyze"
	"postcall/pkg/analyze/analyzetest"
)

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", " a\r\n## b\t\tc ", "a\x00b\x1b[31mc\u202ed\u200be\ufeff", "\xff\xfeтест", "a\u2028b\u0085c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := analyze.Clean(s)
		if !utf8.ValidString(got) || strings.TrimSpace(got) != got || strings.Contains(got, "  ") || len(got) > len(s) {
			t.Errorf("Clean(%q) is %q", s, got)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return unicode.Is(unicode.C, r) || unicode.IsSpace(r) && r != ' ' }) {
			t.Errorf("Clean(%q) leaves control characters: %q", s, got)
		}
		if again := analyze.Clean(got); again != got {
			t.Errorf("Clean is not stable: %q, %q", got, again)
		}
	})
}

// leadsAstray is what a page or a mail program would make a link or markup of.
var leadsAstray = regexp.MustCompile(`(?i)(?:https?://|javascript:|www\.)\S|<(?:script|img)[^<>]*>`)

func FuzzConfine(f *testing.F) {
	for _, s := range []string{
		"Звонить на +7 905 123-45-67 срочно", "<<b>script>alert(1)<</b>/script>", "![x](javascript:alert(1))",
		"www.evil.com https://evil.example", "площадь < 56 м² и > 40 м²", "+7\u200b905\u200b1234567", "ht\u200btps://evil.example", "<scr\x00ipt>", "&lt;script&gt;",
		"восемь девятьсот пять сто двадцать три сорок пять шестьдесят семь", "８ 9O5 ⑫③ ٤٥-67, 12", "<img src=x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := analyzetest.Conversation()
		list, _ := analyze.Confine(c, "", s)
		got := list[0]
		if got != analyze.Clean(got) {
			t.Errorf("Confine(%q) is not clean: %q", s, got)
		}
		if again, foreign := analyze.Confine(c, "", got); again[0] != got || foreign {
			t.Errorf("Confine(%q) leaves what it takes out: %q, then %q", s, got, again[0])
		}
		if found := leadsAstray.FindString(got); found != "" {
			t.Errorf("Confine(%q) leaves %q", s, found)
		}
	})
}
