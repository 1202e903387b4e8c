package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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
	Width       float64 // of 100
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
	Agents   []archive.AgentFigures
	Outcomes []bar
	Moods    []bar
	Topics   []bar
	Dials    []bar
	Leads    []archive.Item
	System   system
	Webhook  string
	Empty    bool
	Values   url.Values
}

// system is how the installation stands.
type system struct {
	Received, Analysed     int64
	Waiting, Dead          int64
	OldestSeconds          float64
	Paused                 bool
	Rejected               int
	SpoolEntries           int64
	SpoolBytes, SpoolLimit int64
}

// success is what counts as a call that came to something.
func success() []call.OutcomeCode {
	return []call.OutcomeCode{call.OutcomeLead, call.OutcomeMeeting, call.OutcomeCallback, call.OutcomeTransfer}
}

func (d *Dashboard) overview(c echo.Context) error {
	days, err := strconv.Atoi(c.QueryParam("days"))
	if err != nil || !slices.Contains(spans(), days) {
		days = 7
	}
	agent := c.QueryParam("agentId")
	ctx, cancel := bounded(c)
	defer cancel()
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
		Days: days, Spans: spans(), Agent: agent, From: from, To: to, Tiles: tiles(now, before), Agents: now.Agents[:min(len(now.Agents), 12)],
		Outcomes: bars("outcome", "outcomeCode", now.ByOutcomeCode, before.ByOutcomeCode, from),
		Moods:    bars("sentiment", "sentiment", now.BySentiment, before.BySentiment, from),
		Dials:    bars("reason", "failureReason", now.ByFailureReason, before.ByFailureReason, from),
		Webhook:  d.webhook(c), Values: c.QueryParams(),
	}
	o.Chart = daily(now, from, to)
	if o.Topics, err = topics(ctx, d, from, to, agent); err != nil {
		return err
	}
	if o.Leads, err = d.leads(ctx, c, agent); err != nil {
		return err
	}
	if o.System, err = d.system(ctx, now); err != nil {
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
	t := []tile{
		{Key: "tile.calls", Value: now.Events, Form: "count", Change: change(float64(now.Events), float64(before.Events)), Link: link},
		{Key: "tile.success", Value: share(succeeded(now), coded(now)), Form: "percent", Change: changed(share(succeeded(now), coded(now)), share(succeeded(before), coded(before))), Better: 1, Link: link + "&outcomeCode=lead,meeting,callback,transfer"},
		{Key: "tile.quality", Value: now.QualityAverage, Form: "decimal", Change: changed(now.QualityAverage, before.QualityAverage), Better: 1, Link: link + "&sort=quality"},
		{Key: "tile.negative", Value: share(now.BySentiment["negative"], total(now.BySentiment)), Form: "percent", Change: changed(share(now.BySentiment["negative"], total(now.BySentiment)), share(before.BySentiment["negative"], total(before.BySentiment))), Better: -1, Link: link + "&sentiment=negative"},
		{Key: "tile.duration", Value: mean(now), Form: "duration", Change: changed(mean(now), mean(before)), Link: link},
		{Key: "tile.cost", Value: now.CostUSD, Form: "money", Change: change(now.CostUSD, before.CostUSD), Better: -1, Link: link},
	}
	return t
}

func succeeded(s *archive.Stats) (n int64) {
	for _, code := range success() {
		n += s.ByOutcomeCode[string(code)]
	}
	return n
}

func coded(s *archive.Stats) int64 { return total(s.ByOutcomeCode) }

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
	n := s.ByType[string(call.TypeTranscription)] + s.ByType[string(call.TypeTranscriptionOTel)]
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

func bars(list, parameter string, now, before map[string]int64, from time.Time) []bar {
	var all []bar
	most := int64(1)
	for value, n := range now {
		most = max(most, n)
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
		all[i].Width = float64(all[i].Count) / float64(most) * 100
	}
	return all[:min(len(all), 9)]
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

func (d *Dashboard) system(ctx context.Context, s *archive.Stats) (system, error) {
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
	w := d.API.Backlog.Waiting()
	v.SpoolEntries, v.SpoolBytes, v.SpoolLimit = w.Entries, w.Bytes, w.MaxBytes
	return v, nil
}

// chart is calls by the day, drawn as SVG in a field of chartWidth × chartHeight.
type chart struct {
	Columns []column
	Most    int64
}

type column struct {
	Day            string
	Events         int64
	Quality        *float64
	X, Y, W, H     float64
	Label          bool
	Middle, Bottom float64
}

const (
	chartWidth  = 720.0
	chartHeight = 160.0
)

func daily(s *archive.Stats, from, to time.Time) chart {
	by := map[string]archive.DayFigures{}
	c := chart{Most: 1}
	for _, day := range s.Days {
		by[day.Day] = day
		c.Most = max(c.Most, day.Events)
	}
	first := from.Truncate(24 * time.Hour)
	n := int(to.Sub(first).Hours()/24) + 1
	step := chartWidth / float64(n)
	every := max(1, (n+7)/8)
	for i := range n {
		day := first.AddDate(0, 0, i).Format(time.DateOnly)
		figures := by[day]
		h := float64(figures.Events) / float64(c.Most) * (chartHeight - 10)
		if figures.Events > 0 {
			h = max(h, 2)
		}
		c.Columns = append(c.Columns, column{
			Day: day, Events: figures.Events, Quality: figures.QualityAverage, Label: i%every == 0,
			X: step*float64(i) + step*0.15, W: min(step*0.7, 48), Y: chartHeight - h, H: h, Middle: step*float64(i) + step*0.15 + min(step*0.7, 48)/2, Bottom: chartHeight + 18,
		})
	}
	return c
}
