package openai

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
)

// draft reads the call: whole if it fits, else in parts whose answers are then
// made into one, in rounds while they do not fit into one message either.
func (r *run) draft(ctx context.Context) (*draft, error) {
	parts, err := r.parts(ctx)
	if err != nil {
		return nil, err
	}
	if len(parts) == 1 {
		return r.ask(ctx, userMessage("", append([]string{r.facts}, parts[0]...)))
	}
	digests, suspected := make([]string, len(parts)), false
	for i, lines := range parts {
		before := fmt.Sprintf("This is part %d of %d of one call.\n", i+1, len(parts))
		d, err := r.question(ctx, before, lines)
		if err != nil {
			return nil, fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
		}
		suspected = suspected || d.InjectionSuspected
		digests[i] = r.digest(strconv.Itoa(i+1), d)
	}
	for {
		groups := pack(digests, r.room(), 0)
		if len(groups) == len(digests) {
			return nil, call.Errorf(call.Internal, "the analyses of two parts do not fit into one message")
		}
		next, last := make([]string, len(groups)), len(groups) == 1
		for i, group := range groups {
			if len(group) == 1 && !last {
				next[i] = group[0]
				continue
			}
			before := fmt.Sprintf("These are your analyses of %d neighbouring parts of one call. Make one of them.\n", len(group))
			if last {
				before = fmt.Sprintf("These are your analyses of all %d parts of one call. Make one of the whole call.\n", len(group))
			}
			d, err := r.question(ctx, before, group)
			if err != nil {
				return nil, fmt.Errorf("making one analysis of the parts': %w", err)
			}
			suspected = suspected || d.InjectionSuspected
			if last {
				d.InjectionSuspected = suspected
				return d, nil
			}
			next[i] = r.digest(fmt.Sprintf("group %d", i+1), d)
		}
		digests = next
	}
}

// remembered is an answer as it is kept from one attempt for the next.
type remembered struct {
	Answer    answer     `json:"answer"`
	Model     string     `json:"model"`
	RequestID string     `json:"request_id"`
	Usage     call.Usage `json:"usage"` // of all requests that it took
}

// question asks about a part or a group of parts, unless an earlier attempt has
// been answered.
func (r *run) question(ctx context.Context, before string, objects []string) (*draft, error) {
	objects = append([]string{r.facts}, objects...)
	if r.memory == nil {
		return r.ask(ctx, userMessage(before, objects))
	}
	// All but the delimiters, which are new each time: what is asked in another
	// way has another answer.
	asked := sha256.Sum256([]byte(object([]any{r.a.o.BaseURL, r.a.o.Model, r.form.system, r.form.format, string(r.form.schemaJSON), before, objects})))
	stored, err := r.memory.Recall(ctx, asked[:])
	if err != nil {
		return nil, err
	}
	if d := r.recall(stored); d != nil {
		return d, nil
	}
	if r.asked && time.Until(r.ends) < MaxRequests*r.a.o.Timeout {
		return nil, analyze.ErrUnfinished
	}
	r.asked = true
	was := r.analysis.Usage
	d, err := r.ask(ctx, userMessage(before, objects))
	if err != nil {
		return nil, err
	}
	kept := remembered{Answer: d.given, Model: r.analysis.Model, RequestID: r.analysis.RequestID, Usage: r.analysis.Usage}
	kept.Usage.InputTokens -= was.InputTokens
	kept.Usage.CachedTokens -= was.CachedTokens
	kept.Usage.OutputTokens -= was.OutputTokens
	// What is paid for is kept though the attempt may just have been stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keeping)
	defer cancel()
	return d, r.memory.Keep(ctx, asked[:], []byte(object(kept)))
}

// keeping bounds how long an answer may take to be kept.
const keeping = 10 * time.Second

// recall makes a draft of a kept answer, nil when there is none that still
// counts.
func (r *run) recall(stored []byte) *draft {
	var kept remembered
	if stored == nil || json.Unmarshal(stored, &kept) != nil {
		return nil
	}
	d, err := r.form.read(object(kept.Answer))
	if err != nil {
		return nil
	}
	r.analysis.Model, r.analysis.RequestID = kept.Model, kept.RequestID
	r.analysis.Usage.InputTokens += kept.Usage.InputTokens
	r.analysis.Usage.CachedTokens += kept.Usage.CachedTokens
	r.analysis.Usage.OutputTokens += kept.Usage.OutputTokens
	return d
}

// room is what a message leaves for turns or digests, in tokens.
func (r *run) room() int {
	if r.form.input > 10*len(r.facts) { // their bytes are a bound, and cost nothing
		return r.form.input - len(r.facts)
	}
	return r.form.input - tokens(r.facts)
}

// parts are the call's encoded turns as they go into messages: one part if
// that is possible.
func (r *run) parts(ctx context.Context) ([][]string, error) {
	room, bytes := r.room(), 0
	lines := make([]string, len(r.lines))
	for i, l := range r.lines {
		lines[i] = object(l)
		bytes += len(lines[i]) + 1
	}
	if bytes <= room { // no token is shorter than a byte
		return [][]string{lines}, nil
	}
	var cut []string
	sum := 0
	for i, l := range r.lines {
		if ctx.Err() != nil {
			return nil, call.Errorf(call.Unavailable, "the analysis was stopped: %w", context.Cause(ctx))
		}
		n := size(lines[i])
		if n <= room/2 {
			cut = append(cut, lines[i])
		} else {
			for _, piece := range pieces(l, room/2) {
				cut = append(cut, object(piece))
			}
		}
		if sum += n; sum > MaxParts*room {
			return nil, tooLong()
		}
	}
	if sum <= room {
		return [][]string{lines}, nil
	}
	parts := pack(cut, room, room/10)
	if len(parts) > MaxParts {
		return nil, tooLong()
	}
	return parts, nil
}

