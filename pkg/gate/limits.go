package gate

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many addresses are remembered. An entry takes about 300 bytes.
const (
	maxFailing  = 16_384
	maxVerified = 4_096
)

// Rates are the limits of one address, all above 0.
type Rates struct {
	FailuresPerMinute int // deliveries that fail verification, in a burst too
	PerSecond         int // verified deliveries
	Burst             int // verified deliveries at once, after a pause
}

// Limits counts what each address sends: deliveries that failed verification
// and verified ones, in buckets that have nothing to do with each other. An
// IPv6 address counts as its /64, the least that one customer is given.
//
// Neither is asked before verification, so that no delivery is refused for
// what others behind its address have sent. A flood of forged ones costs their
// reading and hashing, which Bodies and Pace bound; what its limit saves is
// what follows: log lines and recorded rejections.
//
// It is safe for concurrent use.
type Limits struct {
	// Now is the clock, time.Now unless a test replaces it before the first use.
	Now func() time.Time

	failed, verified table
}

// NewLimits makes empty buckets.
func NewLimits(r Rates) *Limits {
	l := &Limits{Now: time.Now}
	l.failed.init(rate.Limit(float64(r.FailuresPerMinute)/60), r.FailuresPerMinute, maxFailing)
	l.verified.init(rate.Limit(r.PerSecond), r.Burst, maxVerified)
	// Failure policy of the failures: closed. Once the table is full, new
	// addresses share one more bucket. All that it decides is whether a forged
	// delivery is answered 401 or 429.
	l.failed.overflow = rate.NewLimiter(l.failed.rate, l.failed.burst)
	// Failure policy of the verified ones: open, by the overflow that is not
	// there. Only who holds a secret gets into that table, or repeats a recorded
	// delivery; a genuine one must not be lost because others are busy.
	return l
}

// Failed charges an address with a delivery that failed verification. While
// ok, answer 401; if not, answer 429 and say to come back after retryAfter.
func (l *Limits) Failed(addr netip.Addr) (retryAfter time.Duration, ok bool) {
	return l.failed.take(network(addr), l.Now())
}

// Verified charges an address with a delivery whose signature holds. If not
// ok, answer 429 and say to come back after retryAfter.
func (l *Limits) Verified(addr netip.Addr) (retryAfter time.Duration, ok bool) {
	return l.verified.take(network(addr), l.Now())
}

// Known reports whether a verified delivery came from the address, as far as
// is remembered. No forger can make Limits forget it.
func (l *Limits) Known(addr netip.Addr) bool {
	return l.verified.has(network(addr))
}

// Stats is what metrics and health show of the limits.
type Stats struct {
	FailingAddresses  int    // remembered now, at most 16 384
	VerifiedAddresses int    // remembered now, at most 4 096
	FailuresRefused   uint64 // answered 429 instead of 401, since the start
	VerifiedRefused   uint64 // genuine deliveries answered 429, since the start
	Overflowed        uint64 // charged without a bucket of their own, the table being full, since the start
}

// Stats tells the state of the limits.
func (l *Limits) Stats() Stats {
	failing, failuresRefused, failedOverflowed := l.failed.stats()
	verified, verifiedRefused, verifiedOverflowed := l.verified.stats()
	return Stats{
		FailingAddresses: failing, FailuresRefused: failuresRefused,
		VerifiedAddresses: verified, VerifiedRefused: verifiedRefused,
		Overflowed: failedOverflowed + verifiedOverflowed,
	}
}

// network is what is counted as one sender. All unknown addresses (the zero
// Addr) are one.
func network(addr netip.Addr) netip.Prefix {
	addr = plain(addr)
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// table is a bounded number of token buckets, one a network.
//
// A bucket is forgotten only to make room, only the one used longest ago, and
// only once it is full again: to forget it is then to lose nothing. So nobody
// resets a limit by filling the table from other addresses. While the bucket
// used longest ago is not full yet, new networks get none of their own.
type table struct {
	rate  rate.Limit // tokens a second
	burst int
	max   int
	// overflow is what networks without a bucket share; nil lets them through.
	overflow *rate.Limiter

	mu         sync.Mutex
	buckets    map[netip.Prefix]*list.Element
	recent     list.List // of *bucket, the one used last in front
	refused    uint64
	overflowed uint64
}

type bucket struct {
	network netip.Prefix
	tokens  *rate.Limiter
}

func bucketOf(e *list.Element) *bucket {
	b, _ := e.Value.(*bucket) // the list holds nothing else
	return b
}

func (t *table) init(limit rate.Limit, burst, size int) {
	t.rate, t.burst, t.max = limit, burst, size
	t.buckets = make(map[netip.Prefix]*list.Element)
}

func (t *table) take(network netip.Prefix, now time.Time) (retryAfter time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tokens := t.bucket(network, now)
	if tokens == nil || tokens.AllowN(now, 1) {
		return 0, true
	}
	t.refused++
	missing := 1 - tokens.TokensAt(now)
	return time.Duration(missing / float64(t.rate) * float64(time.Second)), false
}

// bucket finds or makes the bucket of a network, or gives the one to use in
// its place.
func (t *table) bucket(network netip.Prefix, now time.Time) *rate.Limiter {
	if e, ok := t.buckets[network]; ok {
		t.recent.MoveToFront(e)
		return bucketOf(e).tokens
	}
	if len(t.buckets) >= t.max && !t.forget(now) {
		t.overflowed++
		return t.overflow
	}
	b := &bucket{network, rate.NewLimiter(t.rate, t.burst)}
	t.buckets[network] = t.recent.PushFront(b)
	return b.tokens
}

// forget drops the bucket used longest ago if it is full again.
func (t *table) forget(now time.Time) bool {
	e := t.recent.Back()
	b := bucketOf(e)
	if b.tokens.TokensAt(now) < float64(t.burst) {
		return false
	}
	t.recent.Remove(e)
	delete(t.buckets, b.network)
	return true
}

func (t *table) has(network netip.Prefix) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.buckets[network]
	return ok
}

func (t *table) stats() (networks int, refused, overflowed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.buckets), t.refused, t.overflowed
}
