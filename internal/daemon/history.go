package daemon

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	unified "github.com/rogpeppe/go-internal/diff"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

const (
	historyDir = "history"
	// historyExt ends the name of an entry's file, "000007.policy".
	historyExt     = ".policy"
	historyVersion = 1

	// maxHistory is how many policies are kept.
	maxHistory = 20
	// maxHistoryBytes bounds what they take together: twenty policies of 100,000
	// rules would fill a router's disk. The oldest go first; the newest two stay.
	maxHistoryBytes = 64 << 20
	// maxHead bounds the first line of an entry's file: a thousand names of files.
	maxHead = 1 << 20
	// maxDiff bounds the difference that is shown of one entry, in bytes.
	maxDiff = 256 << 10
	// maxCounted bounds the texts whose changed lines are counted, in bytes: the
	// counting of the largest policies would take seconds of each reload.
	maxCounted = 4 << 20
	// minRef is the least length of the beginning of a hash.
	minRef = 4
)

// history keeps the texts of the policies of late, one file each: a line of
// JSON, which says what it is and how long the texts are, and the texts as they are. Each
// file is replaced as a whole. A damaged one is told of and used for nothing. The nil
// history keeps nothing. It is safe for concurrent use.
type history struct {
	dir  string
	log  *slog.Logger
	room int64 // maxHistoryBytes; tests set it

	mu   sync.Mutex
	list []past // by number
}

// past is an entry as the list has it.
type past struct {
	api.Entry
	digest string
	size   int64 // of its file
}

// head is the first line of an entry's file.
type head struct {
	Version int        `json:"version"`
	Entry   api.Entry  `json:"entry"`
	Digest  string     `json:"digest"`
	Name    string     `json:"name"` // of the policy, as its author named it
	Parts   []headPart `json:"parts"`
}

