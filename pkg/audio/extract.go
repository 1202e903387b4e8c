package audio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// fullAudio is the key of post_call_audio events, the documented one.
	fullAudio = "full_audio"
	// substantial is the least length, in bytes, of a text under another key
	// that is taken for audio.
	substantial = 1 << 10
	// maxInPlace is the longest text, in bytes, that stays in the body when it
	// cannot be made sense of. A longer one goes to the store as it came.
	maxInPlace = 1 << 20
	// maxReadable is how much of a large body that is no JSON is shown.
	maxReadable = 64 << 10
)

// Audio is a recording that was found in a delivery, or a text that should
// have been one.
type Audio struct {
	// Kind is the key it came under, such as full_audio: letters, digits, "_"
	// and "-". It is "body" for a whole delivery that is no JSON.
	Kind string
	// ContentType is told by the first bytes, audio/mpeg if they tell nothing.
	// It is application/octet-stream where Raw is set.
	ContentType string
	Bytes       int64
	SHA256      [sha256.Size]byte
	// Raw says that this is no recording but what was sent in its place, kept
	// byte for byte: the text between the quotes, or the whole body.
	Raw bool

	ending   string
	from, to int64 // its text in the body, without quotes
}

// Extraction is a delivery in which the audio is told from the rest. It reads
// on from the body that it was made of, which must stay as it is.
type Extraction struct {
	// Audio is what goes to the store, in the order of the body.
	Audio []Audio
	// Note is for people: why audio that was to be expected is not there.
	// It is empty if everything is as it should be.
	Note string

	body    io.ReaderAt
	size    int64
	edits   []edit
	instead []byte // the whole body, if it is not the one that came with its edits
}

// edit stands with in the place of a part of the body.
type edit struct {
	from, to int64
	with     []byte
}

