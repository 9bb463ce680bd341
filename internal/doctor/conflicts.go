package doctor

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/actions"
)

// What can be not known as a whole. A check says "free" only of what was looked at.
const (
	WhatNft     = "nftables ruleset"
	WhatLegacy  = "iptables-legacy rules"
	WhatRules   = "ip rules"
	WhatRoutes  = "routing tables"
	WhatLedger  = "ledger"
	WhatQdiscs  = "queueing disciplines"
	WhatLinks   = "devices, addresses and routes"
	WhatProcess = "processes"
)

func (f *Facts) knows(what ...string) bool {
	return !slices.ContainsFunc(f.NotKnown, func(n NotKnown) bool { return slices.Contains(what, n.What) })
}

const (
	mangle = -150 // NF_IP_PRI_MANGLE: where netpolicy's chains hook
	// Chains strictly between connection tracking and destination NAT are neighbours.
	nearBefore, nearAfter = -200, -100
	// netpolicy's labels, see actions: those of dscp and mark.
	firstLabel, lastLabel = 64, 127
)

// conflicts compares netpolicy's numbers with what others use.
func (r *report) conflicts(f *Facts) {
	r.ownTable(f)
	r.leftovers(f)
	r.packetMarks(f)
	r.connMarks(f)
	r.tableBlock(f)
	r.priorities(f)
	r.hooks(f)
	r.qdiscs(f)
}

func (r *report) ownTable(f *Facts) {
	for _, t := range f.Nft {
		if t.Family != "inet" || t.Name != actions.TableName {
			continue
		}
		switch {
		case !f.Own.Known:
			r.add("foreign-table", Warning, nil, "table inet %s is there; whose it is, is not known", actions.TableName)
		case f.Own.Table == "":
			r.add("foreign-table", Error, nil, "table inet %s is there, and the ledger in %s does not list it", actions.TableName, f.Own.Folder)
		default:
			r.add("own-table", OK, nil, "table inet %s is there, as the ledger in %s says", actions.TableName, f.Own.Folder)
		}
	}
}

// leftovers are rules and routes with our protocol number that nobody lists.
func (r *report) leftovers(f *Facts) {
	if !f.Own.Known {
		return
	}
	var list []string
	for i := range f.Rules {
		if rule := &f.Rules[i]; rule.Protocol == actions.RouteProto && !f.Own.lists(rule) {
			list = append(list, rule.String())
		}
	}
	for _, t := range f.Tables {
		listed := slices.ContainsFunc(f.Own.Routes, func(o actions.IPRoute) bool { return o.Table == t.Table && o.Family == t.Family })
		if own := t.Routes - t.Others; own > 0 && !listed {
			list = append(list, fmt.Sprintf("%s in ip %s route table %d", plural(own, "route"), t.Family, t.Table))
		}
	}
	if len(list) > 0 {
		r.add("leftover", Warning, list, "rules or routes of netpolicy that the ledger in %s does not list", f.Own.Folder)
	}
}

// foreign reports whether the rule is another's; the kernel's own three are nobody's.
func (f *Facts) foreign(rule *Rule) bool {
	return rule.Protocol != actions.RouteProto && !f.Own.lists(rule)
}

// packetMarks looks for who else uses the bits of mark_mask.
func (r *report) packetMarks(f *Facts) {
	mask := r.want.MarkMask
	var used, overwritten, compared, others []string
	for i := range f.Rules {
		rule := &f.Rules[i]
		if !rule.Marked || !f.foreign(rule) {
			continue
		}
		text := owned(ownerOfRule(rule), rule.String())
		switch {
		case rule.Mask&mask == 0:
			others = append(others, text)
		case rule.Mark&mask != 0:
			used = append(used, text)
		case rule.Not:
			others = append(others, text) // packets that netpolicy marks are what it is for already
		default:
			compared = append(compared, text)
		}
	}
	for i := range f.Marks {
		m := &f.Marks[i]
		if m.Kind != PacketMark || f.Own.ours(&m.Chain) {
			continue
		}
		text := owned(ownerOfUse(m), m.String())
		late := m.Set && slices.Contains([]string{"forward", "input", "postrouting"}, m.Chain.Hook) // the route is chosen already
		switch {
		case m.Mask&mask == 0, late:
			others = append(others, text)
		case !m.Any && m.Value&mask != 0:
			used = append(used, text)
		case m.Set:
			overwritten = append(overwritten, text)
		default:
			compared = append(compared, text)
		}
	}
	if len(used) > 0 {
		r.add("mark-mask-used", Error, unique(used), "others use bits of mark_mask %#x", mask)
	}
	if len(overwritten) > 0 {
		r.add("mark-mask-overwritten", Warning, unique(overwritten), "others overwrite the bits of mark_mask %#x", mask)
	}
	if len(compared) > 0 {
		r.add("mark-mask-compared", Warning, unique(compared), "others ask for a whole mark, with the bits of mark_mask %#x", mask)
	}
	if len(used)+len(overwritten)+len(compared) == 0 && f.knows(WhatNft, WhatLegacy, WhatRules) {
		r.add("mark-mask-free", OK, nil, "nobody else uses the packet mark's bits %#x", mask)
	}
	for i := range f.Marks {
		m := &f.Marks[i]
		if m.Kind == ConnMark && m.Mask&r.want.CTMask == 0 && !f.Own.ours(&m.Chain) {
			others = append(others, owned(ownerOfUse(m), m.String()))
		}
	}
	if len(others) > 0 {
		r.add("marks-of-others", Info, unique(others), "others use other bits, or use them where it does not matter")
	}
}

