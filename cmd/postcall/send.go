package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"postcall/pkg/call"
	"postcall/pkg/receive"
	"postcall/pkg/sender"
)

type sendOptions struct {
	url         string
	secret      string
	count       int
	rate        float64
	concurrency int
	newCalls    bool
}

func sendCommand() *cobra.Command {
	o := sendOptions{}
	c := &cobra.Command{
		Use:   "send FILE…",
		Short: "Sign payloads and post them like ElevenLabs does",
		Long: `Sign each file with the webhook's secret and post it, as ElevenLabs does after a call.

The same file sent again is the same delivery: it is answered with duplicate and
counted once. With --new-calls each copy is a call of its own.`,
		Example: `  postcall send call.json
  postcall send --count 20 --concurrency 20 call.json     one event, nineteen duplicates
  postcall send --new-calls --count 200 --rate 50 call.json`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, files []string) error {
			o.secret = cmp.Or(o.secret, firstSecret())
			if o.secret == "" {
				return usage(errors.New("no secret to sign with: set WEBHOOK_SECRET or --secret to the one that the receiver has"))
			}
			if o.count < 1 || o.concurrency < 1 || o.rate < 0 {
				return usage(errors.New("--count and --concurrency must be 1 or more, --rate 0 or more"))
			}
			return send(c.Context(), o, files, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.url, "url", "http://127.0.0.1:3000"+receive.Path, "the webhook's whole address")
	f.StringVar(&o.secret, "secret", "", "the secret to sign with (default the first of WEBHOOK_SECRET; others can see a flag, better set the variable)")
	f.IntVar(&o.count, "count", 1, "how often each file is sent")
	f.Float64Var(&o.rate, "rate", 0, "deliveries a second, 0 for as fast as they are taken")
	f.IntVar(&o.concurrency, "concurrency", 4, "how many are under way at once")
	f.BoolVar(&o.newCalls, "new-calls", false, "give each copy an id of its own, so that it is a new call")
	return c
}

func firstSecret() string {
	first, _, _ := strings.Cut(os.Getenv("WEBHOOK_SECRET"), ",")
	return strings.TrimSpace(first)
}

func send(ctx context.Context, o sendOptions, files []string, out, progress io.Writer) error {
	bodies := make([][]byte, len(files))
	for i, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			return usage(err)
		}
		bodies[i] = body
	}
	s := &sender.Sender{URL: o.url, Secret: o.secret, Client: &http.Client{
		Timeout:   5 * time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: o.concurrency},
	}}
	limit := rate.Inf
	if o.rate > 0 {
		limit = rate.Limit(o.rate)
	}
	var (
		limiter = rate.NewLimiter(limit, 1)
		bar     = progressBar(progress, o.count*len(files), "sending")
		mu      sync.Mutex
		result  = tally{verdicts: map[string]int{}, refusals: map[string]int{}}
		run     = time.Now().UnixNano()
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.concurrency)
	for n := range o.count * len(files) {
		if err := limiter.Wait(ctx); err != nil {
			break // the group says why
		}
		g.Go(func() error {
			body := bodies[n%len(files)]
			if o.newCalls {
				var err error
				if body, err = newCall(body, fmt.Sprintf("-%x-%d", run, n)); err != nil {
					return usage(fmt.Errorf("%s: %w", files[n%len(files)], err))
				}
			}
			answer, err := s.Send(ctx, body)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			result.add(answer)
			return bar.Add(1)
		})
	}
	err := g.Wait()
	if ferr := bar.Finish(); err == nil {
		err = ferr
	}
	result.print(out)
	if err != nil {
		return fmt.Errorf("%w\nIs ingest running at %s?", err, o.url)
	}
	if cerr := context.Cause(ctx); cerr != nil && result.total() < o.count*len(files) {
		return fmt.Errorf("stopped after %d of %d", result.total(), o.count*len(files))
	}
	if bad := result.verdicts["rejected"] + result.verdicts["failed"]; bad > 0 {
		return call.Errorf(call.Refused, "%d of %d deliveries were not taken", bad, result.total())
	}
	return nil
}

// newCall gives a payload ids of its own. Its other bytes stay as they are.
func newCall(body []byte, suffix string) ([]byte, error) {
	var envelope struct {
		EventID        any `json:"event_id"`
		ConversationID any `json:"conversation_id"`
		Data           struct {
			ConversationID any `json:"conversation_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, fmt.Errorf("--new-calls needs a JSON object: %w", err)
	}
	done := false
	for _, id := range []any{envelope.EventID, envelope.ConversationID, envelope.Data.ConversationID} {
		text, ok := id.(string)
		if !ok || text == "" {
			continue
		}
		quoted, err := json.Marshal(text)
		if err != nil {
			return nil, err
		}
		changed, err := json.Marshal(text + suffix)
		if err != nil {
			return nil, err
		}
		body = bytes.ReplaceAll(body, quoted, changed)
		done = true
	}
	if !done {
		return nil, errors.New("--new-calls needs a conversation_id or event_id in the payload")
	}
	return body, nil
}

// tally counts the answers.
type tally struct {
	verdicts map[string]int
	refusals map[string]int
	took     []time.Duration
}

func (t *tally) add(a sender.Answer) {
	t.verdicts[a.Verdict()]++
	if a.Status != http.StatusOK {
		t.refusals[fmt.Sprintf("%d %s", a.Status, a.Detail)]++
	}
	t.took = append(t.took, a.Took)
}

func (t *tally) total() int { return len(t.took) }

func (t *tally) print(w io.Writer) {
	fmt.Fprintf(w, "%d sent:", t.total())
	for _, verdict := range []string{"kept", "duplicate", "rejected", "failed"} {
		fmt.Fprintf(w, " %d %s", t.verdicts[verdict], verdict)
	}
	if n := len(t.took); n > 0 {
		slices.Sort(t.took)
		fmt.Fprintf(w, "; answered in %s (median), %s (p99)", t.took[n/2].Round(10*time.Microsecond), t.took[(n*99-1)/100].Round(10*time.Microsecond))
	}
	fmt.Fprintln(w)
	for _, refusal := range slices.Sorted(maps.Keys(t.refusals)) {
		fmt.Fprintf(w, "  %d × %s\n", t.refusals[refusal], refusal)
	}
}

// progressBar draws on a terminal only.
func progressBar(w io.Writer, total int, text string) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(ok && isatty.IsTerminal(f.Fd())),
		progressbar.OptionSetDescription(text),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionClearOnFinish(),
	)
}
