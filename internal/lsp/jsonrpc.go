package lsp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// maxMessage bounds a message's body: a policy of the largest size with every
	// second character escaped.
	maxMessage = 64 << 20
	// maxHeader bounds a line of a message's header.
	maxHeader = 4 << 10
	// maxHeaders bounds the lines of a header; the protocol has two.
	maxHeaders = 16
)

// errTooLarge is a message that was skipped; the stream can go on.
var errTooLarge = errors.New("the message is too large")

// Error codes of JSON-RPC and LSP.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
	codeNotInitialized = -32002
	codeRequestFailed  = -32803
	codeCancelled      = -32800
)

// rpcError is an error as the client sees it.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return e.Message }

func failed(format string, args ...any) error {
	return &rpcError{codeRequestFailed, fmt.Sprintf(format, args...)}
}

// message is a request (ID and Method), a notification (Method) or a response (ID).
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// readMessage reads one body. Behind errTooLarge the next message can be read;
// behind any other error nothing can.
func readMessage(r *bufio.Reader) ([]byte, error) {
	length := int64(-1)
	for n := 0; ; n++ {
		line, err := readHeader(r)
		switch {
		case err != nil && (n > 0 || line != "" || !errors.Is(err, io.EOF)):
			return nil, fmt.Errorf("read a message's header: %w", unexpected(err))
		case err != nil:
			return nil, io.EOF
		case n == maxHeaders:
			return nil, fmt.Errorf("a message's header has more than %d lines", maxHeaders)
		}
		if line == "" {
			break
		}
		key, value, _ := strings.Cut(line, ":")
		if !strings.EqualFold(strings.TrimSpace(key), "Content-Length") {
			continue
		}
		if length, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil || length < 0 {
			return nil, fmt.Errorf("a message's header has the Content-Length %q", value)
		}
	}
	switch {
	case length < 0:
		return nil, errors.New("a message's header has no Content-Length")
	case length > maxMessage:
		if _, err := io.CopyN(io.Discard, r, length); err != nil {
			return nil, fmt.Errorf("skip a message: %w", unexpected(err))
		}
		return nil, errTooLarge
	}
	// The buffer grows with what arrives, not with what was promised.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, length); err != nil {
		return nil, fmt.Errorf("read a message: %w", unexpected(err))
	}
	return body.Bytes(), nil
}

// readHeader reads one line of a header without its line end.
func readHeader(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return string(line), err
		case b == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case len(line) == maxHeader:
			return "", errors.New("the line is too long")
		}
		line = append(line, b)
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeMessage writes v with its header in one call.
func writeMessage(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	b := fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(body))
	if _, err := w.Write(append(b, body...)); err != nil {
		return fmt.Errorf("write a message: %w", err)
	}
	return nil
}
