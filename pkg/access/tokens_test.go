package access_test

import (
	"strings"
	"testing"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	made := func(name string, role access.Role) access.Token {
		token, err := access.NewToken(name, role)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	old, renewed, viewer := made("anna", access.Operator), made("anna", access.Operator), made("board", access.Viewer)
	tokens, err := access.ParseTokens([]string{old.Entry(), " " + renewed.Entry() + " ", viewer.Entry()})
	if err != nil {
		t.Fatal(err)
	}
	for plain, want := range map[string]access.Identity{
		old.Plain:     {Name: "anna", Role: access.Operator},
		renewed.Plain: {Name: "anna", Role: access.Operator},
		viewer.Plain:  {Name: "board", Role: access.Viewer},
	} {
		if got, ok := tokens.Find(plain); !ok || got != want {
			t.Errorf("found %+v, %t, want %+v", got, ok, want)
		}
	}
	for _, wrong := range []string{"", "pcl_", old.Plain[1:], old.Plain + "x", access.Hash(old.Plain), made("anna", access.Admin).Plain} {
		if got, ok := tokens.Find(wrong); ok || got != (access.Identity{}) {
			t.Errorf("a wrong token is %+v", got)
		}
	}
	if _, ok := (access.Tokens{}).Find(old.Plain); ok {
		t.Error("somebody was let in where there are no tokens")
	}
}

func TestParseTokensRefuses(t *testing.T) {
	t.Parallel()
	hash := access.Hash("x")
	for _, entry := range []string{"", "anna", "anna:viewer", ":viewer:" + hash, "anna:root:" + hash, "anna:viewer:" + hash[1:], "anna:viewer:" + strings.Repeat("g", 64), "anna:viewer:" + hash + ":x"} {
		_, err := access.ParseTokens([]string{"good:admin:" + hash, entry})
		if call.CodeOf(err) != call.Invalid || !strings.Contains(err.Error(), "entry 2") || strings.Contains(err.Error(), hash[1:]) {
			t.Errorf("%q: %v", entry, err)
		}
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	for i, have := range access.Roles() {
		for j, least := range access.Roles() {
			if have.May(least) != (i >= j) {
				t.Errorf("%s may what %s may: %t", have, least, have.May(least))
			}
		}
		if access.Role("").May(have) || access.Role("root").May(have) || have.May("root") {
			t.Errorf("an unknown role and %s: one may what the other may", have)
		}
	}
}
