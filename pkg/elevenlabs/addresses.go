package elevenlabs

import "net/netip"

// Egress is one region's addresses.
type Egress struct {
	Region   string
	Prefixes []netip.Prefix
}

// EgressByRegion lists the addresses that ElevenLabs sends webhooks from, as
// published on the page "Post-call webhooks" of https://elevenlabs.io/docs
// (IP whitelisting) and read on 2026-11-23. A workspace with data residency
// sends from its residency's addresses, all others from those of the first
// three regions.
//
// The list is theirs to change. Compare it with that page when genuine
// deliveries are turned away by an allow-list.
func EgressByRegion() []Egress {
	return []Egress{
		{"US", hosts("34.67.146.145", "34.59.11.47")},
		{"EU", hosts("35.204.38.71", "34.147.113.54")},
		{"Asia", hosts("35.185.187.110", "35.247.157.189")},
		{"EU residency", hosts("34.77.234.246", "34.140.184.144")},
		{"India residency", hosts("34.93.26.174", "34.93.252.69")},
		{"Singapore residency", hosts("34.87.23.17", "34.126.179.103")},
	}
}

// EgressPrefixes lists the addresses of all regions.
func EgressPrefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, e := range EgressByRegion() {
		all = append(all, e.Prefixes...)
	}
	return all
}

// hosts makes a prefix of each single address. A mistake above is one of ours
// and shows in every test.
func hosts(addresses ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(addresses))
	for i, a := range addresses {
		addr := netip.MustParseAddr(a)
		list[i] = netip.PrefixFrom(addr, addr.BitLen())
	}
	return list
}
