package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/internal/lsp"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

// Config is the text of the policy that decides.
type Config struct {
	Name   string            `json:"name"` // of its file
	Syntax string            `json:"syntax"`
	Text   string            `json:"text"`
	Hash   string            `json:"hash"`
	N      int               `json:"n"` // in the history; 0 where none is kept
	Files  map[string][]byte `json:"files,omitempty"`
}

// etag names a policy with all its texts.
func etag(b *policyfile.Bundle) string { return `"` + b.Digest()[:32] + `"` }

func configOf(e EntryText) Config {
	return Config{
		Name: filepath.Base(e.Policy.Name), Syntax: lsp.SyntaxOf(e.Policy.Name, e.Policy.Main), Text: string(e.Policy.Main),
		Hash: e.Hash, N: e.N, Files: e.Policy.Files,
	}
}

// StageRequest is a text that is to be committed. Without files it has those of the policy in force.
type StageRequest struct {
	Text  string            `json:"text"`
	Files map[string][]byte `json:"files,omitempty"`
}

// Stage is a text that waits for its commit, and what it would change.
type Stage struct {
	OK       bool   `json:"ok"`
	Text     string `json:"text"`
	ETag     string `json:"etag,omitempty"`
	Base     string `json:"base"`
	BaseGone bool   `json:"base_gone,omitempty"`
	// What it is, and what it would change.
	Hash        string       `json:"hash,omitempty"`
	Rules       int          `json:"rules,omitempty"`
	Tried       int          `json:"tried,omitempty"`
	Added       int          `json:"added,omitempty"`
	Removed     int          `json:"removed,omitempty"`
	Diff        string       `json:"diff,omitempty"`
	Plan        string       `json:"plan,omitempty"` // the difference of the plans
	Error       string       `json:"error,omitempty"`
	Diagnostics []Diagnostic `json:"diagnostics"`
	Time        time.Time    `json:"time,omitzero"`
	Who         string       `json:"who,omitempty"`

	bundle policyfile.Bundle
	syntax string
}

// stage keeps the one text that is staged, in memory: whoever restarts the daemon stages it again.
type stage struct {
	mu  sync.Mutex
	now *Stage
}

func (s *stage) get() (Stage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return Stage{}, false
	}
	return *s.now, true
}

// set replaces what is staged.
func (s *stage) set(to *Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = to
}

// clear forgets what is staged if a list of tags names it, and reports whether it did.
func (s *stage) clear(list string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || !matches(list, s.now.ETag) {
		return false
	}
	s.now = nil
	return true
}

// CommitRequest is a policy to apply; without one what is staged is.
type CommitRequest struct {
	Policy *policyfile.Bundle `json:"policy,omitempty"`
	// Control is as in ChangeRequest.
	Control string `json:"control,omitempty"`
}

// ConfirmRequest names the policy that waits, by its number.
type ConfirmRequest struct {
	N int `json:"n"`
}

// RollbackRequest is as ChangeRequest spells it: either N or To.
type RollbackRequest struct {
	N       int    `json:"n,omitempty"`
	To      string `json:"to,omitempty"`
	Confirm string `json:"confirm,omitempty"`
	Within  string `json:"within,omitempty"`
	Control string `json:"control,omitempty"`
}

var (
	errNoStage    = errors.New("nothing is staged")
	errOtherStage = errors.New("something else is staged, or nothing")
)

