package lsp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"

	"netpolicy.dev/netpolicy/rules"
)

// maxWaiting bounds the messages that were read and are not handled yet. When
// it is full, nothing more is read: the client waits.
const maxWaiting = 256

// ErrNoShutdown is a client that left without `shutdown`; by the protocol the
// program's exit code is then 1.
var ErrNoShutdown = errors.New("the client left without shutdown")

// Options are what the server needs of the host.
type Options struct {
	// Version is shown by the client.
	Version string
	// ReadFile reads imported files; nil: nothing can be imported.
	ReadFile func(path string) ([]byte, error)
	// Lists returns where the lists of a policy's sets come from, by the policy's
	// path; nil: they are empty, and nothing is said about that.
	Lists func(policy string) rules.Lists
}

// Serve answers one client until it says `exit`, ctx ends, or a stream fails. It
// returns nil after `shutdown` and `exit`. The goroutine that reads ends with
// `exit` or with in; a caller that goes on after an error closes in.
func Serve(ctx context.Context, in io.Reader, out io.Writer, o Options) error {
	s := &server{out: out, options: o, documents: map[string]*document{}, handlers: handlers}
	inbox := newInbox()
	go inbox.read(in)
	s.inbox = inbox
	defer inbox.close()
	for {
		if len(inbox.queue) == 0 {
			if err := s.publish(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("serve: %w", ctx.Err())
		case e, ok := <-inbox.queue:
			switch {
			case !ok && inbox.err != nil:
				return inbox.err
			case !ok || e.Method == "exit":
				if s.shutdown {
					return nil
				}
				return ErrNoShutdown
			}
			if err := s.handle(e); err != nil {
				return err
			}
		}
	}
}

// server is one client's session. One goroutine owns all of it but inbox.
type server struct {
	out         io.Writer
	options     Options
	inbox       *inbox
	documents   map[string]*document // by URI
	handlers    map[string]handler
	initialized bool
	shutdown    bool
	utf8        bool
}

// A handler answers a request, or takes a notification.
type handler func(s *server, params json.RawMessage) (any, error)

var handlers = map[string]handler{
	"initialize":                  with((*server).initialize),
	"initialized":                 nothing,
	"shutdown":                    func(s *server, _ json.RawMessage) (any, error) { s.shutdown = true; return nil, nil },
	"$/setTrace":                  nothing,
	"textDocument/didOpen":        with((*server).didOpen),
	"textDocument/didChange":      with((*server).didChange),
	"textDocument/didClose":       with((*server).didClose),
	"textDocument/didSave":        nothing,
	"textDocument/hover":          with((*server).hover),
	"textDocument/completion":     with((*server).completion),
	"textDocument/definition":     with((*server).definition),
	"textDocument/references":     with((*server).references),
	"textDocument/prepareRename":  with((*server).prepareRename),
	"textDocument/rename":         with((*server).rename),
	"textDocument/documentSymbol": with((*server).documentSymbols),
	"textDocument/formatting":     with((*server).formatting),
	"textDocument/codeAction":     with((*server).codeActions),
}

func nothing(*server, json.RawMessage) (any, error) { return nil, nil }

// with decodes the parameters of a handler.
func with[P any](h func(*server, P) (any, error)) handler {
	return func(s *server, raw json.RawMessage) (any, error) {
		var params P
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &params); err != nil {
				return nil, &rpcError{codeInvalidParams, "the parameters can't be read: " + err.Error()}
			}
		}
		return h(s, params)
	}
}

// handle answers one message. The error is one of the output stream.
func (s *server) handle(e event) error {
	switch {
	case e.err != nil:
		return writeMessage(s.out, errorResponse{"2.0", null, e.err})
	case e.Method == "":
		return nil // a response: the server has asked nothing
	}
	request := len(e.ID) > 0
	var result any
	err := s.refuse(e)
	if err == nil {
		result, err = s.call(e)
	}
	if !request {
		var rpc *rpcError
		if errors.As(err, &rpc) && rpc.Code == codeInternal {
			return s.log(rpc.Message)
		}
		return nil
	}
	var rpc *rpcError
	switch {
	case errors.As(err, &rpc):
		return writeMessage(s.out, errorResponse{"2.0", e.ID, rpc})
	case err != nil:
		return writeMessage(s.out, errorResponse{"2.0", e.ID, &rpcError{codeRequestFailed, err.Error()}})
	default:
		return writeMessage(s.out, response{"2.0", e.ID, result})
	}
}

var null = json.RawMessage("null")

// refuse returns why a message is not handled at all.
func (s *server) refuse(e event) error {
	switch {
	case s.inbox.taken(e):
		return &rpcError{codeCancelled, "cancelled"}
	case !s.initialized && e.Method != "initialize":
		return &rpcError{codeNotInitialized, "the first request is initialize"}
	case s.initialized && e.Method == "initialize":
		return &rpcError{codeInvalidRequest, "the server is initialized already"}
	case s.shutdown:
		return &rpcError{codeInvalidRequest, "the server is shutting down"}
	}
	return nil
}

