package access

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/pocketbase/tools/router"
)

// FieldError says what is wrong with one field of a request.
type FieldError struct {
	Code    string `json:"code"`    // for machines, e.g. "required"
	Message string `json:"message"` // for a person
}

// Error is an answer of the API that is not a success. Code is for machines and stable, Message is a
// written sentence for the customer, the cause is for the log and never leaves the panel.
//
// Any other error that a handler returns is answered with 500, code "internal" and a sentence of ours.
type Error struct {
	Status  int
	Code    string
	Message string
	Data    map[string]FieldError // by field name; nil: no field is to blame
	Retry   time.Duration         // > 0: sent as Retry-After, in whole seconds

	cause error
}

// Error is the line for the log: code, sentence and chain.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.cause)
	}
	return e.Code + ": " + e.Message
}

// Unwrap returns the cause, so that sentinels stay visible to errors.Is.
func (e *Error) Unwrap() error { return e.cause }

// As lets PocketBase's own middlewares (activity log, error handler) see the right status.
func (e *Error) As(target any) bool {
	api, ok := target.(**router.ApiError)
	if ok {
		*api = router.NewApiError(e.Status, e.Message, e.cause)
	}
	return ok
}

// Because returns a copy of e that carries err for the log.
func (e *Error) Because(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// BadRequest is 400: the request makes no sense, and no single field is to blame.
func BadRequest(code, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Message: message}
}

// Invalid is 400 invalid_input with what is wrong per field.
func Invalid(fields map[string]FieldError) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_input", Message: "Some of what you entered cannot be used. Please look at the marked fields.", Data: fields}
}

// InvalidField is Invalid for one field.
func InvalidField(field, code, message string) *Error {
	return Invalid(map[string]FieldError{field: {Code: code, Message: message}})
}

// Unauthenticated is 401: nobody, or somebody whose token is not good any more.
func Unauthenticated(code, message string) *Error {
	return &Error{Status: http.StatusUnauthorized, Code: code, Message: message}
}

// Forbidden is 403: the actor may know that it exists, and may not do this.
func Forbidden(code, message string) *Error {
	return &Error{Status: http.StatusForbidden, Code: code, Message: message}
}

// NotFound is 404: it does not exist, or is another tenant's, which is the same to the caller.
func NotFound(code, message string) *Error {
	return &Error{Status: http.StatusNotFound, Code: code, Message: message}
}

// Conflict is 409: not possible in the state that things are in now.
func Conflict(code, message string) *Error {
	return &Error{Status: http.StatusConflict, Code: code, Message: message}
}

// Unavailable is 503: something that we need is away; trying again later helps.
func Unavailable(code, message string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: code, Message: message}
}

// TooMany is 429 with Retry-After.
func TooMany(code, message string, retry time.Duration) *Error {
	return &Error{Status: http.StatusTooManyRequests, Code: code, Message: message, Retry: max(retry, time.Second)}
}

const internalMessage = "Something went wrong on our side. Nothing was changed; please try again, and tell us the request id if it happens again."

// toError turns whatever a handler or PocketBase returned into what the customer gets.
func toError(err error) *Error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours
	}
	var api *router.ApiError
	if !errors.As(err, &api) {
		return (&Error{Status: http.StatusInternalServerError, Code: "internal", Message: internalMessage}).Because(err)
	}
	e := &Error{Status: api.Status, Code: codeOf(api.Status), Message: api.Message, cause: err}
	switch {
	case api.Status >= 500:
		e.Message = internalMessage
	case api.Status == http.StatusRequestEntityTooLarge:
		e.Message = "The request is too large. At most 1 MiB is accepted here."
	case api.Status == http.StatusTooManyRequests:
		e.Message, e.Retry = tooOften, 10*time.Second
	}
	for field, v := range api.Data {
		item, ok := v.(map[string]any)
		if !ok {
			continue
		}
		code, _ := item["code"].(string)
		message, _ := item["message"].(string)
		if e.Data == nil {
			e.Data = map[string]FieldError{}
		}
		e.Data[field] = FieldError{Code: code, Message: message}
	}
	return e
}

// codeOf names a status that came without a code of its own.
func codeOf(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "bad_request"
	case http.StatusUnauthorized:
		return "unauthenticated"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusRequestEntityTooLarge:
		return "body_too_large"
	case http.StatusUnsupportedMediaType:
		return "unsupported_media_type"
	case http.StatusTooManyRequests:
		return "too_many_requests"
	}
	if status >= 500 {
		return "internal"
	}
	return "refused"
}
