package elevenlabs_test

import (
	"net/netip"
	"testing"

	"postcall/pkg/elevenlabs"
)

func TestEgress(t *testing.T) {
	t.Parallel()
	seen := map[netip.Prefix]string{}
	for _, e := range elevenlabs.EgressByRegion() {
		if e.Region == "" || len(e.Prefixes) == 0 {
			t.Errorf("a region without a name or an address: %+v", e)
		}
		for _, p := range e.Prefixes {
			if other, twice := seen[p]; twice {
				t.Errorf("%v is listed for %s and for %s", p, other, e.Region)
			}
			seen[p] = e.Region
			if !p.IsSingleIP() || !p.Addr().Is4() || p.Addr().IsPrivate() || !p.Addr().IsGlobalUnicast() {
				t.Errorf("%v is not a single public address", p)
			}
		}
	}
	all := elevenlabs.EgressPrefixes()
	if len(all) != 12 || len(all) != len(seen) {
		t.Errorf("%d addresses in all, %d by region, 12 published", len(all), len(seen))
	}
	all[0] = netip.Prefix{} // the caller's own copy
	if again := elevenlabs.EgressPrefixes(); again[0] != netip.MustParsePrefix("34.67.146.145/32") {
		t.Errorf("the list can be changed from outside: %v", again[0])
	}
}
