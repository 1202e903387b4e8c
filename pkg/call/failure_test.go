package call_test

import (
	"errors"
	"fmt"
	"testing"

	"postcall/pkg/call"
)

func TestFingerprint(t *testing.T) {
	t.Parallel()
	of := func(code call.Code, message string) string {
		return call.FailureOf(call.Errorf(code, "%s", message)).Fingerprint
	}
	base := of(call.Unavailable, "the model server answered 500, request req_00000001: The server had an error")
	for _, same := range []string{
		"the model server answered 500, request req_00000002: The server had an error",
		"the model server answered 500, request 7f3a-99b0:  the server had an error",
	} {
		if got := of(call.Unavailable, same); got != base {
			t.Errorf("%q is of another kind", same)
		}
	}
	for _, other := range []struct {
		code    call.Code
		message string
	}{
		{call.Unavailable, "the model server answered 503, request req_00000001: The server had an error"},
		{call.Internal, "the model server answered 500, request req_00000001: The server had an error"},
		{call.Unavailable, "the model server did not answer within 400ms"},
	} {
		if got := of(other.code, other.message); got == base {
			t.Errorf("%s %q is of the same kind", other.code, other.message)
		}
	}
	if of(call.Invalid, `the model "gpt-a" is not there`) != of(call.Invalid, `the model "gpt-b" is not there`) {
		t.Error("quoted words make kinds")
	}
	f := call.FailureOf(fmt.Errorf("analysing: %w", call.Errorf(call.Refused, "no: %w", errors.New("cause"))))
	if f.Code != call.Refused || f.Message != "analysing: no: cause" || len(f.Fingerprint) != 12 {
		t.Errorf("%+v", f)
	}
	if f := call.FailureOf(errors.New("")); f.Code != call.Internal || len(f.Fingerprint) != 12 {
		t.Errorf("%+v", f)
	}
}
