//go:build amd64 || arm64

package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

// refuser keeps the kernel's maps of verdicts. Two generations of them take turns:
// one is in use while the other is filled, and one store switches over, so that no
// connection sees a part of each.
type refuser struct {
	loaded     *loaded
	generation uint32
	logs       [2][]string // the log prefixes of each generation
}

// Enforce has connections refused as c says from now on, or from when Run runs; nil:
// none. It may be called at any time. Where verdicts are not served (Features),
// that is its error, and all is left to the kernel's table.
func (s *Source) Enforce(c *actions.Connect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = c
	if s.refuser == nil {
		for _, f := range s.Features() {
			if f.Fact == factVerdicts {
				return f.Err
			}
		}
		return nil
	}
	return s.refuser.set(c)
}

// begin brings about what was wanted before Run.
func (s *Source) begin(l *loaded, list []Feature) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(list, func(f Feature) bool { return f.Fact == factVerdicts && f.Err != nil }) {
		return nil
	}
	s.refuser = &refuser{loaded: l}
	if s.wanted == nil {
		return nil
	}
	return s.refuser.set(s.wanted)
}

func (s *Source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuser = nil
}

// set fills the generation that is not in use and switches over.
func (r *refuser) set(c *actions.Connect) error {
	if c == nil || len(c.Lists) <= 1 {
		return r.use(0)
	}
	next := r.generation + 1
	if next == 0 {
		next = 2 // 0 is for none, and this is where 0 would be
	}
	if err := r.fill(next&1, c); err != nil {
		return fmt.Errorf("fill the maps of verdicts: %w", err)
	}
	if err := r.loaded.shared.Variables[observeVarMarkMask].Set(c.Mask); err != nil {
		return fmt.Errorf("set the mark's mask: %w", err)
	}
	var marks [actions.MaxMarks]uint32
	copy(marks[:], c.Marks)
	if err := r.loaded.shared.Variables[observeVarOwnMarks].Set(marks); err != nil {
		return fmt.Errorf("set the marks: %w", err)
	}
	r.generation = next
	return r.use(next)
}

func (r *refuser) use(generation uint32) error {
	if err := r.loaded.shared.Variables[observeVarGeneration].Set(generation); err != nil {
		return fmt.Errorf("switch the maps of verdicts: %w", err)
	}
	return nil
}

// fill makes the maps of a generation.
func (r *refuser) fill(slot uint32, c *actions.Connect) error {
	r.logs[slot] = nil
	var keys4 []observeKey4
	var keys6 []observeKey6
	var lists4, lists6 []uint32
	for _, d := range c.Dst {
		switch a := d.Prefix.Addr(); {
		case a.Is4():
			keys4 = append(keys4, observeKey4{Bits: uint32(d.Prefix.Bits()), Addr: words(a)[0]})
			lists4 = append(lists4, uint32(d.List))
		default:
			keys6 = append(keys6, observeKey6{Bits: uint32(d.Prefix.Bits()), Addr: words(a)})
			lists6 = append(lists6, uint32(d.List))
		}
	}
	var ids []uint32
	var lists []observeList
	for i, list := range c.Lists[1:] {
		ids, lists = append(ids, uint32(i+1)), append(lists, r.list(slot, list))
	}
	var names []observeName
	for _, p := range c.Programs {
		var n observeName
		copy(n.Comm[:], p)
		names = append(names, n)
	}
	return errors.Join(
		replace(r.loaded, observeMapDst4, slot, keys4, lists4),
		replace(r.loaded, observeMapDst6, slot, keys6, lists6),
		replace(r.loaded, observeMapLists, slot, ids, lists),
		replace(r.loaded, observeMapPrograms, slot, names, counted(len(names))),
		replace(r.loaded, observeMapUsers, slot, c.Users, counted(len(c.Users))),
	)
}

// list returns a list as the kernel has it.
func (r *refuser) list(slot uint32, list []actions.Refusal) (out observeList) {
	for i, x := range list[:min(len(list), len(out.Entries))] {
		e := &out.Entries[i]
		e.Lo, e.Hi, e.Proto = x.Lo, x.Hi, x.Proto
		e.Program, e.User = uint16(x.Program), uint16(x.User) // AnyName is ANY, all ones
		if x.Log != "" {
			at := slices.Index(r.logs[slot], x.Log)
			if at < 0 {
				at = len(r.logs[slot])
				r.logs[slot] = append(r.logs[slot], x.Log)
			}
			e.Log, e.Rule = 1, uint32(at)
		}
		out.N++
	}
	return out
}

// counted returns the numbers of n names.
func counted(n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = uint32(i + 1)
	}
	return list
}

// words returns an address as the kernel's programs have it.
func words(a netip.Addr) (w [4]uint32) {
	for i, b := 0, a.AsSlice(); i < len(b)/4; i++ {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// replace puts a new map with these elements into a slot.
func replace[K, V any](l *loaded, name string, slot uint32, keys []K, values []V) error {
	spec := l.spec.Maps[name].InnerMap.Copy()
	spec.MaxEntries = uint32(max(len(keys), 1))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	defer func() { _ = m.Close() }() // the slot holds it
	for i := range keys {
		if err := m.Put(&keys[i], &values[i]); err != nil {
			return fmt.Errorf("fill %s: %w", name, err)
		}
	}
	if err := l.shared.Maps[name].Put(slot, m); err != nil {
		return fmt.Errorf("use %s: %w", name, err)
	}
	return nil
}

// kindRefused is a record of a refusal, as in bpf/copy.h.
const kindRefused = 2

// refused tells of a connection that was refused by a rule that logs. It has not
// begun: its own address is not known, and its port only where the program chose it.
func (r *run) refused(e *observeRefused) {
	f := flow.Flow{
		Proto: flow.Some(flow.Proto(e.Proto)),
		Dst:   flow.Some(address(e.Remote, e.V6 != 0)), DstPort: flow.Some(e.Rport),
	}
	if e.Lport != 0 {
		f.SrcPort = flow.Some(e.Lport)
	}
	r.programs.describe(&f, &e.Owner)
	r.emit(inspector.Event{
		Kind: inspector.Logged, At: time.Now(), Source: r.source.Name(), Flow: f,
		Prefix: r.source.logPrefix(e.Generation, e.Rule), PID: e.Owner.Pid,
	})
}

// logPrefix returns the log prefix that a generation had for a rule.
func (s *Source) logPrefix(generation, rule uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuser == nil {
		return ""
	}
	if logs := s.refuser.logs[generation&1]; int(rule) < len(logs) {
		return logs[rule]
	}
	return ""
}
