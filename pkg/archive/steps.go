package archive

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// step is a span of days that is read at once, both ends included: by the
// facets that name them or, where there are none, by their bounds.
type step struct {
	from, to int64 // days since 1970
	facets   []string
}

// steps parts the days from first to last into spans that grow as they go from
// where a list begins: the day itself, the rest of its eight, the rest of their
// sixty-four, up to eight times as many twice over, and all that remains. A page of a
// common thing ends in one of the first, and each of the others costs a look at
// the index.
func steps(first, last int64, up bool) []step {
	var list []step
	at := last
	if up {
		at = first
	}
	for n := 0; first <= at && at <= last; n++ {
		s := step{from: at, to: at}
		shift, many := 0, int64(1)
		switch n {
		case 0:
		case 1:
			many = 8
		case 2:
			shift, many = 3, 8
		case 3, 4, 5, 6, 7, 8, 9, 10:
			shift, many = 6, 2
		default:
			shift = -1
		}
		switch {
		case shift < 0 && up:
			s.to = last
		case shift < 0:
			s.from = first
		case up:
			unit := at >> shift
			end := unit - mod(unit, many) + many - 1
			for ; unit <= end; unit++ {
				s.facets = append(s.facets, facet(shift, unit))
			}
			s.to = (end+1)<<shift - 1
		default:
			unit := at >> shift
			for end := unit - mod(unit, many); unit >= end; unit-- {
				s.facets = append(s.facets, facet(shift, unit))
			}
			s.from = (unit + 1) << shift
		}
		list = append(list, s)
		if up {
			at = s.to + 1
		} else {
			at = s.from - 1
		}
	}
	return list
}

// evenSteps parts the days into spans of eight, for searches that are broken off
// between two of them.
func evenSteps(first, last int64, up bool) []step {
	var list []step
	for unit := first >> 3; unit <= last>>3; unit++ {
		list = append(list, step{from: unit << 3, to: unit<<3 + 7, facets: []string{facet(3, unit)}})
	}
	if !up {
		slices.Reverse(list)
	}
	return list
}

// end is a place behind all of the span and before all that follows, in a day
// that is none of the span's.
func (s step) end(up bool) *key {
	if up {
		return &key{At: midnight(s.to + 1)}
	}
	return &key{At: midnight(s.from).Add(-time.Microsecond), ID: math.MaxInt64}
}

// span names the sixty-four days, a few times over, that a filter's bounds lie
// in, so that the index reads no more than these; nil where there are too many.
func (p *plan) span() []string {
	if p.From.IsZero() || p.To.IsZero() {
		return nil
	}
	first, last := day(p.From)>>6, day(p.To)>>6
	if last-first >= 16 {
		return nil
	}
	var facets []string
	for unit := first; unit <= last; unit++ {
		facets = append(facets, facet(6, unit))
	}
	return facets
}

// facet names a day or the day's part of that many bits.
func facet(shift int, unit int64) string {
	if shift == 0 {
		return fmt.Sprintf("day=%d", unit)
	}
	return fmt.Sprintf("day%d=%d", 1<<shift, unit)
}

func mod(a, b int64) int64 { return ((a % b) + b) % b }

// day counts the days since 1970.
func day(t time.Time) int64 { return int64(math.Floor(float64(t.Unix()) / 86400)) }

// midnight is when a day begins.
func midnight(day int64) time.Time { return time.Unix(day*86400, 0).UTC() }
