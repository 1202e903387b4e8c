// Package rig is what the programs under bench share: a PostgreSQL of their
// own with fsync on, the real ingest process beside it, deliveries to send, and
// what the system says of processes.
package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// Bar is a progress bar, drawn on a terminal only.
func Bar(w io.Writer, total int, text string) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(ok && isatty.IsTerminal(f.Fd())),
		progressbar.OptionSetDescription(text),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionClearOnFinish(),
	)
}

// WriteJSON writes figures for machines; an empty path is for nobody.
func WriteJSON(path string, figures any) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(figures, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

// Fsync is how long this machine takes to have a page on its disk: the median
// of a hundred. It tells a disk from one that only says so, and one machine's
// figures from another's.
func Fsync(ctx context.Context) (_ time.Duration, err error) {
	f, err := os.CreateTemp("", "postcall-fsync-*")
	if err != nil {
		return 0, fmt.Errorf("measuring the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 8<<10)
	took := make([]time.Duration, 0, 100)
	for range cap(took) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, fmt.Errorf("measuring the disk: %w", err)
		}
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("measuring the disk: %w", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// Quantile is the value below which a share of the sorted values lie.
func Quantile[T any](sorted []T, share float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// Median is the middle of values, which it sorts; of an even number of them
// the mean of the two in the middle.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	half := len(values) / 2
	if len(values)%2 == 1 {
		return values[half]
	}
	return (values[half-1] + values[half]) / 2
}