// call runs a message's handler.
func (s *server) call(e event) (result any, err error) {
	h, ok := s.handlers[e.Method]
	if !ok {
		return nil, &rpcError{codeMethodNotFound, "no method is called " + e.Method}
	}
	if broken := guarded(e.Method, func() { result, err = h(s, e.Params) }); broken != nil {
		return nil, broken
	}
	return result, err
}

// guarded runs f. A panic is our own mistake: it becomes an error that the client
// is told, and the session goes on.
func guarded(what string, f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &rpcError{codeInternal, fmt.Sprintf("%s: %v\n%s", what, p, debug.Stack())}
		}
	}()
	f()
	return nil
}

// log shows a message in the client's log.
func (s *server) log(text string) error {
	return writeMessage(s.out, notification{"2.0", "window/logMessage", map[string]any{"type": severityError, "message": text}})
}

func (s *server) initialize(p initializeParams) (any, error) {
	s.initialized = true
	encoding := "utf-16"
	if slices.Contains(p.Capabilities.General.PositionEncodings, "utf-8") {
		encoding, s.utf8 = "utf-8", true
	}
	return map[string]any{
		"serverInfo": map[string]any{"name": "netpolicy", "version": s.options.Version},
		"capabilities": map[string]any{
			"positionEncoding":           encoding,
			"textDocumentSync":           map[string]any{"openClose": true, "change": 2},
			"hoverProvider":              true,
			"completionProvider":         map[string]any{"triggerCharacters": []string{" ", ".", ",", "(", "{", ":", "["}},
			"definitionProvider":         true,
			"referencesProvider":         true,
			"renameProvider":             map[string]any{"prepareProvider": true},
			"documentSymbolProvider":     true,
			"documentFormattingProvider": true,
			"codeActionProvider":         map[string]any{"codeActionKinds": []string{"quickfix"}},
		},
	}, nil
}

// event is a message, or what was wrong with it.
type event struct {
	message
	changed string // the document that it changes, by URI
	err     *rpcError
}

// inbox is what was read and not handled yet. Its reader is the only one that
// looks ahead: which requests are cancelled, and which documents have changed again.
type inbox struct {
	queue chan event
	done  chan struct{} // closed: nobody handles any more
	err   error         // why the queue was closed; good once it is

	mu      sync.Mutex
	waiting map[string]bool // requests in the queue, by id; true: cancelled
	changes map[string]int  // how many changes of a document are in the queue, by URI
}

func newInbox() *inbox {
	return &inbox{
		queue: make(chan event, maxWaiting), done: make(chan struct{}),
		waiting: map[string]bool{}, changes: map[string]int{},
	}
}

func (b *inbox) close() { close(b.done) }

// read reads messages until `exit`, the stream's end, or close.
func (b *inbox) read(in io.Reader) {
	defer close(b.queue)
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		body, err := readMessage(r)
		var e event
		switch {
		case errors.Is(err, io.EOF):
			return
		case errors.Is(err, errTooLarge):
			e.err = &rpcError{codeInvalidRequest, err.Error()}
		case err != nil:
			b.err = err
			return
		default:
			e = decode(body)
		}
		if e.Method == "$/cancelRequest" {
			b.cancel(e.Params)
			continue
		}
		b.lookAt(&e)
		select {
		case b.queue <- e:
		case <-b.done:
			return
		}
		if e.Method == "exit" {
			return
		}
	}
}

func decode(body []byte) event {
	var e event
	if err := json.Unmarshal(body, &e.message); err != nil {
		code := codeParse
		if json.Valid(body) {
			code = codeInvalidRequest
		}
		return event{err: &rpcError{code, "the message can't be read: " + err.Error()}}
	}
	if bytes.Equal(e.ID, null) {
		e.ID = nil
	}
	return e
}

// lookAt notes what a message that goes into the queue will do.
func (b *inbox) lookAt(e *event) {
	if e.Method == "textDocument/didChange" || e.Method == "textDocument/didClose" {
		var p documentParams
		if json.Unmarshal(e.Params, &p) == nil {
			e.changed = p.TextDocument.URI
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(e.ID) > 0 && e.Method != "" {
		b.waiting[string(e.ID)] = false
	}
	if e.changed != "" {
		b.changes[e.changed]++
	}
}

func (b *inbox) cancel(params json.RawMessage) {
	var p struct {
		ID json.RawMessage `json:"id"`
	}
	if json.Unmarshal(params, &p) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.waiting[string(p.ID)]; ok {
		b.waiting[string(p.ID)] = true
	}
}

// taken notes that a message has left the queue, and reports whether it was
// cancelled: from now on it will be answered.
func (b *inbox) taken(e event) (cancelled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.changed != "" {
		if b.changes[e.changed]--; b.changes[e.changed] == 0 {
			delete(b.changes, e.changed)
		}
	}
	cancelled = b.waiting[string(e.ID)]
	delete(b.waiting, string(e.ID))
	return cancelled
}

// overtaken reports whether a change of a document waits in the queue.
func (b *inbox) overtaken(uri string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes[uri] > 0
}
