package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// lookEvery is how often a change that waits is looked at.
	lookEvery = 100 * time.Millisecond
	// minConfirm and maxConfirm bound the time for a confirmation: too short to
	// type it, and longer than anybody waits at a router.
	minConfirm, maxConfirm = time.Second, 24 * time.Hour
)

// changeCall is a change that somebody asks for. With probes the answer comes late.
type changeCall struct {
	ctx   context.Context
	who   string
	q     api.ChangeRequest
	reply chan changeReply // buffered
}

type changeReply struct {
	result api.ChangeResult
	err    error
}

func (c *changeCall) answer(r api.ChangeResult, err error) {
	if r.Diagnostics == nil {
		r.Diagnostics = []api.Diagnostic{}
	}
	c.reply <- changeReply{r, err}
}

// waiting is a change that waits for its confirmation. The nil waiting is none.
type waiting struct {
	pending
	bundle policyfile.Bundle
	old    *rules.Policy // what returns; nil after a restart: the history has it
	plan   *actions.Plan // its plan, whose numbers return too; nil after a restart
	// postponed is why the policy's file is to be read when the change is settled.
	postponed string
	ticker    *time.Ticker
	again     time.Duration // when to try to take it back again; 0: not tried yet
	why       string        // why it is being taken back

	call   *changeCall // who waits for what probes find; nil for others
	result api.ChangeResult
	probes probing
}

// looks tells when to look at the change.
func (w *waiting) looks() <-chan time.Time {
	if w == nil {
		return nil
	}
	return w.ticker.C
}

// leave tells who waits for probes that the daemon stops; the next start takes the change back.
func (w *waiting) leave() {
	if w != nil && w.call != nil {
		w.call.answer(w.result, errStopped)
	}
}

// Change applies a policy, confirms one, or takes one back, for who. With probes it
// waits for what they find; when the caller leaves before, the change is taken back.
func (d *Daemon) Change(ctx context.Context, who string, q api.ChangeRequest) (api.ChangeResult, error) {
	call := &changeCall{ctx, who, q, make(chan changeReply, 1)}
	select {
	case d.changes <- call:
	case <-ctx.Done():
		return api.ChangeResult{}, fmt.Errorf("ask for a change: %w", ctx.Err())
	}
	select {
	case r := <-call.reply:
		return r.result, r.err
	case <-ctx.Done():
		return api.ChangeResult{}, fmt.Errorf("wait for the change: %w", ctx.Err())
	}
}

// serveChange carries out a request. It, and what it calls, is the goroutine of transactions.
func (d *Daemon) serveChange(ctx context.Context, call *changeCall) {
	if call.ctx.Err() != nil {
		return
	}
	if d.opts.Observe {
		call.answer(api.ChangeResult{}, fmt.Errorf("the daemon only observes: nothing is applied: %w", api.ErrConflict))
		return
	}
	switch q := &call.q; {
	case q.Do == api.DoConfirm && q.N > 0:
		call.answer(d.settle(q.N, func() (api.ChangeResult, error) { return d.confirmed(ctx, call.who) }))
	case q.Do == api.DoRollback && q.N > 0 && q.To == "":
		call.answer(d.settle(q.N, func() (api.ChangeResult, error) { return d.takeBack(ctx, "taken back by "+call.who) }))
	case q.Do == api.DoRollback && q.N == 0 && q.To != "":
		n, b, err := d.target(q.To)
		if err != nil {
			call.answer(api.ChangeResult{}, err)
			return
		}
		d.apply(ctx, call, &b, fmt.Sprintf("rollback to %d", n))
	case q.Do == api.DoApply && q.Policy != nil:
		d.apply(ctx, call, q.Policy, "apply "+filepath.Base(q.Policy.Name))
	default:
		call.answer(api.ChangeResult{}, fmt.Errorf("a change that is %q: want apply with a policy, confirm with the number n of the policy that waits, or rollback with n, "+
			"or with to, a policy of the history: %w", q.Do, api.ErrBadRequest))
	}
}

