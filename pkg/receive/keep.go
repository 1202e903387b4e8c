package receive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"postcall/pkg/audio"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
	"postcall/pkg/spool"
)

// Kept is what came of keeping an event.
type Kept = postgres.Kept

// Keeper keeps deliveries whose signature holds: in the database, or in the
// spool while that is away.
type Keeper struct {
	Committer *Committer // nil without a database
	Audio     *audio.Store
	Spool     *spool.Spool
	// Auto queues the analysis of every conversation as it arrives.
	Auto bool
	// Patience is how long a delivery waits for the database, AudioPatience how
	// long for the audio store.
	Patience, AudioPatience time.Duration
	// Large lets one body at a time that is neither small nor audio into memory.
	Large chan struct{}
	// Tracer makes spans; nil for none.
	Tracer trace.Tracer
	Log    *zap.Logger
	// Sampled takes lines that come with every delivery while the database is
	// away; nil for Log.
	Sampled *zap.Logger
}

// Keep keeps a delivery. Once it is in the database, or fsynced to the spool,
// there is no error. Otherwise the error is Unavailable: a delivery that was
// verified is worth another try, whatever stood in its way.
//
// A sender that hangs up does not take a delivery back.
func (k *Keeper) Keep(ctx context.Context, d *delivery, b *body) (*Answer, error) {
	ctx = context.WithoutCancel(ctx)
	kept, err := k.store(ctx, d, b, call.SourceWebhook)
	if err == nil && kept.Erased {
		// Taken and thrown away: a sender who is told so does not come again.
		return &Answer{Status: "ok", Erased: true}, nil
	}
	if err == nil {
		return &Answer{Status: "ok", EventID: &kept.EventID, Duplicate: kept.Duplicate}, nil
	}
	entry := spool.Entry{ReceivedAt: d.began, RequestID: d.requestID, Address: d.from(), Secret: d.secret}
	if entry.File = b.path(); entry.File == "" {
		entry.Body = b.memory.Bytes()
	}
	if serr := k.Spool.Append(ctx, entry); serr != nil {
		return nil, &call.Error{
			Code: call.Unavailable, Message: "The delivery could not be kept just now; please send it again.",
			RetryAfter: 5 * time.Second, Err: errors.Join(err, serr),
		}
	}
	if k.Committer != nil {
		k.sampled().Warn("the database could not take a delivery; it is in the spool",
			zap.String("request_id", d.requestID), zap.Error(err))
	}
	return &Answer{Status: "ok", Spooled: true}, nil
}

// Redeliver stores what waited in the spool. An Unavailable error asks to come
// back later; with any other the spool sets the entry aside for people.
func (k *Keeper) Redeliver(ctx context.Context, entry spool.Entry) error {
	if k.Committer == nil {
		return call.Errorf(call.Unavailable, "there is no database")
	}
	_, err := k.restore(ctx, entry, call.SourceSpool, "drained")
	if err != nil {
		return fmt.Errorf("storing a spooled delivery: %w", err)
	}
	return nil
}

// Import stores what was fetched instead of delivered, as a body that a webhook
// would have brought; entry.ReceivedAt is when it would have come. An Unavailable
// error asks to come back later.
func (k *Keeper) Import(ctx context.Context, entry spool.Entry) (Kept, error) {
	kept, err := k.restore(ctx, entry, call.SourceImport, "imported")
	if err != nil {
		return kept, fmt.Errorf("storing an imported call: %w", err)
	}
	return kept, nil
}

// restore stores an entry that nobody waits for at the other end, and logs it
// under a verdict.
func (k *Keeper) restore(ctx context.Context, entry spool.Entry, source call.Source, verdict string) (Kept, error) {
	b, err := openSpooled(entry)
	if err != nil {
		return Kept{}, err
	}
	d := &delivery{began: entry.ReceivedAt, requestID: entry.RequestID, secret: entry.Secret, bytes: b.size}
	kept, err := k.store(ctx, d, b, source)
	if cerr := b.closeSpooled(); err == nil {
		err = cerr
	}
	if err != nil {
		return kept, err
	}
	k.Log.Info("delivery", zap.String("verdict", verdict), zap.String("request_id", d.requestID),
		zap.Int64("event_id", kept.EventID), zap.Bool("duplicate", kept.Duplicate), zap.Bool("erased", kept.Erased),
		zap.String("type", string(d.event.Type)), zap.String("call", call.Digest(d.event.ConversationID)), zap.Int64("bytes", d.bytes),
		zap.Duration("waited_ms", time.Since(entry.ReceivedAt)))
	return kept, nil
}