// config adds the routes of the policy's text.
func (s *Server) config(r *router) {
	r.HandleFunc("GET /api/v1/config", s.present)
	r.HandleFunc("GET /api/v1/config/stage", s.staged)
	r.HandleFunc("POST /api/v1/config/stage", func(w http.ResponseWriter, req *http.Request) {
		s.limited(w, func() { s.stageText(w, req) })
	})
	r.HandleFunc("DELETE /api/v1/config/stage", func(w http.ResponseWriter, req *http.Request) {
		match := req.Header.Get("If-Match")
		if !s.unstage(req, cmp.Or(match, "*")) && match != "" {
			problem(w, http.StatusPreconditionFailed, errOtherStage)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	r.HandleFunc("POST /api/v1/config/commit", func(w http.ResponseWriter, req *http.Request) {
		s.limited(w, func() { s.commit(w, req) })
	})
	r.HandleFunc("POST /api/v1/config/confirm", func(w http.ResponseWriter, req *http.Request) {
		var q ConfirmRequest
		if body(w, req, &q) {
			s.change(w, req, ChangeRequest{Do: DoConfirm, N: q.N})
		}
	})
	r.HandleFunc("POST /api/v1/config/rollback", func(w http.ResponseWriter, req *http.Request) {
		var q RollbackRequest
		if body(w, req, &q) {
			s.change(w, req, ChangeRequest{
				Do: DoRollback, N: q.N, To: q.To, IfMatch: req.Header.Get("If-Match"), Confirm: q.Confirm, Within: q.Within, Control: q.Control,
			})
		}
	})
}

// present answers with the text of the policy in force.
func (s *Server) present(w http.ResponseWriter, r *http.Request) {
	e, err := s.Changes.Present(r.Context())
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	c, tag := configOf(e), etag(&e.Policy)
	if to := r.URL.Query().Get("syntax"); to != "" && to != c.Syntax {
		name, o := s.Desk.Lent()
		out, err := lsp.NewLook(name, c.Syntax, e.Policy.Main, o).Written(to)
		if err != nil {
			problem(w, http.StatusInternalServerError, err)
			return
		}
		c.Syntax, c.Text = to, string(out)
		tag = strings.TrimSuffix(tag, `"`) + "-" + to + `"`
	}
	if readsOnly(r) {
		c.Files = maskFiles(c.Files)
	}
	w.Header().Set("ETag", tag)
	if matches(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	answer(w, http.StatusOK, c)
}

// ofPolicy spells the tags of converted texts as those of their policies.
var ofPolicy = strings.NewReplacer(`-npl"`, `"`, `-yaml"`, `"`)

// matches reports whether a list of tags names one. Compression makes no other text of it.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimSpace(one); one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

func (s *Server) staged(w http.ResponseWriter, r *http.Request) {
	st, ok := s.stage.get()
	if !ok {
		problem(w, http.StatusNotFound, errNoStage)
		return
	}
	if e, err := s.Changes.Present(r.Context()); err == nil {
		st.BaseGone = etag(&e.Policy) != st.Base
	}
	w.Header().Set("ETag", st.ETag)
	answer(w, http.StatusOK, st)
}

func (s *Server) stageText(w http.ResponseWriter, r *http.Request) {
	var q StageRequest
	if !bodyOf(w, r, &q, maxPolicy) {
		return
	}
	e, err := s.Changes.Present(r.Context())
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	base := etag(&e.Policy)
	if match := r.Header.Get("If-Match"); match != "" && !matches(ofPolicy.Replace(match), base) {
		problem(w, http.StatusPreconditionFailed, ErrPrecondition)
		return
	}
	b := policyfile.Bundle{Name: e.Policy.Name, Main: []byte(q.Text), Files: q.Files}
	if q.Files == nil {
		b.Files = maps.Clone(e.Policy.Files)
	}
	st := &Stage{Text: q.Text, Base: base, Time: time.Now(), Who: Who(r.Context()), bundle: b, syntax: lsp.SyntaxOf(b.Name, b.Main)}
	plan, err := s.Changes.Compare(r.Context(), PlanRequest{Policy: &b, Confined: isRemote(r)})
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	st.OK, st.Error, st.Diagnostics = plan.Error == "", plan.Error, plan.Diagnostics
	if !st.OK {
		answer(w, http.StatusUnprocessableEntity, st)
		return
	}
	st.Hash, st.Rules, st.Tried, st.Plan = plan.Hash, plan.Rules, plan.Tried, plan.Kernel
	st.Diff, st.Added, st.Removed = plan.Diff, plan.Added, plan.Removed
	st.ETag = etag(&b)
	s.stage.set(st)
	s.tellStage(r, Staged)
	w.Header().Set("ETag", st.ETag)
	answer(w, http.StatusOK, st)
}

// commit applies what is staged, or the policy of the request.
func (s *Server) commit(w http.ResponseWriter, r *http.Request) {
	var q CommitRequest
	if !bodyOf(w, r, &q, maxPolicy) {
		return
	}
	match, query := r.Header.Get("If-Match"), r.URL.Query()
	do := ChangeRequest{Do: DoApply, Policy: q.Policy, IfMatch: match, Confirm: query.Get("confirm"), Within: query.Get("within"), Control: q.Control, Confined: isRemote(r)}
	var tag string
	if q.Policy == nil {
		st, ok := s.stage.get()
		switch {
		case match == "":
			problem(w, http.StatusPreconditionRequired, errors.New("If-Match has to name what is staged, by its ETag"))
			return
		case !ok || !matches(match, st.ETag):
			problem(w, http.StatusPreconditionFailed, errOtherStage)
			return
		}
		do.Policy, tag, do.IfMatch = &st.bundle, st.ETag, st.Base
	}
	if s.change(w, r, do) {
		s.unstage(r, tag)
	}
}

// unstage forgets what is staged if a list of tags names it, and reports whether it did.
func (s *Server) unstage(r *http.Request, list string) bool {
	if !s.stage.clear(list) {
		return false
	}
	s.tellStage(r, Unstaged)
	return true
}

// tellStage tells those who look that something else is staged, or nothing any more.
func (s *Server) tellStage(r *http.Request, result string) {
	e, err := s.Changes.Present(r.Context())
	if err != nil || s.Feeds.Changes == nil {
		return
	}
	if line, err := json.Marshal(PolicyEvent{Time: time.Now(), Result: result, Hash: e.Hash, N: e.N, Who: Who(r.Context())}); err == nil { // of our own types: it can't fail
		s.Feeds.Changes.Append(line)
	}
}

// change carries a change out, answers, and reports whether it was made.
func (s *Server) change(w http.ResponseWriter, r *http.Request, q ChangeRequest) bool {
	who := Who(r.Context())
	if who == "" {
		who = "unknown"
	}
	res, err := s.Changes.Change(r.Context(), who, q)
	if err != nil {
		problem(w, statusOf(err), err)
		return false
	}
	status := http.StatusOK
	if res.Result == Rejected || res.Result == Reverted && q.Do != DoRollback {
		status = http.StatusUnprocessableEntity
	}
	answer(w, status, res)
	return status == http.StatusOK
}
