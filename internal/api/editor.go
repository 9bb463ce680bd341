package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf16"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/lsp"
)

const (
	// maxText bounds a request with a policy's text, and maxReadText one of the role read:
	// work on a text takes some sixty times its size of memory.
	maxText     = 16 << 20
	maxReadText = 1 << 20
	// maxLooks bounds the questions about texts that are at work at once: each may take as much
	// time and memory as loading the policy. One place is the role admin's.
	maxLooks = 2
	// maxAsking bounds those that are at work, wait for that, or are being read; half the places
	// are the role admin's.
	maxAsking = 16
	// lookPatience is how long a question waits for others.
	lookPatience = 5 * time.Second
)

// Desk is what questions about texts need. Its methods are called concurrently.
type Desk interface {
	// Lent is where a text is said to stand and what it may refer to.
	Lent() (name string, o lsp.Options)
	// Decide explains a flow by another policy in the world of now.
	Decide(ExplainRequest, *engine.Program) ([]byte, error)
	// Replay decides the flows of late by another policy.
	Replay(context.Context, ReplayRequest, *engine.Program) (Replay, error)
}

// Text is a policy's text. Syntax is npl or yaml, "" finds it out.
type Text struct {
	Text   string `json:"text"`
	Syntax string `json:"syntax,omitempty"`
}

// TextAt is a place in a text, in UTF-16 units.
type TextAt struct {
	Text
	At int `json:"at"`
}

// ConvertRequest asks for the text in the syntax To.
type ConvertRequest struct {
	Text
	To string `json:"to"`
}

// Lint is what was found in a text.
type Lint struct {
	OK       bool          `json:"ok"` // there is no error
	Rules    int           `json:"rules"`
	Findings []lsp.Finding `json:"findings"`
	// DeadUpTo is left out unless the text has more rules than this: then which of them never decide is not looked at.
	DeadUpTo int `json:"dead_up_to,omitempty"`
}

// TestResult is what became of the assertions of a text.
type TestResult struct {
	OK       bool          `json:"ok"`
	Tried    int           `json:"tried"`
	Failed   int           `json:"failed"`
	Unproven int           `json:"unproven"`
	Findings []lsp.Finding `json:"findings"`
}

// ReplayRequest asks which of the last decisions a policy would make otherwise; without
// a text, the one that is staged.
type ReplayRequest struct {
	Text
	Last int `json:"last,omitempty"` // 0: all that are kept
	Most int `json:"most,omitempty"` // how many differences are listed; 0: 100
}

// Replay is what the other policy would do.
type Replay struct {
	Flows   int            `json:"flows"`
	Changed int            `json:"changed"`
	Changes []ReplayChange `json:"changes"`
	Rules   map[string]int `json:"rules"` // how many each rule decides; "" is the default
}

// ReplayChange is a flow that is treated otherwise.
type ReplayChange struct {
	ID   string `json:"id"`
	Flow any    `json:"flow"`
	Name string `json:"name,omitempty"`
	Was  string `json:"was"`
	Is   string `json:"is"`
}

// editor adds the questions about texts.
func (s *Server) editor(r *router) {
	asking, working := newGate(maxAsking, maxAsking/2), newGate(maxLooks, 1)
	// A question is read before it has its turn: a body that does not come holds nobody up.
	turn := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			done, ok := asking.enter(req, 0)
			if !ok {
				busy(w)
				return
			}
			defer done()
			limit := int64(maxText)
			if who, _ := callerOf(req.Context()); who.role != RoleAdmin {
				limit = maxReadText
			}
			text, ok := readBody(w, req, limit)
			if !ok {
				return
			}
			leave, ok := working.enter(req, lookPatience)
			if !ok {
				busy(w)
				return
			}
			defer leave()
			req = req.WithContext(req.Context())
			req.Body = whole{bytes.NewReader(text), text}
			h(w, req)
		}
	}
	r.ask("POST /api/v1/explain", turn(s.explain))
	r.ask("POST /api/v1/lint", turn(s.lint))
	r.ask("POST /api/v1/format", turn(s.format))
	r.ask("POST /api/v1/convert", turn(s.convert))
	r.ask("POST /api/v1/complete", turn(s.complete))
	r.ask("POST /api/v1/hover", turn(s.hover))
	r.ask("POST /api/v1/test", turn(s.test))
	r.ask("POST /api/v1/replay", turn(s.replay))
	s.generator(r, turn)
}

// busy answers a question for which there is no place.
func busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	problem(w, http.StatusServiceUnavailable, errors.New("other questions about texts are at work; try again in a moment"))
}

