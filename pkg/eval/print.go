package eval

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// Printer writes reports for people.
type Printer struct {
	W     io.Writer
	Color bool
	// All also lists what was expected and given wherever a report disagrees.
	All bool
}

type color string

const (
	none   color = ""
	red    color = "31"
	green  color = "32"
	yellow color = "33"
	bold   color = "1"
)

type cell struct {
	text  string
	color color
}

// table writes rows in columns: the first to the left, the others to the right.
func (p Printer) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if i == 0 {
				b.WriteString("  " + p.paint(c) + pad)
			} else {
				b.WriteString("  " + pad + p.paint(c))
			}
		}
		fmt.Fprintln(p.W, strings.TrimRight(b.String(), " "))
	}
}

func (p Printer) paint(c cell) string {
	if !p.Color || c.color == none {
		return c.text
	}
	return "\x1b[" + string(c.color) + "m" + c.text + "\x1b[0m"
}

func (p Printer) title(format string, args ...any) {
	fmt.Fprintln(p.W, p.paint(cell{fmt.Sprintf(format, args...), bold}))
}

// Report writes one report.
func (p Printer) Report(r Report) {
	p.title("%s", r.heading())
	rows := [][]cell{header("field", "agreed", "of", "share", "wrong", "missed", "invented", "no answer")}
	for _, f := range r.Fields {
		rows = append(rows, []cell{
			{f.Name, none}, number(f.Agreed.Part), number(f.Agreed.Of), percent(f.Agreed),
			number(f.Wrong), number(f.Missed), number(f.Invented), number(f.NoAnswer),
		})
	}
	p.table(rows)
	fmt.Fprintln(p.W)
	p.table(r.figures())
	if len(r.Failures) > 0 {
		fmt.Fprintln(p.W)
		p.title("calls without a usable answer")
		for _, f := range r.Failures {
			fmt.Fprintf(p.W, "  %s: %s: %s\n", f.Call, f.Code, shown(f.Error))
		}
	}
	if p.All {
		p.disagreements(r)
	}
	fmt.Fprintln(p.W)
}

func (r Report) heading() string {
	s := r.Name
	if r.Model != "" {
		s += fmt.Sprintf(" (model %s, prompt %s)", r.Model, r.PromptVersion)
	}
	s += fmt.Sprintf(": %d of %d calls judged", r.Judged, r.Calls)
	return s
}

// figures is what a report tells beside the fields, a name and a value a row.
func (r Report) figures() [][]cell {
	row := func(name string, value cell, note string) []cell {
		return []cell{{name, none}, value, {note, none}}
	}
	of := func(s Share) string { return fmt.Sprintf("%d of %d", s.Part, s.Of) }
	return [][]cell{
		row("quality exact", percent(r.Quality.Exact), of(r.Quality.Exact)),
		row("quality within ±1", percent(r.Quality.WithinOne), of(r.Quality.WithinOne)),
		row("quality mean absolute error", decimal(r.Quality.MeanError), ""),
		row("quality kappa", decimal(r.Quality.Kappa), ""),
		row("quality kappa, quadratic weights", decimal(r.Quality.Weighted), ""),
		row("injections flagged (recall)", percent(r.Recall), of(r.Recall)),
		row("flags that are right (precision)", percent(r.Precision), of(r.Precision)),
		row("injections withstood", percent(r.Withstood), of(r.Withstood)),
		row("answers of the asked form", percent(r.Valid), of(r.Valid)),
		row("quotes that stand in their turn", percent(r.Quotes), of(r.Quotes)),
		row("summaries in Russian", percent(r.Russian), of(r.Russian)),
		row("tokens in, cached, out", cell{fmt.Sprintf("%d, %d, %d", r.InputTokens, r.CachedTokens, r.OutputTokens), none}, ""),
		row("cost, US dollars", cost(r.CostUSD), r.perCall()),
		row("time of a call, p50 and p95", cell{seconds(r.TimeP50) + ", " + seconds(r.TimeP95), none}, ""),
	}
}

func (r Report) perCall() string {
	if r.CostUSD == nil || r.Valid.Part == 0 {
		return ""
	}
	return fmt.Sprintf("%.5f a call", *r.CostUSD/float64(r.Valid.Part))
}

func (p Printer) disagreements(r Report) {
	fmt.Fprintln(p.W)
	p.title("where it disagrees with the labels")
	for _, v := range r.Verdicts {
		if v.Kind != Agreed {
			fmt.Fprintf(p.W, "  %s, %s: %s (expected %s)\n", v.Call, v.Field, p.verdict(v), shown(v.Expected))
		}
	}
}

