package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/admin"
	"postcall/pkg/archive"
	"postcall/pkg/call"
)

// listSize is how many calls a page shows.
const listSize = 40

// callList is the list of calls.
type callList struct {
	Items  []archive.Item
	Total  archive.Total
	Values url.Values // the filter and sort, as they stand in the address
	Fields []field
	Active int // conditions beside the search
	Next   string
	// LookedTo is how far a search has come that takes long; zero for others.
	LookedTo time.Time
	First    string // back to the first page; empty on it
	CSV      string
	// Newest is the highest id that the list was made at.
	Newest  int64
	Filter  string // the filter alone, as a query
	Webhook string
	Empty   bool // nothing has ever been received
	Any     bool // there is a condition
}

// field is a condition that is chosen from a list.
type field struct {
	Name    string
	Value   string
	Options []option
	Text    bool   // typed in
	Type    string // of the input
}

type option struct{ Value, Key string }

// values are the parameters of a list that are not empty. Several of a name
// are a list.
func values(c echo.Context, names ...string) url.Values {
	clean := url.Values{}
	for name, all := range c.QueryParams() {
		all = slices.DeleteFunc(slices.Clone(all), func(v string) bool { return strings.TrimSpace(v) == "" })
		if len(all) > 0 && slices.Contains(names, name) {
			clean.Set(name, strings.TrimSpace(strings.Join(all, ",")))
		}
	}
	return clean
}

// searchPatience is how long a person waits for a search that takes long before
// it is shown how far it has come.
const searchPatience = 80 * time.Millisecond

func (d *Dashboard) calls(c echo.Context) error {
	all := values(c, append([]string{"sort", "cursor", "done"}, admin.FilterNames()...)...)
	// A form sends its empty fields too: the address is what is shared.
	if len(all) != len(c.QueryParams()) {
		return c.Redirect(http.StatusSeeOther, with("/calls", all, "", ""))
	}
	filter := only(all, admin.FilterNames()...)
	f, err := d.API.Filter(c, filter)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(c)
	defer cancel()
	newest, err := newestEvent(ctx, d.API.Pool)
	if err != nil {
		return err
	}
	result, err := archive.List(ctx, d.API.Pool, archive.Query{
		Filter: f, Sort: archive.Sort(all.Get("sort")), Limit: listSize, After: archive.Cursor(all.Get("cursor")), Patience: searchPatience,
	})
	if err != nil {
		return err
	}
	if d.API.Masked(c) {
		for i := range result.Items {
			result.Items[i].Mask()
		}
	}
	view := only(all, append([]string{"sort"}, admin.FilterNames()...)...)
	l := callList{
		Items: result.Items, Total: result.Total, Values: view, Fields: fields(filter), Newest: newest, Filter: filter.Encode(),
		CSV: with("/api/events.csv", view, "bom", "true"), Empty: newest == 0, Webhook: d.webhook(c), Any: len(filter) > 0,
	}
	if result.Next != "" {
		l.Next = with("/calls", view, "cursor", string(result.Next))
	}
	l.LookedTo = result.LookedTo
	if all.Has("cursor") {
		l.First = with("/calls", view, "", "")
	}
	for _, f := range l.Fields {
		if f.Value != "" {
			l.Active++
		}
	}
	return d.render(c, http.StatusOK, "calls.html", d.page(c, "calls.title", "calls", l))
}

func only(values url.Values, names ...string) url.Values {
	some := url.Values{}
	for _, name := range names {
		if values.Has(name) {
			some[name] = values[name]
		}
	}
	return some
}

// webhook is the address to give to ElevenLabs, as this page was reached.
func (d *Dashboard) webhook(c echo.Context) string {
	scheme := "http"
	if d.API.Door.Secure(c.Request()) {
		scheme = "https"
	}
	return scheme + "://" + c.Request().Host + d.WebhookPath
}

// fields are the conditions that people choose beside the search.
func fields(chosen url.Values) []field {
	enum := func(name, list string, values ...string) field {
		f := field{Name: name, Value: chosen.Get(name)}
		for _, v := range values {
			f.Options = append(f.Options, option{v, list + "." + v})
		}
		if f.Value != "" && !slices.Contains(values, f.Value) {
			f.Options = append(f.Options, option{f.Value, f.Value})
		}
		return f
	}
	text := func(name, kind string) field {
		return field{Name: name, Value: chosen.Get(name), Text: true, Type: kind}
	}
	return []field{
		text("dateFrom", "date"), text("dateTo", "date"),
		enum("quality", "quality", "1,2", "3", "4,5", "1", "2", "4", "5"),
		enum("outcomeCode", "outcome", strs(call.OutcomeCodes())...),
		enum("sentiment", "sentiment", strs(call.Sentiments())...),
		enum("state", "state", strs(States())...),
		enum("type", "type", string(call.TypeTranscription), string(call.TypeTranscriptionOTel), string(call.TypeAudio), string(call.TypeInitiationFailure), string(call.TypeUnknown), string(call.TypeUnparseable)),
		enum("hasAudio", "audio", "true", "false"),
		enum("failureReason", "reason", "busy", "no-answer", "unknown"),
		text("agentId", "text"), text("topic", "text"), text("intent", "text"), text("outcome", "text"),
		text("clientName", "text"), text("phone", "text"), text("conversationId", "text"),
	}
}

// States are those of an analysis.
func States() []call.State {
	return []call.State{call.StateDone, call.StateQueued, call.StateRunning, call.StateDead, call.StateSkipped, call.StateNone}
}

func strs[T ~string](list []T) []string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = string(v)
	}
	return texts
}

// arrived says how many calls there are of a filter that came after an event;
// more than a page counts as one page.
func (d *Dashboard) arrived(c echo.Context) error {
	after, err := strconv.ParseInt(c.QueryParam("after"), 10, 64)
	if err != nil {
		return call.Errorf(call.Invalid, "after is the id of an event.")
	}
	f, err := d.API.Filter(c, values(c, admin.FilterNames()...))
	if err != nil {
		return err
	}
	ctx, cancel := bounded(c)
	defer cancel()
	result, err := archive.List(ctx, d.API.Pool, archive.Query{Filter: f, Limit: listSize})
	if err != nil {
		return err
	}
	n := 0
	for _, item := range result.Items {
		if item.ID > after {
			n++
		}
	}
	return c.JSON(http.StatusOK, map[string]int{"count": n})
}
