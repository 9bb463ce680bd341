package telemetry

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// alertWait is how long something has to last to be told, and to be over to be told so.
	alertWait = 10 * time.Second
	// restartWait is how long after a start what was told before has to be seen again, or is over: a
	// source is tried a few times, and a line is probed for some rounds, before it is known.
	restartWait = time.Minute
	// alertRate messages in alertSpan go to one receiver; further ones wait.
	alertRate = 20
	alertSpan = 10 * time.Minute
	// alertQueue bounds the messages that wait for one receiver; beyond it the oldest is dropped and counted.
	alertQueue = 100
	// alertInbox bounds what has happened and was not looked at yet.
	alertInbox = 256
	// maxAlertKeys bounds the conditions that are followed.
	maxAlertKeys = 256
	// sendTime bounds one message's way.
	sendTime = 15 * time.Second
	// firstRetry and lastRetry bound the pause after a message that did not arrive.
	firstRetry, lastRetry = 5 * time.Second, 5 * time.Minute
)

// Alert is a message to people.
type Alert struct {
	Schema string    `json:"schema"` // np.alert/1
	Time   time.Time `json:"time"`   // when it began, or was over
	Node   string    `json:"node"`
	// Status is firing, resolved, or event for what has no end.
	Status string `json:"status"`
	Key    string `json:"key"` // "uplink/wan1": the same for the beginning and the end
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
}

// Receiver is where alerts go.
type Receiver interface {
	// Send delivers one alert. An error is tried again, unless it wraps ErrRefused.
	Send(context.Context, *Alert) error
	fmt.Stringer
}

// ErrRefused marks errors of a receiver that will not take the message at any time.
var ErrRefused = errors.New("refused")

// Alerts tells receivers of conditions that begin and end. What lasts less than alertWait is not
// told. It is safe for concurrent use; nobody waits for it.
type Alerts struct {
	node      string
	receivers []Receiver
	log       *slog.Logger
	count     func(what, receiver string) // "sent", "dropped", "failed"
	inbox     chan happening
	wait      time.Duration
	told      told
}

// happening is something that was said of a condition.
type happening struct {
	key, title, detail string
	status             string
	at                 time.Time
}

// The statuses of alerts.
const (
	Firing   = "firing"
	Resolved = "resolved"
	Event    = "event"
)

// NewAlerts returns alerts that have to be run. count is told what became of messages. What receivers know
// is kept in the file at path for the next start; "" keeps nothing.
func NewAlerts(node string, receivers []Receiver, path string, log *slog.Logger, count func(what, receiver string)) *Alerts {
	return &Alerts{node, receivers, log, count, make(chan happening, alertInbox), alertWait, told{path: path, log: log}}
}

// Tell says that a condition holds (Firing) or does not (Resolved), or that something has
// happened (Event). The nil Alerts tells nobody.
func (a *Alerts) Tell(status, key, title, detail string) {
	if a == nil {
		return
	}
	select {
	case a.inbox <- happening{key, title, detail, status, time.Now()}:
	default:
		a.count("dropped", "inbox")
	}
}

// condition is what is known of a key.
type condition struct {
	now   happening
	told  string // the status that receivers know; "" for none
	title string // with which they were told
	due   time.Time
}

// Run works until ctx ends.
func (a *Alerts) Run(ctx context.Context) {
	if a == nil {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	outboxes := make([]*outbox, len(a.receivers))
	for i, r := range a.receivers {
		outboxes[i] = &outbox{to: r, alerts: a, more: make(chan struct{}, 1)}
		group.Go(func() { outboxes[i].run(ctx) })
	}
	known := a.remember()
	timer := time.NewTimer(a.wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-a.inbox:
			if h.status == Event {
				a.post(outboxes, h)
				continue
			}
			a.learn(known, h)
		case <-timer.C:
		}
		timer.Reset(a.settle(known, outboxes))
	}
}

