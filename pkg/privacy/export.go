package privacy

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// Reader reads recordings.
type Reader interface {
	NewRangeReader(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// Copied says what is in a person's copy.
type Copied struct {
	Events, Analyses, Dispatches, Recordings int
}

// Copy writes all that is kept of a subject as a ZIP: data.json and the
// recordings under audio/. A recording that is gone from the store stands in
// data.json all the same. NotFound if nothing is kept, before anything is
// written; Invalid if the number is the agents' own.
func Copy(ctx context.Context, db postgres.DB, store Reader, s Subject, region string, to io.Writer, progress func(done, total int64)) (c Copied, err error) {
	var events []int64
	if s.Phone != "" {
		if err := search(ctx, db, s, 0, func(at, last int64, list []int64) error {
			events = append(events, list...)
			if progress != nil {
				progress(at, last)
			}
			return nil
		}); err != nil {
			return c, err
		}
	}
	f, err := find(ctx, db, events, s.Conversation)
	if err != nil {
		return c, err
	}
	if len(f.Events) == 0 {
		return c, call.Errorf(call.NotFound, "nothing is kept of them")
	}
	if s.Phone != "" {
		own, err := agents(ctx, db, s, f.Events, region)
		if err != nil {
			return c, err
		}
		if own {
			return c, call.Errorf(call.Invalid, "this is the agents' own number: the copy would be of everybody's calls")
		}
	}
	z := zip.NewWriter(to)
	data, err := z.CreateHeader(&zip.FileHeader{Name: "data.json", Method: zip.Deflate, Modified: time.Now()})
	if err != nil {
		return c, fmt.Errorf("writing a copy: %w", err)
	}
	if c, err = writeData(ctx, db, f, data); err != nil {
		return c, err
	}
	for _, key := range f.AudioKeys {
		if err := addRecording(ctx, z, store, key); err != nil {
			return c, err
		}
	}
	if err := z.Close(); err != nil {
		return c, fmt.Errorf("writing a copy: %w", err)
	}
	return c, nil
}

// writeData writes the rows, each as the database has it, one after the other.
func writeData(ctx context.Context, db postgres.DB, f Found, to io.Writer) (c Copied, err error) {
	// raw_body is given as base64, where the exact bytes differ from payload.
	lists := []struct {
		name, sql string
		ids       []int64
		count     *int
	}{
		{"events", `select to_jsonb(e) - 'raw_body' || jsonb_build_object('raw_body', encode(e.raw_body, 'base64'))
			from webhook_events e where e.id = any($1) order by e.id`, f.Events, &c.Events},
		{"analyses", `select to_jsonb(a) from analyses a where a.id = any($1) order by a.id`, f.Analyses, &c.Analyses},
		{"corrections", `select to_jsonb(c) from corrections c where c.event_id = any($1) order by c.id`, f.Events, new(int)},
		{"sent", `select to_jsonb(d) from crm_dispatches d where d.id = any($1) order by d.id`, f.Dispatches, &c.Dispatches},
		{"recordings", `select to_jsonb(a) from call_audio a where a.id = any($1) order by a.id`, f.AudioIDs, &c.Recordings},
	}
	w := &writer{to: to}
	w.text("{")
	for i, list := range lists {
		if i > 0 {
			w.text(",")
		}
		w.text(fmt.Sprintf("\n%q: [", list.name))
		rows, err := db.Query(ctx, list.sql, list.ids)
		if err != nil {
			return c, fmt.Errorf("copying %s: %w", list.name, err)
		}
		var row json.RawMessage
		if _, err := pgx.ForEachRow(rows, []any{&row}, func() error {
			if *list.count > 0 {
				w.text(",")
			}
			*list.count++
			w.text("\n")
			w.text(string(row))
			return w.err
		}); err != nil {
			return c, fmt.Errorf("copying %s: %w", list.name, err)
		}
		w.text("]")
	}
	w.text("\n}\n")
	if w.err != nil {
		return c, fmt.Errorf("writing a copy: %w", w.err)
	}
	return c, nil
}

// writer remembers the first error.
type writer struct {
	to  io.Writer
	err error
}

func (w *writer) text(s string) {
	if w.err == nil {
		_, w.err = io.WriteString(w.to, s)
	}
}

func addRecording(ctx context.Context, z *zip.Writer, store Reader, key string) error {
	r, err := store.NewRangeReader(ctx, key, 0, -1)
	if call.CodeOf(err) == call.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it was only read
	// Audio is compressed already.
	w, err := z.CreateHeader(&zip.FileHeader{Name: "audio/" + path.Base(key), Method: zip.Store, Modified: time.Now()})
	if err != nil {
		return fmt.Errorf("writing a copy: %w", err)
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("copying a recording: %w", err)
	}
	return nil
}
