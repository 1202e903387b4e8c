package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// What pgbench 15 prints, shortened.
const pgbenchOutput = `transaction type: multiple scripts
scaling factor: 1
query mode: extended
number of clients: 32
number of threads: 2
maximum number of tries: 1
duration: 15 s
number of transactions actually processed: 61629
number of failed transactions: 7 (0.011%)
latency average = 7.789 ms
latency stddev = 3.110 ms
initial connection time = 61.022 ms
tps = 4107.912345 (without initial connection time)
SQL script 1: pgbench-0.sql
 - weight: 1 (targets 50.0% of total)
 - 30811 transactions (50.0% of total, tps = 2053.700000)
 - number of failed transactions: 3 (0.010%)
 - latency average = 7.793 ms
`

func TestParsePgbench(t *testing.T) {
	t.Parallel()
	got, err := parsePgbench(pgbenchOutput)
	want := Throughput{Deliveries: 61629, PerSecond: 4107.912345, Failed: 7, P50MS: 7.789}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	older := strings.Replace(pgbenchOutput, "number of failed transactions: 7 (0.011%)\n", "", 1)
	if got, err := parsePgbench(older); err != nil || got.Failed != 0 || got.Deliveries != 61629 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, out := range map[string]string{
		"nothing":         "",
		"no rate":         strings.Replace(pgbenchOutput, "\ntps = ", "\ntqs = ", 1),
		"no transactions": strings.Replace(pgbenchOutput, "processed: 61629", "processed: 0", 1),
	} {
		if _, err := parsePgbench(out); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

func TestChosen(t *testing.T) {
	t.Parallel()
	parts, err := chosen("a, c")
	if err != nil || !parts["a"] || parts["b"] || !parts["c"] {
		t.Errorf("%v, %v", parts, err)
	}
	for _, only := range []string{"", "e", "ab", "a,,b"} {
		if _, err := chosen(only); err == nil {
			t.Errorf("%q is taken", only)
		}
	}
}

// A sender that stalls cannot hide it: from the moment of sending all was fast,
// from the moment at which deliveries were due it was not.
func TestSummarise(t *testing.T) {
	t.Parallel()
	began := time.Now()
	var results []vegeta.Result
	for n := range 1000 {
		r := vegeta.Result{Seq: uint64(n), Code: http.StatusOK, Timestamp: began.Add(time.Duration(n) * time.Millisecond), Latency: time.Millisecond}
		if n >= 900 && n < 1000 {
			r.Timestamp = began.Add(time.Second) // all that was due in 0.1 s goes at its end
		}
		if n == 5 {
			r.Code, r.Latency = http.StatusServiceUnavailable, 7*time.Millisecond
		}
		results = append([]vegeta.Result{r}, results...) // in any order
	}
	l := summarise(1000, results)
	want := Latency{Rate: 1000, Sent: 1000, Failed: 1, P50: 1, P99: 1, P999: 7, Max: 7, LateP50: 1, LateP99: 92}
	if l != want {
		t.Errorf("\n got %+v\nwant %+v", l, want)
	}
	if l := summarise(10, nil); l != (Latency{Rate: 10}) {
		t.Errorf("of nothing: %+v", l)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	r := Report{
		Throughput: &Comparison{Ingest: []Throughput{{PerSecond: 5000}}, Pgbench: []Throughput{{PerSecond: 4000}}, Ratio: 1.25},
		Latency:    []Latency{{Rate: 200, P99: 2.9}, {Rate: 500, P99: 4}, {Rate: 1000, P99: 10.1}},
		Full: &Full{Empty: []Throughput{{PerSecond: 5000}}, Full: []Throughput{{PerSecond: 4000}}, Ratio: 0.8,
			EmptyLatency: []Latency{{Rate: 200, P50: 1, P99: 2}}, FullLatency: []Latency{{Rate: 200, P50: 1, P99: 3}}},
		PeakMiB: 40, Audio: &Audio{Bodies: 16, PeakMiB: 100}, Notes: []string{"a note"},
	}
	var out bytes.Buffer
	r.Print(&out)
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"ratio 1.25, goal 1.0: met", "3: met", "10: missed", "ratio 0.80, goal 0.9: missed", "p99 ×1.50", "64: met", "96: missed", "a note"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}