// connMarks looks for who else uses the bits of ct_mask, and our labels.
func (r *report) connMarks(f *Facts) {
	mask := r.want.CTMask
	var used, overwritten, labels []string
	for i := range f.Marks {
		m := &f.Marks[i]
		if f.Own.ours(&m.Chain) {
			continue
		}
		text := owned(ownerOfUse(m), m.String())
		switch {
		case m.Kind == ConnLabel && m.Value >= firstLabel && m.Value <= lastLabel:
			labels = append(labels, text)
		case m.Kind != ConnMark || m.Mask&mask == 0:
		case !m.Any && m.Value&mask != 0:
			used = append(used, text)
		case m.Set:
			overwritten = append(overwritten, text)
		}
	}
	if len(used) > 0 {
		r.add("ct-mask-used", Error, unique(used), "others use bits of ct_mask %#x", mask)
	}
	if len(overwritten) > 0 {
		r.add("ct-mask-overwritten", Warning, unique(overwritten), "others overwrite the bits of ct_mask %#x", mask)
	}
	if len(used)+len(overwritten) == 0 && f.knows(WhatNft, WhatLegacy) {
		r.add("ct-mask-free", OK, nil, "nobody else writes the connection mark's bits %#x", mask)
	}
	if len(labels) > 0 {
		s := Error
		if r.want.File != "" && !r.want.Labels {
			s = Info
		}
		r.add("ct-label-used", s, unique(labels), "others use connection labels %d to %d", firstLabel, lastLabel)
	}
}

func (r *report) tableBlock(f *Facts) {
	var list []string
	for _, t := range f.Tables {
		if t.Table < r.want.TableBase || t.Table > r.want.lastTable() || t.Others == 0 {
			continue
		}
		for _, text := range t.Foreign {
			list = append(list, fmt.Sprintf("ip %s route table %d: %s", t.Family, t.Table, text))
		}
		if more := t.Others - len(t.Foreign); more > 0 {
			list = append(list, fmt.Sprintf("ip %s route table %d: %d more", t.Family, t.Table, more))
		}
	}
	switch {
	case len(list) > 0:
		r.add("table-block-used", Error, list, "routes of others in netpolicy's tables %d to %d", r.want.TableBase, r.want.lastTable())
	case f.knows(WhatRoutes):
		r.add("table-block-free", OK, nil, "no routes of others in tables %d to %d", r.want.TableBase, r.want.lastTable())
	}
}

func (r *report) priorities(f *Facts) {
	var same, before []string
	first, last := r.want.RulePriority, r.want.lastPriority()
	for i := range f.Rules {
		rule := &f.Rules[i]
		switch {
		case !f.foreign(rule):
		case rule.Priority >= first && rule.Priority <= last:
			same = append(same, owned(ownerOfRule(rule), rule.String()))
		case rule.Priority > 0 && rule.Priority < first && rule.Broad:
			if t := f.table(rule.Family, rule.Table); t != nil && t.Default {
				before = append(before, owned(ownerOfRule(rule), rule.String()))
			}
		}
	}
	if len(same) > 0 {
		r.add("rule-priority-used", Warning, same, "rules of others at netpolicy's priorities %d to %d", first, last)
	} else if f.knows(WhatRules) {
		r.add("rule-priority-free", OK, nil, "no rules of others at priorities %d to %d", first, last)
	}
	if len(before) > 0 {
		r.add("rule-before", Warning, before, "rules before netpolicy's (%d) that lead everything away", first)
	}
}

