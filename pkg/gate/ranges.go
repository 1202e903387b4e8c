package gate

import (
	"errors"
	"net/netip"
	"strings"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// ElevenLabs is the word that stands for ElevenLabs' published addresses in an
// allow-list.
const ElevenLabs = "elevenlabs"

// AllowList says who may send at all. The zero value allows everybody.
//
// Failure policy: an empty list is open. The signature is the lock; the list
// is a second one for those who want it, and the published addresses that
// would go into it are not ours to keep current.
type AllowList struct{ ranges ranges }

// ParseAllowList reads a list of networks (CIDR), single addresses, and the
// word "elevenlabs" in any case. IPv4 addresses written as IPv6
// (::ffff:192.0.2.1) are taken as IPv4. The error is call.Invalid and names
// the first element that is not understood.
func ParseAllowList(elements []string) (AllowList, error) {
	var a AllowList
	for _, element := range elements {
		element = strings.TrimSpace(element)
		if strings.EqualFold(element, ElevenLabs) {
			a.ranges = append(a.ranges, elevenlabs.EgressPrefixes()...)
			continue
		}
		prefix, err := parseRange(element)
		if err != nil {
			return AllowList{}, call.Errorf(call.Invalid, "%.60q is %w: write an address, a network such as 192.0.2.0/24, or the word %s", element, err, ElevenLabs)
		}
		a.ranges = append(a.ranges, prefix)
	}
	return a, nil
}

// Allows reports whether the address may send. An address that is not known
// (the zero Addr) may only where everybody may.
func (a AllowList) Allows(addr netip.Addr) bool {
	return len(a.ranges) == 0 || a.ranges.contain(addr)
}

// Open reports whether the list allows everybody.
func (a AllowList) Open() bool { return len(a.ranges) == 0 }

// ranges is a list of networks, none of them IPv4 in IPv6 form.
type ranges []netip.Prefix

func (r ranges) contain(addr netip.Addr) bool {
	addr = plain(addr)
	for _, p := range r {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// plain is the one form in which addresses are compared: IPv4 as IPv4, without
// a zone, since Prefix.Contains holds for no address that has one.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

var (
	errNotAddress = errors.New("not an address")
	errNotNetwork = errors.New("not a network")
)

// parseRange reads a network or a single address. Bits right of a network's
// mask are dropped, as firewalls do.
func parseRange(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errNotAddress
		}
		addr = plain(addr)
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errNotNetwork
	}
	if addr, bits := p.Addr(), p.Bits(); addr.Is4In6() {
		if bits < 96 { // more than IPv4 and less than IPv6
			return netip.Prefix{}, errNotNetwork
		}
		p = netip.PrefixFrom(addr.Unmap(), bits-96)
	}
	return p.Masked(), nil
}
