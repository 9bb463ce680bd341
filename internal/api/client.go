package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// DefaultSocket is where netpolicyd listens unless told otherwise.
const DefaultSocket = "/run/netpolicy/netpolicyd.sock"

// DefaultStateDir is where netpolicyd keeps its state unless told otherwise.
const DefaultStateDir = "/var/lib/netpolicy"

// maxLine bounds one line of a tail: a record is under 4 KiB unless a flow has
// hundreds of DNS names.
const maxLine = 1 << 20

// maxAnswer bounds an answer; the largest are plans of 100,000 rules.
const maxAnswer = 256 << 20

// UnreachableError says that no daemon answers on the socket.
type UnreachableError struct {
	Socket string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no netpolicyd answers on %s: %v", e.Socket, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Client speaks with a daemon over its unix socket. Its methods are safe for
// concurrent use and fail with *UnreachableError when no daemon answers.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the socket at path.
func NewClient(path string) *Client {
	return &Client{socket: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, &UnreachableError{path, err}
			}
			return conn, nil
		},
		DisableKeepAlives: true,
	}}}
}

// Status asks for the daemon's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, "/api/v1/status", nil, &s)
}

// Uplinks asks for the uplinks alone.
func (c *Client) Uplinks(ctx context.Context) ([]Uplink, error) {
	var u []Uplink
	return u, c.call(ctx, http.MethodGet, "/api/v1/uplinks", nil, &u)
}

// Flows asks for a page of the connections that the daemon follows.
func (c *Client) Flows(ctx context.Context, q FlowsRequest) (Flows, error) {
	var f Flows
	return f, c.call(ctx, http.MethodGet, "/api/v1/connections?"+q.query().Encode(), nil, &f)
}

// Kill ends a connection, by the id that Flows gives it.
func (c *Client) Kill(ctx context.Context, id string) error {
	resp, err := c.do(ctx, http.MethodDelete, "/api/v1/connections/"+url.PathEscape(id), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Plan asks for the host state that the daemon wants, as text.
func (c *Client) Plan(ctx context.Context) (string, error) { return c.text(ctx, "/api/v1/plan") }

// Metrics asks for the metrics in the Prometheus text format.
func (c *Client) Metrics(ctx context.Context) (string, error) { return c.text(ctx, "/metrics") }

// Explain asks how a flow would be decided now.
func (c *Client) Explain(ctx context.Context, q ExplainRequest) (json.RawMessage, error) {
	var out json.RawMessage
	return out, c.call(ctx, http.MethodPost, "/api/v1/explain", q, &out)
}

// Reload makes the daemon read its policy again. A rejected policy is a result, not an error.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	var r ReloadResult
	return r, c.call(ctx, http.MethodPost, "/api/v1/reload", struct{}{}, &r)
}

// Force overrides a state.
func (c *Client) Force(ctx context.Context, q ForceRequest) ([]Uplink, error) {
	var u []Uplink
	return u, c.call(ctx, http.MethodPut, "/api/v1/state", q, &u)
}

// Clear ends the override of an uplink; "" is the primary.
func (c *Client) Clear(ctx context.Context, uplink string) ([]Uplink, error) {
	var u []Uplink
	return u, c.call(ctx, http.MethodDelete, "/api/v1/state?uplink="+url.QueryEscape(uplink), nil, &u)
}

// Token asks for the token of a role, or for a new one.
func (c *Client) Token(ctx context.Context, q TokenRequest) (Token, error) {
	var t Token
	return t, c.call(ctx, http.MethodPost, "/api/v1/token", q, &t)
}

// Change applies, confirms or takes back a policy. A rejected or reverted one is a
// result, not an error. With ConfirmProbe it returns when the probes have decided.
func (c *Client) Change(ctx context.Context, q ChangeRequest) (ChangeResult, error) {
	var r ChangeResult
	switch q.Do {
	case DoConfirm:
		return r, c.call(ctx, http.MethodPost, "/api/v1/config/confirm", ConfirmRequest{q.N}, &r)
	case DoRollback:
		return r, c.call(ctx, http.MethodPost, "/api/v1/config/rollback", RollbackRequest{q.N, q.To, q.Confirm, q.Within, q.Control}, &r)
	default:
		path := "/api/v1/config/commit?" + url.Values{"confirm": {q.Confirm}, "within": {q.Within}}.Encode()
		return r, c.call(ctx, http.MethodPost, path, CommitRequest{q.Policy, q.Control}, &r)
	}
}

// History lists the policies of late, the newest first.
func (c *Client) History(ctx context.Context, diff bool) ([]Entry, error) {
	path := "/api/v1/config/versions"
	if diff {
		path += "?diff=1"
	}
	var list []Entry
	return list, c.call(ctx, http.MethodGet, path, nil, &list)
}

// Entry returns one policy of the history, by its number or the beginning of its hash.
func (c *Client) Entry(ctx context.Context, ref string) (EntryText, error) {
	var e EntryText
	return e, c.call(ctx, http.MethodGet, "/api/v1/config/versions/"+url.PathEscape(ref)+"?diff=1", nil, &e)
}

// Compare asks what a policy would change in the kernel. A rejected one is a
// result, not an error.
func (c *Client) Compare(ctx context.Context, q PlanRequest) (PlanAnswer, error) {
	var r PlanAnswer
	return r, c.call(ctx, http.MethodPost, "/api/v1/plan", q, &r)
}

// Decisions calls each with the newest last records, oldest first, and then, if
// follow is set, with those that come, until ctx ends, the daemon stops, or each
// fails. The line is valid only during the call. It returns nil when ctx ended it.
func (c *Client) Decisions(ctx context.Context, last int, follow bool, each func(line []byte) error) error {
	path := "/api/v1/decisions?last=" + strconv.Itoa(last)
	if follow {
		path += "&follow=1"
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read decisions: %w", err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) text(ctx context.Context, path string) (string, error) {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read the answer of GET %s: %w", path, err)
	}
	return string(b), nil
}

// do returns an answer of status 2xx or 422, whose body the caller closes; any other is an error.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var payload io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write the request of %s %s: %w", method, path, err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://netpolicyd"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("write the request of %s %s: %w", method, path, err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var gone *UnreachableError
		if errors.As(err, &gone) {
			return nil, gone
		}
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusUnprocessableEntity {
		return resp, nil
	}
	defer resp.Body.Close()
	var p Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&p); err != nil || p.Detail == "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil, errors.New(p.Detail)
}
