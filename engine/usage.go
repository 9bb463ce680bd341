package engine

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Usage counts the traffic of a policy's quotas, each from reset to reset. It has
// one owner. It reads no clock: every time is handed in.
//
//	usage := engine.NewUsage(program, time.Local)
//	usage.Add(&f, 1500, now)
//	world.Quotas = usage.Exceeded(now)
type Usage struct {
	prog  *Program
	local *time.Location
	used  []used // by quota
}

// used is what a quota's flows carried in one period.
type used struct {
	since time.Time // when the period began
	bytes int64
}

// NewUsage returns counters at zero. local is the zone of resets.
func NewUsage(p *Program, local *time.Location) *Usage {
	return &Usage{prog: p, local: local, used: make([]used, len(p.policy.Quotas))}
}

// Add counts bytes that a flow carried, for each quota whose condition is true of
// it by what is known now. What the flow carried before is not counted again.
func (u *Usage) Add(f *flow.Flow, bytes int64, now time.Time) {
	if len(u.used) == 0 || bytes <= 0 {
		return
	}
	c := facts{flow: f, prog: u.prog, world: &state.World{}}
	c.setNames(f)
	for i := range u.used {
		if c.expr(&u.prog.policy.Quotas[i].Match) == isTrue {
			n := u.at(i, now)
			n.bytes += min(bytes, math.MaxInt64-n.bytes)
		}
	}
}

// Exceeded tells of each quota whether its limit is reached, in the policy's order.
func (u *Usage) Exceeded(now time.Time) []state.Truth {
	list := make([]state.Truth, len(u.used))
	for i := range list {
		list[i] = state.TruthOf(u.at(i, now).bytes >= u.prog.policy.Quotas[i].Limit)
	}
	return list
}

// Used returns the bytes of a quota's present period, and when it began.
func (u *Usage) Used(quota int, now time.Time) (bytes int64, since time.Time) {
	n := u.at(quota, now)
	return n.bytes, n.since
}

// at returns a quota's counter, at zero if a period has begun since it was used. A
// wall clock that is put back begins none.
func (u *Usage) at(quota int, now time.Time) *used {
	n := &u.used[quota]
	if since := u.prog.policy.Quotas[quota].PeriodStart(now, u.local); since.After(n.since) {
		*n = used{since: since}
	}
	return n
}

// Carry takes over what old counted for quotas of the same name and period.
func (u *Usage) Carry(old *Usage) {
	for i := range u.used {
		q := &u.prog.policy.Quotas[i]
		for j := range old.used {
			if o := &old.prog.policy.Quotas[j]; o.Name == q.Name && o.Per == q.Per && o.Reset == q.Reset {
				u.used[i] = old.used[j]
			}
		}
	}
}

// The form that Encode writes.
type usageFile struct {
	Version int          `json:"version"`
	Quotas  []quotaUsage `json:"quotas"`
}

type quotaUsage struct {
	Name  string    `json:"name"`
	Per   string    `json:"per"`
	Reset int       `json:"reset"` // minutes after midnight
	Since time.Time `json:"since"`
	Bytes int64     `json:"bytes"`
}

const usageVersion = 1

// Encode returns the counters as JSON.
func (u *Usage) Encode() []byte {
	file := usageFile{Version: usageVersion, Quotas: []quotaUsage{}}
	for i, n := range u.used {
		q := &u.prog.policy.Quotas[i]
		file.Quotas = append(file.Quotas, quotaUsage{q.Name, q.Per.String(), q.Reset, n.since, n.bytes})
	}
	b, err := json.Marshal(file)
	if err != nil {
		panic(err) // times of the years 1 to 9999: it can't fail
	}
	return b
}

// Decode takes over what Encode wrote, for the quotas that are still of the same
// name and period; of the others it says nothing. On an error nothing changes.
func (u *Usage) Decode(b []byte) error {
	var file usageFile
	if err := json.Unmarshal(b, &file); err != nil {
		return fmt.Errorf("read the usage of quotas: %w", err)
	}
	if file.Version != usageVersion {
		return fmt.Errorf("read the usage of quotas: version %d is not known", file.Version)
	}
	for i := range u.used {
		q := &u.prog.policy.Quotas[i]
		for _, n := range file.Quotas {
			if n.Name == q.Name && n.Per == q.Per.String() && n.Reset == q.Reset && n.Bytes >= 0 {
				u.used[i] = used{n.Since, n.Bytes}
			}
		}
	}
	return nil
}

// Truth evaluates a predicate over the world alone.
func Truth(p *rules.Pred, w *state.World) state.Truth {
	c := facts{flow: &flow.Flow{}, world: w, state: w.Global}
	c.setWorld(c.flow, w)
	return truthOf(c.pred(p))
}
