package api

import (
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

// ErrPrecondition is the error about a change whose IfMatch names another policy than
// the one in force: the answer is 412.
var ErrPrecondition = errors.New("another policy is in force than the one that this was made from")

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
	// Present is the policy that decides, with its text; N is 0 where no history is kept.
	Present(ctx context.Context) (EntryText, error)
}

// limited keeps requests with large bodies few.
func (s *Server) limited(w http.ResponseWriter, do func()) {
	if s.working.Add(1) > maxChanges {
		s.working.Add(-1)
		problem(w, http.StatusServiceUnavailable, errors.New("other changes are being made; try again in a moment"))
		return
	}
	defer s.working.Add(-1)
	do()
}

// changes adds the routes of Changes.
func (s *Server) changes(r *router) {
	r.HandleFunc("POST /api/v1/plan", func(w http.ResponseWriter, req *http.Request) {
		s.limited(w, func() {
			var q PlanRequest
			if !bodyOf(w, req, &q, maxPolicy) {
				return
			}
			q.Confined = isRemote(req)
			res, err := s.Changes.Compare(req.Context(), q)
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
	history := func(w http.ResponseWriter, req *http.Request, ref string) {
		list, err := s.Changes.History(req.Context(), ref, req.URL.Query().Get("diff") == "1")
		switch {
		case err != nil:
			problem(w, statusOf(err), err)
		case ref != "":
			if readsOnly(req) {
				p := &list[0].Policy
				p.Main, p.Files = Masked(p.Main), maskFiles(p.Files)
			}
			answer(w, http.StatusOK, list[0])
		default:
			entries := make([]Entry, len(list))
			for i := range list {
				entries[i] = list[i].Entry
			}
			answer(w, http.StatusOK, entries)
		}
	}
	r.HandleFunc("GET /api/v1/config/versions", func(w http.ResponseWriter, req *http.Request) { history(w, req, "") })
	r.HandleFunc("GET /api/v1/config/versions/{ref}", func(w http.ResponseWriter, req *http.Request) { history(w, req, req.PathValue("ref")) })
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