// settle confirms the change that waits, or takes it back: the one that the caller has
// seen and no other.
func (d *Daemon) settle(n int, do func() (api.ChangeResult, error)) (api.ChangeResult, error) {
	switch w := d.waiting; {
	case w == nil:
		return api.ChangeResult{}, fmt.Errorf("policy %d does not wait for a confirmation any more: %w", n, api.ErrConflict)
	case w.N != n:
		return api.ChangeResult{}, fmt.Errorf("policy %d does not wait for a confirmation any more; policy %d does: %w", n, w.N, api.ErrConflict)
	}
	return do()
}

// target finds the policy to go back to: the one that is named, or the one that
// was in force before.
func (d *Daemon) target(ref string) (int, policyfile.Bundle, error) {
	if ref == api.ToPrevious {
		e, _, ok := d.history.entry(int(d.live.Load()))
		if !ok || e.Before == 0 {
			return 0, policyfile.Bundle{}, fmt.Errorf("the history has no policy before the present one: %w", api.ErrConflict)
		}
		return d.historyText(e.Before)
	}
	n, err := d.history.find(ref)
	if err != nil {
		return 0, policyfile.Bundle{}, err
	}
	return d.historyText(n)
}

func (d *Daemon) historyText(n int) (int, policyfile.Bundle, error) {
	if d.history == nil {
		return 0, policyfile.Bundle{}, fmt.Errorf("no history is kept: %w", api.ErrConflict)
	}
	_, b, err := d.history.read(n)
	return n, b, err
}

// terms are how a change is to be confirmed.
type terms struct {
	mode string        // "" at once, "time", api.ConfirmProbe
	time time.Duration // until it is taken back; 0 with probes: as long as they need
}

func termsOf(q *api.ChangeRequest) (terms, error) {
	text, mode := q.Confirm, "time"
	switch q.Confirm {
	case "":
		return terms{}, nil
	case api.ConfirmProbe:
		text, mode = q.Within, api.ConfirmProbe
		if text == "" {
			return terms{mode, 0}, nil
		}
	}
	limit, err := time.ParseDuration(text)
	if err != nil || limit < minConfirm || limit > maxConfirm {
		return terms{}, fmt.Errorf("%q: want a time from %v to %v, or probe: %w", text, minConfirm, maxConfirm, api.ErrBadRequest)
	}
	return terms{mode, limit}, nil
}

// apply brings a policy about. Without terms it goes to the policy's file at once;
// else the file stays as it is until the confirmation.
func (d *Daemon) apply(ctx context.Context, call *changeCall, b *policyfile.Bundle, trigger string) {
	t, err := termsOf(&call.q)
	if err == nil && call.q.IfMatch != "" {
		// Here, where changes come one after the other, the answer is still true when it is used.
		var e api.EntryText
		if e, err = d.Present(ctx); err == nil && !call.q.Replaces(&e.Policy) {
			err = api.ErrPrecondition
		}
	}
	switch {
	case err != nil:
	case d.waiting != nil:
		err = fmt.Errorf("policy %d waits for its confirmation: `netpolicy confirm` or `netpolicy rollback` first: %w", d.waiting.N, api.ErrConflict)
	case t.mode != "" && d.history == nil:
		err = fmt.Errorf("a change can't wait for its confirmation without a state directory: %w", api.ErrConflict)
	default:
		if err = b.Installable(d.opts.Config); err != nil {
			err = fmt.Errorf("%w: %w", err, api.ErrConflict)
		}
	}
	if err != nil {
		call.answer(api.ChangeResult{}, err)
		return
	}
	before := d.snap.Load()
	var w *waiting
	var result api.ChangeResult
	ch := &change{bundle: b, confined: d.confined(call.q.Confined && call.q.Do == api.DoApply), why: trigger, before: func(c *candidate) error {
		warning, err := d.controls(ctx, call.q.Control, c)
		switch {
		case err != nil:
			return err
		case warning != "" && t.mode == api.ConfirmProbe:
			return errors.New(warning)
		case warning != "":
			result.Warnings = append(result.Warnings, warning)
		}
		if t.mode == "" {
			return nil
		}
		w, err = d.prepareWaiting(call, c, b, t, trigger, before)
		return err
	}}
	d.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicros()))
	defer d.notify("READY=1")
	c, err := d.transact(ctx, ch)
	switch {
	case errors.Is(err, errSame):
		result.Result = api.Unchanged
		d.keep(ctx, call, b, nil, trigger, before, result)
	case errors.Is(err, errStopped):
		// What was written of the change is what the next start decides by.
		call.answer(result, err)
	case err != nil:
		d.forget(w)
		result = d.refused(err, b)
		d.metrics.Reload(api.Rejected)
		d.announce(api.Rejected, call.who, err.Error())
		call.answer(result, nil)
	default:
		result.Diagnostics = renamed(append(apiDiagnostics(c.diags, c.sources, false), apiDiagnostics(c.hints, c.sources, false)...), d.opts.Config, b)
		d.metrics.Reload(api.Applied)
		d.setError(nil)
		d.setReverted(nil)
		d.log.Info("policy applied", "trigger", trigger, "hash", shortHash(c.policy.Hash), "rules", len(c.policy.Rules), "who", call.who, "confirm", call.q.Confirm)
		d.warn(c)
		if w == nil {
			result.Result = api.Applied
			d.keep(ctx, call, b, c, trigger, before, result)
			return
		}
		d.wait(ctx, w, c, call, before, result)
	}
}