// look opens a text.
func (s *Server) look(t Text) *lsp.Look {
	name, o := s.Desk.Lent()
	return lsp.NewLook(name, t.Syntax, []byte(t.Text), o)
}

// lookAt opens a text that has the place, or answers why not.
func (s *Server) lookAt(w http.ResponseWriter, q TextAt) *lsp.Look {
	units := 0
	for _, r := range q.Text.Text {
		units += utf16.RuneLen(r)
	}
	if q.At > units {
		problem(w, http.StatusBadRequest, fmt.Errorf("at %d: the text has %d UTF-16 units", q.At, units))
		return nil
	}
	return s.look(q.Text)
}

// program is the policy's, or nil and it is answered what is wrong.
func (s *Server) program(w http.ResponseWriter, t Text) *engine.Program {
	l := s.look(t)
	if p := l.Program(); p != nil {
		return p
	}
	err := errors.New("the policy has errors")
	if list, lerr := l.Findings(false); lerr == nil {
		for _, f := range list {
			if f.Severity == diag.Error.String() {
				err = fmt.Errorf("the policy has errors; line %d: %s: %s", f.Line, f.Code, f.Message)
				break
			}
		}
	}
	problem(w, http.StatusUnprocessableEntity, err)
	return nil
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	var q ExplainRequest
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	if q.Text == "" {
		out, err := s.Reader.Explain(q)
		answerOr(w, out, err)
		return
	}
	p := s.program(w, Text{q.Text, q.Syntax})
	if p == nil {
		return
	}
	out, err := s.Desk.Decide(q, p)
	if err != nil {
		problem(w, statusOf(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(out, '\n'))
}

func (s *Server) lint(w http.ResponseWriter, r *http.Request) {
	var q Text
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	l := s.look(q)
	list, err := l.Findings(true)
	out := Lint{Findings: list}
	if err == nil {
		res := l.Result()
		if out.OK = !diag.HasErrors(res.Diags); res.Policy != nil {
			if out.Rules = len(res.Policy.Rules); out.Rules > lsp.MaxAnalysed {
				out.DeadUpTo = lsp.MaxAnalysed
			}
		}
	}
	answerOr(w, out, err)
}

// written answers with a text in a syntax.
func (s *Server) written(w http.ResponseWriter, t Text, syntax string) {
	if syntax == "" {
		syntax = lsp.SyntaxOf("", []byte(t.Text))
	}
	out, err := s.look(t).Written(syntax)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err)
		return
	}
	answer(w, http.StatusOK, Text{string(out), syntax})
}

func (s *Server) format(w http.ResponseWriter, r *http.Request) {
	var q Text
	if bodyOf(w, r, &q, maxText) {
		s.written(w, q, q.Syntax)
	}
}

func (s *Server) convert(w http.ResponseWriter, r *http.Request) {
	var q ConvertRequest
	if bodyOf(w, r, &q, maxText) {
		s.written(w, q.Text, q.To)
	}
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	var q TextAt
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	if l := s.lookAt(w, q); l != nil {
		out, err := l.Complete(q.At)
		answerOr(w, out, err)
	}
}

func (s *Server) hover(w http.ResponseWriter, r *http.Request) {
	var q TextAt
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	if l := s.lookAt(w, q); l != nil {
		out, err := l.Hover(q.At)
		answerOr(w, out, err)
	}
}

func (s *Server) test(w http.ResponseWriter, r *http.Request) {
	var q Text
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	l := s.look(q)
	out := TestResult{}
	list := l.Result().Diags
	if p := l.Program(); p != nil {
		a := analysis.Assertions(p)
		out.Tried, out.Failed, out.Unproven = a.Tried, a.Failed, a.Unproven
		list = append([]diag.Diagnostic{}, a.Diags...)
	}
	out.OK = !diag.HasErrors(list)
	var err error
	out.Findings, err = l.FindingsOf(list, false)
	answerOr(w, out, err)
}

func (s *Server) replay(w http.ResponseWriter, r *http.Request) {
	var q ReplayRequest
	if !bodyOf(w, r, &q, maxText) {
		return
	}
	if q.Text.Text == "" {
		st, ok := s.stage.get()
		if !ok {
			problem(w, http.StatusConflict, errors.New("there is no text, and nothing is staged"))
			return
		}
		q.Text = Text{st.Text, st.syntax}
	}
	if p := s.program(w, q.Text); p != nil {
		out, err := s.Desk.Replay(r.Context(), q, p)
		answerOr(w, out, err)
	}
}
