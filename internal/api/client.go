package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
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

// answerTime is how long the daemon may take to begin an answer, where nothing has to be worked out or waited for.
const answerTime = 10 * time.Second

// ErrSilent is why a daemon does not answer that takes the connection: it hangs.
var ErrSilent = errors.New("it takes the connection and says nothing")

// ErrBrokeOff is why an answer did not come to its end: the daemon stopped.
var ErrBrokeOff = errors.New("it broke off before its answer was whole")

// UnreachableError says that no daemon answers on the socket, or does no longer. Err may wrap ErrSilent and ErrBrokeOff.
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
	// patient waits for answers as long as they take, quick for answerTime.
	patient, quick http.Client
}

// NewClient returns a client for the socket at path.
func NewClient(path string) *Client { return newClient(path, answerTime) }

func newClient(path string, patience time.Duration) *Client {
	transport := func(patience time.Duration) *http.Transport {
		return &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
			DisableKeepAlives: true, ResponseHeaderTimeout: patience,
		}
	}
	return &Client{path, http.Client{Transport: transport(0)}, http.Client{Transport: transport(patience)}}
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
		var header []string
		if q.IfMatch != "" {
			header = []string{"If-Match", q.IfMatch}
		}
		return r, c.call(ctx, http.MethodPost, path, CommitRequest{q.Policy, q.Control}, &r, header...)
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

// InForce returns the ETag of the policy in force, for ChangeRequest.IfMatch; "" where the daemon can't tell its text.
func (c *Client) InForce(ctx context.Context) (string, error) {
	resp, err := c.send(ctx, http.MethodHead, "/api/v1/config", nil)
	if err != nil {
		return "", err
	}
	return resp.Header.Get("ETag"), resp.Body.Close()
}

// Decisions calls each with the newest last records, oldest first, and then, if
// follow is set, with those that come, until ctx ends, the daemon stops, or each
// fails. The line is valid only during the call. It returns nil when ctx ended it,
// and *UnreachableError when the daemon ended what was to go on.
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
	lines.Split(wholeLines)
	for lines.Scan() && ctx.Err() == nil {
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return c.ended(path, lines.Err(), follow)
}

// ended says whether a stream, whose scanner says err, has ended as it should: not at all if it was to go on.
func (c *Client) ended(path string, err error, follow bool) error {
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("read %s: %w", path, err)
	case err != nil:
		return c.failed(http.MethodGet, path, err)
	case follow:
		return &UnreachableError{c.socket, errors.New("it stopped, and ended the stream")}
	default:
		return nil
	}
}

// Rules asks for the rules of the policy that decides.
func (c *Client) Rules(ctx context.Context) (Rules, error) {
	var r Rules
	return r, c.call(ctx, http.MethodGet, "/api/v1/rules", nil, &r)
}

// Range asks for series of measurements.
func (c *Client) Range(ctx context.Context, q RangeRequest) (Range, error) {
	v := url.Values{"minutes": {strconv.Itoa(int((q.Back + time.Minute - 1) / time.Minute))}}
	if len(q.Series) > 0 {
		v.Set("series", strings.Join(q.Series, ","))
	}
	if q.Uplink != "" {
		v.Set("uplink", q.Uplink)
	}
	var r Range
	return r, c.call(ctx, http.MethodGet, "/api/v1/metrics/range?"+v.Encode(), nil, &r)
}

// Logs asks for the newest lines of the log that have at least this level.
func (c *Client) Logs(ctx context.Context, last int, level slog.Level) (Logs, error) {
	var l Logs
	return l, c.call(ctx, http.MethodGet, "/api/v1/logs?"+url.Values{"last": {strconv.Itoa(last)}, "level": {level.String()}}.Encode(), nil, &l)
}

// Event is one of the stream of events. TopicLost says that some were missed.
type Event struct {
	Topic string
	Data  json.RawMessage
}