// prepareWaiting writes down that the change is about to be made and waits for its
// confirmation: before the kernel is touched.
func (d *Daemon) prepareWaiting(call *changeCall, c *candidate, b *policyfile.Bundle, t terms, trigger string, before *snapshot) (*waiting, error) {
	replaced, err := b.Replaced(d.opts.Config)
	if err != nil {
		return nil, err
	}
	if t.time == 0 {
		t.time = probeTime(c.policy)
	}
	now := d.parts.Now()
	w := &waiting{old: before.live.policy, plan: before.plan, bundle: *b, pending: pending{
		Version: pendingVersion, Phase: phaseWaiting, Mode: t.mode, Boot: d.parts.Boot, Began: now, Deadline: now + t.time,
		Since: time.Now(), Who: call.who, Hash: shortHash(c.policy.Hash), Before: int(d.live.Load()),
		Old: shortHash(before.live.policy.Hash), Replaced: replaced,
	}}
	w.N, err = d.history.add(api.Entry{
		Hash: w.Hash, Time: w.Since, Who: w.Who, Trigger: trigger, Outcome: api.Pending, Before: w.Before, Rules: len(c.policy.Rules),
	}, *b)
	if err != nil {
		return nil, err
	}
	if err := d.store.savePending(&w.pending); err != nil {
		d.history.drop(w.N)
		return nil, err
	}
	return w, nil
}

// forget undoes prepareWaiting: the change was not made.
func (d *Daemon) forget(w *waiting) {
	if w == nil {
		return
	}
	d.history.drop(w.N)
	if err := d.store.clearPending(); err != nil {
		d.log.Error("change that was not made is still written down", "error", err)
	}
}

// keep writes a policy to its file, now that it decides, and answers. c is nil when
// it means the same as the one before.
func (d *Daemon) keep(ctx context.Context, call *changeCall, b *policyfile.Bundle, c *candidate, trigger string, before *snapshot, result api.ChangeResult) {
	if err := b.Install(d.opts.Config); err != nil {
		err = fmt.Errorf("the policy decides and can't be kept: %w", err)
		if c != nil {
			if _, back := d.transact(ctx, &change{policy: before.live.policy, numbers: before.plan, why: "take back"}); back != nil {
				err = errors.Join(err, fmt.Errorf("take it back: %w", back))
			} else {
				err = fmt.Errorf("%w; the old one is back", err)
			}
		}
		d.log.Error("policy not kept", "trigger", trigger, "error", err)
		call.answer(api.ChangeResult{}, err)
		return
	}
	now := d.snap.Load()
	if c == nil {
		c = &candidate{policy: now.live.policy}
	}
	c.bundle = b
	n := d.record(c, call.who, trigger, int(d.live.Load()))
	d.live.Store(int64(n))
	d.announce(result.Result, call.who, trigger)
	result.N, result.Policy = n, policyStatus(now)
	call.answer(result, nil)
}