// Extract looks for recordings in a delivery of size bytes. It holds a quarter
// of a megabyte in memory, whatever the size.
//
// # What is audio
//
// The text under the key full_audio, in the root or in its "data", whatever
// the event's type; and one under any other key there that ends in "audio" or
// "audio_base64", if it is 1 KiB or longer, is base64 and begins like a
// recording. Of repeated keys the last one counts, as in jsonb; the others
// become null if they are long. The order of keys does not matter.
//
// Base64 may use either alphabet of RFC 4648, JSON escapes and blanks; its
// padding may be missing.
//
// # What comes in its place
//
//	{"$audio": {"bytes": 28, "content_type": "audio/mpeg", "sha256": "…"}}
//
// Every other byte of the body stays as it came. The reference names the
// content and not the place, so that the body, and with it the event's
// identity, is the same for each repeat; call_audio says where it is.
//
// # What cannot be made sense of
//
// Nothing is lost by it; Note says what it was.
//
//   - full_audio is null, empty or no text: it stays where it is.
//   - full_audio is not base64: up to 1 MiB stay where they are; more goes to
//     the store as it came, Raw, and in its place stands
//     {"$raw": {"bytes": …, "sha256": "…"}}.
//   - The body is not JSON, cut off for example: up to 1 MiB stay as they are;
//     more goes to the store as it came, and in its place stands
//     {"type": "unparseable", "unparseable": its first 64 KiB, "bytes": …,
//     "$raw": …}.
//
// An error is one of reading the body, or of ctx.
func Extract(ctx context.Context, body io.ReaderAt, size int64) (*Extraction, error) {
	s := scanner{ctx: ctx, src: body, size: size}
	x := &Extraction{body: body, size: size}
	isJSON := s.scan()
	if s.err != nil {
		return nil, s.err
	}
	if !isJSON {
		return x, x.unparseable(ctx, s.offset())
	}
	if s.tooMany {
		x.Note = fmt.Sprintf("more than %d values that may be audio; they are left in the payload", maxCandidates)
		return x, nil
	}
	x.Audio = make([]Audio, 0, len(s.candidates))
	var notes []string
	found := false
	for _, c := range s.candidates {
		note, err := x.consider(ctx, c)
		if err != nil {
			return nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		found = found || c.key == fullAudio && !c.dead
	}
	if !found && len(x.Audio) == 0 && s.kind == "post_call_audio" {
		notes = append(notes, "there is no "+fullAudio)
	}
	x.Note = strings.Join(notes, "; ")
	return x, nil
}

// consider decides about one candidate. The note says what is wrong with it.
func (x *Extraction) consider(ctx context.Context, c candidate) (note string, err error) {
	length := c.to - c.from
	switch {
	case c.dead:
		if length < substantial || c.first != '"' {
			return "", nil
		}
		x.edits = append(x.edits, edit{c.from, c.to, []byte("null")})
		return c.key + " comes more than once; the last one counts", nil
	case c.first == '"' && c.key != fullAudio && length < substantial:
		return "", nil
	case c.first == '"':
	case c.key != fullAudio:
		return "", nil
	case c.first == 'n':
		return c.key + " is null", nil
	default:
		return c.key + " is no text", nil
	}

	a := Audio{Kind: c.key, from: c.from + 1, to: c.to - 1}
	known, err := x.measure(ctx, &a)
	broken, isBroken := errors.AsType[*brokenError](err)
	switch {
	case isBroken && c.key == fullAudio:
		note = c.key + " " + broken.reason
		if length > maxInPlace {
			err = x.keepRaw(ctx, c, a)
			return note + "; it is kept as it came", err
		}
		return note, nil
	case isBroken:
		return "", nil
	case err != nil:
		return "", err
	case a.Bytes == 0 && c.key == fullAudio:
		return c.key + " is empty", nil
	case !known && c.key != fullAudio:
		return "", nil
	}
	x.Audio = append(x.Audio, a)
	x.edits = append(x.edits, edit{c.from, c.to, a.reference()})
	return "", nil
}

// keepRaw gives the text of a candidate to the store as it came.
func (x *Extraction) keepRaw(ctx context.Context, c candidate, a Audio) error {
	a.Raw = true
	if _, err := x.measure(ctx, &a); err != nil {
		return err
	}
	x.Audio = append(x.Audio, a)
	x.edits = append(x.edits, edit{c.from, c.to, a.reference()})
	return nil
}

// unparseable sees to a body that is not JSON from a byte on.
func (x *Extraction) unparseable(ctx context.Context, from int64) error {
	x.Note = fmt.Sprintf("the body is not JSON from byte %d on", from)
	if from >= x.size {
		x.Note = fmt.Sprintf("the body is cut off after %d bytes", x.size)
	}
	if x.size <= maxInPlace {
		return nil
	}
	a := Audio{Kind: "body", Raw: true, to: x.size}
	if _, err := x.measure(ctx, &a); err != nil {
		return err
	}
	x.Note += "; it is kept as it came"
	excerpt := make([]byte, maxReadable)
	if _, err := x.body.ReadAt(excerpt, 0); err != nil {
		return fmt.Errorf("reading the body again: %w", err)
	}
	// Visible signs for what jsonb cannot hold, as in elevenlabs.Parse.
	text := strings.ReplaceAll(strings.ToValidUTF8(string(excerpt), "\ufffd"), "\x00", "\u2400")
	shown, err := json.Marshal(text)
	if err != nil {
		return fmt.Errorf("writing an excerpt: %w", err)
	}
	reference := a.reference()
	x.instead = fmt.Appendf(nil, `{"type": "unparseable", "unparseable": %s, "bytes": %d, %s`, shown, x.size, reference[1:])
	x.Audio = []Audio{a}
	return nil
}

// measure reads an audio from end to end for its size, hash and type, and
// tells whether it begins like a recording. A text that is no base64 is a
// brokenError.
func (x *Extraction) measure(ctx context.Context, a *Audio) (known bool, err error) {
	hash := sha256.New()
	start := head{next: hash}
	if a.Bytes, err = io.Copy(&start, reader{ctx, x.open(*a)}); err != nil {
		return false, err
	}
	hash.Sum(a.SHA256[:0])
	if a.ending, known = sniff(start.bytes); a.Raw {
		a.ending, known = raw, false
	}
	a.ContentType = contentType(a.ending)
	return known, nil
}

// open reads an audio.
func (x *Extraction) open(a Audio) io.Reader {
	text := io.NewSectionReader(x.body, a.from, a.to-a.from)
	if a.Raw {
		return text
	}
	return newDecoder(text, a.to-a.from)
}

// head keeps the first bytes that are written through it.
type head struct {
	next  io.Writer
	bytes []byte
}

func (h *head) Write(p []byte) (int, error) {
	if missing := sniffed - len(h.bytes); missing > 0 {
		h.bytes = append(h.bytes, p[:min(missing, len(p))]...)
	}
	return h.next.Write(p)
}

// reference is the JSON that stands in the place of an audio.
func (a *Audio) reference() []byte {
	sum := hex.EncodeToString(a.SHA256[:])
	if a.Raw {
		return fmt.Appendf(nil, `{"$raw": {"bytes": %d, "sha256": "%s"}}`, a.Bytes, sum)
	}
	return fmt.Appendf(nil, `{"$audio": {"bytes": %d, "content_type": "%s", "sha256": "%s"}}`, a.Bytes, a.ContentType, sum)
}

// Unchanged reports whether Body is the body that came, byte for byte.
func (x *Extraction) Unchanged() bool { return len(x.edits) == 0 && x.instead == nil }

// Size is the length of Body in bytes. It is small where the audio was all
// that was large; a caller may want to look before it asks for the body.
func (x *Extraction) Size() int64 {
	if x.instead != nil {
		return int64(len(x.instead))
	}
	size := x.size
	for _, e := range x.edits {
		size += int64(len(e.with)) - (e.to - e.from)
	}
	return size
}

// Body gives the delivery's JSON with references in the place of the audio.
// An error is one of reading the body.
func (x *Extraction) Body() ([]byte, error) {
	if x.instead != nil {
		return bytes.Clone(x.instead), nil
	}
	body := make([]byte, 0, x.Size())
	at := int64(0)
	for _, e := range append(x.edits[:len(x.edits):len(x.edits)], edit{from: x.size, to: x.size}) {
		part := body[len(body) : len(body)+int(e.from-at)]
		if n, err := x.body.ReadAt(part, at); n < len(part) {
			return nil, fmt.Errorf("reading the body again: %w", err)
		}
		body = append(body[:len(body)+len(part)], e.with...)
		at = e.to
	}
	return body, nil
}
