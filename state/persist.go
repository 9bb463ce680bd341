package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	snapshotVersion = 1
	// maxAge is how old a state file may be to be believed.
	maxAge = 5 * time.Minute
	// maxSnapshot bounds a state file: 1,000 uplinks fit with room to spare.
	maxSnapshot = 4 << 20
	// maxTime keeps sums of times from overflowing (36 years).
	maxTime = time.Duration(1 << 60)
)

// The snapshot is the machine as JSON. Times are nanoseconds on the machine's
// clock, RTTs microseconds.
type snapshot struct {
	Version     int              `json:"version"`
	Policy      string           `json:"policy"`
	Boot        string           `json:"boot"`
	Clock       time.Duration    `json:"clock_ns"`
	Started     bool             `json:"started"`
	Global      string           `json:"global"`
	GlobalSince time.Duration    `json:"global_since_ns"`
	Forced      *forcedSnapshot  `json:"forced,omitempty"`
	Uplinks     []uplinkSnapshot `json:"uplinks"`
	Groups      []choiceSnapshot `json:"groups"`
}

type forcedSnapshot struct {
	To     string        `json:"to"`
	Since  time.Duration `json:"since_ns"`
	Until  time.Duration `json:"until_ns"`
	Reason string        `json:"reason"`
}

type uplinkSnapshot struct {
	Name       string          `json:"name"`
	State      string          `json:"state"`
	Since      time.Duration   `json:"since_ns"`
	Good       int             `json:"good"`
	Bad        int             `json:"bad"`
	Dead       int             `json:"dead"`
	Penalty    int             `json:"penalty"`
	HalvedAt   time.Duration   `json:"halved_at_ns"`
	Suppressed bool            `json:"suppressed"`
	HoldUntil  time.Duration   `json:"hold_until_ns"`
	Known      bool            `json:"known"`
	Down       bool            `json:"down"`
	Started    bool            `json:"started"`
	Heard      time.Duration   `json:"heard_ns"`
	Missed     int             `json:"missed"`
	Rounds     [][4]int64      `json:"rounds"` // probes, lost, dials, failures; the youngest first
	Fresh      int             `json:"fresh"`
	RTTs       []int64         `json:"rtts_us"`
	EWMA       int64           `json:"ewma_us"`
	Jitter     int64           `json:"jitter_us_16,omitempty"` // sixteenths
	Pending    [2]int64        `json:"pending"`                // dials, failures
	Last       string          `json:"verdict"`                // of the last round
	LastSince  time.Duration   `json:"verdict_since_ns"`
	LastWhy    string          `json:"verdict_why"` // "" before the first
	Forced     *forcedSnapshot `json:"forced,omitempty"`
}

type choiceSnapshot struct {
	Name        string          `json:"name"`
	Members     []string        `json:"members"` // their uplinks, "" for none
	Member      int             `json:"member"`
	Since       time.Duration   `json:"since_ns"`
	Provisional bool            `json:"provisional"`
	BetterSince []time.Duration `json:"better_since_ns"` // -1: not better now
}

// Encode returns the machine as a state file. policyHash names the policy, bootID
// the boot whose clock the times are on. The same machine gives the same bytes.
func (m Machine) Encode(cfg Config, policyHash, bootID string) []byte {
	m = m.clone(cfg)
	s := snapshot{
		Version: snapshotVersion, Policy: policyHash, Boot: bootID, Clock: m.now, Started: m.started,
		Global: m.global.String(), GlobalSince: m.globalSince, Forced: m.forced.snapshot(),
		Uplinks: []uplinkSnapshot{}, Groups: []choiceSnapshot{},
	}
	for i := range m.uplinks {
		s.Uplinks = append(s.Uplinks, m.uplinks[i].snapshot(cfg.Uplinks[i].Name))
	}
	for i, c := range m.groups {
		g := choiceSnapshot{cfg.Groups[i].Name, nil, c.member, c.since, c.provisional, c.betterSince}
		for j := range cfg.Groups[i].Members {
			g.Members = append(g.Members, memberName(cfg, cfg.Groups[i], j))
		}
		s.Groups = append(s.Groups, g)
	}
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil // can't happen: strings and integers only
	}
	return append(b, '\n')
}

func (o override) snapshot() *forcedSnapshot {
	if !o.on {
		return nil
	}
	return &forcedSnapshot{o.to.String(), o.since, o.until, o.reason}
}

