package call

import (
	"errors"
	"fmt"
	"time"
)

// Code classifies an error by what its receiver can do about it. HTTP maps it
// to a status, the command line to an exit code, a job to its next step, each
// in one place.
type Code string

// The codes.
const (
	// Invalid input: the same input fails again. Nobody should retry.
	Invalid Code = "invalid"
	// Unauthorized: who is asking is not known.
	Unauthorized Code = "unauthorized"
	// Forbidden: who is asking is known and may not.
	Forbidden Code = "forbidden"
	// NotFound: there is no such thing.
	NotFound Code = "not_found"
	// Conflict: it stands in the way of something that already is.
	Conflict Code = "conflict"
	// TooLarge input.
	TooLarge Code = "too_large"
	// RateLimited: later, after Error.RetryAfter. No attempt is used up.
	RateLimited Code = "rate_limited"
	// Unavailable: something that should answer does not, for now.
	Unavailable Code = "unavailable"
	// Credentials: a key is wrong or has no quota left; a person must act, and
	// retrying burns attempts for nothing.
	Credentials Code = "credentials"
	// Refused: the other side understood and will not, for this input.
	Refused Code = "refused"
	// Cancelled: somebody ended it by hand.
	Cancelled Code = "cancelled"
	// Lost: whoever was at it ended without a word, as often as it was tried.
	Lost Code = "lost"
	// Internal: a fault of ours, or one that nobody classified.
	Internal Code = "internal"
)

// Error is the one error type of the domain. Message is for people and may be
// shown to them; Err is the cause and stays in logs.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration // with RateLimited, how long the other side asks us to wait; 0 when it does not say
	Err        error
}

// Error gives the message with its cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; an error among the arguments of a %w becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if cause == nil {
		return &Error{Code: code, Message: err.Error()}
	}
	return &Error{Code: code, Message: trimCause(err.Error(), cause.Error()), Err: cause}
}

// trimCause cuts ": cause" off the end, so that Error does not print it twice.
func trimCause(message, cause string) string {
	if tail := ": " + cause; len(message) > len(tail) && message[len(message)-len(tail):] == tail {
		return message[:len(message)-len(tail)]
	}
	return message
}

// CodeOf gives the code of the first Error in err's chain, Internal for any
// other error.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
