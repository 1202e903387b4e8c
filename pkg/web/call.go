package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/admin"
	"postcall/pkg/archive"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
)

// oneCall is the page of a call.
type oneCall struct {
	*archive.Record
	ID           int64
	Conversation *call.Conversation // nil without one
	Turns        []turn
	Audio        string // address of the recording; empty without one
	Shown        *archive.Analysis
	Result       *call.Result // the newest analysis's, as it was said
	Fields       []resultField
	Criteria     []call.Judgement // with a verdict; quotes only where supported
	Evidence     []call.Evidence  // supported only
	Unsupported  int
	Metrics      *call.Metrics
	Latency      []point
	LatencyMost  float64
	History      []version
	Sent         []sent
	Failure      string // why the dial failed
	Pending      bool
}

type turn struct {
	call.Turn
	Seconds *float64
}

// point is a turn's latency on a line of 600 × 80.
type point struct {
	X, Y, Seconds float64
	Turn          int
}

// resultField is a value that people may correct.
type resultField struct {
	Name, Value string
	Model       string // what the model said, where it was corrected
	By          string
	At          time.Time
	Corrected   bool
	Options     []option
	Long        bool
}

// version is an analysis with what it says otherwise than the one before.
type version struct {
	archive.Analysis
	Diff []difference
}

type difference struct{ Field, Before, After string }

type sent struct {
	archive.Dispatch
	Pretty string
}

func (d *Dashboard) call(c echo.Context) error {
	id, err := eventID(c)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(c)
	defer cancel()
	d.refresh(ctx)
	record, err := archive.Get(ctx, d.API.Pool, id)
	if err != nil {
		return err
	}
	if d.API.Masked(c) {
		record.Mask()
	}
	v := oneCall{Record: record, ID: id}
	v.Pending = record.Event.State == call.StateQueued || record.Event.State == call.StateRunning
	v.read()
	return d.render(c, http.StatusOK, "call.html", d.page(c, "call.title", "calls", v))
}

func (v *oneCall) read() {
	e := &v.Event
	if conversation, err := elevenlabs.Conversation(e.EventType, e.Payload); err == nil {
		v.Conversation = conversation
		for _, t := range conversation.Turns {
			one := turn{Turn: t}
			if t.At != nil {
				one.Seconds = new(t.At.Seconds())
			}
			v.Turns = append(v.Turns, one)
		}
		v.latency()
	}
	if e.EventType == call.TypeInitiationFailure {
		var p struct {
			Data struct {
				Reason string `json:"failure_reason"`
			} `json:"data"`
		}
		if json.Unmarshal(e.Payload, &p) == nil {
			v.Failure = p.Data.Reason
		}
	}
	if i := slices.IndexFunc(v.Record.Audio, func(a archive.Audio) bool { return a.Kind == "full_audio" }); i >= 0 {
		v.Audio = "/api/events/" + strconv.FormatInt(v.ID, 10) + "/audio"
	}
	for i := range v.Analyses {
		if v.Analyses[i].Counts {
			v.Shown = &v.Analyses[i]
		}
	}
	if v.Shown == nil && len(v.Analyses) > 0 {
		v.Shown = &v.Analyses[0]
	}
	if v.Shown != nil {
		var r call.Result
		if err := json.Unmarshal(v.Shown.Result, &r); err == nil {
			v.Result = &r
			v.judge()
		}
		v.fields(v.Corrections)
	}
	if v.Metrics == nil && len(e.Metrics) > 0 {
		var m *call.Metrics // JSON's null where there was nothing to measure
		if json.Unmarshal(e.Metrics, &m) == nil {
			v.Metrics = m
		}
	}
	v.history()
	for _, one := range v.Dispatches {
		v.Sent = append(v.Sent, sent{one, pretty(one.Payload)})
	}
}

// judge takes what is proven. A quote that does not stand in the transcript
// proves nothing: it is counted and never shown.
func (v *oneCall) judge() {
	v.Metrics = v.Result.Metrics
	for _, j := range v.Result.Criteria {
		if !j.Supported {
			if j.Quote != nil && *j.Quote != "" {
				v.Unsupported++
			}
			j.Quote, j.Turn = nil, nil
		}
		v.Criteria = append(v.Criteria, j)
	}
	for _, e := range v.Result.Evidence {
		if e.Supported {
			v.Evidence = append(v.Evidence, e)
		} else {
			v.Unsupported++
		}
	}
}