func (u *uplink) snapshot(name string) uplinkSnapshot {
	s := uplinkSnapshot{
		Name: name, State: u.state.String(), Since: u.since, Good: u.good, Bad: u.bad, Dead: u.dead,
		Penalty: u.penalty, HalvedAt: u.halvedAt, Suppressed: u.suppressed, HoldUntil: u.holdUntil,
		Known: u.known, Down: u.down, Started: u.started, Heard: u.heard, Missed: u.missed,
		Rounds: [][4]int64{}, Fresh: u.fresh, RTTs: slices.Clone(u.rtts[:u.nRTT]), EWMA: u.ewma, Jitter: u.jitter,
		Pending: [2]int64{u.pendingDials, u.pendingFailed}, Last: u.last.String(), LastSince: u.lastSince, LastWhy: u.lastWhy,
		Forced: u.forced.snapshot(),
	}
	for _, r := range u.rounds[:u.n] {
		s.Rounds = append(s.Rounds, [4]int64{r.probes, r.lost, r.dials, r.failures})
	}
	return s
}

// Resumed tells what Resume made of a state file.
type Resumed struct {
	Fresh bool   // a new start: every uplink NORMAL and unknown
	Why   string // why it is, or what was carried over
}

// Resume starts a machine from a state file. A file of the same boot, younger
// than five minutes, is believed: states, penalties, overrides and choices go
// on, run counters and evidence begin at zero, and FAILOVER stays until it is
// revived. Everything else gives a new machine. Under another policy, uplinks
// and groups are carried over by name, as on a reload. An error means that the
// file is damaged; the machine is new then, and usable.
func Resume(cfg Config, file []byte, bootID, policyHash string, now time.Duration) (Machine, Resumed, error) {
	fresh := func(why string) (Machine, Resumed) { return New(cfg), Resumed{true, why} }
	s, err := parseSnapshot(file)
	if err != nil {
		m, r := fresh("the state file is damaged")
		return m, r, fmt.Errorf("read state file: %w", err)
	}
	age := now - s.Clock
	switch {
	case s.Boot != bootID:
		m, r := fresh("the state file is from another boot")
		return m, r, nil
	case age < 0 || now > maxTime:
		m, r := fresh("the state file is from the future")
		return m, r, nil
	case age >= maxAge:
		m, r := fresh(fmt.Sprintf("the state file is %s old", age))
		return m, r, nil
	}
	old := s.config()
	m, err := s.machine(old)
	if err != nil {
		m, r := fresh("the state file is damaged")
		return m, r, fmt.Errorf("read state file: %w", err)
	}
	why := "resumed"
	if s.Policy != policyHash {
		why = "resumed by name: the policy has changed"
	}
	m = m.Reconfigure(old, cfg)
	m.restart(cfg, now)
	return m, Resumed{Why: why}, nil
}

// restart forgets what a pause makes stale: run counters, evidence, measurements.
func (m *Machine) restart(cfg Config, now time.Duration) {
	m.now = now
	if m.forced.over(now) {
		m.forced = override{}
	}
	for i := range m.uplinks {
		u := &m.uplinks[i]
		u.good, u.bad, u.dead = 0, 0, 0
		u.window = window{}
		u.last, u.lastWhy = good, ""
		u.started, u.missed = false, 0
		u.down = false // the caller tells the links anew
		// No hold is longer than this, whatever a file says.
		c, d := cfg.Uplinks[i], standard()
		u.holdUntil = min(u.holdUntil, now+max(c.HoldDegraded*time.Duration(d.maxDegraded), c.HoldFailover*time.Duration(d.maxFailover)))
		u.decay(standard(), now)
		if u.forced.over(now) {
			u.forced = override{}
		}
	}
	if g := m.globalState(cfg); g != m.global {
		m.global, m.globalSince = g, now
	}
	for i := range m.groups {
		for j := range m.groups[i].betterSince {
			m.groups[i].betterSince[j] = never
		}
	}
}

func parseSnapshot(file []byte) (snapshot, error) {
	var s snapshot
	if len(file) > maxSnapshot {
		return s, fmt.Errorf("longer than %d bytes", maxSnapshot)
	}
	if err := json.Unmarshal(file, &s); err != nil {
		return s, err
	}
	if s.Version != snapshotVersion {
		return s, fmt.Errorf("version %d, want %d", s.Version, snapshotVersion)
	}
	return s, nil
}

// config is a config with the names that the snapshot has, enough to carry it over.
func (s snapshot) config() Config {
	cfg := Config{Primary: -1}
	for _, u := range s.Uplinks {
		cfg.Uplinks = append(cfg.Uplinks, DefaultUplink(u.Name))
	}
	for _, g := range s.Groups {
		group := GroupConfig{Name: g.Name, Select: g.Member >= 0}
		for _, name := range g.Members {
			group.Members = append(group.Members, slices.IndexFunc(cfg.Uplinks, func(u UplinkConfig) bool { return u.Name == name }))
		}
		cfg.Groups = append(cfg.Groups, group)
	}
	return cfg
}