// remember returns what an earlier run has told of and not ended: it is over unless it is said
// again. Nobody is told twice of what still holds.
func (a *Alerts) remember() map[string]*condition {
	known, now := map[string]*condition{}, time.Now()
	for key, title := range a.told.load() {
		over := happening{key, title + ": over", "it was told before a restart, and not seen since", Resolved, now}
		known[key] = &condition{now: over, told: Firing, title: title, due: now.Add(restartWait)}
	}
	return known
}

// learn takes what was said of a condition.
func (a *Alerts) learn(known map[string]*condition, h happening) {
	c := known[h.key]
	if c == nil {
		if h.status == Resolved {
			return
		}
		if len(known) >= maxAlertKeys {
			a.count("dropped", "inbox")
			return
		}
		c = &condition{}
		known[h.key] = c
	}
	if c.now.status != h.status {
		c.due = h.at.Add(a.wait)
		c.now = h
		return
	}
	if h.status == Firing && c.told != "" && c.now.title != h.title { // it got worse, or better: that has to last as well
		c.due = h.at.Add(a.wait)
	}
	c.now.title, c.now.detail = h.title, h.detail
}

// settle posts what has lasted long enough, forgets what is over, and returns when to look again.
func (a *Alerts) settle(known map[string]*condition, to []*outbox) time.Duration {
	next := time.Hour
	for key, c := range known {
		left := time.Until(c.due)
		if left > 0 {
			next = min(next, left)
			continue
		}
		if firing := c.now.status == Firing; c.now.status != c.told && (firing || c.told == Firing) || firing && c.now.title != c.title {
			a.post(to, c.now)
			c.told, c.title = c.now.status, c.now.title
		}
		if c.now.status == Resolved {
			delete(known, key)
		}
	}
	return next
}

func (a *Alerts) post(to []*outbox, h happening) {
	m := &message{alert: Alert{Schema: "np.alert/1", Time: h.at, Node: a.node, Status: h.status, Key: h.key, Title: h.title, Detail: h.detail}}
	m.left.Store(int32(len(to)))
	for _, o := range to {
		o.put(m)
	}
}

// message is an alert on its way to all receivers.
type message struct {
	alert Alert
	left  atomic.Int32 // outboxes that it is in
}

// outbox holds the messages for one receiver while they wait.
type outbox struct {
	to     Receiver
	alerts *Alerts
	more   chan struct{}

	mu   sync.Mutex
	list []*message
	sent []time.Time // of late
}

// takeFirst takes the first message out; o.mu is held, so that messages leave all outboxes in
// their order.
func (o *outbox) takeFirst() {
	m := o.list[0]
	o.list = o.list[1:]
	if m.left.Add(-1) == 0 {
		o.alerts.told.note(&m.alert)
	}
}

func (o *outbox) put(m *message) {
	o.mu.Lock()
	if len(o.list) >= alertQueue {
		o.takeFirst()
		o.alerts.count("dropped", o.to.String())
	}
	o.list = append(o.list, m)
	o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
}

// next returns the message to send, and how long to wait before.
func (o *outbox) next(now time.Time) (m *message, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return nil, 0
	}
	for len(o.sent) > 0 && now.Sub(o.sent[0]) >= alertSpan {
		o.sent = o.sent[1:]
	}
	if len(o.sent) >= alertRate {
		wait = alertSpan - now.Sub(o.sent[0])
	}
	return o.list[0], wait
}

// done takes a message away that was sent or given up.
func (o *outbox) done(m *message, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, at)
	if len(o.list) > 0 && o.list[0] == m {
		o.takeFirst()
	}
}

func (o *outbox) run(ctx context.Context) {
	pause := firstRetry
	for {
		m, wait := o.next(time.Now())
		if m == nil {
			select {
			case <-o.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		if wait > 0 && !sleep(ctx, wait) {
			return
		}
		err := o.send(ctx, &m.alert)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			o.alerts.count("sent", o.to.String())
			o.done(m, time.Now())
			pause = firstRetry
		case errors.Is(err, ErrRefused):
			o.alerts.count("failed", o.to.String())
			o.alerts.log.Warn("alert refused", "receiver", o.to.String(), "error", err)
			o.done(m, time.Now())
		default:
			o.alerts.log.Warn("alert not delivered, trying again", "receiver", o.to.String(), "error", err, "pause", pause.String())
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastRetry)
		}
	}
}

