package gate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/gate"
)

var small = gate.Capacity{Bodies: 4, Memory: 1000, Wait: 2 * time.Second}

func enter(t *testing.T, b *gate.Bodies, bytes int64, known bool) (release func()) {
	t.Helper()
	release, err := b.Acquire(t.Context(), bytes, known)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func TestBodies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		inside []int64 // bytes of known senders' bodies
		bytes  int64
		fits   bool
	}{
		{"empty", nil, 10, true},
		{"one place left", []int64{1, 1, 1}, 1, true},
		{"no place left", []int64{1, 1, 1, 1}, 1, false},
		{"just enough memory", []int64{400, 100}, 500, true},
		{"too little memory", []int64{400, 101}, 500, false},
		{"larger than all memory, alone", nil, 5000, true},
		{"larger than all memory, not alone", []int64{1}, 5000, false},
		{"no bytes beside one that fills the memory", []int64{5000}, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := gate.NewBodies(small)
				var releases []func()
				for _, bytes := range tt.inside {
					releases = append(releases, enter(t, b, bytes, true))
				}
				began := time.Now()
				release, err := b.Acquire(t.Context(), tt.bytes, true)
				if fits := err == nil; fits != tt.fits {
					t.Fatalf("fits: %v, %v", fits, err)
				}
				waited := time.Since(began)
				if tt.fits {
					if waited != 0 {
						t.Errorf("waited %v for nothing", waited)
					}
					releases = append(releases, release)
				} else if e, ok := err.(*call.Error); waited != small.Wait || !ok || e.Code != call.Unavailable || e.RetryAfter <= 0 { //nolint:errorlint // the very type
					t.Errorf("after %v: %#v", waited, err)
				}
				for _, release := range releases {
					release()
					release()
				}
				if o := b.Occupancy(); o.Bodies != 0 || o.Memory != 0 || (o.Refused == 1) == tt.fits {
					t.Errorf("after all left: %+v", o)
				}
				for range small.Bodies { // everything was given back
					enter(t, b, small.Memory/int64(small.Bodies), true)
				}
			})
		})
	}
}

func TestBodiesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := gate.NewBodies(small)
		first := enter(t, b, 1000, true)
		time.AfterFunc(1500*time.Millisecond, first)
		began := time.Now()
		enter(t, b, 600, true)
		if waited := time.Since(began); waited != 1500*time.Millisecond {
			t.Errorf("waited %v for a body that left after 1.5s", waited)
		}
		if o := b.Occupancy(); o.Bodies != 1 || o.Memory != 600 || o.Refused != 0 {
			t.Errorf("%+v", o)
		}
	})
}

func TestBodiesOfSendersThatLeave(t *testing.T) {
	t.Parallel()
	b := gate.NewBodies(gate.Capacity{Bodies: 2, Memory: 2, Wait: time.Hour})
	enter(t, b, 2, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Acquire(ctx, 1, true); call.CodeOf(err) != call.Unavailable {
		t.Errorf("%v", err)
	}
}

// Forgers that hold all they can get leave a known sender its half, of the
// places and of the memory.
func TestStrangersLeaveRoom(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]int64{"places": 1, "memory": 250} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := gate.NewBodies(small)
				for range 2 {
					enter(t, b, bytes, false)
				}
				if _, err := b.Acquire(t.Context(), bytes, false); call.CodeOf(err) != call.Unavailable {
					t.Errorf("a stranger took more than the strangers' half: %v", err)
				}
				for range 2 {
					began := time.Now()
					enter(t, b, bytes, true)
					if waited := time.Since(began); waited != 0 {
						t.Errorf("a known sender waited %v for strangers", waited)
					}
				}
			})
		})
	}
}

func BenchmarkBodies(b *testing.B) {
	bodies := gate.NewBodies(gate.DefaultCapacity)
	b.ReportAllocs()
	for b.Loop() {
		release, err := bodies.Acquire(b.Context(), 14<<10, false)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