// wait begins to wait for the confirmation of a change that was just made.
func (d *Daemon) wait(ctx context.Context, w *waiting, c *candidate, call *changeCall, before *snapshot, result api.ChangeResult) {
	// The time counts from now: a large policy takes its seconds to apply.
	now := d.parts.Now()
	w.Deadline += now - w.Began
	if err := d.store.savePending(&w.pending); err != nil {
		d.log.Warn("deadline of the change not written anew: after a crash it is a little earlier", "error", err)
	}
	d.live.Store(int64(w.N))
	d.watchOver(w)
	result.N, result.Policy = w.N, policyStatus(d.snap.Load())
	if w.Mode != api.ConfirmProbe {
		result.Result, result.Confirm = api.Pending, d.confirmNow()
		call.answer(result, nil)
		return
	}
	w.call, w.result = call, result
	w.probes = d.beginProbes(ctx, before, c)
}

// watchOver makes the change the one that waits.
func (d *Daemon) watchOver(w *waiting) {
	w.ticker = time.NewTicker(lookEvery)
	d.waiting = w
	d.show(w, "")
	d.announce(api.Pending, w.Who, fmt.Sprintf("policy %d", w.N))
	d.log.Warn("policy waits for its confirmation", "n", w.N, "hash", w.Hash, "confirm", w.Mode, "left", (w.Deadline - d.parts.Now()).String(), "who", w.Who)
}

// lookAtChange takes a change back whose time is up, or settles one by what probes found.
func (d *Daemon) lookAtChange(ctx context.Context) {
	w := d.waiting
	now := d.parts.Now()
	if w.why != "" {
		if now >= w.again {
			d.tryAgain(d.takeBack(ctx, w.why))
		}
		return
	}
	if w.call != nil {
		d.lookAtProbes(ctx, w, now)
		return
	}
	if now >= w.Deadline {
		d.tryAgain(d.takeBack(ctx, "nobody confirmed it in time"))
	}
}

// tryAgain tells of a change that could not be taken back when its time was up.
func (d *Daemon) tryAgain(_ api.ChangeResult, err error) {
	if err != nil && !errors.Is(err, errStopped) {
		d.log.Error("change not taken back, trying again", "error", err, "pause", repairPause.String())
	}
}

// confirmed keeps the change that waits: its text goes to the policy's file.
func (d *Daemon) confirmed(ctx context.Context, who string) (api.ChangeResult, error) {
	w := d.waiting
	if w.why != "" {
		return api.ChangeResult{}, fmt.Errorf("policy %d is being taken back: %s: %w", w.N, w.why, api.ErrConflict)
	}
	replaced, err := w.bundle.Replaced(d.opts.Config)
	if err == nil && replaced != w.Replaced {
		err = fmt.Errorf("the policy's file, or one beside it, was changed by hand meanwhile and would be overwritten: "+
			"put it back as it was, or `netpolicy rollback` and it is read: %w", api.ErrConflict)
	}
	if err != nil {
		return api.ChangeResult{}, err
	}
	// From here on a crash goes on with the confirmation.
	p := w.pending
	p.Phase, p.Who = phaseConfirmed, who
	if err := d.store.savePending(&p); err != nil {
		return api.ChangeResult{}, fmt.Errorf("confirm: %w", err)
	}
	if err := w.bundle.Install(d.opts.Config); err != nil {
		return api.ChangeResult{}, errors.Join(fmt.Errorf("confirm: %w", err), d.store.savePending(&w.pending))
	}
	d.done(ctx, w, api.Confirmed, "by "+who)
	d.announce(api.Confirmed, who, fmt.Sprintf("policy %d", w.N))
	d.log.Info("policy confirmed", "n", w.N, "hash", w.Hash, "who", who)
	d.readPostponed(ctx, w)
	return api.ChangeResult{Result: api.Confirmed, Policy: policyStatus(d.snap.Load()), N: w.N}, nil
}

