package rig

import (
	"crypto/sha256"
	"os"
	"runtime"
	"testing"
	"time"
)

func digest(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

func TestMedian(t *testing.T) {
	t.Parallel()
	for want, values := range map[float64][]float64{0: nil, 3: {3}, 2.5: {4, 1}, 5: {9, 5, 1}} {
		if got := Median(values); got != want {
			t.Errorf("the median of %v is %v, want %v", values, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	sorted := make([]int, 1000)
	for i := range sorted {
		sorted[i] = i + 1
	}
	for share, want := range map[float64]int{0.5: 501, 0.99: 991, 0.999: 1000, 1: 1000} {
		if got := Quantile(sorted, share); got != want {
			t.Errorf("%v: %d, want %d", share, got, want)
		}
	}
	if got := Quantile([]int(nil), 0.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

func TestProcessFigures(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells")
	}
	before := CPU(os.Getpid())
	for began := time.Now(); time.Since(began) < 100*time.Millisecond; {
		_ = digest("work")
	}
	if used := CPU(os.Getpid()) - before; used < 20*time.Millisecond {
		t.Errorf("100 ms of work took %v of a processor", used)
	}
	if peak := PeakMemory(os.Getpid()); peak < 1<<20 || peak > 1<<34 {
		t.Errorf("a peak of %d bytes", peak)
	}
}
