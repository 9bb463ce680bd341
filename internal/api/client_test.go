package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/policyfile"
)

// asks are requests of each kind.
var asks = map[string]func(context.Context, *Client) error{
	"status":  func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
	"metrics": func(ctx context.Context, c *Client) error { _, err := c.Metrics(ctx); return err },
	"plan":    func(ctx context.Context, c *Client) error { _, err := c.Plan(ctx); return err },
	"kill":    func(ctx context.Context, c *Client) error { return c.Kill(ctx, "7") },
	"force":   func(ctx context.Context, c *Client) error { _, err := c.Force(ctx, ForceRequest{}); return err },
	"reload":  func(ctx context.Context, c *Client) error { _, err := c.Reload(ctx); return err },
	"history": func(ctx context.Context, c *Client) error { _, err := c.History(ctx, true); return err },
	"etag":    func(ctx context.Context, c *Client) error { _, err := c.InForce(ctx); return err },
	"apply": func(ctx context.Context, c *Client) error {
		_, err := c.Change(ctx, ChangeRequest{Do: DoApply, Policy: &policyfile.Bundle{}})
		return err
	},
	"tail": func(ctx context.Context, c *Client) error {
		return c.Decisions(ctx, 1, true, func([]byte) error { return nil })
	},
}

// TestSilentDaemon: nobody waits for ever for a daemon that hangs, however long its answer might take otherwise.
func TestSilentDaemon(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s")) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, ask := range asks {
		var gone *UnreachableError
		if err := ask(t.Context(), newClient(l.Addr().String(), 50*time.Millisecond)); !errors.As(err, &gone) || !errors.Is(err, ErrSilent) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := ask(ctx, NewClient(l.Addr().String())); name != "tail" && !errors.Is(err, ErrSilent) {
			t.Errorf("%s, with patience of its own: %v", name, err)
		}
	}
}

// TestTakesLong: what has to be worked out or waited for has all the time that it takes.
func TestTakesLong(t *testing.T) {
	for request, want := range map[[2]string]bool{
		{"GET", "/api/v1/status"}: false, {"GET", "/api/v1/decisions?last=1"}: false, {"POST", "/api/v1/token"}: false, {"PUT", "/api/v1/state"}: false,
		{"DELETE", "/api/v1/connections/1"}: false, {"GET", "/api/v1/connections?"}: false, {"HEAD", "/api/v1/config"}: false,
		{"POST", "/api/v1/reload"}: true, {"POST", "/api/v1/config/commit?confirm=probe"}: true, {"POST", "/api/v1/plan"}: true, {"GET", "/api/v1/plan"}: true,
		{"POST", "/api/v1/xray-test"}: true, {"POST", "/api/v1/subscriptions"}: true, {"GET", "/api/v1/config/versions?diff=1"}: true, {"POST", "/api/v1/explain"}: true,
	} {
		if got := takesLong(request[0], request[1]); got != want {
			t.Errorf("%v: %v", request, got)
		}
	}
	c := NewClient("x")
	if p, q := c.patient.Transport.(*http.Transport), c.quick.Transport.(*http.Transport); p.ResponseHeaderTimeout != 0 || q.ResponseHeaderTimeout != answerTime {
		t.Errorf("patience: %v and %v", p.ResponseHeaderTimeout, q.ResponseHeaderTimeout)
	}
}

// breaksOff serves answers that end in the middle, after the one that says who asks.
func breaksOff(t *testing.T, text string) (socket string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			r, err := http.ReadRequest(in)
			if err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/api/v1/session" {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
				} else {
					_, _ = io.WriteString(conn, text)
				}
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// TestBrokenOff: a daemon that goes away in the middle of its answer is gone, and half an answer is none.
func TestBrokenOff(t *testing.T) {
	for _, text := range []string{"", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"state\":"} {
		socket := breaksOff(t, text)
		for name, ask := range asks {
			if name == "kill" || name == "etag" { // nothing is read of a body
				if text != "" && text[len(text)-1] == ':' {
					continue
				}
			}
			var gone *UnreachableError
			if err := ask(t.Context(), NewClient(socket)); !errors.As(err, &gone) || !errors.Is(err, ErrBrokeOff) {
				t.Errorf("%s after %q: %v", name, text, err)
			}
		}
	}
	socket := breaksOff(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{\"n\":1}\n{\"n\":2,\r\n")
	var got []string
	err := NewClient(socket).Decisions(t.Context(), 1, true, func(line []byte) error { got = append(got, string(line)); return nil })
	if diff := cmp.Diff([]string{`{"n":1}`}, got); diff != "" || !errors.Is(err, ErrBrokeOff) {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestInterruptedTail: who has had enough gets no more lines, nor a half one, and no error.
func TestInterruptedTail(t *testing.T) {
	socket := breaksOff(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n{\"n\":1}\n{\"n\":2}\n{\"n\":3,\r\n")
	ctx, cancel := context.WithCancel(t.Context())
	lines := 0
	if err := NewClient(socket).Decisions(ctx, 1, true, func([]byte) error { lines++; cancel(); return nil }); err != nil || lines != 1 {
		t.Errorf("%d lines, %v", lines, err)
	}
}