// headPart is one text, in the order in which they follow; the main one is first, its path "".
type headPart struct {
	Path   string `json:"path"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
}

// openHistory reads the history in the state directory, which has none at first.
func openHistory(stateDir string, log *slog.Logger) (*history, error) {
	h := &history{dir: filepath.Join(stateDir, historyDir), log: log, room: maxHistoryBytes}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the history: %w", err)
	}
	files, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	for _, f := range files {
		text, ok := strings.CutSuffix(f.Name(), historyExt)
		n, err := strconv.Atoi(text)
		if !ok || err != nil || n <= 0 {
			continue
		}
		e := past{Entry: api.Entry{N: n}}
		if info, err := f.Info(); err == nil {
			e.size = info.Size()
		}
		if hd, err := h.readHead(n); err != nil {
			e.Outcome, e.Note = api.Damaged, err.Error()
			log.Warn("policy of the history is damaged", "n", n, "error", err)
		} else {
			e.Entry, e.digest = hd.Entry, hd.Digest
		}
		h.list = append(h.list, e)
	}
	slices.SortFunc(h.list, func(a, b past) int { return cmp.Compare(a.N, b.N) })
	return h, nil
}

func (h *history) file(n int) string {
	return filepath.Join(h.dir, fmt.Sprintf("%06d%s", n, historyExt))
}

// readHead reads what an entry's file says of itself.
func (h *history) readHead(n int) (head, error) {
	f, err := os.Open(h.file(n))
	if err != nil {
		return head{}, err
	}
	defer f.Close()
	b := make([]byte, maxHead)
	got, err := f.Read(b)
	if err != nil {
		return head{}, fmt.Errorf("read %s: %w", h.file(n), err)
	}
	for got < maxHead && bytes.IndexByte(b[:got], '\n') < 0 {
		more, err := f.Read(b[got:])
		if err != nil {
			break
		}
		got += more
	}
	return parseHead(b[:got], n)
}

func parseHead(b []byte, n int) (head, error) {
	line, _, ok := bytes.Cut(b, []byte("\n"))
	var hd head
	if !ok {
		return hd, errors.New("its first line is cut off")
	}
	if err := json.Unmarshal(line, &hd); err != nil {
		return hd, fmt.Errorf("its first line: %w", err)
	}
	if hd.Version != historyVersion || hd.Entry.N != n || len(hd.Parts) == 0 {
		return hd, fmt.Errorf("its first line is of version %d and policy %d, want %d and %d", hd.Version, hd.Entry.N, historyVersion, n)
	}
	return hd, nil
}

// read returns the texts of an entry.
func (h *history) read(n int) (head, policyfile.Bundle, error) {
	fail := func(err error) (head, policyfile.Bundle, error) {
		return head{}, policyfile.Bundle{}, fmt.Errorf("read policy %d of the history: %w", n, err)
	}
	info, err := os.Stat(h.file(n))
	if err != nil {
		return fail(err)
	}
	if info.Size() > policyfile.MaxBundle+maxHead {
		return fail(fmt.Errorf("%d bytes are more than %d", info.Size(), policyfile.MaxBundle+maxHead))
	}
	b, err := os.ReadFile(h.file(n))
	if err != nil {
		return fail(err)
	}
	hd, err := parseHead(b, n)
	if err != nil {
		return fail(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	bundle := policyfile.Bundle{Name: hd.Name, Files: map[string][]byte{}}
	for i, p := range hd.Parts {
		if p.Size < 0 || p.Size > len(rest) {
			return fail(fmt.Errorf("the text %q is cut off", p.Path))
		}
		text := rest[:p.Size:p.Size]
		rest = rest[p.Size:]
		if sumOf(text) != p.SHA256 {
			return fail(fmt.Errorf("the text %q is not what was written", p.Path))
		}
		if i == 0 {
			bundle.Main = text
		} else {
			bundle.Files[p.Path] = text
		}
	}
	return hd, bundle, nil
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// add keeps a policy that replaces the one numbered e.Before, and returns its
// number. The oldest go when there are too many; never these two.
func (h *history) add(e api.Entry, b policyfile.Bundle) (int, error) {
	if h == nil {
		return 0, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e.N = 1
	if n := len(h.list); n > 0 {
		e.N = h.list[n-1].N + 1
	}
	if i := h.index(e.Before); i >= 0 {
		if _, old, err := h.read(e.Before); err == nil && len(old.Main)+len(b.Main) <= maxCounted {
			e.Added, e.Removed = countChanges(diffOf(&old, &b, maxCounted))
		}
	}
	size, err := h.write(e, b.Digest(), b)
	if err != nil {
		return 0, err
	}
	h.list = append(h.list, past{e, b.Digest(), size})
	h.prune([]int{e.N, e.Before})
	return e.N, nil
}

// drop forgets the newest entry, which did not become live after all.
func (h *history) drop(n int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(n); i >= 0 {
		h.list = slices.Delete(h.list, i, i+1)
		if err := os.Remove(h.file(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("policy not removed from the history", "n", n, "error", err)
		}
	}
}

// write replaces an entry's file.
func (h *history) write(e api.Entry, digest string, b policyfile.Bundle) (int64, error) {
	e.Live, e.Diff = false, ""
	hd := head{Version: historyVersion, Entry: e, Digest: digest, Name: b.Name, Parts: []headPart{{"", len(b.Main), sumOf(b.Main)}}}
	texts := [][]byte{b.Main}
	for _, path := range slices.Sorted(maps.Keys(b.Files)) {
		hd.Parts = append(hd.Parts, headPart{path, len(b.Files[path]), sumOf(b.Files[path])})
		texts = append(texts, b.Files[path])
	}
	line, err := json.Marshal(hd)
	if err == nil && len(line) >= maxHead {
		err = fmt.Errorf("it has too many files: %d", len(texts))
	}
	whole := slices.Concat(append([][]byte{append(line, '\n')}, texts...)...)
	if err == nil {
		err = durable.Replace(h.file(e.N), whole)
	}
	if err != nil {
		return 0, fmt.Errorf("keep policy %d in the history: %w", e.N, err)
	}
	return int64(len(whole)), nil
}

// prune removes the oldest beyond the bounds.
func (h *history) prune(keep []int) {
	var total int64
	for _, e := range h.list {
		total += e.size
	}
	for i := 0; i < len(h.list)-2 && (len(h.list) > maxHistory || total > h.room); {
		e := h.list[i]
		if slices.Contains(keep, e.N) {
			i++
			continue
		}
		if err := os.Remove(h.file(e.N)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("old policy not removed from the history", "n", e.N, "error", err)
			return
		}
		total -= e.size
		h.list = slices.Delete(h.list, i, i+1)
	}
}

// mark notes what became of an entry.
func (h *history) mark(n int, outcome, note string) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.index(n)
	if i < 0 {
		return fmt.Errorf("policy %d is not in the history", n)
	}
	hd, b, err := h.read(n)
	if err != nil {
		return err
	}
	hd.Entry.Outcome, hd.Entry.Note = outcome, note
	if _, err := h.write(hd.Entry, hd.Digest, b); err != nil {
		return err
	}
	h.list[i].Entry = hd.Entry
	return nil
}

func (h *history) index(n int) int {
	return slices.IndexFunc(h.list, func(e past) bool { return e.N == n })
}

// entry returns an entry, and its texts' digest.
func (h *history) entry(n int) (e api.Entry, digest string, ok bool) {
	if h == nil {
		return e, "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(n); i >= 0 {
		return h.list[i].Entry, h.list[i].digest, true
	}
	return e, "", false
}

// last returns the number of the newest policy that was in force and was not taken
// back or damaged, 0 for none: what decided when the daemon last ran.
func (h *history) last() int {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range slices.Backward(h.list) {
		if e.Outcome != api.Reverted && e.Outcome != api.Pending && e.Outcome != api.Damaged {
			return e.N
		}
	}
	return 0
}

// find returns the entry that a person means by a number or by the beginning of a hash; of
// several with one hash the newest.
func (h *history) find(ref string) (int, error) {
	if h == nil {
		return 0, fmt.Errorf("no history is kept: the daemon has no state directory: %w", api.ErrConflict)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n, err := strconv.Atoi(ref); err == nil && strconv.Itoa(n) == ref && h.index(n) >= 0 {
		return n, nil
	}
	hash := ""
	n := 0
	for _, e := range slices.Backward(h.list) {
		if len(ref) < minRef || e.Hash == "" || !strings.HasPrefix(e.Hash, ref) && !strings.HasPrefix(ref, e.Hash) {
			continue
		}
		if hash != "" && hash != e.Hash {
			return 0, fmt.Errorf("%q is the beginning of several hashes: %w", ref, api.ErrBadRequest)
		}
		if hash == "" {
			hash, n = e.Hash, e.N
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("the history has no policy %q: want a number or %d digits of a hash: %w", ref, minRef, api.ErrNotFound)
	}
	return n, nil
}

// entries lists the policies, the newest first, with diffs where asked for; live is
// the number of the one that decides.
func (h *history) entries(live int, diff bool) []api.EntryText {
	out := []api.EntryText{}
	if h == nil {
		return out
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range slices.Backward(h.list) {
		e.Live = e.N == live
		if diff {
			e.Diff = h.diff(e.Entry)
		}
		out = append(out, api.EntryText{Entry: e.Entry})
	}
	return out
}

// text returns one policy with its texts and the difference to the one before.
func (h *history) text(n, live int) (api.EntryText, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hd, b, err := h.read(n)
	if err != nil {
		return api.EntryText{}, err
	}
	e := hd.Entry
	e.Live, e.Diff = n == live, h.diff(e)
	return api.EntryText{Entry: e, Policy: b}, nil
}

// diff is what an entry changed in the text of the policy before.
func (h *history) diff(e api.Entry) string {
	if e.Before == 0 || e.Outcome == api.Damaged {
		return ""
	}
	_, old, err := h.read(e.Before)
	if err != nil {
		return "# the policy before is not kept any more\n"
	}
	_, now, err := h.read(e.N)
	if err != nil {
		return "# " + err.Error() + "\n"
	}
	return string(diffOf(&old, &now, maxDiff))
}

// diffOf is the difference between two policies in the unified form, of at most
// limit bytes and a line that says that there is more.
func diffOf(old, now *policyfile.Bundle, limit int) []byte {
	name := func(path string) string { return cmp.Or(path, "policy") }
	paths := map[string]bool{"": true}
	for p := range old.Files {
		paths[p] = true
	}
	for p := range now.Files {
		paths[p] = true
	}
	var out []byte
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		a, b := old.Files[p], now.Files[p]
		if p == "" {
			a, b = old.Main, now.Main
		}
		switch {
		case bytes.Equal(a, b):
		case bytes.IndexByte(a, 0) >= 0 || bytes.IndexByte(b, 0) >= 0:
			out = fmt.Appendf(out, "# %s: another binary file, %d bytes after %d\n", name(p), len(b), len(a))
		default:
			out = append(out, unified.Diff(name(p)+" (before)", a, name(p), b)...)
		}
		if len(out) > limit {
			break
		}
	}
	return atMost(limit, out)
}

// atMost cuts a difference after the last line that ends within limit bytes, and says so.
func atMost(limit int, diff []byte) []byte {
	if len(diff) <= limit {
		return diff
	}
	return append(diff[:bytes.LastIndexByte(diff[:limit], '\n')+1], "# ... and more\n"...)
}

// countChanges counts the lines of a difference.
func countChanges(diff []byte) (added, removed int) {
	for line := range bytes.Lines(diff) {
		switch {
		case bytes.HasPrefix(line, []byte("+++ ")), bytes.HasPrefix(line, []byte("--- ")):
		case line[0] == '+':
			added++
		case line[0] == '-':
			removed++
		}
	}
	return added, removed
}

// record keeps what was loaded from the policy's file, unless its text is that of the
// policy before, and returns its number. A history that can't be
// written is no reason not to run.
func (d *Daemon) record(c *candidate, who, trigger string, before int) int {
	if d.history == nil {
		return 0
	}
	b := c.bundle
	if b == nil {
		b = new(policyfile.Bundle)
		*b = policyfile.Of(d.opts.Config, c.loaded)
	}
	if _, digest, ok := d.history.entry(before); ok && digest == b.Digest() {
		return before
	}
	n, err := d.history.add(api.Entry{
		Hash: shortHash(c.policy.Hash), Time: time.Now(), Who: who, Trigger: trigger, Before: before, Rules: len(c.policy.Rules),
	}, *b)
	if err != nil {
		d.log.Warn("policy not kept in the history", "error", err)
		return 0
	}
	return n
}
