package daemon

import (
	"encoding/json"
	"strconv"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// keptEvents is how many transitions, and changes of the policy, are kept.
const keptEvents = 1000

func newFeeds() api.Feeds {
	return api.Feeds{
		Ended: telemetry.NewRing(0), Transitions: telemetry.NewRing(keptEvents), Changes: telemetry.NewRing(keptEvents),
		Logs: telemetry.NewRing(telemetry.LogLines),
	}
}

// server is the API of this daemon.
func (d *Daemon) server() *api.Server {
	s := &api.Server{
		Reader: d, Admin: d, Changes: d, Lister: d, Viewer: d, Desk: d, Tunnels: d,
		Records: d.records, Feeds: d.feeds, Metrics: d.metrics.WritePrometheus, Log: d.log,
	}
	if d.opts.Web.wanted() {
		s.Tokens = api.NewTokens(d.opts.StateDir)
	}
	if d.subs != nil {
		s.Subscriptions = d.subs
	}
	return s
}

// tellFeed appends an event to its feed.
func tellFeed(ring *telemetry.Ring, event any) {
	if line, err := json.Marshal(event); err == nil { // of our own types: it can't fail
		ring.Append(line)
	}
}

// announce tells what became of a policy.
func (d *Daemon) announce(result, who, detail string) {
	d.alertPolicy(result, detail)
	tellFeed(d.feeds.Changes, api.PolicyEvent{
		Time: time.Now(), Result: result, Hash: policyStatus(d.snap.Load()).Hash, N: int(d.live.Load()), Who: who, Detail: detail,
	})
}

// announceTransition tells a change of state; uplink "" is the host's.
func (d *Daemon) announceTransition(uplink string, t state.Transition) {
	d.alertState(uplink, t.To, t.Why)
	tellFeed(d.feeds.Transitions, api.Transition{Time: time.Now(), Uplink: uplink, From: t.From.String(), To: t.To.String(), Why: t.Why})
}

// line is the end of a flow as the API spells it.
func (e *ended) line(now time.Time) []byte {
	b := append(make([]byte, 0, 160), `{"id":"`...)
	b = strconv.AppendUint(b, e.n, 10)
	b = append(b, `","time":"`...)
	b = now.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","bytes_up":`...)
	b = strconv.AppendUint(b, e.up, 10)
	b = append(b, `,"bytes_down":`...)
	b = strconv.AppendUint(b, e.down, 10)
	if !e.began.IsZero() {
		b = append(b, `,"duration_ms":`...)
		b = strconv.AppendInt(b, max(now.Sub(e.began).Milliseconds(), 0), 10)
	}
	if us, known := e.rtt.Get(); known {
		b = append(b, `,"rtt_ms":`...)
		b = strconv.AppendFloat(b, float64(us)/1000, 'f', -1, 64)
	}
	b = append(b, `,"reason":"`...)
	b = append(b, e.reason...)
	return append(b, `"}`...)
}

func isNamed(name string) func(rules.Uplink) bool {
	return func(u rules.Uplink) bool { return u.Name == name }
}
