package main

import "crypto/sha256"

// delivery is what the sender knows of a delivery.
type delivery struct {
	id           string // conversation
	said         [sha256.Size]byte
	acknowledged bool
	spooled      bool // acknowledged from the spool only
}

// row is an event that is in the database.
type row struct {
	id     string // conversation
	said   [sha256.Size]byte
	source string
	jobs   int
}

// Comparison is what was sent against what is there.
type Comparison struct {
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	Spooled      int `json:"acknowledged_spooled"` // of them, from the spool only
	Unanswered   int `json:"not_acknowledged"`
	Stored       int `json:"events_stored"`
	Drained      int `json:"events_from_spool"`
	Unasked      int `json:"not_acknowledged_but_stored"` // allowed: the answer got lost

	// None of these may be.
	Lost        int `json:"lost"`         // acknowledged and not there
	Doubled     int `json:"doubled"`      // more than one event
	JobsMissing int `json:"jobs_missing"` // events without a job
	JobsDoubled int `json:"jobs_doubled"` // events with more than one
	Altered     int `json:"altered"`      // events that say something else
	Unknown     int `json:"unknown"`      // events that nobody sent
}

// compare holds what was sent against what is there.
func compare(deliveries []delivery, rows []row) (c Comparison) {
	known := make(map[string]delivery, len(deliveries))
	for _, d := range deliveries {
		known[d.id] = d
	}
	events := make(map[string]int, len(rows))
	for _, r := range rows {
		c.Stored++
		if r.source == "spool" {
			c.Drained++
		}
		d, ok := known[r.id]
		switch {
		case !ok:
			c.Unknown++
		case d.said != r.said:
			c.Altered++
		}
		switch {
		case r.jobs == 0:
			c.JobsMissing++
		case r.jobs > 1:
			c.JobsDoubled++
		}
		if events[r.id]++; ok && events[r.id] == 2 {
			c.Doubled++
		}
	}
	for _, d := range deliveries {
		c.Sent++
		there := events[d.id] > 0
		switch {
		case d.acknowledged:
			c.Acknowledged++
			if d.spooled {
				c.Spooled++
			}
			if !there {
				c.Lost++
			}
		default:
			c.Unanswered++
			if there {
				c.Unasked++
			}
		}
	}
	return c
}

// Holds reports whether nothing is wrong.
func (c Comparison) Holds() bool {
	return c.Lost+c.Doubled+c.JobsMissing+c.JobsDoubled+c.Altered+c.Unknown == 0
}
