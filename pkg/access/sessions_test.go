package access_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"postcall/pkg/access"
	"postcall/pkg/call"
)

// memory is Spent without a database.
type memory struct {
	mu   sync.Mutex
	used map[string]bool
	err  error
}

func (m *memory) Spend(_ context.Context, id []byte, _ time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used == nil {
		m.used = map[string]bool{}
	}
	first := !m.used[string(id)]
	m.used[string(id)] = true
	return first, m.err
}

func (m *memory) IsSpent(_ context.Context, id []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used[string(id)], m.err
}

const (
	firstKey  = "first-key-0123456789abcdef0123456789abcdef"
	secondKey = "second-key-0123456789abcdef0123456789abcde"
)

func token(t *testing.T, name string, role access.Role) access.Token {
	t.Helper()
	made, err := access.NewToken(name, role)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func sessions(t *testing.T, spent access.Spent, keys []string, entries ...string) *access.Sessions {
	t.Helper()
	tokens, err := access.ParseTokens(entries)
	if err != nil {
		t.Fatal(err)
	}
	s, err := access.NewSessions(keys, tokens, spent)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSession(t *testing.T) {
	t.Parallel()
	anna, spent := token(t, "anna", access.Operator), &memory{}
	s := sessions(t, spent, []string{firstKey}, anna.Entry())
	value, begun, err := s.Start(anna.Plain)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(value, anna.Plain) || begun.Name != "anna" || begun.Role != access.Operator {
		t.Errorf("session %+v", begun)
	}
	read := func(s *access.Sessions, value string) (access.Identity, error) {
		session, err := s.Read(t.Context(), value)
		return session.Identity, err
	}
	if who, err := read(s, value); err != nil || who != begun.Identity {
		t.Errorf("read %+v, %v", who, err)
	}
	if _, _, err := s.Start(anna.Plain + "x"); call.CodeOf(err) != call.Unauthorized {
		t.Errorf("a wrong token: %v", err)
	}

	rotated := sessions(t, spent, []string{secondKey, firstKey}, anna.Entry())
	if _, err := read(rotated, value); err != nil {
		t.Errorf("under a newer key: %v", err)
	}
	newer, _, err := rotated.Start(anna.Plain)
	if err != nil {
		t.Fatal(err)
	}
	promoted := access.Token{Name: "anna", Role: access.Admin, Plain: anna.Plain}
	if who, err := read(sessions(t, spent, []string{firstKey}, promoted.Entry()), value); err != nil || who.Role != access.Admin {
		t.Errorf("a token with another role by now: %+v, %v", who, err)
	}
	late := sessions(t, spent, []string{firstKey}, anna.Entry())
	late.Now = func() time.Time { return time.Now().Add(access.SessionTime + time.Second) }
	link, err := s.Link(anna.Plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in    *access.Sessions
		value string
		want  error
	}{
		"by a key that is not known":     {s, newer, access.ErrForged},
		"of a token that was taken away": {sessions(t, spent, []string{firstKey}), value, access.ErrEnded},
		"of a token that was replaced":   {sessions(t, spent, []string{firstKey}, token(t, "anna", access.Operator).Entry()), value, access.ErrEnded},
		"over":                           {late, value, access.ErrEnded},
		"a sign-in link":                 {s, link, access.ErrForged},
		"empty":                          {s, "", access.ErrForged},
		"by a random key":                {sessions(t, spent, nil, anna.Entry()), value, access.ErrForged},
	} {
		if who, err := read(c.in, c.value); !errors.Is(err, c.want) || who != (access.Identity{}) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		changed := append([]byte{}, raw...)
		changed[i] ^= 1
		if _, err := read(s, base64.RawURLEncoding.EncodeToString(changed)); !errors.Is(err, access.ErrForged) {
			t.Errorf("with byte %d changed: %v", i, err)
		}
	}

	if err := s.End(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	if _, err := read(rotated, value); !errors.Is(err, access.ErrEnded) {
		t.Errorf("signed out: %v", err)
	}
	if _, err := read(rotated, newer); err != nil {
		t.Errorf("another session of the same person: %v", err)
	}
	spent.err = call.Errorf(call.Unavailable, "away")
	if _, err := read(rotated, newer); call.CodeOf(err) != call.Unavailable {
		t.Errorf("while it cannot be looked up: %v", err)
	}
}

// A sign-in link works once, also when it is opened several times at once in
// several processes.
func TestLink(t *testing.T) {
	t.Parallel()
	anna, spent := token(t, "anna", access.Admin), &memory{}
	s := sessions(t, spent, []string{firstKey}, anna.Entry())
	code, err := s.Link(anna.Plain)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make(chan error, 8)
	for range cap(results) {
		other := sessions(t, spent, []string{firstKey}, anna.Entry())
		wg.Go(func() {
			value, session, err := other.Redeem(t.Context(), code)
			if err == nil {
				if read, rerr := other.Read(t.Context(), value); rerr != nil || read.Identity != session.Identity || read.Name != "anna" {
					t.Errorf("the session: %+v, %v", read, rerr)
				}
			}
			results <- err
		})
	}
	wg.Wait()
	close(results)
	worked := 0
	for err := range results {
		if err == nil {
			worked++
		} else if !errors.Is(err, access.ErrEnded) {
			t.Error(err)
		}
	}
	if worked != 1 {
		t.Errorf("it signed in %d times", worked)
	}
	if _, err := s.Link("pcl_wrong"); call.CodeOf(err) != call.Unauthorized {
		t.Errorf("a link for nobody: %v", err)
	}
	if code, err = s.Link(anna.Plain); err != nil {
		t.Fatal(err)
	}
	s.Now = func() time.Time { return time.Now().Add(access.LinkTime + time.Second) }
	if _, _, err := s.Redeem(t.Context(), code); !errors.Is(err, access.ErrEnded) {
		t.Errorf("too late: %v", err)
	}
	s.Now = time.Now
	value, _, err := s.Start(anna.Plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Redeem(t.Context(), value); !errors.Is(err, access.ErrForged) {
		t.Errorf("a session as a link: %v", err)
	}
}

func TestSessionKeys(t *testing.T) {
	t.Parallel()
	for _, keys := range [][]string{{""}, {"short"}, {firstKey, firstKey[:access.MinSessionKey-1]}} {
		if _, err := access.NewSessions(keys, access.Tokens{}, nil); call.CodeOf(err) != call.Invalid || strings.Contains(err.Error(), "short") {
			t.Errorf("%d keys: %v", len(keys), err)
		}
	}
}

// Whatever stands in a cookie, nobody is let in by it who was not signed in.
func FuzzSession(f *testing.F) {
	anna, err := access.NewToken("anna", access.Admin)
	if err != nil {
		f.Fatal(err)
	}
	tokens, err := access.ParseTokens([]string{anna.Entry()})
	if err != nil {
		f.Fatal(err)
	}
	s, err := access.NewSessions([]string{firstKey}, tokens, &memory{})
	if err != nil {
		f.Fatal(err)
	}
	value, _, err := s.Start(anna.Plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add(value[:len(value)-1])
	f.Add(value + "=")
	f.Add(value + "A")
	f.Add(strings.ToLower(value))
	f.Fuzz(func(t *testing.T, cookie string) {
		if session, err := s.Read(t.Context(), cookie); cookie != value && (err == nil || session.Identity != (access.Identity{})) {
			t.Errorf("%q is %+v", cookie, session.Identity)
		}
	})
}
