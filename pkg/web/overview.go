package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// spans are the lengths of time that the overview is of, in days.
func spans() []int { return []int{1, 7, 30, 90} }

// tile is a figure with that of the period before.
type tile struct {
	Key    string // of the catalogue
	Value  any
	Form   string // count, percent, decimal, duration, money
	Change *float64
	// Better is whether more of it is good (1), bad (-1) or neither (0).
	Better int
	Link   string
}

// bar is a row of a chart of shares.
type bar struct {
	List, Value string // whose name is shown: t.name
	Count       int64
	Width       float64 // the share of all, of 100
	Change      *float64
	Link        string
}

type overview struct {
	Days     int
	Spans    []int
	Agent    string
	From, To time.Time
	Tiles    []tile
	Chart    chart
	Agents   []agentRow
	Outcomes []bar
	Moods    []bar
	Topics   []bar
	Sampled  bool // topics are those of the newest calls only
	Dials    []bar
	Leads    []archive.Item
	System   system
	Webhook  string
	Empty    bool
	Values   url.Values
}

// agentRow is what an agent came to.
type agentRow struct {
	archive.AgentFigures
	Success *float64
}

// system is how the installation stands.
type system struct {
	Received, Analysed int64
	Waiting, Dead      int64
	OldestSeconds      float64
	Paused             bool
	Rejected           int
	// Upstream are the calls that ElevenLabs has of the days that were looked at
	// last, a week at most; Here those of them that are here, of which Imported
	// were fetched. All are 0 where nobody looks.
	Upstream, Here, Imported int
	SpoolEntries             int64
	SpoolBytes, SpoolLimit   int64
}

// successes are the outcomes of a call that came to something, losses of one
// that ended badly. The others are neither.
func successes() []call.OutcomeCode {
	return []call.OutcomeCode{call.OutcomeLead, call.OutcomeMeeting, call.OutcomeCallback, call.OutcomeTransfer}
}

func losses() []call.OutcomeCode {
	return []call.OutcomeCode{call.OutcomeRefused, call.OutcomeComplaint}
}

func (d *Dashboard) overview(c echo.Context) error {
	days, err := strconv.Atoi(c.QueryParam("days"))
	if err != nil || !slices.Contains(spans(), days) {
		days = 7
	}
	agent := c.QueryParam("agentId")
	ctx, cancel := bounded(c)
	defer cancel()
	d.refresh(ctx)
	span := time.Duration(days) * 24 * time.Hour
	to := time.Now().UTC().Truncate(time.Second).Add(time.Second)
	from := to.Add(-span)
	now, err := archive.Summarize(ctx, d.API.Pool, from, to, agent)
	if err != nil {
		return err
	}
	before, err := archive.Summarize(ctx, d.API.Pool, from.Add(-span), from, agent)
	if err != nil {
		return err
	}
	o := overview{
		Days: days, Spans: spans(), Agent: agent, From: from, To: to, Tiles: tiles(now, before), Agents: agentRows(now),
		Outcomes: bars("outcome", "outcomeCode", now.ByOutcomeCode, before.ByOutcomeCode, from),
		Moods:    bars("sentiment", "sentiment", now.BySentiment, before.BySentiment, from),
		Dials:    bars("reason", "failureReason", now.ByFailureReason, before.ByFailureReason, from),
		Webhook:  d.webhook(c), Values: c.QueryParams(),
	}
	o.Chart = daily(now, from, to)
	if o.Topics, err = topics(ctx, d, from, to, agent); err != nil {
		return err
	}
	o.Sampled = now.Events > archive.TopicSample
	if o.Leads, err = d.leads(ctx, c, agent); err != nil {
		return err
	}
	if o.System, err = d.standing(ctx, now); err != nil {
		return err
	}
	newest, err := newestEvent(ctx, d.API.Pool)
	if err != nil {
		return err
	}
	o.Empty = newest == 0
	return d.render(c, http.StatusOK, "overview.html", d.page(c, "overview.title", "overview", o))
}