// latency lays the turns' latencies on a line.
func (v *oneCall) latency() {
	for _, t := range v.Turns {
		if t.Latency != nil {
			v.Latency = append(v.Latency, point{Seconds: t.Latency.Seconds(), Turn: t.Index})
			v.LatencyMost = max(v.LatencyMost, t.Latency.Seconds())
		}
	}
	for i := range v.Latency {
		v.Latency[i].X = 6.0
		if len(v.Latency) > 1 {
			v.Latency[i].X += float64(i) / float64(len(v.Latency)-1) * 588
		}
		v.Latency[i].Y = 74
		if v.LatencyMost > 0 {
			v.Latency[i].Y -= v.Latency[i].Seconds / v.LatencyMost * 66
		}
	}
}

// Line is the latencies as the points of a polyline.
func (v oneCall) Line() string {
	var b strings.Builder
	for _, p := range v.Latency {
		b.WriteString(strconv.FormatFloat(p.X, 'f', 1, 64) + "," + strconv.FormatFloat(p.Y, 'f', 1, 64) + " ")
	}
	return b.String()
}

// fields lays what people corrected over what the model said.
func (v *oneCall) fields(corrections []postgres.Correction) {
	var said map[string]json.RawMessage
	if err := json.Unmarshal(v.Shown.Result, &said); err != nil {
		said = nil
	}
	for _, name := range admin.CorrectedFields() {
		f := resultField{Name: name, Value: plain(said[name]), Long: name == "summary_ru"}
		switch name {
		case "quality":
			f.Options = []option{{"", "unknown"}, {"1", "1"}, {"2", "2"}, {"3", "3"}, {"4", "4"}, {"5", "5"}}
		case "outcome_code":
			for _, code := range call.OutcomeCodes() {
				f.Options = append(f.Options, option{string(code), "outcome." + string(code)})
			}
		case "sentiment":
			f.Options = []option{{"", "unknown"}}
			for _, s := range call.Sentiments() {
				f.Options = append(f.Options, option{string(s), "sentiment." + string(s)})
			}
		}
		// They are the newest first.
		if i := slices.IndexFunc(corrections, func(c postgres.Correction) bool { return c.Field == name }); i >= 0 && !corrections[i].Withdrawn {
			c := corrections[i]
			f.Model, f.Value, f.By, f.At, f.Corrected = f.Value, plain(c.Value), c.Who, c.At, true
		}
		v.Fields = append(v.Fields, f)
	}
}

// Field is one of Fields.
func (v oneCall) Field(name string) resultField {
	for _, f := range v.Fields {
		if f.Name == name {
			return f
		}
	}
	return resultField{Name: name}
}

// plain is a JSON value as text without quotes; empty for null.
func plain(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return ""
	}
	return string(raw)
}

// Targets are where a result may be sent, those that it went to first.
func (v oneCall) Targets() []call.Target {
	all := []call.Target{call.TargetBPMSoft, call.TargetMarkdown, call.TargetWebhook}
	went := func(to call.Target) int {
		if slices.ContainsFunc(v.Dispatches, func(d archive.Dispatch) bool { return d.Target == to }) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b call.Target) int { return went(a) - went(b) })
	return all
}

func pretty(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}

// history compares each analysis with the one before.
func (v *oneCall) history() {
	compared := append(admin.CorrectedFields(), "recommendations")
	for i, a := range v.Analyses {
		one := version{Analysis: a}
		if i+1 < len(v.Analyses) {
			var now, before map[string]json.RawMessage
			if json.Unmarshal(a.Result, &now) == nil && json.Unmarshal(v.Analyses[i+1].Result, &before) == nil {
				for _, field := range compared {
					if b, n := plain(before[field]), plain(now[field]); b != n {
						one.Diff = append(one.Diff, difference{field, b, n})
					}
				}
			}
		}
		v.History = append(v.History, one)
	}
}