var errRange = errors.New("a value is out of range")

// machine rebuilds the machine exactly, for the config it was encoded under.
func (s snapshot) machine(cfg Config) (Machine, error) {
	m := New(cfg)
	if len(s.Uplinks) != len(cfg.Uplinks) || len(s.Groups) != len(cfg.Groups) {
		return m, errors.New("other uplinks or groups than the policy's")
	}
	ok := validTimes(s.Clock, s.GlobalSince)
	m.now, m.started, m.globalSince = s.Clock, s.Started, s.GlobalSince
	m.global, ok = parseInto(s.Global, ok)
	m.forced, ok = s.Forced.override(ok)
	for i, us := range s.Uplinks {
		u, good := us.uplink(s.Clock)
		m.uplinks[i], ok = u, ok && good && us.Name == cfg.Uplinks[i].Name
	}
	for i, c := range s.Groups {
		ok = ok && validTimes(c.Since) && validTimes(c.BetterSince...) &&
			len(c.BetterSince) == len(m.groups[i].betterSince) && c.Name == cfg.Groups[i].Name &&
			c.Member >= -1 && c.Member < max(len(c.BetterSince), 1) && (c.Member >= 0) == (m.groups[i].member >= 0)
		if !ok {
			break
		}
		m.groups[i] = choice{c.Member, c.Since, c.Provisional, c.BetterSince}
	}
	if !ok {
		return New(cfg), errRange
	}
	return m, nil
}

func (f *forcedSnapshot) override(ok bool) (override, bool) {
	if f == nil {
		return override{}, ok
	}
	to, ok := parseInto(f.To, ok)
	return override{true, to, f.Since, f.Until, clip(f.Reason)}, ok && validTimes(f.Since, f.Until)
}

func (s uplinkSnapshot) uplink(clock time.Duration) (uplink, bool) {
	d := standard()
	ok := validTimes(s.Since, s.HalvedAt, s.HoldUntil, s.Heard, s.LastSince) &&
		within(0, maxRun, int64(s.Good), int64(s.Bad), int64(s.Dead)) && within(0, maxCount, int64(s.Missed)) &&
		within(0, maxCount, s.Pending[:]...) && within(0, maxRTT, s.RTTs...) && within(0, maxRTT, s.EWMA) && within(0, 16*maxRTT, s.Jitter) &&
		within(0, int64(d.limit), int64(s.Penalty)) && s.HalvedAt <= clock && s.Heard <= clock && s.Since <= clock &&
		len(s.Rounds) <= windowRounds && len(s.RTTs) <= windowRounds && s.Fresh >= 0 && s.Fresh <= len(s.Rounds)
	for _, r := range s.Rounds {
		ok = ok && within(0, maxCount, r[:]...)
	}
	last := slices.Index(verdictNames[:], s.Last)
	st, ok := parseInto(s.State, ok && last >= 0)
	forced, ok := s.Forced.override(ok)
	if !ok {
		return uplink{}, false
	}
	u := uplink{
		core: core{
			state: st, since: s.Since, good: s.Good, bad: s.Bad, dead: s.Dead, penalty: s.Penalty,
			halvedAt: s.HalvedAt, suppressed: s.Suppressed, holdUntil: s.HoldUntil,
		},
		known: s.Known, down: s.Down, started: s.Started, heard: s.Heard, missed: s.Missed,
		last: verdict(last), lastSince: s.LastSince, lastWhy: clip(s.LastWhy), forced: forced,
	}
	u.n, u.fresh, u.nRTT, u.ewma, u.jitter = len(s.Rounds), s.Fresh, len(s.RTTs), s.EWMA, s.Jitter
	u.pendingDials, u.pendingFailed = s.Pending[0], s.Pending[1]
	copy(u.rtts[:], s.RTTs)
	for i, r := range s.Rounds {
		u.rounds[i] = sample{r[0], r[1], r[2], r[3]}
	}
	return u, true
}

func parseInto(name string, ok bool) (State, bool) {
	s, known := Parse(name)
	return s, ok && known
}

func validTimes(times ...time.Duration) bool {
	for _, t := range times {
		if t < -maxTime || t > maxTime {
			return false
		}
	}
	return true
}

func within(lo, hi int64, xs ...int64) bool {
	for _, x := range xs {
		if x < lo || x > hi {
			return false
		}
	}
	return true
}