func (o *outbox) send(ctx context.Context, m *Alert) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	return o.to.Send(ctx, m)
}

// sleep reports whether ctx outlives the time.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ReceiverOf returns the receiver of a URL: a webhook, or with the prefix "ntfy+" a topic of ntfy.
// secret returns what signs what webhooks get; while it fails they are tried again.
func ReceiverOf(url string, secret func() ([]byte, error)) Receiver {
	client := &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: sendTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if topic, ok := strings.CutPrefix(url, "ntfy+"); ok {
		return &ntfy{topic, client}
	}
	return &webhook{url, secret, client}
}

// webhook posts JSON with an HMAC-SHA256 over time and body:
//
//	Netpolicy-Time: 1790000000
//	Netpolicy-Signature: sha256=HEX(HMAC(secret, "1790000000." + body))
type webhook struct {
	url    string
	secret func() ([]byte, error)
	client *http.Client
}

// String never shows the URL: its path may be a secret.
func (h *webhook) String() string { return "webhook" }

// Send posts the alert.
func (h *webhook) Send(ctx context.Context, m *Alert) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write alert: %w: %w", err, ErrRefused)
	}
	secret, err := h.secret()
	if err != nil {
		return err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	return post(ctx, h.client, h.url, body, map[string]string{
		"Content-Type": "application/json", "Netpolicy-Time": at, "Netpolicy-Signature": "sha256=" + Sign(secret, at, body),
	})
}

// Sign returns the signature of a webhook's body, in hexadecimal.
func Sign(secret []byte, at string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, at+".")
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// ntfy posts plain text to a topic.
type ntfy struct {
	url    string
	client *http.Client
}

func (n *ntfy) String() string { return "ntfy" }

// Send posts the alert.
func (n *ntfy) Send(ctx context.Context, m *Alert) error {
	priority, tag := "high", "warning"
	if m.Status == Resolved {
		priority, tag = "default", "white_check_mark"
	}
	text := m.Detail
	if text == "" {
		text = m.Title
	}
	return post(ctx, n.client, n.url, []byte(text), map[string]string{
		"Content-Type": "text/plain; charset=utf-8", "Title": header(m.Node + ": " + m.Title), "Priority": priority, "Tags": tag,
	})
}

// header takes out what must not be in a header.
func header(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// post sends a body. Answers of 3xx, for no redirect is followed, and of 4xx, but for 408 and 429, are final.
func post(ctx context.Context, c *http.Client, url string, body []byte, headers map[string]string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("write alert: %w", ErrRefused)
	}
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	r.Header.Set("User-Agent", "netpolicyd")
	resp, err := c.Do(r)
	if err != nil {
		var hidden interface{ Unwrap() error }
		if errors.As(err, &hidden) { // url.Error spells the URL
			err = hidden.Unwrap()
		}
		return fmt.Errorf("send alert: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what it says is of no use
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return fmt.Errorf("send alert: %s: %w", resp.Status, ErrRefused)
	default:
		return fmt.Errorf("send alert: %s", resp.Status)
	}
}

// ExecReceiver runs a program with the alert as JSON on its standard input.
func ExecReceiver(path string) Receiver { return program(path) }

type program string

func (p program) String() string { return "exec" }

// Send runs the program; one that fails is not run again for the same alert.
func (p program) Send(ctx context.Context, m *Alert) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write alert: %w: %w", err, ErrRefused)
	}
	cmd := exec.CommandContext(ctx, string(p))
	var out beginning
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(body), &out, &out, time.Second
	cmd.Env = []string{} // nil would be all that the daemon has
	for _, name := range execEnv {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s: %w", p, err, out, ErrRefused)
	}
	return nil
}

// execEnv is what of the daemon's environment the program gets.
var execEnv = []string{"PATH", "HOME", "LANG", "TZ"}

// beginning keeps the first bytes of what is written, enough for a line of the log.
type beginning []byte

const maxBeginning = 200

func (b *beginning) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), maxBeginning-len(*b))]...)
	return len(p), nil
}
