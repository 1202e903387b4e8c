package gate_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"postcall/pkg/gate"
)

// asDesigned are the limits that the environment's defaults give.
var asDesigned = gate.Rates{FailuresPerMinute: 30, PerSecond: 200, Burst: 1000}

// clock moves when it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func limits(r gate.Rates) (*gate.Limits, *clock) {
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	l := gate.NewLimits(r)
	l.Now = c.Now
	return l, c
}

// v4 and v6 give the n-th of many addresses; those of v6 are in networks of
// their own.
func v4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0B000000+n)
	return netip.AddrFrom4(b)
}

func v6(n uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], 0x20010db8_00000000+n)
	return netip.AddrFrom16(b)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	l, c := limits(asDesigned)
	a := addr("203.0.113.5")
	for n := range 30 {
		if _, ok := l.Failed(a); !ok {
			t.Fatalf("failure %d of 30 a minute is refused", n+1)
		}
	}
	for range 5 { // being refused costs nothing more
		if wait, ok := l.Failed(a); ok || wait != 2*time.Second {
			t.Fatalf("the 31st: %v, wait %v, want 2s", ok, wait)
		}
	}
	c.Advance(1500 * time.Millisecond)
	if wait, ok := l.Failed(a); ok || wait != 500*time.Millisecond {
		t.Errorf("after 1.5 s: %v, wait %v, want 0.5s", ok, wait)
	}
	c.Advance(500 * time.Millisecond)
	if _, ok := l.Failed(a); !ok {
		t.Error("the time to wait that was told did not suffice")
	}
	c.Advance(-time.Hour)
	if _, ok := l.Failed(a); ok {
		t.Error("a clock set back refilled the bucket")
	}
	if _, ok := l.Failed(addr("203.0.113.6")); !ok {
		t.Error("a neighbour pays for it")
	}
	if s := l.Stats(); s.FailingAddresses != 2 || s.FailuresRefused != 7 || s.VerifiedAddresses != 0 || s.VerifiedRefused != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestVerified(t *testing.T) {
	t.Parallel()
	l, c := limits(asDesigned)
	a := addr("34.67.146.145")
	if l.Known(a) {
		t.Error("known before its first delivery")
	}
	for n := range 1000 {
		if _, ok := l.Verified(a); !ok {
			t.Fatalf("delivery %d of a burst of 1000 is refused", n+1)
		}
	}
	if wait, ok := l.Verified(a); ok || wait != 5*time.Millisecond {
		t.Errorf("the 1001st: %v, wait %v, want 5ms", ok, wait)
	}
	for range 10 {
		c.Advance(time.Second)
		for n := range 200 {
			if _, ok := l.Verified(a); !ok {
				t.Fatalf("delivery %d of 200 a second is refused", n+1)
			}
		}
	}
	if !l.Known(a) || !l.Known(addr("::ffff:34.67.146.145")) || l.Known(addr("34.67.146.146")) {
		t.Error("known are others than those that delivered")
	}
	if s := l.Stats(); s.VerifiedAddresses != 1 || s.VerifiedRefused != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestOneSender(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		one, two netip.Addr
		same     bool
	}{
		{"two addresses of a /64", addr("2001:db8:1:2::1"), addr("2001:db8:1:2:ffff:ffff:ffff:ffff"), true},
		{"two /64", addr("2001:db8:1:2::1"), addr("2001:db8:1:3::1"), false},
		{"IPv4 in IPv6 form", addr("192.0.2.1"), addr("::ffff:192.0.2.1"), true},
		{"two of IPv4 in IPv6 form", addr("::ffff:192.0.2.1"), addr("::ffff:192.0.2.2"), false},
		{"a zone", addr("fe80::1%eth0"), addr("fe80::1%eth1"), true},
		{"not known", netip.Addr{}, netip.Addr{}, true},
		{"0.0.0.0 and ::", addr("0.0.0.0"), addr("::"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, _ := limits(gate.Rates{FailuresPerMinute: 1, PerSecond: 1, Burst: 1})
			l.Failed(tt.one)
			l.Verified(tt.one)
			if _, ok := l.Failed(tt.two); ok == tt.same {
				t.Errorf("failures: one sender is %v", !ok)
			}
			if _, ok := l.Verified(tt.two); ok == tt.same {
				t.Errorf("deliveries: one sender is %v", !ok)
			}
		})
	}
}

// 10 000 forged deliveries beside 200 genuine ones, half of them from the
// forger's own address, as behind a proxy that is not trusted.
func TestForgersFloodStarvesNobody(t *testing.T) {
	t.Parallel()
	l, c := limits(asDesigned)
	forger, genuine := addr("203.0.113.5"), addr("34.67.146.145")
	answered := map[bool]int{}
	for n := range 10_000 {
		_, ok := l.Failed(forger)
		answered[ok]++
		if n%50 == 0 {
			from := genuine
			if n%100 == 0 {
				from = forger
			}
			if _, ok := l.Verified(from); !ok {
				t.Fatalf("a genuine delivery from %v was refused after %d forged ones", from, n)
			}
		}
		c.Advance(100 * time.Microsecond)
	}
	if answered[true] != 30 { // the flood lasted one second
		t.Errorf("%d forged deliveries got their 401, want 30", answered[true])
	}
	if s := l.Stats(); s.VerifiedRefused != 0 || s.FailuresRefused != 9970 {
		t.Errorf("stats: %+v", s)
	}
}

