package api

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"

	"netpolicy.dev/netpolicy/internal/policyfile"
)

// maxPolicy bounds a request that carries a policy: a bundle in base64, in JSON.
const maxPolicy = policyfile.MaxBundle/3*4 + 1<<20

// maxChanges bounds the requests with a policy that are at work at once: each may
// take a few times maxPolicy of memory. One may wait for probes, another one end that.
const maxChanges = 3

// ErrConflict marks errors about the state that the daemon is in: the answer is 409.
var ErrConflict = errors.New("conflict")

// ErrNotFound marks what is not there: the answer is 404.
var ErrNotFound = errors.New("not found")

// Changes is the way by which policies come and go. Its methods are called
// concurrently, and end early when their context does.
type Changes interface {
	// Change carries the request out; who is the caller, as the socket tells.
	Change(ctx context.Context, who string, q ChangeRequest) (ChangeResult, error)
	// History lists the policies, the newest first, with diffs where asked for.
	// With ref, a number or the beginning of a hash, it is that one alone, with its text.
	History(ctx context.Context, ref string, diff bool) ([]EntryText, error)
	// Compare tells what a policy would change.
	Compare(ctx context.Context, q PlanRequest) (PlanAnswer, error)
}

// changes adds the routes of Changes.
func (s *Server) changes(mux *http.ServeMux) {
	working := make(chan struct{}, maxChanges)
	// limited keeps requests with large bodies few.
	limited := func(w http.ResponseWriter, do func()) {
		select {
		case working <- struct{}{}:
			defer func() { <-working }()
			do()
		default:
			problem(w, http.StatusServiceUnavailable, errors.New("other changes are being made; try again in a moment"))
		}
	}
	mux.HandleFunc("POST /v1/change", func(w http.ResponseWriter, r *http.Request) {
		limited(w, func() {
			var q ChangeRequest
			if !bodyOf(w, r, &q, maxPolicy) {
				return
			}
			res, err := s.Changes.Change(r.Context(), cmp.Or(Who(r.Context()), "unknown"), q)
			if err != nil {
				problem(w, statusOf(err), err)
				return
			}
			status := http.StatusOK
			if res.Result == Rejected || res.Result == Reverted && q.Do != DoRollback {
				status = http.StatusUnprocessableEntity
			}
			answer(w, status, res)
		})
	})
	mux.HandleFunc("POST /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		limited(w, func() {
			var q PlanRequest
			if !bodyOf(w, r, &q, maxPolicy) {
				return
			}
			res, err := s.Changes.Compare(r.Context(), q)
			if err != nil {
				problem(w, statusOf(err), err)
				return
			}
			status := http.StatusOK
			if res.Error != "" {
				status = http.StatusUnprocessableEntity
			}
			answer(w, status, res)
		})
	})
	history := func(w http.ResponseWriter, r *http.Request, ref string) {
		list, err := s.Changes.History(r.Context(), ref, r.URL.Query().Get("diff") == "1")
		switch {
		case err != nil:
			problem(w, statusOf(err), err)
		case ref != "":
			answer(w, http.StatusOK, list[0])
		default:
			entries := make([]Entry, len(list))
			for i := range list {
				entries[i] = list[i].Entry
			}
			answer(w, http.StatusOK, entries)
		}
	}
	mux.HandleFunc("GET /v1/history", func(w http.ResponseWriter, r *http.Request) { history(w, r, "") })
	mux.HandleFunc("GET /v1/history/{ref}", func(w http.ResponseWriter, r *http.Request) { history(w, r, r.PathValue("ref")) })
}

// peerKey is where a connection's context has who is at its other end.
type peerKey struct{}

// withPeer notes who a connection comes from.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if who := peerOf(c); who != "" {
		return context.WithValue(ctx, peerKey{}, who)
	}
	return ctx
}

// Who returns who asks, as the socket tells, in the context of a request; "" in any
// other and where the system does not tell.
func Who(ctx context.Context) string {
	who, _ := ctx.Value(peerKey{}).(string)
	return who
}
