package elevenlabs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// reasonOf gives the reason of a rejection, empty for no error.
func reasonOf(t *testing.T, err error) elevenlabs.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := errors.AsType[*elevenlabs.Rejection](err)
	if !ok {
		t.Fatalf("the error is a %T, not a *Rejection: %v", err, err)
	}
	if call.CodeOf(err) != call.Unauthorized {
		t.Errorf("the rejection's code is %q", call.CodeOf(err))
	}
	return r.Reason
}

// The vectors are the contract: what is accepted, and the reason otherwise.
func TestVerifyVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name         string            `json:"name"`
		Secret       string            `json:"secret"`
		Header       string            `json:"header"`
		Body         []byte            `json:"body_base64"`
		NowUnix      int64             `json:"now_unix"`
		ToleranceSec int64             `json:"tolerance_sec"`
		Accept       bool              `json:"accept"`
		Reason       elevenlabs.Reason `json:"reason"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 50 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			verifier := elevenlabs.NewVerifier([]string{v.Secret}, time.Duration(v.ToleranceSec)*time.Second)
			verifier.Now = func() time.Time { return time.Unix(v.NowUnix, 999_000_000) }

			_, err := verifier.Verify(v.Header, v.Body)
			if got := reasonOf(t, err); got != v.Reason || (err == nil) != v.Accept {
				t.Errorf("Verify: %q, want %q", got, v.Reason)
			}
			if v.Secret != "" && err != nil && strings.Contains(err.Error(), v.Secret) {
				t.Error("the error tells the secret")
			}

			// The same body in pieces, one of them empty.
			check, err := verifier.Open([]string{v.Header})
			if err == nil {
				half := len(v.Body) / 2
				for _, piece := range [][]byte{v.Body[:half], nil, v.Body[half:]} {
					_, _ = check.Write(piece)
				}
				_, err = check.Result()
			}
			if got := reasonOf(t, err); got != v.Reason {
				t.Errorf("Open and Result: %q, want %q", got, v.Reason)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1764000000, 0)
	body := []byte(`{"type":"x"}`)
	signed := func(secret string, at time.Time) string { return elevenlabs.Sign(secret, at, body) }
	good := signed("wsec_b", now)
	secrets := []string{"wsec_a", "", "wsec_b"}

	tests := map[string]struct {
		secrets   []string
		tolerance time.Duration
		header    []string
		want      elevenlabs.Reason
		index     int
	}{
		"absent":                        {header: nil, want: elevenlabs.ReasonMissing},
		"empty":                         {header: []string{""}, want: elevenlabs.ReasonMalformed},
		"two lines":                     {header: []string{good, good}, want: elevenlabs.ReasonMalformed},
		"two lines that make one":       {header: strings.Split(good, ","), index: 2},
		"the third secret":              {header: []string{good}, index: 2},
		"the first secret":              {header: []string{signed("wsec_a", now)}, index: 0},
		"an unknown secret":             {header: []string{signed("wsec_c", now)}, want: elevenlabs.ReasonMismatch},
		"the empty secret's signature":  {header: []string{signed("", now)}, want: elevenlabs.ReasonMismatch},
		"no secrets":                    {secrets: []string{}, header: []string{good}, want: elevenlabs.ReasonNoSecret},
		"blank secrets":                 {secrets: []string{"", " \t\n"}, header: []string{good}, want: elevenlabs.ReasonNoSecret},
		"no v0":                         {header: []string{"t=1764000000"}, want: elevenlabs.ReasonMalformed},
		"a very long header":            {header: []string{good + strings.Repeat(",v0=", 2000)}, want: elevenlabs.ReasonMalformed},
		"eleven digits":                 {header: []string{"t=01764000000,v0=00"}, want: elevenlabs.ReasonMalformed},
		"the furthest t":                {header: []string{"t=9999999999,v0=00"}, want: elevenlabs.ReasonFuture},
		"t=0":                           {header: []string{"t=0,v0=00"}, want: elevenlabs.ReasonExpired},
		"as old as the tolerance":       {header: []string{signed("wsec_a", now.Add(-time.Hour))}},
		"older than the tolerance":      {header: []string{signed("wsec_a", now.Add(-time.Hour-time.Second))}, want: elevenlabs.ReasonExpired},
		"half an hour ahead":            {header: []string{signed("wsec_a", now.Add(30*time.Minute))}},
		"more than half an hour":        {header: []string{signed("wsec_a", now.Add(30*time.Minute+time.Second))}, want: elevenlabs.ReasonFuture},
		"ahead beyond a small past one": {tolerance: time.Minute, header: []string{signed("wsec_a", now.Add(2*time.Minute))}, want: elevenlabs.ReasonFuture},
		"a huge tolerance":              {tolerance: 1 << 62, header: []string{signed("wsec_a", time.Unix(1, 0))}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.secrets == nil {
				tt.secrets = secrets
			}
			if tt.tolerance == 0 {
				tt.tolerance = time.Hour
			}
			v := elevenlabs.NewVerifier(tt.secrets, tt.tolerance)
			v.Now = func() time.Time { return now }
			h := http.Header{}
			for _, line := range tt.header {
				h.Add(elevenlabs.SignatureHeader, line)
			}
			check, err := v.Open(h.Values(elevenlabs.SignatureHeader))
			index := 0
			if err == nil {
				_, _ = check.Write(body)
				index, err = check.Result()
			}
			if got := reasonOf(t, err); got != tt.want || index != tt.index {
				t.Errorf("reason %q, secret %d; want %q, %d", got, index, tt.want, tt.index)
			}
		})
	}
}

func FuzzHeader(f *testing.F) {
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		f.Fatal(err)
	}
	var vectors []struct {
		Header string `json:"header"`
		Body   []byte `json:"body_base64"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		f.Fatal(err)
	}
	for _, v := range vectors {
		f.Add(v.Header, v.Body)
	}
	now := time.Unix(1764000000, 0)
	const secret = "not the vectors' secret"
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		v := elevenlabs.NewVerifier([]string{secret}, time.Hour)
		v.Now = func() time.Time { return now }
		if _, err := v.Verify(header, body); err == nil {
			t.Fatalf("a stranger's header was accepted: %q", header)
		}
		s, err := elevenlabs.ParseHeader(header)
		if err != nil && reasonOf(t, err) != elevenlabs.ReasonMalformed {
			t.Fatalf("ParseHeader: %v", err)
		}
		if err == nil && (s.Time < 0 || s.Time > 9_999_999_999) {
			t.Fatalf("t is %d", s.Time)
		}
		good := elevenlabs.Sign(secret, now, body)
		if _, err := v.Verify(good, body); err != nil {
			t.Fatalf("our own signature: %v", err)
		}
		if _, err := v.Verify(good, append(bytes.Clone(body), 0)); err == nil {
			t.Fatal("a changed body was accepted")
		}
	})
}
