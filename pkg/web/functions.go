package web

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcall/pkg/call"
)

// functions are what templates of one language may call.
func (d *Dashboard) functions(t texts) template.FuncMap {
	return template.FuncMap{
		"t":        t.say,
		"name":     t.name,
		"asset":    d.files.path,
		"deref":    deref,
		"duration": clock,
		"percent":  percent,
		"money":    money,
		"count":    func(n any) string { return grouped(n, t["number.space"]) },
		"moment":   moment,
		"day":      func(day time.Time) string { return day.Format(t["format.day"]) },
		"isoday":   func(day time.Time) string { return day.Format(time.DateOnly) },
		"agent":    d.agents.name,
		"iso":      iso,
		"level":    level,
		"setparam": func(path string, all url.Values, name string, value any) string {
			return with(path, all, name, fmt.Sprint(value))
		},
		"trend":     trend,
		"form":      func(form string, v any) string { return formed(form, v, t["number.space"]) },
		"advice":    advice,
		"reason":    refusal,
		"deref_int": func(n *int) int { return *n },
		"quality_level": func(text string) string {
			n, err := strconv.Atoi(text)
			if err != nil {
				return "none"
			}
			return level(n)
		},
		"hundredth": func(share *float64) string { return strconv.FormatFloat(*share*100, 'f', 1, 64) },
		"part": func(name string, c column) part {
			return map[string]part{"good": c.Good, "neither": c.Neither, "lost": c.Lost}[name]
		},
		"check": t.check,
		"note":  t.note,
		// Talk shares are of all that is said; rounded each for itself they may
		// not add up.
		"rest":    func(share *float64) float64 { return 1 - math.Round(*share*100)/100 },
		"words":   func(id string) string { return strings.ReplaceAll(id, "_", " ") },
		"list":    func(values ...string) []string { return values },
		"pair":    func(key string, value any) map[string]any { return map[string]any{"Key": key, "Value": value} },
		"seconds": func(v any) string { return decimal(v) + " " + t["unit.s"] },
		"decimal": decimal,
	}
}

func deref(s any) string {
	switch v := s.(type) {
	case nil:
		return ""
	case *string:
		if v != nil {
			return *v
		}
		return ""
	case *call.OutcomeCode:
		if v != nil {
			return string(*v)
		}
		return ""
	}
	return fmt.Sprint(s)
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case *float64:
		if n != nil {
			return *n, true
		}
	case int:
		return float64(n), true
	case *int:
		if n != nil {
			return float64(*n), true
		}
	case int64:
		return float64(n), true
	case *int64:
		if n != nil {
			return float64(*n), true
		}
	case time.Duration:
		return n.Seconds(), true
	case *time.Duration:
		if n != nil {
			return n.Seconds(), true
		}
	}
	return 0, false
}

// clock writes seconds as 1:05, or 2:01:05.
func clock(v any) string {
	n, ok := number(v)
	if !ok || n < 0 || math.IsNaN(n) {
		return "–"
	}
	s := int64(n + 0.5)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

func percent(v any) string {
	n, ok := number(v)
	if !ok {
		return "–"
	}
	return strconv.Itoa(int(math.Round(n*100))) + " %"
}

func money(v any) string {
	n, ok := number(v)
	switch {
	case !ok:
		return "–"
	case n == 0:
		return "$0"
	case n < 0.1:
		return fmt.Sprintf("$%.4f", n)
	}
	return fmt.Sprintf("$%.2f", n)
}

func decimal(v any) string {
	n, ok := number(v)
	if !ok {
		return "–"
	}
	return strconv.FormatFloat(math.Round(n*10)/10, 'f', 1, 64)
}

// grouped writes a count with its thousands apart.
func grouped(v any, space string) string {
	n, ok := number(v)
	if !ok {
		return "–"
	}
	digits := strconv.FormatInt(int64(n), 10)
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && c != '-' {
			b.WriteString(space)
		}
		b.WriteRune(c)
	}
	return b.String()
}

func at(v any) (time.Time, bool) {
	switch m := v.(type) {
	case time.Time:
		return m, !m.IsZero()
	case *time.Time:
		if m != nil {
			return *m, true
		}
	}
	return time.Time{}, false
}

// moment is a time for people, in UTC: a script writes it in theirs.
func moment(v any) string {
	m, ok := at(v)
	if !ok {
		return "–"
	}
	return m.UTC().Format("2006-01-02 15:04")
}

func iso(v any) string {
	m, _ := at(v)
	return m.UTC().Format(time.RFC3339)
}

// level is low (1, 2), mid (3) or high (4, 5).
func level(v any) string {
	switch n, ok := number(v); {
	case !ok:
		return "none"
	case n < 2.5:
		return "low"
	case n < 3.5:
		return "mid"
	}
	return "high"
}

// with is a path with a parameter set.
func with(path string, values url.Values, name, value string) string {
	all := url.Values{}
	for k, v := range values {
		all[k] = v
	}
	if value == "" {
		all.Del(name)
	} else {
		all.Set(name, value)
	}
	if len(all) == 0 {
		return path
	}
	return path + "?" + all.Encode()
}

// movement is a change for people.
type movement struct{ Arrow, Word, Text, Tone string }

// trend words a change; better is whether more is good (1), bad (-1) or
// neither (0).
func trend(change *float64, better int) movement {
	if change == nil {
		return movement{}
	}
	m := movement{Arrow: "→", Word: "trend.same", Tone: "even", Text: strconv.Itoa(int(math.Abs(math.Round(*change*100)))) + " %"}
	switch {
	case *change >= 0.005:
		m.Arrow, m.Word = "↑", "trend.up"
	case *change <= -0.005:
		m.Arrow, m.Word, better = "↓", "trend.down", -better
	default:
		better = 0
	}
	switch better {
	case 1:
		m.Tone = "good"
	case -1:
		m.Tone = "bad"
	}
	return m
}

func formed(form string, v any, space string) string {
	switch form {
	case "percent":
		return percent(v)
	case "decimal":
		return decimal(v)
	case "duration":
		return clock(v)
	case "money":
		return money(v)
	}
	return grouped(v, space)
}

// advice is the key of what to do about dead letters of a code, as the API
// words it.
func advice(code call.Code) string {
	switch code {
	case call.Credentials, call.Refused, call.Cancelled, call.Lost, call.NotFound:
		return string(code)
	case call.Unavailable, call.RateLimited:
		return "unavailable"
	case call.Invalid, call.TooLarge:
		return "invalid"
	default:
		return "internal"
	}
}

// refusals are the reasons that the catalogues have advice for.
func refusals() []string {
	return []string{"missing", "malformed_header", "expired", "from_the_future", "mismatch", "no_secret"}
}

func refusal(reason string) string {
	if slices.Contains(refusals(), reason) {
		return reason
	}
	return "other"
}
