// Package markdown appends results to a Markdown file that people read and
// edit: memory-bank/crm.md.
//
// # The form
//
// The form is a contract: other tools read it. A new file starts with a
// heading and a line for people. Then comes one entry per analysis, newest
// last:
//
//	<!-- postcall:analysis=123 call=5feceb66ffc8 -->
//	## 2026-11-23 15:04:05 +03:00 — тема
//
//	- **Внимание:** …            only when an attempt to steer the analysis is suspected
//	- **Агент:** name (id)
//	- **Разговор:** conversation id
//	- **Событие:** №45
//	- **Тема:** …
//	- **Намерение:** …
//	- **Качество:** 4/5
//	- **Итог:** label of the outcome code — text
//	- **Настроение:** …
//	- **Клиент:** …              only when known
//	- **Телефон:** …             only when known
//	- **Краткое содержание:** …
//	- **Рекомендации:**
//	  1. …
//	- **Анализ:** №123, who made it
//
//	<!-- /postcall:analysis=123 call=5feceb66ffc8 -->
//
// The time is the call's start, or when it was received if the start is not
// known. "—" stands for what the conversation does not tell. The two comments
// are the entry's markers: they name the analysis and, by a short digest, the
// call, so that a file which outlives its database is not taken for its
// successor's. A value is always one line of plain text: whatever it says, a
// CommonMark reader shows it literally.
//
// # Exactly one entry
//
// Writers on one machine, of one process or of several, take turns by a lock
// on a file beside the Markdown file (crm.md.lock). The Markdown file itself
// would not do: editors save by putting a new file in its place, and a lock on
// the old one excludes nobody. For the same reason all writers have to be
// given the same path.
//
// The lock file also holds what its owner is about to append, synced before
// the append begins. A writer that was killed or lost power in the middle
// leaves a part of an entry; the next one finds that part at the end of the
// file and removes it, if it is exactly what was announced and nothing else.
// As soon as a person has touched it, it stays.
//
// An append never reads the file, so its cost does not grow with it. Only a
// delivery that may have arrived before (Delivery.Again) is looked for first.
package markdown

import (
	"context"
	"encoding/json"
	"time"

	"postcall/pkg/call"
	"postcall/pkg/export"
)

// Exporter appends each result to a Markdown file. It may be used by several
// goroutines, and beside others of its kind in other processes.
type Exporter struct {
	path     string
	loc      *time.Location
	patience time.Duration // how long to wait for the lock
	write    writeFunc
}

// defaultPatience is far above what the longest queue of writers takes; a lock
// that is held longer is held by something that hangs.
const defaultPatience = 30 * time.Second

// New makes an exporter that writes to path, with times in loc (UTC if nil).
// The file and its folder are made when the first result is written.
func New(path string, loc *time.Location) *Exporter {
	if loc == nil {
		loc = time.UTC
	}
	return &Exporter{path: path, loc: loc, patience: defaultPatience, write: writeFile}
}

// Target is call.TargetMarkdown.
func (e *Exporter) Target() call.Target { return call.TargetMarkdown }

// The answers of a receipt.
const (
	answerWritten = "written"
	answerThere   = "already there"
	answerBegun   = "begun" // and then something failed
)

// Export appends the entry of d and returns once it is on the disk. With
// d.Again set, an entry that is already there is left as it is.
//
// The deadline of ctx must end before the caller lets another try the same
// delivery; past it nothing is written any more.
func (e *Exporter) Export(ctx context.Context, d export.Delivery) (export.Receipt, error) {
	if d.Analysis.ID <= 0 {
		return export.Receipt{Outcome: export.Failed}, call.Errorf(call.Invalid, "an analysis without an id cannot be told apart in the Markdown file")
	}
	where, answer, err := e.put(ctx, markerOf(d), render(d, e.loc), d.Again)
	if err != nil {
		outcome := export.Failed
		if answer == answerBegun {
			outcome = export.Unknown
		}
		return export.Receipt{Outcome: outcome, Response: answer}, err
	}
	payload, err := json.Marshal(where)
	if err != nil {
		return export.Receipt{}, call.Errorf(call.Internal, "write the receipt of a Markdown entry: %w", err)
	}
	return export.Receipt{Outcome: export.Delivered, Payload: payload, Response: answer}, nil
}

// place is where an entry stands: the payload of a receipt.
type place struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}
