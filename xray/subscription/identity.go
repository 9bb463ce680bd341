package subscription

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

// known is what a profile is recognised by after an update. Server and All are
// marks, not texts: they tell nobody a password.
type known struct {
	ID     string `json:"id"`
	Server string `json:"server"` // of protocol, host, port and credentials
	All    string `json:"all"`    // of all but the name
	Name   string `json:"name"`   // as the provider writes it
}

// markSize is how many bytes of a mark are kept, and idSize of one that is an id:
// people type those. One that is taken already gets a longer one.
const (
	markSize = 16
	idSize   = 4
)

// marker makes marks under a subscription's key.
type marker []byte

func (m marker) mark(parts ...string) string {
	h := hmac.New(sha256.New, m)
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:markSize])
}

// know returns what a profile is recognised by, without an id. The order of keys and
// the form of the link say nothing.
func (m marker) know(p link.Profile, name string) known {
	f := p.Fields()
	parts := []string{Protocol(p), f.Host, f.Port, f.User.Reveal(), f.Pass.Reveal()}
	k := known{Server: m.mark(parts...), Name: name}
	var rest []string
	for _, param := range f.Params {
		rest = append(rest, param.Key+"="+param.Value.Reveal())
	}
	slices.Sort(rest)
	k.All = m.mark(append(parts, rest...)...)
	return k
}

// carry gives ids to profiles: those of before to whom they belong, and new ones to
// the others. It first looks for what is the same in all but the name, then for the
// same server and credentials under the same name, then under another name, and at
// last for the same name, if there is one such profile before and now. What stands
// first in one list goes to what stands first in the other.
func (m marker) carry(before, now []known) {
	taken := make([]bool, len(before))
	match := func(key func(known) string, alone bool) {
		places := map[string][]int{} // of before
		for i, k := range before {
			if !taken[i] {
				places[key(k)] = append(places[key(k)], i)
			}
		}
		count := map[string]int{} // of now
		for _, k := range now {
			if k.ID == "" {
				count[key(k)]++
			}
		}
		for i := range now {
			free := places[key(now[i])]
			if now[i].ID != "" || len(free) == 0 || alone && (len(free) > 1 || count[key(now[i])] > 1) {
				continue
			}
			now[i].ID, taken[free[0]] = before[free[0]].ID, true
			places[key(now[i])] = free[1:]
		}
	}
	match(func(k known) string { return k.All + k.Name }, false)
	match(func(k known) string { return k.All }, false)
	match(func(k known) string { return k.Server + k.Name }, false)
	match(func(k known) string { return k.Server }, false)
	match(func(k known) string { return k.Name }, true)

	used := map[string]bool{}
	for _, k := range slices.Concat(before, now) {
		used[k.ID] = true
	}
	repeats := map[string]int{} // of what is the same in all
	for i := range now {
		if now[i].ID != "" {
			continue
		}
		n := repeats[now[i].All]
		for {
			id := m.mark("id", now[i].All, strconv.Itoa(n))[:2*idSize]
			if n++; !used[id] {
				now[i].ID, used[id] = id, true
				break
			}
		}
		repeats[now[i].All] = n
	}
}

// Protocol returns the protocol of a profile, as links spell it first.
func Protocol(p link.Profile) string { return link.Profile{Proxy: p.Proxy}.Protocol() }

func protocolNames() []string {
	return strings.Fields("vless vmess trojan ss socks http hysteria2 wireguard")
}

// server returns where a profile's server is.
func server(p link.Profile) string { return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port))) }