func tooLong() error {
	return call.Errorf(call.Invalid, "the call does not fit into %d parts of the model's window; a larger window or another model may take it", MaxParts)
}

// size is what a line takes of a message, its end included.
func size(line string) int { return tokens(line) + 1 }

// sharedLines bounds how many lines two neighbouring groups have in common.
const sharedLines = 6

// pack fills groups of at most room tokens with the lines in their order. Each
// begins with the last lines of the one before, as far as they fit into shared
// tokens, so that an answer does not lose its question. No line may be larger
// than half the room.
func pack(lines []string, room, shared int) [][]string {
	var groups [][]string
	var group []string
	sizes := make(map[string]int, len(lines))
	sum := 0
	for _, l := range lines {
		n := size(l)
		sizes[l] = n
		if sum+n > room && len(group) > 0 {
			groups = append(groups, group)
			var tail []string
			sum = 0
			for _, before := range slices.Backward(group) {
				if len(tail) == sharedLines || sum+sizes[before] > shared {
					break
				}
				tail, sum = append(tail, before), sum+sizes[before]
			}
			slices.Reverse(tail)
			group = tail
		}
		group, sum = append(group, l), sum+n
	}
	return append(groups, group)
}

// Bounds of cutting a turn, in characters: what two pieces share, so that a
// phrase at the cut is whole in one of them, and what is not cut any more.
const (
	sharedText = 120
	wholeText  = 400
)

// pieces cuts a turn into lines of at most most tokens, at spaces where there
// are any.
func pieces(l line, most int) []line {
	text := []rune(l.Text)
	if len(text) <= wholeText || size(object(l)) <= most {
		return []line{l}
	}
	space := func(from int) int { // the nearest one before, or the place itself
		for at := from; at > max(from-sharedText, 0); at-- {
			if text[at] == ' ' {
				return at
			}
		}
		return from
	}
	middle := space(len(text) / 2)
	first, second := l, l
	first.Text, second.Text = string(text[:middle]), strings.TrimLeft(string(text[space(middle-sharedText/2):]), " ")
	second.Tools = nil
	return append(pieces(first, most), pieces(second, most)...)
}

// digest is a part's answer as it is shown to the model again: proof that does
// not stand in the transcript is left out, and it takes at most half a message,
// so that each round makes fewer of them.
func (r *run) digest(part string, d *draft) string {
	a := d.given
	// Their bounds were checked without what does not show.
	a.Topic, a.Intent, a.Outcome, a.ClientName, a.Phone = d.Topic, d.Intent, d.Outcome, d.ClientName, d.Phone
	a.SummaryRU, a.Recommendations = d.SummaryRU, d.Recommendations
	a.Criteria = slices.Clone(a.Criteria)
	quotes := make([]call.Evidence, 0, len(a.Criteria)+len(a.Evidence))
	for _, k := range a.Criteria {
		quotes = append(quotes, quoted(k.Turn, k.Quote))
	}
	for _, e := range a.Evidence {
		quotes = append(quotes, call.Evidence{Turn: e.Turn, Quote: e.Quote})
	}
	quotes = analyze.Verify(r.seen(), quotes)
	for i, k := range a.Criteria {
		if q := quotes[i]; q.Supported {
			a.Criteria[i].Turn = &q.Turn
			continue
		}
		a.Criteria[i].Turn, a.Criteria[i].Quote = nil, nil
		if k.Verdict == call.VerdictMet {
			a.Criteria[i].Verdict = call.VerdictUnknown
		}
	}
	all := a.Evidence
	a.Evidence = []evidence{}
	for i, e := range all {
		if q := quotes[len(a.Criteria)+i]; q.Supported {
			a.Evidence = append(a.Evidence, evidence{Claim: e.Claim, Turn: q.Turn, Quote: e.Quote})
		}
	}
	encode := func() string {
		return object(struct {
			Part   string `json:"part"`
			Answer answer `json:"answer"`
		}{part, a})
	}
	most := r.room() / 2
	for size(encode()) > most {
		switch summary := []rune(a.SummaryRU); {
		case len(a.Evidence) > 0:
			a.Evidence = a.Evidence[:len(a.Evidence)-1]
		case len(a.Recommendations) > 0:
			a.Recommendations = a.Recommendations[:len(a.Recommendations)-1]
		case len(a.Criteria) > 0:
			a.Criteria = a.Criteria[:len(a.Criteria)-1]
		case len(summary) > 100:
			a.SummaryRU = analyze.Shorten(a.SummaryRU, len(summary)/2)
		default:
			return encode() // the other fields are bounded far below
		}
	}
	return encode()
}

// seen is the transcript as the model read it, to look its quotes up in.
func (r *run) seen() *call.Conversation {
	c := &call.Conversation{Turns: make([]call.Turn, len(r.lines))}
	for i, l := range r.lines {
		c.Turns[i] = call.Turn{Index: l.Turn, Text: l.Text}
	}
	return c
}
