package demo

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Sample is one delivery as ElevenLabs would send it.
type Sample struct {
	Name     string // a short English label
	Body     []byte
	Analysed bool // whether an analysis is expected of it
}

//go:embed samples/*.json
var files embed.FS

// scripts are the samples in the order in which they are sent. Their names,
// addresses and numbers belong to nobody.
var scripts = []struct {
	file     string
	name     string
	analysed bool
	raw      bool // UTF-8 as it is; otherwise escaped, as ElevenLabs does
}{
	{file: "flat_lead", name: "flat: a lead with a phone", analysed: true},
	{file: "audio", name: "its audio"},
	{file: "flat_viewing", name: "flat: a viewing agreed", analysed: true},
	{file: "flat_refusal", name: "flat: a refusal", analysed: true},
	{file: "delivery_window", name: "delivery: another time", analysed: true, raw: true},
	{file: "complaint", name: "delivery: a complaint", analysed: true},
	{file: "flat_english", name: "flat: in English", analysed: true},
	{file: "tool_error", name: "mortgage: the tool fails", analysed: true},
	{file: "transfer", name: "handed to a person", analysed: true},
	{file: "silence", name: "nobody spoke"},
	{file: "injection", name: "caller gives orders", analysed: true},
	{file: "failed_dial", name: "a dial that failed"},
	{file: "otel", name: "delivery: OpenTelemetry form", analysed: true},
}

// In the files every call has an id of its own that starts with conv_demo_,
// and every number that starts with 17950 is a time, in seconds or in
// nanoseconds; the last one is lastTime. Nothing else looks like that.
const lastTime = 1795002966

var (
	idPattern   = regexp.MustCompile(`conv_demo_[a-z_]+`)
	timePattern = regexp.MustCompile(`\b(17950\d{5})(\d{9})?\b`)
	runPattern  = regexp.MustCompile(`^[A-Za-z0-9-]{1,40}$`)
)

// Samples makes the deliveries of one run: the calls ended just before now, and
// run, which becomes a part of their ids, keeps them apart from those of other
// runs. The audio belongs to the call before it.
func Samples(now time.Time, run string) ([]Sample, error) {
	if !runPattern.MatchString(run) {
		return nil, fmt.Errorf("make samples: the run %q is not 1 to 40 letters, digits and dashes", run)
	}
	shift := now.Unix() - 1 - lastTime
	samples := make([]Sample, 0, len(scripts))
	for _, s := range scripts {
		b, err := files.ReadFile("samples/" + s.file + ".json")
		if err != nil {
			return nil, fmt.Errorf("make samples: %w", err)
		}
		b = idPattern.ReplaceAll(b, []byte("${0}_"+run))
		b = timePattern.ReplaceAllFunc(b, func(t []byte) []byte { return shifted(t, shift) })
		body, err := pythonJSON(b, s.raw)
		if err != nil {
			return nil, fmt.Errorf("make sample %s: %w", s.file, err)
		}
		samples = append(samples, Sample{Name: s.name, Body: body, Analysed: s.analysed})
	}
	return samples, nil
}

// shifted moves a time that timePattern has found.
func shifted(t []byte, shift int64) []byte {
	const digits = len("1795000000") // what follows are nanoseconds
	seconds, err := strconv.ParseInt(string(t[:digits]), 10, 64)
	if err != nil {
		return t
	}
	return append(strconv.AppendInt(nil, seconds+shift, 10), t[digits:]...)
}

// pythonJSON writes JSON as Python's json.dumps does, which is what ElevenLabs
// sends: ", " and ": " between values, and every character beyond ASCII as
// \uXXXX unless raw. Keys keep their order and numbers their form.
func pythonJSON(b []byte, raw bool) ([]byte, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return nil, err
	}
	var out []byte
	inString, escaped := false, false
	for _, r := range compact.String() {
		switch {
		case r < utf8.RuneSelf || raw:
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		switch {
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			inString = !inString
		case !inString && (r == ',' || r == ':'):
			out = append(out, ' ')
		}
	}
	return out, nil
}
