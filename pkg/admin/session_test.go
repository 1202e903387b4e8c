package admin

import (
	"net/url"
	"testing"
)

// Whatever is asked for, who has signed in stays on this site.
func FuzzNext(f *testing.F) {
	base, err := url.Parse("https://postcall.example/session")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "/riverui/jobs?state=discarded", "//evil.example", `/\evil.example`, "/\t/evil.example", "https:evil.example", "/%2f/evil.example", "/..//evil.example", "/x?y=//z#w", "javascript:alert(1)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, wanted string) {
		next := (&API{}).next(wanted)
		if next == "" || next[0] != '/' || len(next) > 1 && (next[1] == '/' || next[1] == '\\') {
			t.Fatalf("%q leads to %q", wanted, next)
		}
		u, err := base.Parse(next)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			t.Errorf("%q leads to %v, %v", wanted, u, err)
		}
		for _, r := range next {
			if r < ' ' || r == '\\' {
				t.Errorf("%q leads to %q", wanted, next)
			}
		}
	})
}