func tiles(now, before *archive.Stats) []tile {
	link := "/calls?dateFrom=" + url.QueryEscape(now.From.Format(time.RFC3339))
	success := func(s *archive.Stats) *float64 { return succeeded(s.ByOutcomeCode) }
	negative := func(s *archive.Stats) *float64 { return share(s.BySentiment["negative"], total(s.BySentiment)) }
	return []tile{
		{Key: "tile.calls", Value: conversations(now), Form: "count", Change: change(float64(conversations(now)), float64(conversations(before))), Link: link},
		{Key: "tile.success", Value: success(now), Form: "percent", Change: changed(success(now), success(before)), Better: 1, Link: link + "&outcomeCode=" + strings.Join(strs(successes()), ",")},
		{Key: "tile.quality", Value: now.QualityAverage, Form: "decimal", Change: changed(now.QualityAverage, before.QualityAverage), Better: 1, Link: link + "&sort=quality"},
		{Key: "tile.negative", Value: negative(now), Form: "percent", Change: changed(negative(now), negative(before)), Better: -1, Link: link + "&sentiment=negative"},
		{Key: "tile.duration", Value: mean(now), Form: "duration", Change: changed(mean(now), mean(before)), Link: link},
		{Key: "tile.cost", Value: now.CostUSD, Form: "money", Change: change(now.CostUSD, before.CostUSD), Link: link},
	}
}

// conversations counts calls that were connected: a recording is an event of
// its own, and no call.
func conversations(s *archive.Stats) int64 {
	return s.ByType[string(call.TypeTranscription)] + s.ByType[string(call.TypeTranscriptionOTel)]
}

// succeeded is the share of calls that came to something; nil without an
// outcome.
func succeeded(outcomes map[string]int64) *float64 {
	return share(sum(outcomes, successes()), total(outcomes))
}

func sum(outcomes map[string]int64, codes []call.OutcomeCode) (n int64) {
	for _, code := range codes {
		n += outcomes[string(code)]
	}
	return n
}

// maxAgents is how many agents are shown.
const maxAgents = 12

func agentRows(s *archive.Stats) []agentRow {
	rows := make([]agentRow, 0, maxAgents)
	for _, a := range s.Agents[:min(len(s.Agents), maxAgents)] {
		rows = append(rows, agentRow{a, succeeded(a.ByOutcomeCode)})
	}
	return rows
}

func total(counts map[string]int64) (n int64) {
	for _, v := range counts {
		n += v
	}
	return n
}

func share(part, whole int64) *float64 {
	if whole == 0 {
		return nil
	}
	return new(float64(part) / float64(whole))
}

// mean is the average length of the conversations, in seconds.
func mean(s *archive.Stats) *float64 {
	n := conversations(s)
	if n == 0 {
		return nil
	}
	return new(s.DurationS / float64(n))
}

// change is by how much a figure grew, as a share of what it was; nil where
// that says nothing.
func change(now, before float64) *float64 {
	if before == 0 {
		return nil
	}
	return new((now - before) / before)
}

func changed(now, before *float64) *float64 {
	if now == nil || before == nil {
		return nil
	}
	return change(*now, *before)
}

// maxBars is how many values of a list are shown.
const maxBars = 8

func bars(list, parameter string, now, before map[string]int64, from time.Time) []bar {
	var all []bar
	whole := max(total(now), 1)
	for value, n := range now {
		b := bar{List: list, Value: value, Count: n, Change: change(float64(n), float64(before[value]))}
		if parameter != "" {
			b.Link = "/calls?" + url.Values{parameter: {value}, "dateFrom": {from.Format(time.RFC3339)}}.Encode()
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b bar) int {
		if a.Count != b.Count {
			return int(b.Count - a.Count)
		}
		if a.Value < b.Value {
			return -1
		}
		return 1
	})
	for i := range all {
		all[i].Width = float64(all[i].Count) / float64(whole) * 100
	}
	return all[:min(len(all), maxBars)]
}

// topics are the most frequent ones of the newest calls of a period, against
// as many of the period before.
func topics(ctx context.Context, d *Dashboard, from, to time.Time, agent string) ([]bar, error) {
	now, err := archive.Topics(ctx, d.API.Pool, from, to, agent)
	if err != nil {
		return nil, err
	}
	before, err := archive.Topics(ctx, d.API.Pool, from.Add(from.Sub(to)), from, agent)
	if err != nil {
		return nil, err
	}
	return bars("topic", "topic", now, before, from), nil
}

// maxLeads is how many calls to return are shown.
const maxLeads = 6

