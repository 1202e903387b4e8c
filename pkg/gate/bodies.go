package gate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"postcall/pkg/call"
)

// Capacity is how much is received at once.
type Capacity struct {
	Bodies int           // deliveries between their first byte and their answer
	Memory int64         // bytes of them in memory; what is in files does not count
	Wait   time.Duration // how long a delivery may wait for room
}

// DefaultCapacity keeps 1 000 deliveries a second of 14 KB going while each of
// them waits half a second for its commit.
var DefaultCapacity = Capacity{Bodies: 512, Memory: 32 << 20, Wait: 2 * time.Second}

// Bodies is the room for deliveries being received. It is safe for concurrent
// use.
//
// Strangers, from whose address no verified delivery has come so far, get half
// of the room, so that forgers who hold their connections open do not keep a
// known sender out. Who shares an address with a forger shares its half too:
// Pace bounds how long that lasts, and an AllowList ends it.
//
// Failure policy: closed, by a 503, which ElevenLabs takes as a reason to send
// again. A process that dies of memory loses more than one delivery.
type Bodies struct {
	wait    time.Duration
	all     room
	strange room
	refused atomic.Uint64
}

// NewBodies makes an empty room. Both its measures are above 1.
func NewBodies(c Capacity) *Bodies {
	b := &Bodies{wait: c.Wait}
	b.all.init(int64(c.Bodies), c.Memory)
	b.strange.init(int64(c.Bodies/2), c.Memory/2)
	return b
}

// Acquire waits for room for a body that will take so many bytes of memory
// (more than there are at all count as all of them), from a known sender or a
// stranger: see Limits.Known. The error is call.Unavailable with a RetryAfter,
// after Wait or when ctx ends. Without one, call release once the delivery is
// answered; calling it again does nothing.
func (b *Bodies) Acquire(ctx context.Context, bytes int64, known bool) (release func(), err error) {
	rooms := []*room{&b.strange, &b.all}
	if known {
		rooms = rooms[1:]
	}
	for i, r := range rooms {
		if r.try(bytes) { // without a timer
			continue
		}
		if err := b.enter(ctx, rooms[i:], bytes); err != nil {
			leave(rooms[:i], bytes)
			b.refused.Add(1)
			return nil, &call.Error{
				Code: call.Unavailable, Message: "Too many deliveries are being received just now; please send this one again.",
				RetryAfter: 5 * time.Second, Err: err,
			}
		}
		break
	}
	return sync.OnceFunc(func() { leave(rooms, bytes) }), nil
}

// enter waits for room in all of these, or takes none.
func (b *Bodies) enter(ctx context.Context, rooms []*room, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	for i, r := range rooms {
		if err := r.enter(ctx, bytes); err != nil {
			leave(rooms[:i], bytes)
			return err
		}
	}
	return nil
}

// Occupancy is what metrics and health show of the room.
type Occupancy struct {
	Bodies  int64  // being received now
	Memory  int64  // bytes of them in memory, at most
	Refused uint64 // turned away since the start
}

// Occupancy tells how full the room is.
func (b *Bodies) Occupancy() Occupancy {
	return Occupancy{Bodies: b.all.inside.Load(), Memory: b.all.used.Load(), Refused: b.refused.Load()}
}

// room holds a number of bodies and a number of bytes. The two are always
// taken in that order, so that nobody waits in a circle.
type room struct {
	bodies, memory *semaphore.Weighted
	size           int64 // bytes
	inside, used   atomic.Int64
}

func (r *room) init(bodies, memory int64) {
	r.bodies, r.memory, r.size = semaphore.NewWeighted(bodies), semaphore.NewWeighted(memory), memory
}

func (r *room) try(bytes int64) bool {
	if !r.bodies.TryAcquire(1) {
		return false
	}
	if !r.memory.TryAcquire(min(bytes, r.size)) {
		r.bodies.Release(1)
		return false
	}
	r.count(1, bytes)
	return true
}

func (r *room) enter(ctx context.Context, bytes int64) error {
	if err := r.bodies.Acquire(ctx, 1); err != nil {
		return err
	}
	if err := r.memory.Acquire(ctx, min(bytes, r.size)); err != nil {
		r.bodies.Release(1)
		return err
	}
	r.count(1, bytes)
	return nil
}

func (r *room) count(bodies, bytes int64) {
	r.inside.Add(bodies)
	r.used.Add(bodies * min(bytes, r.size))
}

func leave(rooms []*room, bytes int64) {
	for _, r := range rooms {
		r.count(-1, bytes)
		r.memory.Release(min(bytes, r.size))
		r.bodies.Release(1)
	}
}