// done settles the change on the disk and in status, and tells who waits for it.
func (d *Daemon) done(ctx context.Context, w *waiting, outcome, note string) {
	d.stopProbes(ctx, w)
	if err := errors.Join(d.history.mark(w.N, outcome, note), d.store.clearPending()); err != nil {
		d.log.Warn("outcome of the change not noted", "n", w.N, "outcome", outcome, "error", err)
	}
	w.ticker.Stop()
	d.waiting = nil
	d.show(nil, "")
	if w.call != nil {
		w.result.Result, w.result.Policy = outcome, policyStatus(d.snap.Load())
		w.call.answer(w.result, nil)
	}
}

// takeBack brings the old policy back, and looks whether the kernel has it. When it
// can't be done the change goes on waiting, to be taken back later.
func (d *Daemon) takeBack(ctx context.Context, why string) (api.ChangeResult, error) {
	w := d.waiting
	w.why = why
	c, err := d.transact(ctx, d.former(w))
	if err == nil && c.found != nil {
		err = fmt.Errorf("the old policy was applied, but the kernel has something else: %w", c.found)
	}
	if errors.Is(err, errStopped) {
		return api.ChangeResult{}, err
	}
	if err != nil {
		w.again = d.parts.Now() + repairPause
		d.show(w, err.Error())
		return api.ChangeResult{}, fmt.Errorf("take policy %d back: %w", w.N, err)
	}
	d.live.Store(int64(w.Before))
	r := d.tellReverted(&w.pending, c, why)
	w.result.Error, w.result.Reverted = why, r
	d.done(ctx, w, api.Reverted, why)
	d.readPostponed(ctx, w)
	return api.ChangeResult{Result: api.Reverted, Policy: policyStatus(d.snap.Load()), N: w.Before, Reverted: r}, nil
}

// former is the change that brings the old policy back: as it was in memory, else
// as the history has it, else as its file says, which was not touched.
func (d *Daemon) former(w *waiting) *change {
	ch := &change{why: "take back", readBack: true, again: true}
	if w.old != nil {
		ch.policy, ch.numbers = w.old, w.plan
		return ch
	}
	_, b, err := d.historyText(w.Before)
	if err == nil {
		r, loadErr := (&change{bundle: &b}).read(d.opts.Config, d.opts.StateDir)
		if ch.policy, err = r.Policy, loadErr; err == nil && r.Policy != nil {
			return ch
		}
	}
	d.log.Warn("old policy not in the history, its file is read", "n", w.Before, "error", err)
	return ch
}

// tellReverted notes that the old policy decides again.
func (d *Daemon) tellReverted(p *pending, c *candidate, why string) *api.Revert {
	r := &api.Revert{N: p.N, To: p.Before, Hash: shortHash(c.policy.Hash), Time: time.Now(), Why: why, Verified: c.looked && c.found == nil}
	d.setReverted(r)
	d.announce(api.Reverted, p.Who, why)
	d.log.Warn("policy reverted", "verified", r.Verified, "n", p.N, "hash", p.Hash, "back_to", r.Hash, "why", why)
	return r
}

// readPostponed reads the policy's file, if somebody asked for that while a change waited.
func (d *Daemon) readPostponed(ctx context.Context, w *waiting) {
	if w.postponed != "" {
		d.reload(ctx, "file", w.postponed)
	}
}

// postpone is what a reload does while a change waits: nothing, until it is settled.
func (d *Daemon) postpone(who, why string) api.ReloadResult {
	w := d.waiting
	w.postponed = why
	left := (w.Deadline - d.parts.Now()).Round(time.Second)
	d.log.Warn("policy not read again: a change waits for its confirmation", "trigger", why, "who", who, "n", w.N, "left", left.String())
	return api.ReloadResult{
		Result: api.Rejected, Policy: policyStatus(d.snap.Load()), Diagnostics: []api.Diagnostic{},
		Error: fmt.Sprintf("policy %d waits for its confirmation (%v left): `netpolicy confirm` or `netpolicy rollback` first; "+
			"then the file is read", w.N, left),
	}
}

