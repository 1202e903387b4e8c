package webhook

import (
	"encoding/base64"
	"errors"
	"strings"
)

// Key reads a secret of the scheme: whsec_ and the key in base64. The error
// never holds the secret.
func Key(secret string) ([]byte, error) {
	coded, prefixed := strings.CutPrefix(secret, "whsec_")
	if !prefixed {
		return nil, errors.New("does not begin with whsec_")
	}
	key, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		return nil, errors.New("is not whsec_ and base64")
	}
	if len(key) < minKey || len(key) > maxKey {
		return nil, errors.New("holds a key that is shorter than 16 or longer than 128 bytes; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	return key, nil
}
