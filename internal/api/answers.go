package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		problem(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// answerOr answers with v, or tells the error.
func answerOr(w http.ResponseWriter, v any, err error) {
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	answer(w, http.StatusOK, v)
}

func problem(w http.ResponseWriter, status int, err error) {
	detail := err.Error()
	for _, mark := range []error{ErrBadRequest, ErrConflict, ErrNotFound} {
		detail = strings.TrimSuffix(detail, ": "+mark.Error())
	}
	b, jerr := json.Marshal(Problem{Title: http.StatusText(status), Status: status, Detail: detail})
	if jerr != nil {
		status, b = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="netpolicyd"`) // RFC 9110, 15.5.2
	}
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, ErrConflict):
		return http.StatusConflict
	case errors.Is(err, ErrPrecondition):
		return http.StatusPreconditionFailed
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
