package tunnels

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
)

func logFile(dir string) string { return filepath.Join(dir, "xray.log") }

// made is a configuration with what its parts stand for.
type made struct {
	config   process.Config
	groups   []group
	problems []string
	choices  map[string]Choice // what each name stands for
	links    map[string]string // of the profiles, by the tags of their outbounds
}

// slug is a route's name as a tag: itself where it can be one.
func slug(route string) string {
	plain := route != "" && len(route) <= 32 && !strings.ContainsFunc(route, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	if plain {
		return route
	}
	sum := sha256.Sum256([]byte(route))
	return "route_" + hex.EncodeToString(sum[:8])
}

// password is what the server of a route asks for: who could use it without would leave
// past the policy. It hangs on the stamp, which is random, so that the record has no more
// secrets than that one.
func (n note) password(slug string) string {
	h := hmac.New(sha256.New, n.Stamp)
	h.Write([]byte("password of " + slug))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// builder gathers what a configuration is made of.
type builder struct {
	made
	v        config.Version
	profiles []link.Profile
	marks    []uint32
	index    map[string]int // of a profile with a mark
	used     [][]int        // the profiles of each group
	bad      refusals
}

// refusals are profiles whose outbounds Xray itself has refused, by their links, and
// why. One of them would cost the whole configuration.
type refusals map[string]string

// add takes up the outbound that an error of Xray's test is about; false if it is about
// none. Xray names it by its tag, of which the stamp is what no secret of a link can hide.
func (r refusals) add(m made, err error) bool {
	if !errors.Is(err, process.ErrRefused) {
		return false
	}
	why := err.Error()
	for tag, l := range m.links {
		stamp := tag[max(0, len(tag)-stampSize):]
		_, after, found := strings.Cut(why, stamp)
		if !found {
			continue
		}
		if _, known := r[l]; known {
			return false
		}
		r[l] = "Xray refuses it: " + strings.TrimSpace(after[strings.LastIndex(after, ">")+1:])
		return true
	}
	return false
}

// stampSize is how much of a tag's end no other tag has: -01234567. of out-Home-01234567.
const stampSize = 10

// sift is sift without what Xray has refused, which it returns apart.
func (b *builder) sift(profiles []link.Profile) (runnable []int, why, refused []string) {
	all, why := sift(b.v, profiles)
	for _, i := range all {
		reason, bad := b.bad[profiles[i].Format()]
		switch {
		case !bad:
			runnable = append(runnable, i)
		case len(refused) < maxProblems:
			refused = append(refused, address(profiles[i])+": "+reason)
		}
	}
	return runnable, why, refused
}

// build makes the configuration of routes; without a proxy that can be run there is none.
func (t *Tunnels) build(v config.Version, routes []Route, p *ports) (made, error) {
	b := builder{made: made{choices: map[string]Choice{}, links: map[string]string{}}, v: v, index: map[string]int{}, bad: t.bad}
	o := config.Options{APISocket: process.API, Stamp: p.note.Stamp, Observatory: config.Observatory{URL: t.o.Probe, Interval: t.o.Every}}
	slugs := map[string]bool{}
	for _, r := range routes {
		g := group{Route: r}
		c, runnable := b.find(r, t.o.Source, t.last)
		members := b.members(&g, c, runnable)
		s := slug(r.Name)
		slugs[s] = true
		var err error
		g.server = Server{User: "netpolicy", Password: p.note.password(s)}
		if g.server.At, err = p.of(s); err != nil {
			return b.made, err
		}
		o.Groups = append(o.Groups, config.Group{Name: s, Members: members})
		o.Inbounds = append(o.Inbounds, config.Inbound{
			Name: s, Kind: config.Mixed, Listen: g.server.At, User: g.server.User, Password: link.Secret(g.server.Password), Group: s,
		})
		b.used, b.groups = append(b.used, members), append(b.groups, g)
	}
	p.keep(slugs)
	if len(b.profiles) == 0 {
		return b.made, nil
	}
	o.Marks = b.marks
	data, tags, findings := config.BuildTagged(v, b.profiles, o)
	if data == nil {
		i := slices.IndexFunc(findings, refused)
		return b.made, fmt.Errorf("build the configuration of xray: %s", findings[max(i, 0)])
	}
	b.tag(tags)
	for i, tag := range tags {
		b.links[tag] = b.profiles[i].Format()
	}
	n, err := json.Marshal(p.note)
	if err != nil {
		return b.made, err
	}
	b.config = process.Config{Data: data, Note: n}
	return b.made, nil
}

// find returns what a route's name stands for now, and which of it can be run. What it
// stood for last holds where the source has lost it, or nothing of it can be run.
func (b *builder) find(r Route, source Source, last map[string]Choice) (Choice, []int) {
	c, ok := source.Find(r.Profile)
	runnable, why, refused := b.sift(c.Profiles)
	switch {
	case len(runnable) > 0:
		why = nil // of those that can't be run the others stand
	case !ok:
		why = []string{fmt.Sprintf("there is no proxy called %q", r.Profile)}
	case len(c.Profiles) == 0:
		why = []string{c.From + " has no proxy yet"}
	}
	for _, w := range slices.Concat(why, refused) {
		b.problems = append(b.problems, fmt.Sprintf("route %s: %s", r.Name, w))
	}
	if len(runnable) > 0 {
		b.choices[r.Profile] = c
		return c, runnable
	}
	old := last[r.Profile]
	runnable, _, _ = b.sift(old.Profiles)
	return old, runnable
}

// preferred stands for the tag of the user's choice until tags are known.
const preferred = "preferred"

// members enters the profiles of a route, each once for each mark.
func (b *builder) members(g *group, c Choice, runnable []int) (members []int) {
	for _, i := range runnable {
		key := fmt.Sprintf("%d %s", g.Mark, c.Profiles[i].Format())
		k, there := b.index[key]
		if !there {
			k = len(b.profiles)
			b.index[key] = k
			b.profiles, b.marks = append(b.profiles, c.Profiles[i]), append(b.marks, g.Mark)
		}
		if slices.Contains(members, k) {
			continue
		}
		members = append(members, k)
		m := member{name: c.Profiles[i].Name, address: address(c.Profiles[i])}
		if i == c.Chosen {
			m.tag = preferred
		}
		g.members = append(g.members, m)
	}
	return members
}

// tag gives members the tags of their outbounds.
func (b *builder) tag(tags []string) {
	for i := range b.groups {
		g := &b.groups[i]
		for k, j := range b.used[i] {
			if g.members[k].tag == preferred {
				g.chosen = tags[j]
			}
			g.members[k].tag = tags[j]
		}
	}
}

func refused(f config.Finding) bool { return config.Refused([]config.Finding{f}) }

// retryAfter is when what could not be brought about is tried again without a reason.
const retryAfter = time.Minute

// bring has Xray run what is wanted now.
func (t *Tunnels) bring(ctx context.Context, p *ports) {
	err := t.change(ctx, p)
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	old := t.problem
	t.problem, t.retry = "", time.Time{}
	if err != nil {
		t.problem, t.retry = err.Error(), time.Now().Add(retryAfter)
	}
	now := t.problem
	t.mu.Unlock()
	if now != "" && now != old {
		t.o.Log.Error("xray does not run what the policy asks for", "error", now)
	}
	t.report(t.xray.Status().State == process.Running)
}

func (t *Tunnels) change(ctx context.Context, p *ports) error {
	v, err := t.ask(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	wanted, before, groups := t.wanted, t.applied, t.groups
	t.mu.Unlock()
	m, err := t.build(v, wanted, p)
	t.mu.Lock()
	told := t.problems
	t.problems = m.problems
	t.mu.Unlock()
	if err != nil {
		return err
	}
	for _, w := range m.problems {
		if !slices.Contains(told, w) {
			t.o.Log.Warn("proxy not used", "why", w)
		}
	}
	if m.config.Data == nil {
		return fmt.Errorf("no proxy can be run")
	}
	carry(m.groups, groups)
	added, gone, live := compare(before, m.config.Data)
	t.use(m.groups)
	switch {
	case live && added == nil && len(gone) == 0:
	case live:
		err = t.xray.Amend(ctx, m.config, t.missing(ctx, added))
	default:
		err = t.xray.Apply(ctx, m.config)
	}
	if err != nil {
		if before != nil {
			t.use(groups) // what ran before runs on, or again
		}
		if t.bad.add(m, err) {
			t.poke() // again without it
		}
		return err
	}
	maps.Copy(t.last, m.choices)
	t.mu.Lock()
	t.applied = m.config.Data
	t.mu.Unlock()
	if live {
		t.steer(ctx, t.client)
		for _, tag := range gone {
			if err := t.client.RemoveOutbound(ctx, tag); err != nil {
				t.o.Log.Warn("proxy not taken out of xray", "proxy", tag, "error", err)
			}
		}
	}
	return nil
}

// missing returns those of the outbounds that Xray does not have: it may have kept one
// that was to go, or have got a part of them before, and refuses all for one it has.
// A tag says what the outbound is, so that the same tag is the same outbound.
func (t *Tunnels) missing(ctx context.Context, added []byte) []byte {
	if added == nil {
		return nil
	}
	ask, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	there, err := t.client.Outbounds(ask)
	if err != nil {
		return added // Xray does not run, or says so itself
	}
	var file struct {
		Outbounds []map[string]any `json:"outbounds"`
	}
	if json.Unmarshal(added, &file) != nil {
		return added
	}
	file.Outbounds = slices.DeleteFunc(file.Outbounds, func(o map[string]any) bool {
		tag, _ := o["tag"].(string)
		return slices.Contains(there, tag)
	})
	if len(file.Outbounds) == 0 {
		return nil
	}
	rest, err := json.Marshal(file)
	if err != nil {
		return added
	}
	return rest
}

// use has routes find their servers.
func (t *Tunnels) use(groups []group) {
	servers := map[string]Server{}
	for _, g := range groups {
		if len(g.members) > 0 {
			servers[g.Name] = g.server
		}
	}
	t.mu.Lock()
	t.groups = groups
	t.mu.Unlock()
	t.servers.Store(&servers)
}

// carry takes over what is known of members that stay.
func carry(to, from []group) {
	for i := range to {
		j := slices.IndexFunc(from, func(g group) bool { return g.Name == to[i].Name })
		if j < 0 {
			continue
		}
		to[i].current, to[i].told = from[j].current, from[j].told
		for k := range to[i].members {
			m := &to[i].members[k]
			if n := slices.IndexFunc(from[j].members, func(o member) bool { return o.tag == m.tag }); n >= 0 {
				m.seen, m.alive, m.delay = from[j].members[n].seen, from[j].members[n].alive, from[j].members[n].delay
			}
		}
	}
}

// compare says how one configuration becomes another while Xray runs: the outbounds to
// add, as JSON, and the tags of those to remove afterwards. live is false where that does
// not do: inbounds or rules are others.
func compare(before, after []byte) (added []byte, gone []string, live bool) {
	if before == nil {
		return nil, nil, false
	}
	if bytes.Equal(before, after) {
		return nil, nil, true
	}
	old, oldOut, ok1 := apart(before)
	now, nowOut, ok2 := apart(after)
	if !ok1 || !ok2 || !reflect.DeepEqual(old, now) {
		return nil, nil, false
	}
	var list []any
	for tag, o := range nowOut {
		was, there := oldOut[tag]
		switch {
		case !there:
			list = append(list, o)
		case !reflect.DeepEqual(was, o):
			return nil, nil, false
		}
	}
	for tag := range oldOut {
		if _, there := nowOut[tag]; !there {
			gone = append(gone, tag)
		}
	}
	slices.Sort(gone)
	if list != nil {
		var err error
		if added, err = json.Marshal(map[string]any{"outbounds": list}); err != nil {
			return nil, nil, false
		}
	}
	return added, gone, true
}

// apart divides a configuration into its outbounds and the rest. Whom balancers choose
// among is a matter of the outbounds: they are told.
func apart(data []byte) (rest map[string]any, outbounds map[string]any, ok bool) {
	if json.Unmarshal(data, &rest) != nil {
		return nil, nil, false
	}
	list, _ := rest["outbounds"].([]any)
	outbounds = map[string]any{}
	for _, e := range list {
		o, _ := e.(map[string]any)
		tag, _ := o["tag"].(string)
		outbounds[tag] = o
	}
	delete(rest, "outbounds")
	routing, _ := rest["routing"].(map[string]any)
	balancers, _ := routing["balancers"].([]any)
	for _, e := range balancers {
		if b, ok := e.(map[string]any); ok {
			delete(b, "selector")
			delete(b, "fallbackTag")
		}
	}
	return rest, outbounds, true
}
