package subscription

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// A subscription is two files: NAME.json is its record, and NAME.SUM.data the last
// good content, SUM being its SHA-256. The content is written first and under a name
// of its own; the rename of the record is the moment at which it is replaced, and
// only then the former content goes.

// record is what survives a restart. It holds secrets.
type record struct {
	Version int `json:"version"`
	Settings
	Address string `json:"url"` // Settings.URL, which does not show itself
	Key     []byte `json:"key"` // of the marks

	Sum          string        `json:"sha256,omitempty"` // of the content; "" is none
	ETag         string        `json:"etag,omitempty"`
	LastModified string        `json:"last_modified,omitempty"`
	Format       string        `json:"format,omitempty"`
	Fetched      time.Time     `json:"fetched,omitzero"`
	Checked      time.Time     `json:"checked,omitzero"`
	Asked        time.Duration `json:"asked,omitempty"` // how often the provider wants to be asked
	Usage        Usage         `json:"usage,omitzero"`
	// Known are the profiles of the content, in its order; Missing is what the choice
	// was, while it is not among them.
	Known   []known `json:"known,omitempty"`
	Missing *known  `json:"missing,omitempty"`
	Chosen  string  `json:"chosen,omitempty"` // an id; "" is none
}

const (
	recordVersion = 1
	// maxRecord bounds a record that is read: 20,000 profiles with a name each.
	maxRecord = 16 << 20
	keySize   = 16
)

func (s *Store) recordFile(name string) string { return filepath.Join(s.dir, name+".json") }
func (s *Store) dataFile(name, sum string) string {
	return filepath.Join(s.dir, name+"."+sum+".data")
}

// load reads all records and their contents.
func (s *Store) load(readOnly bool) error {
	if !readOnly {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
	}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok || !isName(name) || len(s.subs) == maxSubscriptions {
			continue
		}
		x, err := s.loadOne(name)
		if err != nil && readOnly {
			continue
		}
		if err != nil {
			path := s.recordFile(name)
			s.log.Error("subscription is damaged and put aside", "subscription", name, "error", errors.Join(err, os.Rename(path, path+".damaged")))
			continue
		}
		s.subs[name] = x
		if !readOnly {
			s.sweep(name, x.record.Sum)
		}
	}
	return nil
}

func (s *Store) loadOne(name string) (*subscription, error) {
	data, err := readBounded(s.recordFile(name), maxRecord)
	if err != nil {
		return nil, err
	}
	var r record
	if json.Unmarshal(data, &r) != nil || r.Version != recordVersion || r.Name != name || len(r.Key) != keySize {
		return nil, errors.New("the record can't be read")
	}
	r.URL = link.Secret(r.Address)
	x, err := newSubscription(r)
	if err != nil {
		return nil, err
	}
	if r.Sum == "" {
		return x, nil
	}
	data, err = readBounded(s.dataFile(name, r.Sum), sub.MaxBytes)
	if err == nil && sumOf(data) != r.Sum {
		err = errors.New("damaged")
	}
	if err == nil {
		err = x.read(data)
	}
	if err != nil {
		// It is fetched again at once. The ids are still known, so that the choice holds.
		x.problem = fmt.Sprintf("the last good copy can't be used: %v", err)
		x.record.Sum, x.record.ETag, x.record.LastModified, x.record.Checked = "", "", "", time.Time{}
		s.log.Warn("subscription lost its copy", "subscription", name, "error", err)
	}
	return x, nil
}

func newSubscription(r record) (*subscription, error) {
	u, sh, err := r.Settings.check()
	if err != nil {
		return nil, err
	}
	return &subscription{record: r, url: u, shape: sh, fetching: make(chan struct{}, 1)}, nil
}

// read makes profiles of a content and gives them their ids. On errors nothing
// changes.
func (x *subscription) read(data []byte) error {
	content, err := sub.Parse(data)
	if err != nil {
		return err
	}
	all := content.Profiles()
	reasons, refused := refusals(content)
	if len(all) == 0 {
		text := "no profile in it can be used"
		if len(reasons) > 0 {
			text += ": " + reasons[0]
		}
		return errors.New(text)
	}
	kept, names, filtered := x.shape.apply(all)
	if len(kept) == 0 {
		return fmt.Errorf("the filters keep none of its %d profiles", len(all))
	}
	m := marker(x.record.Key)
	now := make([]known, len(kept))
	for i, p := range kept {
		now[i] = m.know(p, names[i])
	}
	before := x.record.Known
	if x.record.Missing != nil {
		before = append(slices.Clone(before), *x.record.Missing)
	}
	m.carry(before, now)
	list := make([]Profile, len(kept))
	for i, p := range kept {
		list[i] = Profile{ID: now[i].ID, Profile: p, known: now[i]}
	}
	x.list, x.filtered, x.refused, x.reasons = list, filtered, refused, reasons
	r := &x.record
	r.Format, r.Known, r.Missing = content.Format.String(), now, nil
	if r.Chosen != "" && x.chosen() < 0 {
		if i := slices.IndexFunc(before, func(k known) bool { return k.ID == r.Chosen }); i >= 0 {
			r.Missing = &before[i]
		}
	}
	return nil
}

// chosen returns the index of the user's choice, -1 without one.
func (x *subscription) chosen() int {
	return slices.IndexFunc(x.list, func(p Profile) bool { return p.ID == x.record.Chosen })
}

// refusals returns why entries can't be read, and how many those are.
func refusals(s sub.Subscription) (reasons []string, n int) {
	for _, e := range s.Entries {
		refused := false
		for _, f := range e.Findings {
			if f.Severity == diag.Error {
				refused = true
				if len(reasons) < maxTold {
					reasons = append(reasons, f.String())
				}
			}
		}
		if refused {
			n++
		}
	}
	return reasons, n
}

// save writes a record; with data not nil the content first, whose Sum the record has.
// The caller holds s.writing.
func (s *Store) save(r record, data []byte) error {
	if data != nil {
		path := s.dataFile(r.Name, r.Sum)
		if err := durable.Replace(path, data); err != nil {
			return err
		}
	}
	r.Version, r.Address = recordVersion, r.URL.Reveal()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return fmt.Errorf("its record is larger than %d MiB", maxRecord>>20)
	}
	path := s.recordFile(r.Name)
	if err := durable.Replace(path, append(b, '\n')); err != nil {
		return err
	}
	if data != nil {
		s.sweep(r.Name, r.Sum)
	}
	return nil
}

// sweep removes contents that no record names any more. What can't be removed takes
// room and does no other harm.
func (s *Store) sweep(name, keep string) {
	files, _ := os.ReadDir(s.dir)
	for _, f := range files {
		rest, ours := strings.CutPrefix(f.Name(), name+".")
		if sum, _, data := strings.Cut(rest, ".data"); ours && data && (sum != keep || rest != sum+".data") {
			_ = os.Remove(filepath.Join(s.dir, f.Name()))
		}
	}
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return data, plain(err)
}

// plain takes the path off an error.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func newKey() []byte {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // it never fails
	return key
}
