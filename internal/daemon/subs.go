package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/subscription"
)

// subsDir is the folder of subscriptions in the state directory.
const subsDir = "subscriptions"

// openSubscriptions reads the subscriptions. Without them the daemon goes on.
func (d *Daemon) openSubscriptions() {
	store, err := subscription.Open(subscription.Config{
		Dir: filepath.Join(d.opts.StateDir, subsDir), Route: d.dialBy, Log: d.log,
		Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	})
	if err != nil {
		d.log.Error("no subscriptions are kept", "error", err)
		return
	}
	d.subs = &subscriptions{store}
	if d.parts.Proxies == nil {
		d.parts.Proxies = d.subs
	} else {
		d.parts.Proxies = tunnels.Sources{d.parts.Proxies, d.subs}
	}
}

// Subscriptions returns the subscriptions in a state directory as they are, for those who
// only look: nil where there are none, or they can't be read.
func Subscriptions(stateDir string) tunnels.Source {
	dir := filepath.Join(stateDir, subsDir)
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	store, err := subscription.Open(subscription.Config{Dir: dir, ReadOnly: true})
	if err != nil {
		return nil
	}
	return &subscriptions{store}
}

// dialBy returns how the policy's route of that name connects, as it leads at the
// moment. "" is the host's own way.
func (d *Daemon) dialBy(via string) (download.Dial, error) {
	if via == "" {
		return nil, nil
	}
	s := d.snap.Load()
	if s == nil || s.plan == nil {
		return nil, errors.New("no policy is in force yet")
	}
	p := s.live.policy
	route := slices.IndexFunc(p.Routes, func(r rules.Route) bool { return r.Name == via })
	if route < 0 {
		return nil, fmt.Errorf("the policy has no route %q", via)
	}
	leaf, ok := engine.Resolve(p, s.live.world, route, 0)
	var way relay.Way
	if !ok || !(&decider{d: d}).way(&way, s, leaf) {
		return nil, fmt.Errorf("nothing leads over route %q at the moment", via)
	}
	mark := way.Mark
	if mark == 0 {
		mark = s.plan.Bypass()
	}
	control := sockmark.Control(mark, "")
	direct := net.Dialer{Timeout: download.StepTimeout, Control: control}
	if way.Server.IsValid() {
		return func(ctx context.Context, _, address string) (net.Conn, error) {
			return throughServer(ctx, &direct, &way, address)
		}, nil
	}
	direct.Resolver = &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Control: control}).DialContext}
	return direct.DialContext, nil
}

