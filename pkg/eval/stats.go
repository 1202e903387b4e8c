package eval

import (
	"slices"
	"time"
)

// kappa is Cohen's kappa of two raters over pairs of their ratings:
//
//	1 − (mean disagreement seen) / (mean disagreement expected by chance)
//
// With nominal as disagreement it is the plain kappa, with quadratic the
// quadratic-weighted one. It is nil where it is not defined: without pairs, or
// if both raters always gave one and the same rating.
func kappa(pairs [][2]int, disagreement func(a, b int) float64) *float64 {
	var seen, expected float64
	for _, p := range pairs {
		seen += disagreement(p[0], p[1])
		for _, q := range pairs {
			expected += disagreement(p[0], q[1])
		}
	}
	if expected == 0 {
		return nil
	}
	n := float64(len(pairs))
	return new(1 - seen/n/(expected/n/n))
}

func nominal(a, b int) float64 {
	if a == b {
		return 0
	}
	return 1
}

func quadratic(a, b int) float64 { return float64((a - b) * (a - b)) }

// meanAbsoluteError is nil without pairs.
func meanAbsoluteError(pairs [][2]int) *float64 {
	if len(pairs) == 0 {
		return nil
	}
	sum := 0
	for _, p := range pairs {
		sum += max(p[0]-p[1], p[1]-p[0])
	}
	return new(float64(sum) / float64(len(pairs)))
}

// percentile is the nearest-rank percentile, 0 without values.
func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}