// Hundreds of thousands of addresses fill neither the memory nor anybody's bucket again,
// and no forger makes a known sender forgotten.
//
// It measures memory, so that no other test runs beside it.
func TestFloodFromManyAddresses(t *testing.T) {
	l, c := limits(asDesigned)
	genuine, drained := addr("34.67.146.145"), addr("203.0.113.5")
	l.Verified(genuine)
	for range 31 {
		l.Failed(drained)
	}
	const flood = 300_000
	passed := 0
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range flood {
		_, ok := l.Failed(v6(uint64(n) << 8)) // a /56 each
		if ok {
			passed++
		}
		if n%1000 == 0 {
			l.Failed(v4(uint32(n)))
			if _, ok := l.Verified(genuine); !ok {
				t.Fatal("the genuine sender is refused")
			}
			c.Advance(50 * time.Millisecond) // 20 000 a second
		}
		if n == 100_000 { // 5 s later: two more tokens than none
			for range 2 {
				l.Failed(drained)
			}
			if _, ok := l.Failed(drained); ok {
				t.Error("the flood reset a drained bucket")
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := l.Stats()
	if s.FailingAddresses != 16_384 || s.Overflowed == 0 {
		t.Errorf("stats: %+v", s)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the flood took %d MiB", grown>>20)
	}
	if passed > flood/2 {
		t.Errorf("%d of %d got by without a limit", passed, flood)
	}
	if !l.Known(genuine) {
		t.Error("the genuine sender was forgotten")
	}
	runtime.KeepAlive(l)

	// A minute's rest, and the table makes room again.
	c.Advance(time.Minute)
	overflowed := l.Stats().Overflowed
	for n := range uint32(20_000) {
		l.Failed(v4(1_000_000 + n))
		c.Advance(time.Millisecond)
	}
	if s := l.Stats(); s.Overflowed != overflowed || s.FailingAddresses != 16_384 {
		t.Errorf("after a rest: %+v, overflowed %d before", s, overflowed)
	}
}

// More verified senders than are remembered: all of them get through, and
// those remembered keep their limit.
func TestManyVerifiedSenders(t *testing.T) {
	t.Parallel()
	l, c := limits(gate.Rates{FailuresPerMinute: 1, PerSecond: 1, Burst: 2})
	busy := v4(0)
	for n := range uint32(10_000) {
		for range 3 {
			_, ok := l.Verified(v4(n))
			if remembered := n < 4096; !ok && !remembered {
				t.Fatalf("sender %d was refused for lack of a bucket", n)
			}
		}
	}
	if _, ok := l.Verified(busy); ok {
		t.Error("a busy sender lost its count")
	}
	if s := l.Stats(); s.VerifiedAddresses != 4096 || s.Overflowed != 3*(10_000-4096) || s.VerifiedRefused != 4096+1 {
		t.Errorf("stats: %+v", s)
	}
	c.Advance(time.Minute)
	l.Verified(v4(50_000))
	if !l.Known(v4(50_000)) || !l.Known(busy) || l.Known(v4(1)) {
		t.Error("not the sender that was silent longest made room")
	}
}

func TestLimitsConcurrently(t *testing.T) {
	t.Parallel()
	l, _ := limits(asDesigned)
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed, verified := 0, 0
	for range 8 {
		wg.Go(func() {
			f, v := 0, 0
			for n := range 500 {
				if _, ok := l.Failed(addr("203.0.113.5")); ok {
					f++
				}
				if _, ok := l.Verified(addr("203.0.113.5")); ok {
					v++
				}
				l.Failed(v4(uint32(n)))
				l.Known(v4(uint32(n)))
				l.Stats()
			}
			mu.Lock()
			defer mu.Unlock()
			failed, verified = failed+f, verified+v
		})
	}
	wg.Wait()
	if failed != 30 || verified != 1000 {
		t.Errorf("%d failures and %d deliveries passed, want 30 and 1000", failed, verified)
	}
}

func BenchmarkVerified(b *testing.B) {
	l := gate.NewLimits(gate.Rates{FailuresPerMinute: 30, PerSecond: 1 << 30, Burst: 1 << 30})
	a := addr("34.67.146.145")
	b.ReportAllocs()
	for b.Loop() {
		l.Verified(a)
	}
}

func BenchmarkVerifiedParallel(b *testing.B) {
	l := gate.NewLimits(gate.Rates{FailuresPerMinute: 30, PerSecond: 1 << 30, Burst: 1 << 30})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		a := addr("34.67.146.145")
		for pb.Next() {
			l.Verified(a)
		}
	})
}

func BenchmarkFailedRefused(b *testing.B) {
	l := gate.NewLimits(asDesigned)
	a := addr("2001:db8::1")
	b.ReportAllocs()
	for b.Loop() {
		l.Failed(a)
	}
}

func BenchmarkFailedFromEverywhere(b *testing.B) {
	l := gate.NewLimits(asDesigned)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		l.Failed(v6(n))
	}
}
