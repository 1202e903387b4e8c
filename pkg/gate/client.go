package gate

import (
	"net/http"
	"net/netip"
	"strings"

	"postcall/pkg/call"
)

// forwardedFor is the one header that tells who is behind a proxy.
//
// The standard one, Forwarded (RFC 7239), is not read: the usual proxies and
// load balancers append to X-Forwarded-For and pass a Forwarded header on as
// the sender wrote it, so that whoever reads it lets the sender choose its
// address. The same holds for X-Real-IP behind a proxy that does not set it.
const forwardedFor = "X-Forwarded-For"

// Proxies are the proxies whose X-Forwarded-For is believed. The zero value
// believes nobody: the address is then that of the connection.
type Proxies struct{ ranges ranges }

// ParseProxies reads a list of networks (CIDR) and single addresses. Name only
// proxies that append to X-Forwarded-For or overwrite it. The error is
// call.Invalid and names the first element that is not understood or that
// trusts everybody, which would let each sender choose its own address.
func ParseProxies(elements []string) (Proxies, error) {
	var p Proxies
	for _, element := range elements {
		element = strings.TrimSpace(element)
		prefix, err := parseRange(element)
		if err != nil {
			return Proxies{}, call.Errorf(call.Invalid, "%.60q is %w: write an address or a network such as 10.0.0.0/8", element, err)
		}
		if prefix.Bits() == 0 {
			return Proxies{}, call.Errorf(call.Invalid, "%.60q trusts everybody, so that each sender could choose its own address: write the proxies' addresses", element)
		}
		p.ranges = append(p.ranges, prefix)
	}
	return p, nil
}

// ClientAddress is the address that a request came from, without a zone, IPv4
// always as IPv4. It is the zero Addr where the connection has none, as on a
// Unix socket.
//
// Each proxy appends to X-Forwarded-For whom it was called by, so the header
// is read from its end, over all its lines, for as long as the address reached
// is a trusted proxy. The first one that is not is the sender; what stands
// left of it was written by the sender itself.
//
// Failure policy: an element that is no address ("unknown", empty, garbage)
// ends the walk at the last trusted proxy, the nearest address that somebody
// trustworthy vouches for. Several senders then share that proxy's buckets,
// and the allow-list judges the proxy: it is safe, not exact.
//
// echo.ExtractIPFromXFFHeader walks in the same way but takes an address with
// a port, as some gateways write it, for garbage, and then falls back to the
// connection; and it works on strings where buckets and ranges need addresses.
func (p Proxies) ClientAddress(r *http.Request) netip.Addr {
	addr, ok := parseHop(r.RemoteAddr)
	if !ok {
		return netip.Addr{}
	}
	lines := r.Header[forwardedFor]
	for i := len(lines) - 1; i >= 0; i-- {
		rest, more := lines[i], true
		for more {
			if !p.ranges.contain(addr) {
				return addr
			}
			var element string
			rest, element, more = cutLast(rest)
			next, ok := parseHop(element)
			if !ok {
				return addr
			}
			addr = next
		}
	}
	return addr
}

// cutLast cuts the element behind the last comma off. more tells whether there
// was a comma, so whether an element is left.
func cutLast(list string) (rest, element string, more bool) {
	i := strings.LastIndexByte(list, ',')
	if i < 0 {
		return "", list, false
	}
	return list[:i], list[i+1:], true
}

// parseHop reads an address as proxies write it: alone, with a port, in
// brackets, with a zone.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			s = inner
		}
	}
	// The usual form first; ParseAddr allocates its error.
	if strings.Count(s, ":") != 1 && !strings.HasPrefix(s, "[") {
		addr, err := netip.ParseAddr(s)
		return plain(addr), err == nil
	}
	withPort, err := netip.ParseAddrPort(s)
	return plain(withPort.Addr()), err == nil
}

// HTTPS reports whether the sender's own connection is encrypted: this one, or
// as a trusted proxy says (X-Forwarded-Proto).
func (p Proxies) HTTPS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	peer, ok := parseHop(r.RemoteAddr)
	if !ok || !p.ranges.contain(peer) {
		return false
	}
	proto, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return strings.EqualFold(strings.TrimSpace(proto), "https")
}
