package gate_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"postcall/pkg/gate"
)

// proxies trusts a load balancer, a network of proxies and the machine itself.
func proxies(tb testing.TB) gate.Proxies {
	tb.Helper()
	p, err := gate.ParseProxies([]string{"192.0.2.10", "10.0.0.0/8", "127.0.0.1", "2001:db8:aaaa::/48", "fe80::/10"})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func request(peer string, forwarded ...string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Header: http.Header{}}
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	return r
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	const lb = "192.0.2.10:40000"
	tests := []struct {
		name      string
		peer      string
		forwarded []string
		want      string // empty: not known
	}{
		{"no proxy", "203.0.113.5:1", nil, "203.0.113.5"},
		{"a stranger's header", "203.0.113.5:1", []string{"34.67.146.145"}, "203.0.113.5"},
		{"a stranger that claims to be a proxy's client", "203.0.113.5:1", []string{"34.67.146.145, 10.0.0.1"}, "203.0.113.5"},
		{"IPv4 in IPv6 form", "[::ffff:203.0.113.5]:1", nil, "203.0.113.5"},
		{"a zone", "[2001:db8::1%eth0]:1", nil, "2001:db8::1"},
		{"a proxy without the header", lb, nil, "192.0.2.10"},
		{"one proxy", lb, []string{"203.0.113.5"}, "203.0.113.5"},
		{"the proxy in IPv6 form", "[::ffff:192.0.2.10]:1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"the proxy with a zone", "[fe80::1%eth0]:1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"three proxies", lb, []string{"203.0.113.5, 10.1.1.1, 10.2.2.2"}, "203.0.113.5"},
		{"spoofed in front", lb, []string{"34.67.146.145, 203.0.113.5"}, "203.0.113.5"},
		{"spoofed with a proxy's address", lb, []string{"34.67.146.145, 10.0.0.1, 203.0.113.5, 10.2.2.2"}, "203.0.113.5"},
		{"spoofed on a line of its own", lb, []string{"34.67.146.145", "203.0.113.5"}, "203.0.113.5"},
		{"spoofed lines, proxies on several", lb, []string{"34.67.146.145", "10.0.0.1, 203.0.113.5, 10.9.9.9", "10.1.1.1"}, "203.0.113.5"},
		{"garbage in front", lb, []string{"'; drop table, \x00, 203.0.113.5"}, "203.0.113.5"},
		{"garbage behind a proxy", lb, []string{"34.67.146.145, garbage, 10.2.2.2"}, "10.2.2.2"},
		{"garbage alone", lb, []string{"garbage"}, "192.0.2.10"},
		{"unknown", lb, []string{"34.67.146.145, unknown"}, "192.0.2.10"},
		{"obfuscated", lb, []string{"34.67.146.145, _hidden"}, "192.0.2.10"},
		{"an empty line", lb, []string{""}, "192.0.2.10"},
		{"an empty element at the end", lb, []string{"34.67.146.145,"}, "192.0.2.10"},
		{"an empty line last", lb, []string{"34.67.146.145", ""}, "192.0.2.10"},
		{"ambiguous octal", lb, []string{"010.0.0.1"}, "192.0.2.10"},
		{"a host's name", lb, []string{"localhost"}, "192.0.2.10"},
		{"a network", lb, []string{"203.0.113.0/24"}, "192.0.2.10"},
		{"a port", lb, []string{"34.67.146.145:1, 203.0.113.5:54321"}, "203.0.113.5"},
		{"a port that is none", lb, []string{"203.0.113.5:http"}, "192.0.2.10"},
		{"IPv6", lb, []string{"2001:db8::7"}, "2001:db8::7"},
		{"IPv6 in brackets", lb, []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"IPv6 in brackets with a port", lb, []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		{"IPv6 with a zone", lb, []string{"2001:db8::7%eth0"}, "2001:db8::7"},
		{"half a bracket", lb, []string{"[2001:db8::7"}, "192.0.2.10"},
		{"tabs and spaces", lb, []string{"\t 203.0.113.5 \t"}, "203.0.113.5"},
		{"an IPv6 proxy between", lb, []string{"203.0.113.5, 2001:db8:aaaa::1"}, "203.0.113.5"},
		{"only proxies", lb, []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1"},
		{"a Unix socket", "@", []string{"203.0.113.5"}, ""},
		{"no connection", "", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := request(tt.peer, tt.forwarded...)
			r.Header.Set("Forwarded", "for=34.67.146.145")
			r.Header.Set("X-Real-IP", "34.67.146.145")
			want := netip.Addr{}
			if tt.want != "" {
				want = addr(tt.want)
			}
			if got := proxies(t).ClientAddress(r); got != want {
				t.Errorf("%v, want %v", got, want)
			}
			if got := (gate.Proxies{}).ClientAddress(r); got != (gate.Proxies{}).ClientAddress(request(tt.peer)) {
				t.Errorf("without trusted proxies the header was believed: %v", got)
			}
		})
	}
}

// Whatever a sender writes into the header, a proxy that appends its address
// makes it that address.
func FuzzClientAddress(f *testing.F) {
	f.Add("34.67.146.145", "10.0.0.1", uint32(0xCB007105))
	f.Add("unknown, ,[::1]:443", "\"", uint32(1))
	f.Add("fe80::1%eth0,,", "10.0.0.1,", uint32(0x0A000001))
	p := proxies(f)
	f.Fuzz(func(t *testing.T, first, second string, client uint32) {
		sender := netip.AddrFrom4([4]byte{byte(client >> 24), byte(client >> 16), byte(client >> 8), byte(client)})
		got := p.ClientAddress(request("10.0.0.1:1", first, second)) // must not fail
		if got.Is4In6() || got.Zone() != "" || !got.IsValid() {
			t.Errorf("%q, %q: %v is not in its plain form", first, second, got)
		}
		if sender.As4()[0] == 10 || sender == addr("192.0.2.10") || sender == addr("127.0.0.1") {
			return // a trusted one may say what it likes
		}
		for _, lines := range [][]string{
			{first, second, sender.String()},
			{first, second + ", " + sender.String()},
			{first, second + "," + sender.String() + ":443, 10.2.2.2"},
			{strings.Join([]string{first, second, "::ffff:" + sender.String(), "10.3.3.3"}, ","), "10.2.2.2"},
		} {
			if got := p.ClientAddress(request("10.0.0.1:1", lines...)); got != sender {
				t.Errorf("%q: %v, want %v", lines, got, sender)
			}
			if got := p.ClientAddress(request(sender.String()+":443", lines...)); got != sender {
				t.Errorf("%q straight from %v: %v", lines, sender, got)
			}
		}
	})
}

func BenchmarkClientAddress(b *testing.B) {
	p := proxies(b)
	r := request("10.0.0.1:443", "34.67.146.145, 203.0.113.5, 10.2.2.2")
	b.ReportAllocs()
	for b.Loop() {
		p.ClientAddress(r)
	}
}

// Only a trusted proxy's word on https counts.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	proxies, err := gate.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		remote, proto string
		tls, want     bool
	}{
		"direct":                          {"203.0.113.5:4000", "", false, false},
		"direct by TLS":                   {"203.0.113.5:4000", "", true, true},
		"a stranger's word":               {"203.0.113.5:4000", "https", false, false},
		"a proxy":                         {"10.1.2.3:4000", "https", false, true},
		"a proxy, in capitals":            {"10.1.2.3:4000", "HTTPS", false, true},
		"a proxy behind another":          {"10.1.2.3:4000", "https, http", false, true},
		"a proxy without TLS":             {"10.1.2.3:4000", "http", false, false},
		"a proxy that is silent":          {"10.1.2.3:4000", "", false, false},
		"a connection without an address": {"@", "https", false, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		if got := proxies.HTTPS(r); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