func (r *report) hooks(f *Facts) {
	var near []*Chain
	for i := range f.Chains {
		c := &f.Chains[i]
		if (c.Hook == "prerouting" || c.Hook == "output") && c.Priority > nearBefore && c.Priority < nearAfter &&
			slices.Contains([]string{"ip", "ip6", "inet"}, c.Family) && !f.Own.ours(c) {
			near = append(near, c)
		}
	}
	slices.SortFunc(near, compareChains)
	var list []string
	for _, c := range near {
		order := "at the same priority"
		if c.Priority < mangle {
			order = "before"
		} else if c.Priority > mangle {
			order = "after"
		}
		list = append(list, fmt.Sprintf("%s: %s, priority %d, %s", c.where(), c.Hook, c.Priority, order))
	}
	if len(list) > 0 {
		r.add("hook-order", Info, list, "chains of others near netpolicy's hooks")
	}
}

// plain are the queueing disciplines that devices have when nobody shapes them;
// clsact holds filters of whoever comes, side by side.
var plain = []string{"noqueue", "pfifo_fast", "pfifo", "mq", "fq", "fq_codel", "noop", "clsact"}

func (r *report) qdiscs(f *Facts) {
	var list []string
	s := Info
	for _, q := range f.Qdiscs {
		if slices.Contains(plain, q.Kind) || !slices.Contains(r.uplinkDevs(f), q.Dev) {
			continue
		}
		list = append(list, fmt.Sprintf("%s: %s", q.Dev, q.Kind))
		if q.Ingress && r.want.Throttles {
			s = Warning // clsact can't stand beside it
		}
	}
	if len(list) > 0 {
		r.add("qdisc-of-others", s, list, "queueing disciplines on uplinks")
	}
}

// uplinkDevs are the devices of the policy's uplinks, or those with a default route.
func (r *report) uplinkDevs(f *Facts) []string {
	var list []string
	for _, u := range r.want.Uplinks {
		list = append(list, u.Dev)
	}
	if len(list) == 0 {
		for _, d := range f.Host.Defaults {
			list = append(list, d.Dev)
		}
	}
	return unique(list)
}

// unique returns the texts in order, each once.
func unique(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

func owned(owner, text string) string {
	if owner == "" {
		return text
	}
	return text + " (" + owner + ")"
}

// The numbers that other programs use.
const (
	maskTailscale = 0xff0000
	maskMwan3     = 0x3f00
	markDae       = 0x8000000
	tableTailnet  = 52
	markWgQuick   = 0xca6c // 51820; it takes the port's number for mark and table
	tableSingBox  = 2022
	firstTun      = 9000 // mihomo and sing-box: the rules of auto-route
	lastTun       = 9010
)

// ownerOfRule guesses who made a rule, "" if it has no idea.
func ownerOfRule(r *Rule) string {
	switch {
	case r.Marked && r.Mask == maskTailscale, r.Table == tableTailnet:
		return "tailscale"
	case r.Marked && r.Mask == maskMwan3:
		return "mwan3"
	case r.Marked && r.Mask&r.Mark == markDae:
		return "dae"
	case r.Marked && r.Mark == markWgQuick:
		return "wg-quick"
	case r.Priority >= firstTun && r.Priority <= lastTun:
		return "a TUN proxy"
	default:
		return ""
	}
}

// ownerOfUse guesses who made a rule of a packet filter.
func ownerOfUse(m *MarkUse) string {
	for _, o := range []struct{ prefix, name string }{
		{"DOCKER", "Docker"},
		{"KUBE-", "Kubernetes"},
		{"cali-", "Calico"},
		{"CILIUM_", "Cilium"},
		{"ts-", "tailscale"},
		{"mwan3_", "mwan3"},
		{"ufw", "ufw"},
		{"firewalld", "firewalld"},
		{"wg-quick", "wg-quick"},
	} {
		if strings.HasPrefix(m.Chain.Name, o.prefix) || strings.HasPrefix(m.Chain.Table, o.prefix) {
			return o.name
		}
	}
	switch {
	case m.Kind == ConnLabel:
		return ""
	case m.Mask == maskTailscale:
		return "tailscale"
	case m.Mask == maskMwan3:
		return "mwan3"
	case !m.Any && m.Value == markDae:
		return "dae"
	default:
		return ""
	}
}
