package audio_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postcall/pkg/audio"
	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// mp3 is n bytes that begin like an MP3 and use every character of base64.
func mp3(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	copy(b, "ID3\x04\x00\xff\xfb\xef")
	return b
}

func std(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// reference is what stands in the place of an audio.
func reference(content []byte, contentType string) string {
	return fmt.Sprintf(`{"$audio": {"bytes": %d, "content_type": "%s", "sha256": "%x"}}`, len(content), contentType, sha256.Sum256(content))
}

// take extracts a body and gives what is left of it, and what came to the
// store, in the order of the body.
func take(tb testing.TB, body []byte) (x *audio.Extraction, rest string, stored [][]byte) {
	tb.Helper()
	ctx := context.Background()
	x, err := audio.Extract(ctx, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		tb.Fatal(err)
	}
	after, err := x.Body()
	if err != nil {
		tb.Fatal(err)
	}
	if int64(len(after)) != x.Size() {
		tb.Fatalf("Size is %d, of a body of %d", x.Size(), len(after))
	}
	if x.Unchanged() != bytes.Equal(after, body) {
		tb.Fatalf("Unchanged is %v:\n%s\n%s", x.Unchanged(), body, after)
	}
	store := memory()
	objects, err := store.Save(ctx, fmt.Sprintf("%s %p", tb.Name(), x), x)
	if err != nil {
		tb.Fatal(err)
	}
	keys := map[string]bool{}
	for i, o := range objects {
		content := read(tb, store, o.Key, 0, -1)
		if int64(len(content)) != o.Bytes || sha256.Sum256(content) != o.SHA256 {
			tb.Fatalf("%s is not as it says", o.Key)
		}
		if keys[o.Key] || !reflect.DeepEqual(o.Audio, x.Audio[i]) {
			tb.Fatalf("two objects with the key %s", o.Key)
		}
		keys[o.Key] = true
		stored = append(stored, content)
		if err := store.Delete(ctx, o.Key); err != nil {
			tb.Fatal(err)
		}
	}
	return x, string(after), stored
}

// memory is a store that tests share: thousands of buckets would be slow, since
// each announces its metrics.
var memory = sync.OnceValue(func() *audio.Store {
	store, err := audio.Open(context.Background(), "mem://")
	if err != nil {
		panic(err)
	}
	return store
})

func read(tb testing.TB, store *audio.Store, key string, offset, length int64) []byte {
	tb.Helper()
	r, err := store.NewRangeReader(context.Background(), key, offset, length)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

func TestShapes(t *testing.T) {
	t.Parallel()
	short, long := mp3(59), mp3(100_003)
	wav := append([]byte("RIFF\x00\x00\x00\x00WAVEfmt "), mp3(2000)...)
	in := func(literal string) string {
		return `{"type": "post_call_audio", "data": {"full_audio": ` + literal + `}}`
	}
	quoted := func(s string) string { return `"` + s + `"` }
	escape := func(s string) string {
		var out strings.Builder
		for i, c := range []byte(s) {
			if i%3 == 0 {
				fmt.Fprintf(&out, `\u%04X`, c)
			} else {
				out.WriteByte(c)
			}
		}
		return out.String()
	}
	lines := func(s, between string) string {
		var out strings.Builder
		for i := 0; i < len(s); i += 76 {
			out.WriteString(s[i:min(i+76, len(s))] + between)
		}
		return out.String()
	}
	ref := reference(short, "audio/mpeg")
	var many []string
	for i := range 100 {
		many = append(many, strconv.Itoa(i))
	}

	for name, c := range map[string]struct {
		body string
		rest string // the same if empty
		want [][]byte
		note string // a part of it
	}{
		"documented":     {in(quoted(std(short))), in(ref), [][]byte{short}, ""},
		"data first":     {`{"data":{"full_audio":"` + std(short) + `","x":1},"type":"post_call_audio"}`, `{"data":{"full_audio":` + ref + `,"x":1},"type":"post_call_audio"}`, [][]byte{short}, ""},
		"beside data":    {`{"full_audio":"` + std(short) + `"}`, `{"full_audio":` + ref + `}`, [][]byte{short}, ""},
		"both places":    {`{"full_audio":"` + std(short) + `","data":{"full_audio":"` + std(long) + `"}}`, `{"full_audio":` + ref + `,"data":{"full_audio":` + reference(long, "audio/mpeg") + `}}`, [][]byte{short, long}, ""},
		"same twice":     {`{"full_audio":"` + std(short) + `","data":{"full_audio":"` + std(short) + `"}}`, `{"full_audio":` + ref + `,"data":{"full_audio":` + ref + `}}`, [][]byte{short, short}, ""},
		"any type":       {`{"type":"unredacted_audio","data":{"full_audio":"` + std(short) + `"}}`, `{"type":"unredacted_audio","data":{"full_audio":` + ref + `}}`, [][]byte{short}, ""},
		"long":           {in(quoted(std(long))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"blanks between": {" {\n\t\"data\" : { \"full_audio\" :\r\n \"" + std(short) + "\" } } \n", " {\n\t\"data\" : { \"full_audio\" :\r\n " + ref + " } } \n", [][]byte{short}, ""},
		"byte order":     {"\ufeff" + in(quoted(std(short))), "\ufeff" + in(ref), [][]byte{short}, ""},
		"Python floats":  {`{"x":[NaN,-Infinity,Infinity],"full_audio":"` + std(short) + `"}`, `{"x":[NaN,-Infinity,Infinity],"full_audio":` + ref + `}`, [][]byte{short}, ""},
		"the rest is kept exactly": {
			`{"a":-1.50e+03, "b":"\u0000\ud800\/` + "\xff" + `","full_audio":"` + std(short) + `","c":[{"full_audio":"AAAA"}, 9007199254740993]}`,
			`{"a":-1.50e+03, "b":"\u0000\ud800\/` + "\xff" + `","full_audio":` + ref + `,"c":[{"full_audio":"AAAA"}, 9007199254740993]}`, [][]byte{short}, "",
		},

		"URL alphabet":       {in(quoted(base64.URLEncoding.EncodeToString(short))), in(ref), [][]byte{short}, ""},
		"no padding":         {in(quoted(base64.RawStdEncoding.EncodeToString(short))), in(ref), [][]byte{short}, ""},
		"URL, no padding":    {in(quoted(base64.RawURLEncoding.EncodeToString(short))), in(ref), [][]byte{short}, ""},
		"escaped slashes":    {in(quoted(strings.ReplaceAll(std(long), "/", `\/`))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"escaped plus":       {in(quoted(strings.ReplaceAll(std(long), "+", `\u002b`))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"every third":        {in(quoted(escape(std(long)))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"lines":              {in(quoted(lines(std(long), `\n`))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"lines of Windows":   {in(quoted(lines(std(long), `\r\n`))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"lines, blanks":      {in(quoted(lines(std(long), `\u000A \t`))), in(reference(long, "audio/mpeg")), [][]byte{long}, ""},
		"the key is escaped": {`{"data":{"full\u005Faudio":"` + std(short) + `"}}`, `{"data":{"full\u005Faudio":` + ref + `}}`, [][]byte{short}, ""},
		"no known format":    {in(quoted(std([]byte("<html>")))), in(reference([]byte("<html>"), "audio/mpeg")), [][]byte{[]byte("<html>")}, ""},

		"other keys": {
			`{"data":{"user_audio":"` + std(long) + `","response_audio_base64":"` + std(wav) + `","audio":"` + std(long) + `"}}`,
			`{"data":{"user_audio":` + reference(long, "audio/mpeg") + `,"response_audio_base64":` + reference(wav, "audio/wav") + `,"audio":` + reference(long, "audio/mpeg") + `}}`,
			[][]byte{long, wav, long}, "",
		},
		"other keys, but short":     {body: `{"data":{"user_audio":"` + std(short) + `"}}`},
		"other keys, but text":      {body: `{"data":{"user_audio":"` + strings.Repeat("hello and so on ", 200) + `"}}`},
		"other keys, but broken":    {body: `{"data":{"user_audio":"` + std(long) + `!"}}`},
		"other keys, but flags":     {body: `{"type":"post_call_transcription","data":{"has_audio":true,"has_user_audio":null,"x_audio":{"full_audio":"AAAA"}}}`},
		"other keys, but hostile":   {body: `{"data":{"../../audio":"` + std(long) + `","\u0000audio":"` + std(long) + `","` + strings.Repeat("x", 70) + `audio":"` + std(long) + `"}}`},
		"deeper":                    {body: `{"data":{"x":{"full_audio":"` + std(long) + `"}}}`},
		"data is a list":            {body: `{"data":[{"full_audio":"` + std(long) + `"}]}`},
		"in a list":                 {body: `[{"full_audio":"` + std(long) + `"}]`},
		"data of another object":    {body: `{"x":{"data":{"full_audio":"` + std(long) + `"}}}`},
		"only a text":               {body: `"full_audio"`},
		"nothing expected":          {body: `{"type":"post_call_transcription","data":{}}`},
		"nothing, but expected":     {body: `{"data":{},"type":"post_call_audio"}`, note: "there is no full_audio"},
		"null":                      {body: in(`null`), note: "full_audio is null"},
		"empty":                     {body: in(`""`), note: "full_audio is empty"},
		"blank":                     {body: in(`" \n"`), note: "full_audio is empty"},
		"a number":                  {body: in(`12`), note: "full_audio is no text"},
		"an object":                 {body: in(`{"full_audio": "AAAA"}`), note: "full_audio is no text"},
		"a list":                    {body: in(`["AAAA"]`), note: "full_audio is no text"},
		"foreign character":         {body: in(quoted(std(short) + "!")), note: "full_audio is no base64"},
		"foreign letter":            {body: in(quoted("AAA\u00e9")), note: "full_audio is no base64"},
		"foreign escape":            {body: in(`"AAAA\u0441AAA"`), note: "full_audio is no base64"},
		"foreign short escape":      {body: in(`"AAAA\bAAAA"`), note: "full_audio is no base64"},
		"one character":             {body: in(`"A"`), note: "ends in the middle"},
		"one too many":              {body: in(`"AAAAA"`), note: "ends in the middle"},
		"padding too long":          {body: in(`"AAA=="`), note: "ends in the middle"},
		"padding alone":             {body: in(`"="`), note: "ends in the middle"},
		"padding in between":        {body: in(`"QQ==QQ=="`), note: "goes on after its padding"},
		"broken late":               {body: in(quoted(std(long) + "?")), note: "at byte 133341"},
		"cut off in the audio":      {body: in(quoted(std(short)))[:80], note: "cut off after 80 bytes"},
		"cut off after the audio":   {body: `{"data":{"full_audio":"` + std(short) + `"`, note: "cut off"},
		"cut off in an escape":      {body: `{"full_audio":"AAAA\u00`, note: "cut off"},
		"cut off in the key":        {body: `{"full_au`, note: "cut off"},
		"nothing":                   {body: "", note: "cut off after 0 bytes"},
		"wrong bracket":             {body: `{"full_audio":"` + std(short) + `"]`, note: "not JSON from byte 96 on"},
		"something behind":          {body: `{"full_audio":"` + std(short) + `"} x`, note: "not JSON"},
		"a bare line break":         {body: "{\"full_audio\":\"AA\nAA\"}", note: "not JSON"},
		"a wrong escape":            {body: `{"full_audio":"AA\xAA"}`, note: "not JSON"},
		"a wrong number":            {body: `{"full_audio":"` + std(short) + `","x":01}`, note: "not JSON"},
		"a comma too many":          {body: `{"full_audio":"` + std(short) + `",}`, note: "not JSON"},
		"not JSON at all":           {body: "full_audio=AAAA", note: "not JSON"},
		"nested beyond all measure": {body: strings.Repeat("[", 200_000), note: "not JSON"},

		"repeated": {
			`{"full_audio":"` + std(long) + `","full_audio":"` + std(short) + `"}`, `{"full_audio":null,"full_audio":` + ref + `}`,
			[][]byte{short}, "more than once",
		},
		"repeated as null": {`{"full_audio":"` + std(long) + `","full_audio":null}`, `{"full_audio":null,"full_audio":null}`, nil, "full_audio is null"},
		"repeated, short":  {`{"full_audio":"AAAA","full_audio":"` + std(short) + `"}`, `{"full_audio":"AAAA","full_audio":` + ref + `}`, [][]byte{short}, ""},
		"data repeated":    {`{"data":{"full_audio":"` + std(long) + `"},"data":{"x":1}}`, `{"data":{"full_audio":null},"data":{"x":1}}`, nil, "more than once"},
		"too many": {
			body: `{"` + strings.Join(many, `_audio":0,"`) + `":0,"full_audio":"` + std(short) + `"}`,
			note: "more than 64",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, rest, stored := take(t, []byte(c.body))
			if c.rest == "" {
				c.rest = c.body
			}
			if rest != c.rest {
				t.Errorf("the rest is\n%.500s, want\n%.500s", rest, c.rest)
			}
			if !reflect.DeepEqual(stored, c.want) {
				t.Errorf("%d audios, want %d", len(stored), len(c.want))
			}
			if !strings.Contains(x.Note, c.note) || c.note == "" && x.Note != "" {
				t.Errorf("the note is %q, want %q", x.Note, c.note)
			}
		})
	}
}

// A body that is cut off anywhere leaves nothing in the store and is kept as it came.
func TestCutOffAnywhere(t *testing.T) {
	t.Parallel()
	body := `{"type": "post_call_audio", "event_timestamp": 1795000115, "data": {"x": [true, null, -1.5e3], "full_audio": "` +
		strings.ReplaceAll(std(mp3(64)), "/", `\/`) + `", "y": "\u002b"}}`
	for n := range len(body) {
		x, rest, stored := take(t, []byte(body[:n]))
		if rest != body[:n] || len(stored) != 0 || !strings.Contains(x.Note, "cut off") {
			t.Fatalf("cut off after %d bytes: %q, %d stored", n, x.Note, len(stored))
		}
	}
}

// The places where one window ends and the next begins are nothing special.
func TestWindows(t *testing.T) {
	t.Parallel()
	content := mp3(100)
	text := strings.ReplaceAll(std(content), "/", `\u002F`)
	for shift := range 300 {
		for place, body := range map[string]string{
			"the text":            `{"x":"` + strings.Repeat("x", 65536-300+shift) + `","full_audio":"` + text + `","y":-1.5e+3,"z":true}`,
			"within a long text":  `{"full_audio":"` + strings.Repeat(" ", 65536-300+shift) + text + `","y":-1.5e+3,"z":true}`,
			"the key and a brace": `{"x":"` + strings.Repeat("x", 65536-300+shift) + `","data":{"full\u005faudio":"` + text + `"},"y":-1.5e+3,"z":true}`,
		} {
			x, err := audio.Extract(t.Context(), strings.NewReader(body), int64(len(body)))
			if err != nil {
				t.Fatal(err)
			}
			rest, err := x.Body()
			if err != nil {
				t.Fatal(err)
			}
			if len(x.Audio) != 1 || x.Audio[0].SHA256 != sha256.Sum256(content) || x.Note != "" ||
				!bytes.HasSuffix(rest, []byte(`,"y":-1.5e+3,"z":true}`)) || !json.Valid(rest) {
				t.Fatalf("%s, shifted by %d: %s", place, shift, x.Note)
			}
		}
	}
}

// What cannot be made sense of and is large goes to the store as it came.
func TestRaw(t *testing.T) {
	t.Parallel()
	long := std(mp3(2 << 20))
	t.Run("base64", func(t *testing.T) {
		t.Parallel()
		x, rest, stored := take(t, []byte(`{"data": {"full_audio": "`+long+`\u0021", "agent_id": "a"}}`))
		sum := sha256.Sum256([]byte(long + `\u0021`))
		want := fmt.Sprintf(`{"data": {"full_audio": {"$raw": {"bytes": %d, "sha256": "%x"}}, "agent_id": "a"}}`, len(long)+6, sum)
		if rest != want || len(stored) != 1 || string(stored[0]) != long+`\u0021` {
			t.Fatalf("%.300s, want %s", rest, want)
		}
		if a := x.Audio[0]; !a.Raw || a.ContentType != "application/octet-stream" || a.Kind != "full_audio" ||
			!strings.Contains(x.Note, "is no base64") || !strings.Contains(x.Note, "as it came") {
			t.Fatalf("%+v %s", a, x.Note)
		}
	})
	t.Run("JSON", func(t *testing.T) {
		t.Parallel()
		body := "{\"a\": \"\\u0000\x00\xff\", \"full_audio\": \"" + long
		x, rest, stored := take(t, []byte(body))
		if len(stored) != 1 || string(stored[0]) != body || !x.Audio[0].Raw || x.Audio[0].Kind != "body" {
			t.Fatal("it is not kept as it came")
		}
		e := elevenlabs.Parse([]byte(rest), time.Now())
		if e.Type != call.TypeUnparseable || e.RawBody != nil {
			t.Fatalf("type %q of %.100s", e.Type, rest)
		}
		var shown struct {
			Unparseable string
			Bytes       int
			Raw         struct{ SHA256 string } `json:"$raw"`
		}
		if err := json.Unmarshal([]byte(rest), &shown); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256([]byte(body)); shown.Bytes != len(body) || shown.Raw.SHA256 != hex.EncodeToString(sum[:]) ||
			!strings.HasPrefix(shown.Unparseable, "{\"a\": \"\\u0000\u2400\ufffd\"") || len(shown.Unparseable) < 64<<10 {
			t.Fatalf("%.300s", rest)
		}
	})
}

// The made sample comes out as an independent decoder has it.
func TestSample(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile(filepath.Join("..", "elevenlabs", "testdata", "made", "26-made-audio-valid-mp3.json"))
	if err != nil {
		t.Fatal(err)
	}
	var event struct {
		Data struct {
			FullAudio []byte `json:"full_audio"` // encoding/json decodes base64
		}
	}
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	x, rest, stored := take(t, body)
	if len(stored) != 1 || !bytes.Equal(stored[0], event.Data.FullAudio) || x.Note != "" {
		t.Fatalf("%d stored, %s", len(stored), x.Note)
	}
	want := strings.Replace(string(body), `"`+std(event.Data.FullAudio)+`"`, reference(event.Data.FullAudio, "audio/mpeg"), 1)
	if rest != want {
		t.Fatalf("%s, want %s", rest, want)
	}
	before, after := elevenlabs.Parse(body, time.Now()), elevenlabs.Parse([]byte(rest), time.Now())
	if before.DedupKey != after.DedupKey || before.ConversationID != after.ConversationID || after.RawBody != nil {
		t.Fatalf("another event: %+v", after)
	}
}

// made is a body of any size that takes no memory.
type made struct {
	prefix, suffix string
	groups         int64 // of four characters
}

const pattern = "SUQzBAAAAAAAAP/7kGQA+/8A"

func (m made) size() int64 { return int64(len(m.prefix)+len(m.suffix)) + 4*m.groups }

func (m made) ReadAt(p []byte, at int64) (n int, err error) {
	text, end := int64(len(m.prefix)), int64(len(m.prefix))+4*m.groups
	for n < len(p) {
		at := at + int64(n)
		switch {
		case at < text:
			n += copy(p[n:], m.prefix[at:])
		case at < end:
			n += copy(p[n:], pattern[(at-text)%int64(len(pattern)):][:min(end-at, int64(len(pattern))-(at-text)%int64(len(pattern)))])
		case at < m.size():
			n += copy(p[n:], m.suffix[at-end:])
		default:
			return n, io.EOF
		}
	}
	return n, nil
}

// Memory does not grow with the size of a body. Not parallel, so that no other
// test's memory is counted.
func TestFlatMemory(t *testing.T) {
	const groups, fewer = 150 << 20 / 4, 24 << 20 / 4
	store, err := audio.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]made{
		"audio":    {`{"data": {"full_audio": "`, `"}, "type": "post_call_audio"}`, groups},
		"broken":   {`{"data": {"full_audio": "`, `!"}, "type": "post_call_audio"}`, fewer},
		"cut off":  {`{"data": {"full_audio": "`, ``, fewer},
		"repeated": {`{"data": {"full_audio": "`, `", "full_audio": "AAAA"}, "type": "post_call_audio"}`, fewer},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		x, err := audio.Extract(t.Context(), body, body.size())
		if err != nil {
			t.Fatal(err)
		}
		rest, err := x.Body()
		if err != nil {
			t.Fatal(err)
		}
		objects, err := store.Save(t.Context(), "owner", x)
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		allocated := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d KiB allocated for %d MiB, %d bytes left: %s", name, allocated>>10, body.size()>>20, len(rest), x.Note)
		if allocated > 2<<20 {
			t.Errorf("%s: %d bytes allocated", name, allocated)
		}
		if len(objects) != 1 {
			t.Errorf("%s: %d objects", name, len(objects))
		}
	}
}

// faulty fails from a place on.
type faulty struct {
	io.ReaderAt
	from int64
	err  error
}

func (f faulty) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, at)
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	body := made{`{"data": {"full_audio": "`, `"}}`, 1 << 20}
	gone := errors.New("the disk is gone")
	for _, from := range []int64{0, 1 << 20, body.size() - 1} {
		if _, err := audio.Extract(t.Context(), faulty{body, from, gone}, body.size()); !errors.Is(err, gone) {
			t.Errorf("an error from byte %d on: %v", from, err)
		}
	}
	if _, err := audio.Extract(t.Context(), body, body.size()+1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that is shorter than was said: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audio.Extract(ctx, body, body.size()); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
}

// FuzzExtract compares with encoding/json and encoding/base64.
func FuzzExtract(f *testing.F) {
	for _, seed := range []string{
		`{"type": "post_call_audio", "data": {"full_audio": "SUQz\/+8="}}`,
		`{"data":{"full_audio":"SUQz\u002b_-8"},"full_audio":"SUQz","type":"post_call_audio"}`,
		`{"full_audio":"QQ==","full_audio":null,"data":{},"data":{"full_audio":"QQ\n=="}}`,
		`{"full_audio":"QQ==QQ=="}`, `{"full_audio":"A"}`, `{"full_audio":[]}`, `{"data":[{"full_audio":""}]}`,
		`{"user_audio":"` + std(mp3(900)) + `","x":[1.5e3,{"y":true}]}`,
		`[[{"a":null},-0.1E-2]]`, `{"full_audio":"QQ=="`, `"\ud800\udc00"`, "\xef\xbb\xbf{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		x, rest, stored := take(t, body)
		var payload any
		if err := number(body, &payload); err != nil {
			if bytes.Contains(body, []byte("NaN")) || bytes.Contains(body, []byte("Infinity")) ||
				bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) || len(body) > 10_000 {
				return // of these encoding/json takes less than we do
			}
			if x.Note == "" || len(stored) > 0 || rest != string(body) {
				t.Fatalf("not JSON: %q, %d stored", x.Note, len(stored))
			}
			return
		}
		if strings.Contains(x.Note, "more than 64") {
			return
		}
		// The naive way, which needs no order but the store's: by the hash.
		want, got := map[[32]byte]int{}, map[[32]byte]int{}
		missing := false
		replace := func(object map[string]any) {
			for key, value := range object {
				text, isText := value.(string)
				content, ok := naive(text)
				switch {
				case key == "full_audio" && isText && ok && len(content) > 0:
				case key == "full_audio":
					missing = true
					continue
				case isText && ok && plausible(key) && len(text) >= 1024 && bytes.HasPrefix(content, []byte("ID3")):
				default:
					continue
				}
				want[sha256.Sum256(content)]++
				var ref any
				if err := number([]byte(reference(content, "audio/mpeg")), &ref); err != nil {
					t.Fatal(err)
				}
				object[key] = ref
			}
		}
		if root, ok := payload.(map[string]any); ok {
			if data, ok := root["data"].(map[string]any); ok {
				replace(data)
			}
			replace(root)
		}
		for _, content := range stored {
			got[sha256.Sum256(content)]++
		}
		var left any
		if err := number([]byte(rest), &left); err != nil {
			t.Fatalf("what is left is not JSON: %s", rest)
		}
		// Other formats and escapes under other keys are the table's.
		if bytes.Contains(body, []byte("_base64")) || len(body) > 1024 && !reflect.DeepEqual(want, got) && !bytes.Contains(body, []byte("full_audio")) {
			return
		}
		for _, a := range x.Audio {
			if a.ContentType != "audio/mpeg" {
				return
			}
		}
		if !reflect.DeepEqual(want, got) || !reflect.DeepEqual(left, payload) {
			t.Fatalf("%d stored, want %d: %s\n%v\n%v", len(stored), len(want), x.Note, left, payload)
		}
		if missing && x.Note == "" {
			t.Fatal("full_audio is not there, and nothing says so")
		}
	})
}

func number(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows")
	}
	return nil
}

// naive decodes base64 that is all in memory.
func naive(text string) ([]byte, bool) {
	text = strings.NewReplacer(" ", "", "\n", "", "\r", "", "\t", "", "-", "+", "_", "/").Replace(text)
	bare := strings.TrimRight(text, "=")
	if len(text)-len(bare) > (4-len(bare)%4)%4 {
		return nil, false
	}
	content, err := base64.RawStdEncoding.DecodeString(bare)
	return content, err == nil
}

func plausible(key string) bool {
	return strings.HasSuffix(key, "audio") && len(key) <= 64 &&
		strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

func BenchmarkExtract(b *testing.B) {
	small := []byte(`{"type": "post_call_transcription", "data": {"has_audio": true, "transcript": "` + strings.Repeat("x", 14<<10) + `"}}`)
	large := []byte(`{"type": "post_call_audio", "data": {"full_audio": "` + std(mp3(50<<20)) + `"}}`)
	for name, body := range map[string][]byte{"transcript 14 KiB": small, "audio 50 MiB": large} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := audio.Extract(b.Context(), bytes.NewReader(body), int64(len(body))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("audio 50 MiB to a directory", func(b *testing.B) {
		store, err := audio.Open(b.Context(), b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(large)))
		b.ReportAllocs()
		for b.Loop() {
			x, err := audio.Extract(b.Context(), bytes.NewReader(large), int64(len(large)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := store.Save(b.Context(), "owner", x); err != nil {
				b.Fatal(err)
			}
		}
	})
}