// Events returns the newest events of each topic, at most MaxEvents of each and the oldest of a topic first, and
// where to go on from.
func (c *Client) Events(ctx context.Context, topics []string, last int) (list []Event, after string, err error) {
	v := url.Values{"topics": {strings.Join(topics, ",")}, "last": {strconv.Itoa(last)}, "follow": {"0"}}
	after, err = c.events(ctx, v, "", func(e Event) error { list = append(list, e); return nil })
	return list, after, err
}

// FollowEvents calls each with what comes after a place that Events gave, until ctx ends, the daemon stops, or each
// fails. It returns nil when ctx ended it, and *UnreachableError when the daemon did.
func (c *Client) FollowEvents(ctx context.Context, topics []string, after string, each func(Event) error) error {
	_, err := c.events(ctx, url.Values{"topics": {strings.Join(topics, ",")}}, after, each)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// events reads a stream, and returns its last id.
func (c *Client) events(ctx context.Context, q url.Values, after string, each func(Event) error) (id string, err error) {
	const path = "/api/v1/events"
	resp, err := c.do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, "Last-Event-ID", after)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	var e Event
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "event":
			e.Topic = value
		case "id":
			id = value
		case "data":
			e.Data = json.RawMessage(value)
		case "":
			if e.Topic != "" {
				if err := each(e); err != nil {
					return id, err
				}
			}
			e = Event{}
		}
	}
	return id, c.ended(path, lines.Err(), q.Get("follow") != "0")
}

// wholeLines is a bufio.SplitFunc for lines with their end: what an answer that broke off ends with is none.
func wholeLines(data []byte, _ bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any, header ...string) error {
	b, err := c.read(ctx, method, path, in, header...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) text(ctx context.Context, path string) (string, error) {
	b, err := c.read(ctx, http.MethodGet, path, nil)
	return string(b), err
}

// read returns the body of an answer of status 2xx or 422.
func (c *Client) read(ctx context.Context, method, path string, in any, header ...string) ([]byte, error) {
	resp, err := c.do(ctx, method, path, in, header...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.failed(method, path, err)
	}
	return b, nil
}

// takesLong reports what may rightly take long: policies are compiled and tried, texts compared, probes, downloads and
// other processes waited for.
func takesLong(method, path string) bool {
	return method == http.MethodPost && path != "/api/v1/token" || path == "/api/v1/plan" || strings.HasPrefix(path, "/api/v1/config/versions")
}

// do returns an answer of status 2xx or 422, whose body the caller closes; any other is an error.
func (c *Client) do(ctx context.Context, method, path string, in any, header ...string) (*http.Response, error) {
	if takesLong(method, path) { // then see first that there is somebody
		resp, err := c.send(ctx, http.MethodGet, "/api/v1/session", nil)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
	}
	resp, err := c.send(ctx, method, path, in, header...)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusUnprocessableEntity {
		return resp, nil
	}
	defer resp.Body.Close()
	var p Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&p); err != nil || p.Detail == "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if resp.StatusCode == http.StatusPreconditionFailed {
		return nil, ErrPrecondition
	}
	return nil, errors.New(p.Detail)
}

// send returns the answer to a request, of whatever status. Of header, keys and values in turn, those without a value
// are not sent.
func (c *Client) send(ctx context.Context, method, path string, in any, header ...string) (*http.Response, error) {
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
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	client := &c.quick
	if takesLong(method, path) {
		client = &c.patient
	}
	resp, err := client.Do(req)
	if err == nil {
		return resp, nil
	}
	return nil, c.failed(method, path, err)
}

// failed says why there is no answer, or only the beginning of one.
func (c *Client) failed(method, path string, err error) error {
	var late net.Error
	var dial *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s %s: %w", method, path, context.Canceled)
	case errors.As(err, &late) && late.Timeout():
		return &UnreachableError{c.socket, ErrSilent}
	case errors.As(err, &dial) && dial.Op == "dial":
		return &UnreachableError{c.socket, dial}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return &UnreachableError{c.socket, ErrBrokeOff}
	default:
		if of := new(url.Error); errors.As(err, &of) {
			err = of.Err
		}
		return &UnreachableError{c.socket, fmt.Errorf("%w: %w", ErrBrokeOff, err)}
	}
}
