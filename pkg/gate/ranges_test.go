package gate_test

import (
	"net/netip"
	"strings"
	"testing"

	"postcall/pkg/call"
	"postcall/pkg/gate"
)

func TestAllowList(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		list    []string
		allowed []string
		refused []string
	}{
		{"empty is open", nil, []string{"192.0.2.1", "2001:db8::1"}, nil},
		{"a single address", []string{"192.0.2.1"}, []string{"192.0.2.1", "::ffff:192.0.2.1"}, []string{"192.0.2.2", "::1", "::ffff:192.0.2.2"}},
		{"an IPv4 network", []string{" 192.0.2.0/24 "}, []string{"192.0.2.0", "192.0.2.255"}, []string{"192.0.3.0"}},
		{"bits right of the mask", []string{"192.0.2.77/24"}, []string{"192.0.2.1"}, []string{"192.0.3.1"}},
		{"an IPv6 network", []string{"2001:db8::/32"}, []string{"2001:db8:ffff::1"}, []string{"2001:db9::1", "192.0.2.1"}},
		{"a zone of the sender", []string{"fe80::/10"}, []string{"fe80::1%eth0"}, nil},
		{"IPv4 in IPv6 form", []string{"::ffff:192.0.2.1", "::ffff:198.51.100.0/120"}, []string{"192.0.2.1", "198.51.100.200"}, []string{"192.0.2.2", "198.51.101.1"}},
		{"all of IPv4", []string{"0.0.0.0/0"}, []string{"203.0.113.9", "::ffff:203.0.113.9"}, []string{"2001:db8::1"}},
		{"the word", []string{"ElevenLabs"}, []string{"34.67.146.145", "34.126.179.103", "::ffff:34.77.234.246"}, []string{"34.67.146.146", "192.0.2.1"}},
		{"the word and more", []string{"elevenlabs", "127.0.0.1", "::1"}, []string{"35.204.38.71", "127.0.0.1", "::1"}, []string{"127.0.0.2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list, err := gate.ParseAllowList(tt.list)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range tt.allowed {
				if !list.Allows(addr(a)) {
					t.Errorf("%s is refused", a)
				}
			}
			for _, a := range tt.refused {
				if list.Allows(addr(a)) {
					t.Errorf("%s is allowed", a)
				}
			}
			if open := len(tt.list) == 0; list.Open() != open || list.Allows(netip.Addr{}) != open {
				t.Errorf("open: %v, an unknown address allowed: %v, want both %v", list.Open(), list.Allows(netip.Addr{}), open)
			}
		})
	}
}

func TestRangesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", " ", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1/33", "192.0.2.1/", "/24", "192.0.2.01", "192.0.2.1:80",
		"2001:db8::/129", "fe80::1%eth0", "fe80::%eth0/64", "::ffff:192.0.2.0/95", "[::1]", "eleven", "192.0.2.1,192.0.2.2",
	} {
		_, err := gate.ParseAllowList([]string{"192.0.2.1", bad, "also bad"})
		if call.CodeOf(err) != call.Invalid || !strings.HasPrefix(err.Error(), `"`+strings.TrimSpace(bad)+`"`) {
			t.Errorf("allow-list with %q: %v", bad, err)
		}
		if _, err := gate.ParseProxies([]string{bad}); call.CodeOf(err) != call.Invalid || !strings.HasPrefix(err.Error(), `"`+strings.TrimSpace(bad)+`"`) {
			t.Errorf("proxies with %q: %v", bad, err)
		}
	}
	if _, err := gate.ParseAllowList([]string{strings.Repeat("x", 5000)}); len(err.Error()) > 250 {
		t.Errorf("the error repeats all of a long element: %d bytes", len(err.Error()))
	}
	for _, everybody := range []string{"0.0.0.0/0", "::/0", "10.0.0.0/0", "::ffff:0.0.0.0/96", "elevenlabs"} {
		if _, err := gate.ParseProxies([]string{everybody}); call.CodeOf(err) != call.Invalid {
			t.Errorf("proxies %s: %v", everybody, err)
		}
	}
}
