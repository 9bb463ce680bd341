// Package api speaks with a running Xray: it asks for figures and for what the
// observatory has measured, and steers balancers and outbounds.
//
//	c := api.NewUnix(path) // or api.New(at), a port of loopback
//	defer c.Close()
//	err := c.Override(ctx, "grp-home", "out-Home.") // fails where there is no such outbound
//
// Xray's API is gRPC: HTTP/2 without TLS, one message of protocol buffers each way.
// The net/http of the standard library speaks the first, and the few messages that
// are needed have a handful of fields, so that google.golang.org/grpc is not: it
// would add several MiB to the daemon. Not done here is adding an outbound, whose
// message holds a typed configuration of its protocol, transport and security:
// `xray api ado` translates those.
//
// The messages are those of Xray 26.3.27, by app/*/command/*.proto of its source.
package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

const (
	// maxAnswer bounds an answer: a thousand outbounds with their settings have 2 MiB.
	maxAnswer = 16 << 20
	// idle is how long a connection waits for the next question.
	idle = 30 * time.Second
)

// Client asks one Xray. It is safe for concurrent use.
type Client struct{ http *http.Client }

// New returns a client for the API at an address. It connects when it is asked.
func New(at netip.AddrPort) *Client { return newClient("tcp", at.String()) }

// NewUnix is New for the API at a unix socket.
func NewUnix(path string) *Client { return newClient("unix", path) }

func newClient(network, address string) *Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{Protocols: &protocols, IdleConnTimeout: idle, DialContext: dial}}}
}

// Close ends the connections that wait for another question.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// StatusError is Xray's own no.
type StatusError struct {
	Code    string // a number, by gRPC's statuscodes.md
	Message string
}

func (e StatusError) Error() string {
	if e.Message == "" {
		return "the API of xray answers with status " + e.Code
	}
	return "the API of xray: " + e.Message
}

// call asks for one method.
func (c *Client) call(ctx context.Context, method string, message []byte) ([]byte, error) {
	// A message comes after a byte that says whether it is compressed, and its length.
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://xray/"+method, bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the API of xray: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read from the API of xray: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the API of xray answers with %s", resp.Status)
	case len(body) > maxAnswer:
		return nil, errors.New("the answer of xray's API is larger than 16 MiB")
	}
	end := resp.Trailer
	if resp.Header.Get("Grpc-Status") != "" { // an answer without a message
		end = resp.Header
	}
	if code := end.Get("Grpc-Status"); code != "0" {
		text := end.Get("Grpc-Message")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return nil, StatusError{code, text}
	}
	if len(body) < 5 || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-5) {
		return nil, errors.New("the answer of xray's API is not one whole message")
	}
	return body[5:], nil
}

// The services, as Xray names them.
const (
	statsService       = "xray.app.stats.command.StatsService/"
	handlerService     = "xray.app.proxyman.command.HandlerService/"
	routingService     = "xray.app.router.command.RoutingService/"
	observatoryService = "xray.core.app.observatory.command.ObservatoryService/"
)

// Uptime returns how long Xray has run, in whole seconds. That it answers at all
// means that it is ready.
func (c *Client) Uptime(ctx context.Context) (time.Duration, error) {
	answer, err := c.call(ctx, statsService+"GetSysStats", nil)
	if err != nil {
		return 0, err
	}
	var up uint64
	err = fields(answer, func(n int, v uint64, _ []byte) error {
		if n == 10 {
			up = v
		}
		return nil
	})
	return time.Duration(up) * time.Second, err
}

// Outbounds returns the tags of all outbounds, in the order in which they were added.
func (c *Client) Outbounds(ctx context.Context) (tags []string, err error) {
	answer, err := c.call(ctx, handlerService+"ListOutbounds", nil)
	if err != nil {
		return nil, err
	}
	return tags, fields(answer, func(n int, _ uint64, outbound []byte) error {
		if n != 1 {
			return nil
		}
		return fields(outbound, func(n int, _ uint64, tag []byte) error {
			if n == 1 {
				tags = append(tags, string(tag))
			}
			return nil
		})
	})
}

// RemoveOutbound takes an outbound away. Connections through it go on.
func (c *Client) RemoveOutbound(ctx context.Context, tag string) error {
	_, err := c.call(ctx, handlerService+"RemoveOutbound", text(nil, 1, tag))
	return err
}

// ErrNoOutbound says that there is no outbound with a tag.
var ErrNoOutbound = errors.New("xray has no outbound with this tag")

// Override has a balancer take one outbound for all new connections; "" takes that
// back. Connections that are open stay where they are. Xray itself would take a tag
// that it does not have, and every connection would end: here that is ErrNoOutbound.
func (c *Client) Override(ctx context.Context, balancer, tag string) error {
	if tag != "" {
		tags, err := c.Outbounds(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(tags, tag) {
			return fmt.Errorf("%w: %q", ErrNoOutbound, tag)
		}
	}
	_, err := c.call(ctx, routingService+"OverrideBalancerTarget", text(text(nil, 1, balancer), 2, tag))
	return err
}

// Overridden returns the outbound that a balancer was told to take; "" is none.
func (c *Client) Overridden(ctx context.Context, balancer string) (tag string, err error) {
	answer, err := c.call(ctx, routingService+"GetBalancerInfo", text(nil, 1, balancer))
	if err != nil {
		return "", err
	}
	return tag, within(answer, []int{1, 5, 2}, func(b []byte) { tag = string(b) })
}

// Observed is what the observatory found of an outbound.
type Observed struct {
	Tag   string
	Alive bool
	Delay time.Duration // of the last measurement, whole milliseconds; without meaning unless alive
	Tried time.Time     // when it was measured last, whole seconds
}

// Observatory returns what was measured of each outbound so far.
func (c *Client) Observatory(ctx context.Context) (list []Observed, err error) {
	answer, err := c.call(ctx, observatoryService+"GetOutboundStatus", nil)
	if err != nil {
		return nil, err
	}
	return list, fields(answer, func(n int, _ uint64, result []byte) error {
		if n != 1 {
			return nil
		}
		return fields(result, func(n int, _ uint64, status []byte) error {
			if n != 1 {
				return nil
			}
			var o Observed
			err := fields(status, func(n int, v uint64, b []byte) error {
				switch n {
				case 1:
					o.Alive = v == 1
				case 2:
					o.Delay = time.Duration(v) * time.Millisecond
				case 4:
					o.Tag = string(b)
				case 6:
					o.Tried = time.Unix(int64(v), 0)
				}
				return nil
			})
			list = append(list, o)
			return err
		})
	})
}
