package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"netpolicy.dev/netpolicy/xray/generator"
)

// generator adds the functions of xray/generator, which use no network and keep
// nothing: links come in the request, and what they say goes out. turn keeps
// those that are at work few.
func (s *Server) generator(r *router, turn func(http.HandlerFunc) http.HandlerFunc) {
	r.ask("POST /api/v1/xray/{function}", turn(func(w http.ResponseWriter, req *http.Request) {
		var body json.RawMessage
		if !bodyOf(w, req, &body, maxText) {
			return
		}
		out := generator.Call(req.PathValue("function"), body)
		var failed struct{ Error string }
		if bytes.HasPrefix(out, []byte(`{"error":`)) && json.Unmarshal(out, &failed) == nil {
			problem(w, http.StatusUnprocessableEntity, errors.New(failed.Error))
			return
		}
		answer(w, http.StatusOK, json.RawMessage(out))
	}))
}