// resumeChange starts with the policy that still waits for its confirmation.
func (d *Daemon) resumeChange(ctx context.Context, p *pending) (*loop, error) {
	_, b, err := d.historyText(p.N)
	if err != nil {
		return nil, err
	}
	r, err := (&change{bundle: &b}).read(d.opts.Config, d.opts.StateDir)
	if err != nil {
		return nil, err
	}
	l, _, err := d.launch(ctx, r, false)
	if err != nil {
		return nil, err
	}
	d.live.Store(int64(p.N))
	d.watchOver(&waiting{pending: *p, bundle: b})
	return l, nil
}

// revertedAtStart settles a change that was not confirmed when the daemon started:
// the policy's file was loaded, which is the old policy.
func (d *Daemon) revertedAtStart(p *pending, c *candidate) {
	if c.found != nil {
		d.log.Error("old policy was applied, but the kernel has something else", "error", c.found)
		d.wake(reasonRepair)
	}
	d.tellReverted(p, c, p.Why)
	if err := errors.Join(d.history.mark(p.N, api.Reverted, p.Why), d.store.clearPending()); err != nil {
		d.log.Warn("outcome of the change not noted", "n", p.N, "error", err)
	}
}

// refused is the answer to a policy that did not become live.
func (d *Daemon) refused(err error, b *policyfile.Bundle) api.ChangeResult {
	out := api.ChangeResult{Result: api.Rejected, Error: err.Error(), Policy: policyStatus(d.snap.Load()), N: int(d.live.Load())}
	var r *rejection
	if errors.As(err, &r) {
		out.Diagnostics = renamed(apiDiagnostics(r.diags, r.sources, false), d.opts.Config, b)
	}
	d.log.Error("new policy rejected, the old one goes on", "file", b.Name, "error", err)
	return out
}

// renamed gives places the names that the policy's author knows, where they are in
// files that were sent.
func renamed(list []api.Diagnostic, config string, b *policyfile.Bundle) []api.Diagnostic {
	if b == nil {
		return list
	}
	dir := filepath.Dir(config)
	for i := range list {
		file := list[i].File
		if file == config {
			list[i].File = b.Name
		} else if rel, err := filepath.Rel(dir, file); err == nil && b.Files[filepath.ToSlash(rel)] != nil {
			list[i].File = filepath.Join(filepath.Dir(b.Name), rel)
		}
	}
	return list
}

// readBack compares what the kernel has with a plan; looked is false where that can't be done.
func (d *Daemon) readBack(ctx context.Context, p *actions.Plan) (found error, looked bool) {
	switch v := d.parts.Verifier.(type) {
	case nil:
		return nil, false
	case ReadBack:
		return v.ReadBack(ctx, p), true
	default:
		return v.Verify(ctx, p), true
	}
}

// show has status tell of the change that waits; failed is why it could not be taken back yet.
func (d *Daemon) show(w *waiting, failed string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.confirm = nil
	if w != nil {
		d.deadline = w.Deadline
		d.confirm = &api.Confirm{
			N: w.N, Hash: w.Hash, Before: w.Before, Old: w.Old, Mode: w.Mode, Who: w.Who, Since: w.Since, Error: failed,
		}
	}
}

// confirmStatus is what status shows of the change that waits, nil for none; d.mu is held.
func (d *Daemon) confirmStatus() *api.Confirm {
	if d.confirm == nil {
		return nil
	}
	c := *d.confirm
	left := max(0, d.deadline-d.parts.Now())
	c.Left, c.Deadline = left.Round(time.Millisecond).Seconds(), time.Now().Add(left)
	return &c
}

func (d *Daemon) confirmNow() *api.Confirm {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.confirmStatus()
}

func (d *Daemon) setReverted(r *api.Revert) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reverted = r
}

// History lists the policies of late, or returns the one that ref names.
func (d *Daemon) History(_ context.Context, ref string, diff bool) ([]api.EntryText, error) {
	live := int(d.live.Load())
	if ref == "" {
		return d.history.entries(live, diff), nil
	}
	n, err := d.history.find(ref)
	if err != nil {
		return nil, err
	}
	e, err := d.history.text(n, live)
	return []api.EntryText{e}, err
}