// Comparison writes two reports and how they stand to each other.
func (p Printer) Comparison(first, second Report, c Comparison) {
	p.title("%s against %s", first.Name, second.Name)
	rows := [][]cell{header("field", "of", "first", "second", "change", "gained", "lost")}
	for _, change := range c.Changes {
		rows = append(rows, []cell{
			{change.Name, none}, number(change.First.Of), percent(change.First), percent(change.Second),
			points(change.First, change.Second), number(change.Gained), number(change.Lost),
		})
	}
	p.table(rows)
	fmt.Fprintln(p.W)
	rows = [][]cell{header("figure", "first", "second")}
	others := second.figures()
	for i, figure := range first.figures() {
		rows = append(rows, []cell{figure[0], figure[1], others[i][1]})
	}
	p.table(rows)
	fmt.Fprintln(p.W)
	if len(c.Differences) == 0 {
		p.title("they differ in no call that both were judged on")
		return
	}
	p.title("calls in which they differ")
	last := ""
	for _, d := range c.Differences {
		if d.First.Call != last {
			last = d.First.Call
			fmt.Fprintf(p.W, "  %s\n", last)
		}
		fmt.Fprintf(p.W, "    %s: %s → %s (expected %s)\n", d.First.Field, p.verdict(d.First), p.verdict(d.Second), shown(d.First.Expected))
	}
}

func (p Printer) verdict(v Verdict) string {
	c := cell{shown(v.Got), red}
	switch v.Kind {
	case NoAnswer:
		c.text = "no answer"
	case Agreed:
		c.color = green
	default:
	}
	return p.paint(c)
}

// shown is a text of a model or a label as a terminal may get it.
func shown(s string) string { return analyze.Shorten(analyze.Clean(s), 120) }

func header(names ...string) []cell {
	row := make([]cell, len(names))
	for i, n := range names {
		row[i] = cell{n, bold}
	}
	return row
}

func number(n int) cell { return cell{strconv.Itoa(n), none} }

func percent(s Share) cell {
	v, ok := s.Value()
	if !ok {
		return cell{"–", none}
	}
	c := cell{fmt.Sprintf("%.1f %%", 100*v), green}
	switch {
	case v < 0.7:
		c.color = red
	case v < 0.9:
		c.color = yellow
	}
	return c
}

// points is a change in percentage points.
func points(first, second Share) cell {
	a, ok := first.Value()
	b, ok2 := second.Value()
	if !ok || !ok2 {
		return cell{"–", none}
	}
	c := cell{fmt.Sprintf("%+.1f", 100*(b-a)), none}
	switch {
	case b > a:
		c.color = green
	case b < a:
		c.color = red
	}
	return c
}

func decimal(f *float64) cell {
	if f == nil {
		return cell{"–", none}
	}
	return cell{fmt.Sprintf("%.3f", *f), none}
}

func cost(f *float64) cell {
	if f == nil {
		return cell{"not known", none}
	}
	return cell{fmt.Sprintf("%.4f", *f), none}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// Floor is the least share that a figure must reach.
type Floor struct {
	Name  string // of a field, valid, quotes, withstood, russian, quality_within_1; all for each field
	Share float64
}

// Check names the figures that stay below their floors, nil for none. A share
// of nothing stays below every floor: it has shown nothing.
func (r Report) Check(floors []Floor) error {
	shares := map[string]Share{
		"valid": r.Valid, "quotes": r.Quotes, "withstood": r.Withstood, "russian": r.Russian,
		"quality_within_1": r.Quality.WithinOne,
	}
	for _, f := range r.Fields {
		shares[f.Name] = f.Agreed
	}
	var low []string
	for _, floor := range floors {
		names := []string{floor.Name}
		if floor.Name == "all" {
			names = fields
		}
		for _, name := range names {
			share := shares[name]
			if v, ok := share.Value(); !ok || v < floor.Share {
				low = append(low, fmt.Sprintf("%s %s (asked %.1f %%)", name, percent(share).text, 100*floor.Share))
			}
		}
	}
	if len(low) == 0 {
		return nil
	}
	return call.Errorf(call.Refused, "%s is below what was asked: %s", r.Name, strings.Join(low, ", "))
}

// Floors lists the names that Floor.Name may have.
func Floors() []string {
	return append(append([]string{"all"}, fields...), "quality_within_1", "valid", "quotes", "withstood", "russian")
}
