package audio

import "bytes"

// The formats that are told apart, each with the ending of its objects' keys.
// What none of the signatures knows is taken for MP3: it is what ElevenLabs
// documents, a decoder finds the frames in it wherever they begin, and a
// browser that is told audio/mpeg never takes the bytes for a page.
var formats = []struct {
	ending, contentType string
}{
	{"mp3", "audio/mpeg"},
	{"wav", "audio/wav"},
	{"ogg", "audio/ogg"},
	{"flac", "audio/flac"},
	{"m4a", "audio/mp4"},
	{"webm", "audio/webm"},
	{"aac", "audio/aac"},
	{raw, "application/octet-stream"},
}

// raw is the ending of what could not be decoded and is kept as it came.
const raw = "raw"

// sniffed is how many of the first bytes tell a format.
const sniffed = 12

// sniff gives the ending for what begins with head, and whether head is known
// to begin a recording.
func sniff(head []byte) (ending string, known bool) {
	at := func(i int, signature string) bool {
		return len(head) >= i && bytes.HasPrefix(head[i:], []byte(signature))
	}
	switch {
	case at(0, "ID3"):
		return "mp3", true
	case at(0, "RIFF") && at(8, "WAVE"):
		return "wav", true
	case at(0, "OggS"):
		return "ogg", true
	case at(0, "fLaC"):
		return "flac", true
	case at(4, "ftyp"):
		return "m4a", true
	case at(0, "\x1aE\xdf\xa3"):
		return "webm", true
	case len(head) >= 2 && head[0] == 0xFF && head[1]&0xF6 == 0xF0: // ADTS: a sync word, layer 0
		return "aac", true
	case len(head) >= 2 && head[0] == 0xFF && head[1]&0xE0 == 0xE0: // the sync word of an MPEG frame
		return "mp3", true
	}
	return "mp3", false
}

// contentType gives the media type of objects with an ending, empty if there
// are none.
func contentType(ending string) string {
	for _, f := range formats {
		if f.ending == ending {
			return f.contentType
		}
	}
	return ""
}
