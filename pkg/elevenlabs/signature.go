package elevenlabs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"time"

	"postcall/pkg/call"
)

// SignatureHeader is the name of the header that carries the signature.
const SignatureHeader = "ElevenLabs-Signature"

// MaxAhead is how far a signature's time may lie in the future, unless the past
// tolerance is smaller.
//
// ElevenLabs' own SDKs set no bound. One is needed because a signature from the
// future stays good, and with it a recorded request, until that future has
// passed. It is as wide as the SDKs' tolerance for the past, since a delivery
// that is refused for a clock running slow is usually lost for ever.
const MaxAhead = 30 * time.Minute

const (
	// maxHeader bounds the header's length. A genuine one has 81 bytes.
	maxHeader = 4096
	// maxSeconds bounds the digits of t: enough until the year 2286, and too
	// few for milliseconds, which a sender would have signed by mistake.
	maxSeconds = 10
)

// Reason says why a signature was refused.
type Reason string

// The reasons.
const (
	ReasonMissing   Reason = "missing"          // there is no signature header
	ReasonMalformed Reason = "malformed_header" // it cannot be read
	ReasonExpired   Reason = "expired"          // it is older than the tolerance
	ReasonFuture    Reason = "from_the_future"  // it is further ahead than our clock can explain
	ReasonMismatch  Reason = "mismatch"         // no secret gives this signature for this body
	ReasonNoSecret  Reason = "no_secret"        // we have no usable secret to check it with
)

// Rejection is the error of a delivery whose signature does not hold. It never
// carries the expected value. call.CodeOf gives call.Unauthorized for it.
type Rejection struct{ Reason Reason } //nolint:errname // it is spoken of as a rejection, in the table of that name too

// Error names the reason.
func (r *Rejection) Error() string { return "signature refused: " + string(r.Reason) }

// Unwrap gives the rejection in the domain's terms.
func (r *Rejection) Unwrap() error {
	return &call.Error{Code: call.Unauthorized, Message: "the signature does not hold"}
}

// Signature is what a signature header says.
type Signature struct {
	Time int64 // unix seconds

	signed string              // t as it was written: part of what is signed
	macs   [][sha256.Size]byte // the well-formed v0 elements
}

// ParseHeader reads a header of the form "t=<unix seconds>,v0=<hex>". The
// error is a *Rejection with ReasonMalformed.
//
// Elements may come in any order, with spaces and tabs around them, as proxies
// leave them. Elements of other names are skipped, so that a v1 can arrive one
// day. A second t is refused, because it leaves open which one was signed;
// several v0 are not, as any of them may match. A v0 that is not 64 hex digits
// matches nothing, which is a mismatch, not a malformed header.
func ParseHeader(header string) (Signature, error) {
	malformed := &Rejection{Reason: ReasonMalformed}
	if len(header) > maxHeader {
		return Signature{}, malformed
	}
	var s Signature
	times, signatures := 0, 0
	for element := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.Trim(element, " \t"), "=")
		switch name {
		case "t":
			times++
			s.signed = value
		case "v0":
			signatures++
			var mac [sha256.Size]byte
			if len(value) != hex.EncodedLen(len(mac)) {
				continue
			}
			if _, err := hex.Decode(mac[:], []byte(value)); err == nil {
				s.macs = append(s.macs, mac)
			}
		}
	}
	if times != 1 || signatures == 0 || len(s.signed) == 0 || len(s.signed) > maxSeconds {
		return Signature{}, malformed
	}
	for i := range len(s.signed) {
		if s.signed[i] < '0' || s.signed[i] > '9' { // ParseInt alone would take a sign
			return Signature{}, malformed
		}
	}
	seconds, err := strconv.ParseInt(s.signed, 10, 64)
	if err != nil {
		return Signature{}, malformed
	}
	s.Time = seconds
	return s, nil
}

// Verifier checks signatures against a list of secrets: ElevenLabs has no call
// to rotate one, so that rotation means two webhooks for a while, and several
// workspaces may send to one receiver. It is safe for concurrent use.
type Verifier struct {
	// Now is the clock, time.Now unless a test replaces it before the first use.
	Now func() time.Time

	secrets   []string
	tolerance int64 // seconds
}

// NewVerifier makes a Verifier that accepts signatures up to tolerance old (in
// whole seconds). Secrets are used as they are given, the "wsec_" prefix
// included; an empty or blank one can verify nothing and is passed over.
func NewVerifier(secrets []string, tolerance time.Duration) *Verifier {
	return &Verifier{
		Now:       time.Now,
		secrets:   append([]string(nil), secrets...),
		tolerance: int64(tolerance / time.Second),
	}
}

// Open judges the header alone, before any of the body is read. It takes every
// line of the header that came, as http.Header.Values gives them: none is
// ReasonMissing, several count as one joined by commas. The error is a
// *Rejection; without one, write the body to the Check and ask for its Result.
func (v *Verifier) Open(header []string) (*Check, error) {
	if len(header) == 0 {
		return nil, &Rejection{Reason: ReasonMissing}
	}
	signature, err := ParseHeader(strings.Join(header, ","))
	if err != nil {
		return nil, err
	}
	c := &Check{signature: signature, macs: make([]hash.Hash, len(v.secrets))}
	usable := false
	for i, secret := range v.secrets {
		if strings.TrimSpace(secret) == "" {
			continue
		}
		usable = true
		c.macs[i] = hmac.New(sha256.New, []byte(secret))
	}
	if !usable {
		return nil, &Rejection{Reason: ReasonNoSecret}
	}
	switch age := v.Now().Unix() - signature.Time; {
	case age > v.tolerance:
		return nil, &Rejection{Reason: ReasonExpired}
	case -age > min(v.tolerance, int64(MaxAhead/time.Second)):
		return nil, &Rejection{Reason: ReasonFuture}
	}
	_, _ = c.Write([]byte(signature.signed + "."))
	return c, nil
}

// Verify checks a whole body against a header that did come. It returns the
// place of the secret that matched, or a *Rejection.
func (v *Verifier) Verify(header string, body []byte) (secretIndex int, err error) {
	c, err := v.Open([]string{header})
	if err != nil {
		return 0, err
	}
	_, _ = c.Write(body)
	return c.Result()
}

// Check hashes a body as it arrives. It is for one delivery and one goroutine.
type Check struct {
	signature Signature
	macs      []hash.Hash // one for each secret, nil where it is not usable
}

// Write takes the next piece of the body. It never fails.
func (c *Check) Write(p []byte) (int, error) {
	for _, mac := range c.macs {
		if mac != nil {
			_, _ = mac.Write(p) // a hash never fails
		}
	}
	return len(p), nil
}

// Result says which secret signed the whole of what was written, or gives a
// *Rejection with ReasonMismatch. Every pair of secret and signature is
// compared, in constant time, so that the time taken tells nothing.
func (c *Check) Result() (secretIndex int, err error) {
	found := -1
	for i, mac := range c.macs {
		if mac == nil {
			continue
		}
		sum := mac.Sum(nil)
		for _, sent := range c.signature.macs {
			if hmac.Equal(sum, sent[:]) && found < 0 {
				found = i
			}
		}
	}
	if found < 0 {
		return 0, &Rejection{Reason: ReasonMismatch}
	}
	return found, nil
}

// Sign makes the header with which ElevenLabs would send body at the time t.
func Sign(secret string, t time.Time, body []byte) string {
	signed := strconv.FormatInt(t.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte(signed + "."))
	_, _ = mac.Write(body)
	return "t=" + signed + ",v0=" + hex.EncodeToString(mac.Sum(nil))
}
