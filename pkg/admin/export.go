package admin

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/access"
	"postcall/pkg/archive"
)

const (
	// exports is how many run at once in a process.
	exports = 2
	// exportPace is how long a client may take to read what it was sent.
	exportPace = time.Minute
)

// eventsCSV exports events as a table. Cells that a spreadsheet would take for
// a formula begin with an apostrophe.
func (a *API) eventsCSV(c echo.Context) error {
	p := parametersOf(c, append([]string{"sort", "bom"}, filterParameters...)...)
	bom := p.flag("bom")
	return a.export(c, p, "text/csv; charset=utf-8", "events.csv", func(w http.ResponseWriter) (row func(archive.Item) error, flush func() error, err error) {
		if bom != nil && *bom {
			if _, err := w.Write([]byte("\ufeff")); err != nil {
				return nil, nil, err
			}
		}
		out := csv.NewWriter(w)
		if err := out.Write(columns); err != nil {
			return nil, nil, err
		}
		return func(i archive.Item) error { return out.Write(cells(i)) }, func() error { out.Flush(); return out.Error() }, nil
	})
}

// eventsJSONL exports events as they are listed, one a line.
func (a *API) eventsJSONL(c echo.Context) error {
	p := parametersOf(c, append([]string{"sort"}, filterParameters...)...)
	return a.export(c, p, "application/jsonl", "events.jsonl", func(w http.ResponseWriter) (row func(archive.Item) error, flush func() error, err error) {
		out := json.NewEncoder(w)
		return func(i archive.Item) error { return out.Encode(i) }, func() error { return nil }, nil
	})
}

// export streams events. The first batch is read before anything is answered,
// so that what is wrong with a filter is told as such. What fails later breaks
// the connection off: an answer that ends in good order is whole.
func (a *API) export(c echo.Context, p *parameters, contentType, name string,
	begin func(http.ResponseWriter) (row func(archive.Item) error, flush func() error, err error),
) error {
	filter, sort := p.filter(identity(c)), archive.Sort(p.text("sort"))
	if p.err != nil {
		return p.err
	}
	if a.exporting.Add(1) > exports {
		a.exporting.Add(-1)
		return errBusy
	}
	defer a.exporting.Add(-1)
	var (
		w       = c.Response()
		control = http.NewResponseController(w)
		row     func(archive.Item) error
		flush   func() error
		rows    int
	)
	start := func() (err error) {
		if err := a.handingOut(c, name, p); err != nil {
			return err
		}
		w.Header().Set(echo.HeaderContentType, contentType)
		w.Header().Set(echo.HeaderContentDisposition, `attachment; filename="`+name+`"`)
		w.WriteHeader(http.StatusOK)
		row, flush, err = begin(w)
		return err
	}
	err := archive.Each(c.Request().Context(), a.Pool, filter, sort, answerTime, func(i archive.Item) error {
		if row == nil {
			if err := start(); err != nil {
				return err
			}
		}
		if rows%500 == 0 {
			if err := control.SetWriteDeadline(time.Now().Add(exportPace)); err != nil {
				return fmt.Errorf("giving the client time: %w", err)
			}
		}
		rows++
		return row(i)
	})
	if err == nil && row == nil {
		err = start()
	}
	if err == nil {
		err = flush()
	}
	if err != nil && w.Committed {
		a.Log.Warn("an export ended early", zap.String("request_id", w.Header().Get(echo.HeaderXRequestID)),
			zap.String("who", identity(c).Name), zap.Int("rows", rows), zap.Error(err))
		panic(http.ErrAbortHandler)
	}
	return err
}

// handingOut writes down who is given what, before the first byte leaves.
func (a *API) handingOut(c echo.Context, name string, p *parameters) error {
	filter := make(map[string]any, len(p.values))
	for field, values := range p.values {
		filter[field] = strings.Join(values, ",")
	}
	r := entry(c)
	r.Action, r.Target, r.Outcome = "events.export", name, access.OutcomeDone
	r.detail["filter"] = impersonal(filter)
	a.complete(c, r)
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	if err := access.Record(ctx, a.Pool, r.Entry); err != nil {
		return unavailable(err)
	}
	r.written = true
	return nil
}

var columns = []string{
	"id", "received_at", "event_type", "event_timestamp", "agent_id", "conversation_id", "status", "has_audio", "source", "analysis_state",
	"failure_code", "failure_reason", "duration_s", "analyzer", "model", "analysed_at", "topic", "intent", "quality", "outcome",
	"outcome_code", "sentiment", "summary_ru", "client_name", "phone", "injection_suspected", "cost_usd",
}

// cells gives an event's row; what is not known is empty.
func cells(i archive.Item) []string {
	b := i.Analysis
	if b == nil {
		b = &archive.Brief{}
	}
	row := []string{
		strconv.FormatInt(i.ID, 10), moment(i.ReceivedAt), string(i.EventType), strconv.FormatInt(i.EventTimestamp, 10),
		cell(i.AgentID), cell(i.ConversationID), cell(i.Status), cell(i.HasAudio), string(i.Source), string(i.State),
		cell(i.FailureCode), cell(i.FailureReason), cell(i.DurationS), cell(b.Analyzer), cell(b.Model), moment(b.CreatedAt),
		cell(b.Topic), cell(b.Intent), cell(b.Quality), cell(b.Outcome), cell(b.OutcomeCode), cell(b.Sentiment),
		cell(b.Summary), cell(b.ClientName), cell(b.Phone), strconv.FormatBool(b.InjectionSuspected), cell(b.CostUSD),
	}
	for n := range row {
		row[n] = defused(row[n])
	}
	return row
}

func cell[T any](v *T) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(*v)
}

func moment(at *time.Time) string {
	if at == nil {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// defused keeps a spreadsheet from running what a caller has said. Line breaks
// and spaces before the sign do not hide it.
func defused(s string) string {
	if s != "" && strings.ContainsAny(s[:1], "\t\r\n") {
		return "'" + s
	}
	trimmed := strings.TrimLeft(s, " \t\r\n\u00a0\ufeff")
	for _, sign := range []string{"=", "+", "-", "@", "|", "%", "＝", "＋", "－", "＠"} {
		if strings.HasPrefix(trimmed, sign) {
			return "'" + s
		}
	}
	return s
}