// store parses a delivery and commits its event.
//
// Should the database refuse the data itself, the event is kept all the same,
// with nothing but its exact body.
func (k *Keeper) store(ctx context.Context, d *delivery, b *body, source call.Source) (Kept, error) {
	if k.Committer == nil {
		return Kept{}, call.Errorf(call.Unavailable, "there is no database")
	}
	e, leave, err := k.event(ctx, d, b)
	if err != nil {
		return Kept{}, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, k.Patience)
	defer cancel()
	e.Source, e.RequestID, e.Secret = source, d.requestID, d.secret
	k.decide(&e)
	d.event = e
	kept, err := k.commit(ctx, &e)
	if err == nil && kept.Erased {
		return kept, k.forget(ctx, &e)
	}
	if err == nil || call.CodeOf(err) == call.Unavailable {
		return kept, err
	}
	k.Log.Error("the database refuses the event's data; it is kept as raw bytes",
		zap.String("request_id", e.RequestID), zap.Error(err))
	raw, rerr := b.bytes()
	if rerr != nil {
		return Kept{}, errors.Join(err, rerr)
	}
	e = call.Event{
		Type: call.TypeUnparseable, Timestamp: e.Timestamp, ReceivedAt: e.ReceivedAt, DedupKey: e.DedupKey,
		Payload: json.RawMessage(`{"unparseable": "the body is in raw_body"}`), RawBody: raw,
		Source: e.Source, RequestID: e.RequestID, Secret: e.Secret,
	}
	k.decide(&e)
	d.event = e
	return k.commit(ctx, &e)
}

// commit is the span of a delivery that waits for its transaction.
func (k *Keeper) commit(ctx context.Context, e *call.Event) (Kept, error) {
	ctx, span := k.tracer().Start(ctx, "commit")
	defer span.End()
	kept, err := k.Committer.Commit(ctx, e)
	if err != nil {
		span.SetStatus(codes.Error, "not committed")
		return kept, err
	}
	span.SetAttributes(attribute.Int64("postcall.event_id", kept.EventID), attribute.Bool("postcall.duplicate", kept.Duplicate))
	return kept, nil
}

func (k *Keeper) sampled() *zap.Logger {
	if k.Sampled == nil {
		return k.Log
	}
	return k.Sampled
}

func (k *Keeper) tracer() trace.Tracer {
	if k.Tracer == nil {
		return noop.Tracer{}
	}
	return k.Tracer
}

// forget deletes the audio that came with an event of an erased call. Until that
// is done the delivery is not acknowledged, so that it comes to this again.
func (k *Keeper) forget(ctx context.Context, e *call.Event) error {
	for _, a := range e.Audio {
		if err := k.Audio.Delete(ctx, a.Key); err != nil {
			return fmt.Errorf("deleting the audio of an erased call: %w", err)
		}
	}
	return nil
}

// event parses a delivery, having put its audio into the store. The body, or
// what is left of it without the audio, stays in memory until leave is called;
// one that is neither small nor audio waits for the one place there is for it.
func (k *Keeper) event(ctx context.Context, d *delivery, b *body) (_ call.Event, leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, k.AudioPatience)
	defer cancel()
	leave = func() {}
	defer func() {
		if err != nil {
			leave()
		}
	}()
	x, err := audio.Extract(ctx, b.at(), b.size)
	if err != nil {
		return call.Event{}, leave, fmt.Errorf("looking for audio: %w", err)
	}
	if x.Size() > inMemory {
		select {
		case k.Large <- struct{}{}:
			leave = func() { <-k.Large }
		case <-ctx.Done():
			return call.Event{}, leave, call.Errorf(call.Unavailable, "waiting for room for a large body: %w", context.Cause(ctx))
		}
	}
	rest := b.bytes
	if !x.Unchanged() {
		rest = x.Body
	}
	text, err := rest()
	if err != nil {
		return call.Event{}, leave, err
	}
	e := elevenlabs.Parse(text, d.began)
	objects, err := k.Audio.Save(ctx, e.DedupKey, x)
	if err != nil {
		return call.Event{}, leave, err
	}
	for _, o := range objects {
		e.Audio = append(e.Audio, call.Audio{Kind: o.Kind, Key: o.Key, ContentType: o.ContentType, Bytes: o.Bytes, SHA256: o.SHA256})
	}
	e.ProcessorNote = x.Note
	return e, leave, nil
}

// decide says what is to be done with an event.
func (k *Keeper) decide(e *call.Event) {
	switch {
	case !e.Type.Analysable():
		e.State, e.Processed = call.StateSkipped, true
		if e.ProcessorNote == "" {
			e.ProcessorNote = "no conversation in an event of this type"
		}
	case k.Auto:
		e.State = call.StateQueued
	default:
		e.State = call.StateNone
	}
}