// leads are the newest calls of a month whose customer waits to be called back.
func (d *Dashboard) leads(ctx context.Context, c echo.Context, agent string) ([]archive.Item, error) {
	f := archive.Filter{OutcomeCodes: []call.OutcomeCode{call.OutcomeCallback}, From: time.Now().AddDate(0, -1, 0)}
	if agent != "" {
		f.AgentIDs = []string{agent}
	}
	page, err := archive.List(ctx, d.API.Pool, archive.Query{Filter: f, Limit: archive.MaxLimit})
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(page.Items))
	for i, item := range page.Items {
		ids[i] = item.ID
	}
	open, err := postgres.Open(ctx, d.API.Pool, ids)
	if err != nil {
		return nil, err
	}
	var leads []archive.Item
	for _, item := range page.Items {
		if !slices.Contains(open, item.ID) {
			continue
		}
		if d.API.Masked(c) {
			item.Mask()
		}
		if leads = append(leads, item); len(leads) == maxLeads {
			break
		}
	}
	return leads, nil
}

func (d *Dashboard) standing(ctx context.Context, s *archive.Stats) (system, error) {
	v := system{Received: s.Events, Analysed: s.Analysed}
	queues, err := d.API.Queues(ctx)
	if err != nil {
		return v, err
	}
	for _, q := range queues {
		v.Waiting += q.Waiting + q.Later
		v.OldestSeconds = max(v.OldestSeconds, q.OldestSeconds)
		v.Paused = v.Paused || q.PausedAt != nil
	}
	if _, v.Dead, err = d.API.DeadLetters(ctx); err != nil {
		return v, err
	}
	refused, err := postgres.RecentRejections(ctx, d.API.Pool, archive.MaxLimit)
	if err != nil {
		return v, err
	}
	for _, r := range refused {
		if r.At.After(s.From) {
			v.Rejected++
		}
	}
	imports, err := d.API.Imports(ctx)
	if err != nil {
		return v, err
	}
	for _, day := range imports.Days[max(0, len(imports.Days)-7):] {
		v.Upstream, v.Here, v.Imported = v.Upstream+day.Upstream, v.Here+day.Here, v.Imported+day.Imported
	}
	w := d.API.Backlog.Waiting()
	v.SpoolEntries, v.SpoolBytes, v.SpoolLimit = w.Entries, w.Bytes, w.MaxBytes
	return v, nil
}

// chart is what came of the calls of each day, drawn as SVG in a field of
// chartWidth × chartHeight that is stretched to its place.
type chart struct {
	Columns []column
	Labels  []time.Time // days under the chart, evenly spread
	Most    int64       // calls of the busiest day
}

type column struct {
	Day                 time.Time
	Calls               int64 // with an outcome
	Success             *float64
	Quality             *float64
	X, W                float64
	Good, Neither, Lost part
}

// part of a column, from Y on down.
type part struct {
	Count int64
	Y, H  float64
}

const (
	chartWidth  = 720.0
	chartHeight = 160.0
	// maxLabels is how many days are named under the chart.
	maxLabels = 5
)

func daily(s *archive.Stats, from, to time.Time) chart {
	by := map[string]archive.DayFigures{}
	c := chart{Most: 1}
	for _, day := range s.Days {
		by[day.Day] = day
		c.Most = max(c.Most, total(day.ByOutcomeCode))
	}
	first := from.Truncate(24 * time.Hour)
	n := int(to.Add(-time.Second).Sub(first).Hours()/24) + 1
	step := chartWidth / float64(n)
	for i := range n {
		day := first.AddDate(0, 0, i)
		f := by[day.Format(time.DateOnly)]
		one := column{
			Day: day, Calls: total(f.ByOutcomeCode), Success: succeeded(f.ByOutcomeCode), Quality: f.QualityAverage,
			X: step * (float64(i) + 0.15), W: step * 0.7,
		}
		one.Good.Count, one.Lost.Count = sum(f.ByOutcomeCode, successes()), sum(f.ByOutcomeCode, losses())
		one.Neither.Count = one.Calls - one.Good.Count - one.Lost.Count
		y := chartHeight
		for _, p := range []*part{&one.Good, &one.Neither, &one.Lost} {
			p.H = float64(p.Count) / float64(c.Most) * chartHeight
			y -= p.H
			p.Y = y
		}
		c.Columns = append(c.Columns, one)
	}
	labels := maxLabels
	if n <= 2*maxLabels {
		labels = n
	}
	for i := range labels {
		c.Labels = append(c.Labels, c.Columns[i*(n-1)/max(labels-1, 1)].Day)
	}
	return c
}
