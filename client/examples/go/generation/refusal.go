package generation

import (
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Refusal is a call that ended with a status other than OK, with what the server says about it.
type Refusal struct {
	Code          codes.Code
	Message       string
	RequestID     string
	Info          *errdetails.ErrorInfo // nil: the transport failed, not the service
	Violations    []*errdetails.BadRequest_FieldViolation
	Preconditions []*errdetails.PreconditionFailure_Violation
	Resource      *errdetails.ResourceInfo
	Retriable     bool // the server says when to come back
	RetryAfter    time.Duration
}

// Error says what happened, for people.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: %s", r.Code, r.Message)
}

// Reason is stable, for programs: QUEUE_FULL, GPU_OUT_OF_MEMORY …; empty if the transport failed.
func (r *Refusal) Reason() string {
	return r.Info.GetReason()
}

// Lost says that the connection broke, which is INTERNAL where a proxy noticed it, or that nobody answered: the service
// gives every error of its own an ErrorInfo.
func (r *Refusal) Lost() bool {
	return (r.Code == codes.Unavailable || r.Code == codes.Internal) && r.Info == nil
}

// NewRefusal decodes the error of a call and its trailers.
func NewRefusal(err error, trailer metadata.MD) *Refusal {
	state, _ := status.FromError(err)
	refusal := &Refusal{Code: state.Code(), Message: state.Message(), RequestID: firstOf(trailer, "x-request-id")}
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			refusal.Info = detail
		case *errdetails.BadRequest:
			refusal.Violations = detail.FieldViolations
		case *errdetails.PreconditionFailure:
			refusal.Preconditions = detail.Violations
		case *errdetails.ResourceInfo:
			refusal.Resource = detail
		case *errdetails.RetryInfo:
			delay := detail.GetRetryDelay()
			refusal.Retriable = true
			refusal.RetryAfter = time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos())
		}
	}
	// The trailer has the last word: a negative or unreadable number means "do not retry".
	if pushback := firstOf(trailer, "grpc-retry-pushback-ms"); pushback != "" {
		milliseconds, err := strconv.Atoi(pushback)
		refusal.Retriable = err == nil && milliseconds >= 0
		refusal.RetryAfter = time.Duration(milliseconds) * time.Millisecond
	}
	return refusal
}