// throughServer connects to host:port through the way's SOCKS server, which resolves names.
func throughServer(ctx context.Context, direct *net.Dialer, way *relay.Way, address string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, errors.New("the port is no number")
	}
	to := socks.Target{Name: host, Port: uint16(port)}
	if a, err := netip.ParseAddr(host); err == nil {
		to = socks.TargetOf(netip.AddrPortFrom(a, uint16(port)))
	}
	ctx, cancel := context.WithTimeout(ctx, download.StepTimeout)
	defer cancel()
	conn, err := direct.DialContext(ctx, "tcp", way.Server.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = socks.Ask(conn, way.User, way.Password, socks.Connect, to)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// subscriptions gives the store to the API and to routes via xray.
type subscriptions struct{ *subscription.Store }

var _ tunnels.Source = (*subscriptions)(nil)

// Subscriptions implements api.Subscriptions.
func (s *subscriptions) Subscriptions(name string) ([]api.Subscription, error) {
	if name != "" {
		i, err := s.Show(name)
		if err != nil {
			return nil, apiError(err)
		}
		return []api.Subscription{describeSubscription(&i, true)}, nil
	}
	var all []api.Subscription
	for _, i := range s.List() {
		all = append(all, describeSubscription(&i, false))
	}
	return all, nil
}

// Find implements tunnels.Source; Watch is the store's.
func (s *subscriptions) Find(name string) (tunnels.Choice, bool) {
	list, chosen, ok := s.Profiles(name)
	if chosen >= tunnels.MaxMembers { // among those that are taken
		list[0], list[chosen], chosen = list[chosen], list[0], 0
	}
	return tunnels.Choice{Profiles: list, Chosen: chosen, From: "subscription " + name}, ok
}

// ChangeSubscription implements api.Subscriptions.
func (s *subscriptions) ChangeSubscription(ctx context.Context, q api.SubscriptionRequest) (api.Subscription, error) {
	var i subscription.Info
	var err error
	switch q.Do {
	case api.DoAdd:
		var settings subscription.Settings
		if settings, err = settingsOf(&q); err == nil {
			i, err = s.Add(ctx, settings)
		}
	case api.DoUpdate:
		i, err = s.Update(ctx, q.Name)
	case api.DoRemove:
		if err := s.Remove(q.Name); err != nil {
			return api.Subscription{}, apiError(err)
		}
		return api.Subscription{Name: q.Name}, nil
	case api.DoChoose:
		i, err = s.Choose(q.Name, q.Profile)
	default:
		err = fmt.Errorf("do %q: %w", q.Do, api.ErrBadRequest)
	}
	if err != nil {
		return api.Subscription{}, apiError(err)
	}
	return describeSubscription(&i, true), nil
}

// settingsOf reads what the user says of a subscription.
func settingsOf(q *api.SubscriptionRequest) (s subscription.Settings, err error) {
	s = subscription.Settings{
		Name: q.Name, URL: link.Secret(q.URL), Via: q.Via, UserAgent: q.UserAgent, Keep: q.Keep, Drop: q.Drop, Protocols: q.Protocols,
	}
	if q.Every != "" {
		if s.Every, err = time.ParseDuration(q.Every); err != nil {
			return s, fmt.Errorf("every %q: want a time such as 12h: %w", q.Every, api.ErrBadRequest)
		}
	}
	for _, text := range q.Rename {
		r, err := subscription.ParseRename(text)
		if err != nil {
			return s, fmt.Errorf("%w: %w", err, api.ErrBadRequest)
		}
		s.Rename = append(s.Rename, r)
	}
	return s, nil
}

// apiError adds what the API tells errors apart by.
func apiError(err error) error {
	for from, to := range map[error]error{
		subscription.ErrNotFound: api.ErrNotFound, subscription.ErrExists: api.ErrConflict, subscription.ErrInvalid: api.ErrBadRequest,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", err, to)
		}
	}
	return err
}

func describeSubscription(i *subscription.Info, profiles bool) api.Subscription {
	out := api.Subscription{
		Name: i.Name, URL: i.URL.Reveal(), Every: i.Every.Seconds(), Via: i.Via, UserAgent: i.UserAgent,
		Keep: i.Keep, Drop: i.Drop, Protocols: i.Protocols,
		Format: i.Format, Usable: len(i.Profiles), Filtered: i.Filtered, Refused: i.Refused, Reasons: i.Reasons,
		Lost: i.Lost, Fetched: i.Fetched, Checked: i.Checked, Next: i.Next, Problem: i.Problem,
		Used: i.Usage.Used, Total: i.Usage.Total, Expires: i.Usage.Expires,
	}
	for _, r := range i.Rename {
		out.Rename = append(out.Rename, r.String())
	}
	for n, p := range i.Profiles {
		if !profiles && n != i.Chosen {
			continue
		}
		f := p.Fields()
		one := api.SubscribedProfile{
			ID: p.ID, Name: p.Name, Protocol: subscription.Protocol(p.Profile), Server: link.HostPort(f.Host, f.Port),
			Transport: f.Get("type"), Security: f.Get("security"), Chosen: n == i.Chosen,
		}
		if one.Chosen {
			out.Chosen = &one
		}
		if profiles {
			out.Profiles = append(out.Profiles, one)
		}
	}
	return out
}
