package alert

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// WorkTime is when calls are expected. The zero value is always, in UTC.
type WorkTime struct {
	Location *time.Location

	days       [7]bool // by time.Weekday
	begin, end int     // minutes of the day; all of it if equal
	some       bool    // whether days, begin and end say anything
}

var weekdays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// ParseWorkTime reads days and hours such as "Mon-Fri 09:00-18:00" or
// "Mon,Wed,Sat 10:00-24:00"; empty is always.
func ParseWorkTime(s string, loc *time.Location) (WorkTime, error) {
	w := WorkTime{Location: loc}
	if s == "" {
		return w, nil
	}
	days, hours, ok := strings.Cut(s, " ")
	from, to, ok2 := strings.Cut(hours, "-")
	if !ok || !ok2 {
		return w, errors.New("it is not of the form Mon-Fri 09:00-18:00")
	}
	for part := range strings.SplitSeq(days, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		i, j := slices.Index(weekdays, first), slices.Index(weekdays, last)
		if i < 0 || j < 0 {
			return w, errors.New("days are Mon, Tue, Wed, Thu, Fri, Sat and Sun")
		}
		for ; ; i = (i + 1) % 7 {
			w.days[i] = true
			if i == j {
				break
			}
		}
	}
	var err error
	if w.begin, err = minutes(from); err != nil {
		return w, err
	}
	if w.end, err = minutes(to); err != nil {
		return w, err
	}
	if w.begin >= w.end {
		return w, errors.New("the hours end before they begin")
	}
	w.some = true
	return w, nil
}

func minutes(s string) (int, error) {
	var h, m int
	if n, err := fmt.Sscanf(s, "%2d:%2d", &h, &m); err != nil || n != 2 || len(s) != 5 || h < 0 || m < 0 || m > 59 || h*60+m > 24*60 {
		return 0, errors.New("hours are of the form 09:00")
	}
	return h*60 + m, nil
}

func (w WorkTime) location() *time.Location {
	if w.Location == nil {
		return time.UTC
	}
	return w.Location
}

// At reports whether a moment is working time.
func (w WorkTime) At(t time.Time) bool {
	if !w.some {
		return true
	}
	t = t.In(w.location())
	begin, end := w.of(t)
	return w.days[t.Weekday()] && !t.Before(begin) && t.Before(end)
}

// of gives the bounds of working time on the day of t. Where clocks are changed
// that day, they are what the wall says.
func (w WorkTime) of(t time.Time) (begin, end time.Time) {
	at := func(m int) time.Time {
		return time.Date(t.Year(), t.Month(), t.Day(), m/60, m%60, 0, 0, w.location())
	}
	return at(w.begin), at(w.end)
}

// longest is how far back Between counts.
const longest = 60 * 24 * time.Hour

// Between gives how much working time there is between two moments.
func (w WorkTime) Between(from, to time.Time) time.Duration {
	if !from.Before(to) {
		return 0
	}
	if !w.some {
		return to.Sub(from)
	}
	if to.Sub(from) > longest {
		from = to.Add(-longest)
	}
	var sum time.Duration
	first := from.In(w.location())
	for day := time.Date(first.Year(), first.Month(), first.Day(), 0, 0, 0, 0, w.location()); day.Before(to); day = time.Date(day.Year(), day.Month(), day.Day()+1, 0, 0, 0, 0, w.location()) {
		if !w.days[day.Weekday()] {
			continue
		}
		begin, end := w.of(day)
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if begin.Before(end) {
			sum += end.Sub(begin)
		}
	}
	return sum
}
